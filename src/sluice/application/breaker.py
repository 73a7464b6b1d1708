"""The decline-share breaker: how much of a tenant's traffic one rule, or the model, may decline.

A circuit breaker (Nygard, Release It!, 2007) over outcomes instead of errors. It counts
decisions, not seconds: whatever the traffic, a cause declines at most ``bound x window`` of a
tenant's decisions before somebody hears of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sluice.domain.records.authorization import Authorization

BUCKETS = 10
"""Parts of a window. It slides by one of them."""
TENANTS_MAX = 256
"""Windows kept, some 3 kB each. Tenants beyond that share one."""
OTHERS = "(others)"
"""The tenant of that window; no tenant has such a name."""


class Trip(NamedTuple):
    """A cause declined more than it may. declined, of rows: in the tenant's window."""

    tenant: str
    cause: str
    """``rule ID``, ``lists`` or ``model``."""
    declined: int
    rows: int

    @property
    def kind(self) -> str:
        """The cause without its name: rule, lists or model."""
        return self.cause.partition(" ")[0]


class _Bucket:
    __slots__ = ("declined", "rows")

    def __init__(self) -> None:
        self.rows = 0
        self.declined: dict[str, int] = {}


class _Window:
    """The last decisions of one tenant, at least so many as the window has once there were."""

    __slots__ = ("_buckets", "_rows", "declined", "now")

    def __init__(self) -> None:
        self.now = _Bucket()
        self.declined: dict[str, int] = {}
        self._rows = 0
        self._buckets: deque[_Bucket] = deque()

    @property
    def rows(self) -> int:
        return self._rows + self.now.rows

    def decline(self, cause: str) -> None:
        self.now.declined[cause] = self.now.declined.get(cause, 0) + 1
        self.declined[cause] = self.declined.get(cause, 0) + 1

    def slide(self, most: int) -> None:
        """Begin a bucket, and drop the oldest ones that ``most`` rows can do without."""
        self._buckets.append(self.now)
        self._rows += self.now.rows
        self.now = _Bucket()
        while self._rows - self._buckets[0].rows >= most:
            old = self._buckets.popleft()
            self._rows -= old.rows
            for cause, declined in old.declined.items():
                self.declined[cause] -= declined
                if not self.declined[cause]:
                    del self.declined[cause]


class DeclineBreaker:
    """Windows of one replica. Not shared between threads, but for :meth:`clear`.

    bound_ppm: share of a window that one cause may decline; 1,000,000 never trips. window_rows:
    decisions of a tenant that it is a share of.
    """

    def __init__(self, bound_ppm: int, window_rows: int) -> None:
        self.bound_ppm = bound_ppm
        self.window_rows = window_rows
        self._bucket_rows = max(1, window_rows // BUCKETS)
        self._windows: dict[str, _Window] = {}

    def clear(self) -> None:
        """Forget what was counted: something else decides from now on."""
        self._windows = {}

    def add(
        self,
        auths: Sequence[Authorization],
        declined: Sequence[tuple[int, int]],
        causes: Callable[[int], Sequence[str]],
    ) -> list[Trip]:
        """Count a batch of decisions; returns what declined too much.

        declined: row and mask of what declined it, of the rows that something declined. causes:
        names of a mask. One step a row and one a decline. A window that is not full yet trips once
        its declines alone are too many for a full one, so a policy that declines everything is
        found at ``bound x window`` decisions and not at the end of a window.
        """
        windows = self._windows
        full: list[_Window] = []
        for auth in auths:
            window = windows.get(auth.tenant) or self._window(windows, auth.tenant)
            window.now.rows += 1
            if window.now.rows == self._bucket_rows:
                full.append(window)
        trips = self._decline(auths, declined, causes) if declined else []
        for window in full:
            window.slide(self.window_rows)
        return trips

    def _decline(
        self,
        auths: Sequence[Authorization],
        declined: Sequence[tuple[int, int]],
        causes: Callable[[int], Sequence[str]],
    ) -> list[Trip]:
        windows = self._windows
        touched: dict[tuple[str, str], _Window] = {}
        for row, mask in declined:
            tenant = auths[row].tenant
            if tenant not in windows:
                tenant = OTHERS
            window = windows[tenant]
            for cause in causes(mask):
                window.decline(cause)
                touched[tenant, cause] = window
        trips = []
        for (tenant, cause), window in touched.items():
            count, rows = window.declined[cause], window.rows
            if count * 1_000_000 > self.bound_ppm * max(rows, self.window_rows):
                trips.append(Trip(tenant, cause, count, rows))
        return trips

    @staticmethod
    def _window(windows: dict[str, _Window], tenant: str) -> _Window:
        if len(windows) >= TENANTS_MAX:
            return windows.setdefault(OTHERS, _Window())
        return windows.setdefault(tenant, _Window())
