"""When a log's writer was silent: it promises a heartbeat every ten seconds.

A start, a heartbeat and a stop are signs of life. Between a start and a stop no two of them are
further apart than HEARTBEAT_MAX_US; where they are, the writer hung, its clock jumped, or somebody
held it up, and only the accounting says what came of it. A start without a stop before it follows a
writer that was killed, or that began anew after an error: until then nobody wrote.
"""

from __future__ import annotations

import msgspec

from sluice.domain.clock import SECOND_US

START, HEARTBEAT, STOP = "log_start", "heartbeat", "log_stop"
SIGNS = frozenset({START, HEARTBEAT, STOP})
"""Types of the records that are signs of life."""
HEARTBEAT_MAX_US = 10 * SECOND_US
SILENCES_MAX = 1_000
"""That are told of one log."""


class Silence(msgspec.Struct, frozen=True):
    """No sign of life from since to until, microseconds UTC. writing: a writer ran meanwhile, for
    all that the log says; otherwise the one before had ended without a word."""

    since: int
    until: int
    writing: bool


class SignsOfLife:
    """Takes the signs of one log in order, by its writer's clock."""

    def __init__(self) -> None:
        self._last: int | None = None
        """Of a writer that runs; None if none does, or if that is not known."""
        self._found: list[Silence] = []

    def take(self, kind: str, at_us: int) -> None:
        """One sign, and when it was recorded."""
        if self._last is not None:
            if kind == START:
                self._tell(self._last, at_us, writing=False)
            elif at_us - self._last > HEARTBEAT_MAX_US:
                self._tell(self._last, at_us, writing=True)
        self._last = None if kind == STOP else at_us

    def ended(self, last_us: int) -> list[Silence]:
        """All silences of a log whose newest record is of this time."""
        if self._last is not None and last_us - self._last > HEARTBEAT_MAX_US:
            self._tell(self._last, last_us, writing=True)
        return self._found

    def _tell(self, since: int, until: int, *, writing: bool) -> None:
        if len(self._found) < SILENCES_MAX:
            self._found.append(Silence(since, until, writing))
