"""The population check: is what the release meets what it was made for?

Reads the rows that the dry run keeps anyway, beside the decisions and once a minute: a decision
pays nothing for it. They are counted into the bins of the release's reference, over the last hour
or the last WINDOW_ROWS decisions, whichever is longer, and compared by PSI.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sluice.application.dry_run import Recent, Rows
from sluice.application.ports import Ints, Scorer
from sluice.domain.clock import HOUR_US, Clock
from sluice.domain.features import catalogue
from sluice.domain.reference import Bins, Comparison

LOOK_S = 60.0
"""How often."""
LOOK_ROWS = 2_000
"""Rows that are counted of one look, the newest: some 10 ms of another thread."""
WINDOW_US = HOUR_US
WINDOW_ROWS = 2_000
ROWS_MIN = 500
"""Fewer say nothing yet: over 213 windows of so many rows of the population that the shipped
release was made for the score's index reached 0.13, over windows of 200 rows 0.41 (ADR 43)."""
SCORE_PSI = 0.25
"""Of the score: from here on the release is out of its domain."""
SHIFTED = 0.4
"""Share of the inputs that are shifted: likewise."""
OVER = 0.8
"""Share of a limit below which it is over, so that it does not come and go."""
WORST = 5
"""Inputs named, most shifted first."""


class Active(Protocol):
    """What decides now."""

    out_of_domain: bool
    recent: Recent

    @property
    def releases(self) -> Current:
        """The release that scores."""
        ...


class Current(Protocol):
    """Holds the release in force."""

    def current(self) -> Scorer | None:
        """None without one."""
        ...


class Report(Protocol):
    """Whom to say what was found."""

    def begun(self, release: str, reference_rows: int) -> None:
        """A release is compared from now on; 0 rows: it has no reference, and is not."""
        ...

    def compared(self, found: Comparison, worst: list[str], out: bool) -> None:
        """With every look at a window that says something. worst: inputs, most shifted first."""
        ...

    def changed(self, release: str, found: Comparison, worst: list[str], out: bool) -> None:
        """It is out of its domain from now on, or in it again."""
        ...


@dataclass(slots=True)
class _Bucket:
    """What one look found."""

    at_us: int
    counts: Ints
    mix: Counter[str]

    @property
    def rows(self) -> int:
        return self.mix.total()


class PopulationCheck:
    """Of one replica. Not shared between threads, but for what it reads and sets of ``active``."""

    def __init__(self, active: Active, clock: Clock, report: Report) -> None:
        self._active = active
        self._clock = clock
        self._report = report
        self._scorer: Scorer | None = None
        self._bins: Bins | None = None
        self._names: list[str] = []
        self._seen = 0
        self._window: deque[_Bucket] = deque()

    def look(self) -> None:
        """Count what was decided since the last look, and compare the window."""
        scorer = self._active.releases.current()
        if scorer is None:
            return
        if scorer is not self._scorer:
            self._begin(scorer)
        if self._bins is None:
            return
        fresh = self._active.recent.since(self._seen)
        self._seen = self._active.recent.added
        bucket = self._count(self._bins, scorer, fresh)
        if bucket is not None:
            self._window.append(bucket)
            self._slide()
            self._compare(self._bins, scorer)

    def _begin(self, scorer: Scorer) -> None:
        """Another release: nothing was counted yet, and what was decided before was not its."""
        self._scorer = scorer
        reference = scorer.reference
        self._bins = None if reference is None else Bins(reference)
        self._names = [catalogue.FEATURES[at].name for at in scorer.columns.tolist()]
        self._seen = self._active.recent.added
        self._window.clear()
        self._active.out_of_domain = False
        self._report.begun(scorer.release, 0 if reference is None else reference.rows)

    def _count(self, bins: Bins, scorer: Scorer, fresh: list[Rows]) -> _Bucket | None:
        """The newest LOOK_ROWS that were scored with nothing missing; None if there is none."""
        features, scores, channels = [], [], []
        rows = 0
        for batch in reversed(fresh):
            if batch.score_ppm is None:
                continue
            whole = np.flatnonzero(batch.missing == 0)[: LOOK_ROWS - rows]
            features.append(batch.features[whole][:, scorer.columns])
            scores.append(batch.score_ppm[whole])
            channels += [batch.auths[i].channel for i in whole.tolist()]
            rows += len(whole)
            if rows == LOOK_ROWS:
                break
        if not rows:
            return None
        counts = bins.count(np.concatenate(features), np.concatenate(scores))
        return _Bucket(self._clock.now_us(), counts, Counter(channels))

    def _slide(self) -> None:
        """Drop what is older than an hour and not needed for WINDOW_ROWS."""
        window, since = self._window, self._clock.now_us() - WINDOW_US
        rows = sum(bucket.rows for bucket in window)
        while window[0].at_us < since and rows - window[0].rows >= WINDOW_ROWS:
            rows -= window.popleft().rows

    def _compare(self, bins: Bins, scorer: Scorer) -> None:
        mix: Counter[str] = sum((bucket.mix for bucket in self._window), Counter())
        if mix.total() < ROWS_MIN:
            return
        found = bins.compare(np.sum([bucket.counts for bucket in self._window], axis=0), mix)
        worst = [self._names[i] for i in np.argsort(-found.inputs, kind="stable")[:WORST]]
        limit = OVER if self._active.out_of_domain else 1.0
        out = found.score >= SCORE_PSI * limit or found.shifted >= SHIFTED * limit
        self._report.compared(found, worst, out)
        if out != self._active.out_of_domain:
            self._active.out_of_domain = out
            self._report.changed(scorer.release, found, worst, out)
