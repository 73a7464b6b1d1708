"""Send reports of a file to the labeller, some hundred at once, and say what became of each.

A report has an id of its source, so a file may be sent again: what was taken is a duplicate.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from sluice.domain.records.report import Report
from sluice.errors import Rejected, SluiceError, Unavailable

REPORTS_A_REQUEST = 500
TRIES_MAX = 8
PAUSE_S, PAUSE_MAX_S = 0.5, 10.0
"""Between two tries of the same reports, doubling: forty seconds of a labeller that is away."""


class Told(msgspec.Struct):
    """What became of one report: an outcome, or the code and detail of what refused it."""

    outcome: str = ""
    code: str = ""
    detail: str = ""


class LabelApi(Protocol):
    """The labeller, as one of its callers."""

    def send(self, reports: Sequence[Report]) -> list[Told]:
        """(k,) reports to what became of each, in order. Raises Unavailable where sending them
        again may help, Rejected otherwise."""
        ...


class ReadRow(Protocol):
    """One row of a file."""

    @property
    def where(self) -> str:
        """File and line."""
        ...

    @property
    def line(self) -> int:
        """Its line."""
        ...

    @property
    def report(self) -> Report | Rejected:
        """What it says, or why it says nothing."""
        ...


@dataclass
class Sent:
    """Counts so far. outcomes: of the reports taken. refused: rows that became no label, by code.
    resume_at: the first line that is not known to be through; failure: what ended it early."""

    outcomes: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    resume_at: int = 1
    failure: SluiceError | None = None

    @property
    def rows(self) -> int:
        """All that were read."""
        return self.outcomes.total() + self.refused.total()


def send(
    rows: Iterable[ReadRow],
    api: LabelApi,
    *,
    bad: Callable[[str, str, str], None] = lambda where, code, why: None,
    progress: Callable[[Sent], None] = lambda sent: None,
    stopping: Callable[[], bool] = lambda: False,
    pause: Callable[[float], None] = time.sleep,
) -> Sent:
    """Send all rows. bad: told file and line, code and reason of each that became no label. What
    fails for good, or a file that cannot be read on, ends it: see Sent.failure."""
    sent = Sent()
    waiting: list[ReadRow] = []
    try:
        for row in rows:
            if isinstance(row.report, Rejected):
                sent.refused[row.report.code] += 1
                bad(row.where, row.report.code, _reason(row.report))
            else:
                waiting.append(row)
            if len(waiting) >= REPORTS_A_REQUEST:
                _send(waiting, api, sent, bad, pause)
                waiting = []
                progress(sent)
                if stopping():
                    return sent
        if waiting:
            _send(waiting, api, sent, bad, pause)
            progress(sent)
    except SluiceError as error:
        sent.failure = error
        sent.resume_at = waiting[0].line if waiting else sent.resume_at
    return sent


def _send(
    rows: Sequence[ReadRow],
    api: LabelApi,
    sent: Sent,
    bad: Callable[[str, str, str], None],
    pause: Callable[[float], None],
) -> None:
    reports = [row.report for row in rows if isinstance(row.report, Report)]
    for row, told in zip(rows, _sent(reports, api, pause), strict=True):
        if told.outcome:
            sent.outcomes[told.outcome] += 1
        else:
            sent.refused[told.code] += 1
            bad(row.where, told.code, told.detail)
    sent.resume_at = rows[-1].line + 1


def _sent(reports: Sequence[Report], api: LabelApi, pause: Callable[[float], None]) -> list[Told]:
    """Raises Unavailable after TRIES_MAX."""
    for attempt in range(TRIES_MAX):
        try:
            return api.send(reports)
        except Unavailable:
            if attempt == TRIES_MAX - 1:
                raise
            pause(min(PAUSE_S * 2**attempt, PAUSE_MAX_S))
    raise AssertionError("unreachable")


def _reason(error: Rejected) -> str:
    return f"{error.what} ({error.where})" if error.where else error.what
