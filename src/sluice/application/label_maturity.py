"""How late frauds become known: of those reported, the share known after so many days.

Counted over authorizations that are all old enough to tell: each had the same time to be reported,
so that a share of the young ones does not look better or worse than it is. Of what nobody ever
reports it says nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from sluice.domain.clock import DAY_US
from sluice.domain.records.label import Label

Ints = npt.NDArray[np.int64]

DAYS = (1, 3, 7, 14, 30, 60, 90, 120)
SHOWN_DAYS = (1, 7, 30)
"""Of the metric: with five channels and some sources, as many series as one metric may have."""
COMPLETE_DAYS = 60
"""From this age on an authorization is old enough to tell."""
EVERY = "all"
"""Channel and source of the row over all of them."""
UNKNOWN = "unknown"
"""Channel of a label whose writer did not say."""


class Maturity(msgspec.Struct, frozen=True, kw_only=True):
    """One row. reports: frauds of authorizations old enough, known within that age. median_days:
    half of them were known by then. known: days and the share of them known by then, 0 to 1."""

    channel: str
    source: str
    reports: int
    median_days: float
    known: list[tuple[int, float]]


class Delays:
    """First reports of a fraud: when it happened, since when it is known, channel and source.

    26 bytes each.
    """

    def __init__(self) -> None:
        self._event_us = array("q")
        self._known_us = array("q")
        self._of = array("i")
        self._names: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return len(self._of)

    def copy(self) -> Delays:
        """As it is now."""
        made = Delays()
        made._event_us, made._known_us = self._event_us[:], self._known_us[:]
        made._of, made._names = self._of[:], dict(self._names)
        return made

    def add(self, label: Label) -> None:
        """Take a label in, if it is one that tells of a fraud and counts."""
        if label.is_fraud and label.uncounted is None:
            name = (str(label.channel) if label.channel else UNKNOWN, label.source)
            self._event_us.append(label.event_at)
            self._known_us.append(label.known_at)
            self._of.append(self._names.setdefault(name, len(self._names)))

    def by_channel_and_source(
        self, until_us: int, complete_days: int = COMPLETE_DAYS
    ) -> list[Maturity]:
        """A row for each channel and source, and for each channel, and one for all; those without a
        report are left out. until_us: up to when reports were taken."""
        of = np.array(self._of, np.int64)
        event_us = np.array(self._event_us, np.int64)
        delay = np.array(self._known_us, np.int64) - event_us
        told = (event_us <= until_us - complete_days * DAY_US) & (delay <= complete_days * DAY_US)
        names = list(self._names)
        channels = sorted({channel for channel, _ in names})
        rows = [(EVERY, EVERY), *((channel, EVERY) for channel in channels), *sorted(names)]
        found = []
        for channel, source in rows:
            members = [
                i
                for i, (its_channel, its_source) in enumerate(names)
                if channel in (EVERY, its_channel) and source in (EVERY, its_source)
            ]
            mine = delay[told & np.isin(of, members)]
            if len(mine):
                found.append(_row(channel, source, mine, complete_days))
        return found


def _row(channel: str, source: str, delay_us: Ints, complete_days: int) -> Maturity:
    days: Sequence[int] = [n for n in DAYS if n <= complete_days]
    return Maturity(
        channel=channel,
        source=source,
        reports=len(delay_us),
        median_days=round(float(np.median(delay_us)) / DAY_US, 2),
        known=[(n, round(float((delay_us <= n * DAY_US).mean()), 6)) for n in days],
    )
