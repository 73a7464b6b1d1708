"""Which cards a canary answers, and when it is taken out again. Pure.

What is counted is what it would take a person to look at: decisions on which canary and champion
differ, over the same rows. Each count is a CUSUM (Page, Continuous inspection schemes, 1954) whose
steps are those of a sequential probability ratio test (Wald, 1945): it adds up what speaks for a
bad share against an expected one, and never falls below zero. At the expected share it trips not
more often than once in ODDS steps (Lorden, 1971).
"""

from __future__ import annotations

import math
from collections import deque
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from sluice.domain.records.outcome import Outcome

Ints = npt.NDArray[np.int64]
Severities = npt.NDArray[np.int8]

Reason = Literal[
    "errors", "latency", "declines", "approvals", "agreement", "consistency", "expected_loss"
]
"""errors: runs without a score. latency: runs too slow. declines, approvals: it declines or stops
what the champion does not, or the other way round. agreement: its order of the rows is not the
champion's. consistency: the same rows had other scores the second time. expected_loss: what it lets
through."""
ODDS = 10_000.0
"""Steps between two false trips, at least."""
FLIPS_PPM, BAD_FLIPS_PPM = 50_000, 250_000
"""Share of the decisions that a good canary may turn into declines, or declines into something
else, and a bad one's. Six in a row trip, or 20 of 100. Two good models of different families part
on 1 % on average; but frauds come in bursts, and so does what models part on."""
FAILED_PPM, BAD_FAILED_PPM = 1_000, 100_000
"""The same of the runs that give no score: two in a row trip."""
SLOW_PPM, BAD_SLOW_PPM = 10_000, 500_000
"""The same of the runs that are slow: three in a row trip."""
SLOW_S, SLOW_TIMES = 0.001, 5
"""A run is slow that takes a millisecond of processor time and five times the champion's, which
scored at least as many rows."""
HANGS_S = 0.1
"""One run of so much ends it at once: twice the usual deadline."""
ROWS = 200
"""Rows of the window in which orders and losses are compared."""
ROWS_MIN = 20
"""Fewer say nothing of an order."""
AGREEMENT = 0.3
"""Spearman's rank correlation below which, by three standard errors, two models of one thing do not
order alike. An inverted one is found with 20 rows, a constant or a random one with 100."""
LOSS_SHARE = 0.5
"""Of the loss that the champion expects and stops: what a canary may let through, less what it
stops beyond the champion."""
STOPPED_MIN = 20
"""Rows that the champion stopped, below which a single one of them would decide."""
DECLINE = Outcome.DECLINE.severity
SHIFT = 0.15
"""Of the window's decisions: by how much the share that is not approved may move."""
SHIFT_ROWS_MIN = 50
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class Back(NamedTuple):
    """Why a canary or a shadow is taken out, and the figures."""

    reason: Reason
    detail: str


def in_share(card_tags: Ints, digest: str, share_ppm: int) -> npt.NDArray[np.bool_]:
    """(n,) cards that a canary of this digest answers.

    card_tags: (n,) tag32 of the card tokens. A keyed hash (the finaliser of splitmix64; the key is
    the release's digest), so that each canary has other cards, every decider the same ones, and a
    larger share all of a smaller one.
    """
    key = np.uint64(int(digest[:16], 16))
    with np.errstate(over="ignore"):
        mixed = card_tags.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_MIX[0])
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_MIX[1])
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(32)) * np.uint64(1_000_000) < np.uint64(share_ppm << 32)


class Cusum:
    """What speaks for a bad share of something, against an expected one.

    >>> count = Cusum(10_000, 100_000)
    >>> [count.add(1, 0) for _ in range(4)]
    [False, False, False, True]
    """

    def __init__(self, expected_ppm: int, bad_ppm: int) -> None:
        self._yes = math.log(bad_ppm / expected_ppm)
        self._no = math.log((1_000_000 - bad_ppm) / (1_000_000 - expected_ppm))
        self._sum = 0.0

    def add(self, yes: int, no: int) -> bool:
        """Count some of both, in whatever order they came. Whether it trips."""
        self._sum = max(0.0, self._sum + no * self._no + yes * self._yes)
        return self._sum > math.log(ODDS) - 1e-9


class Paired:
    """A canary beside the champion, over the decisions of one replica.

    Every ``add`` returns why it is to be taken out, None while it may go on.
    """

    def __init__(self) -> None:
        self._stricter = Cusum(FLIPS_PPM, BAD_FLIPS_PPM)
        self._laxer = Cusum(FLIPS_PPM, BAD_FLIPS_PPM)
        self._failed = Cusum(FAILED_PPM, BAD_FAILED_PPM)
        self._slow = Cusum(SLOW_PPM, BAD_SLOW_PPM)
        self._window: deque[tuple[int, int, int]] = deque(maxlen=ROWS)
        """Scores of champion and canary; 1 where the canary alone asks for more than an approval,
        -1 where the champion alone does."""
        self.rows = self.stricter = self.laxer = self.failures = self.stopped = 0
        self._stopped = self._passed = 0
        """Expected loss in minor units: that the champion stopped, and what of it the canary does
        not."""

    def add_failure(self) -> Back | None:
        """A run gave no score."""
        self.failures += 1
        if self._failed.add(1, 0):
            return Back("errors", f"{self.failures} runs gave no score")
        return None

    def add_run(self, seconds: float, champion_s: float) -> Back | None:
        """A run gave scores. Of processor time, so that a busy machine is no reason."""
        self._failed.add(0, 1)
        slow = seconds > max(SLOW_S, SLOW_TIMES * champion_s)
        if self._slow.add(slow, not slow) or seconds > HANGS_S:
            return Back(
                "latency",
                f"a run took {seconds * 1e3:.1f} ms, the champion's {champion_s * 1e3:.1f}",
            )
        return None

    def add_rows(
        self,
        champion_ppm: Ints,
        ppm: Ints,
        before: Severities,
        after: Severities,
        amounts: Ints,
    ) -> Back | None:
        """(n,) rows that both scored: scores, severities by the champion's and by the canary's, and
        amounts in minor units."""
        n = len(ppm)
        declined, declines = before == DECLINE, after == DECLINE
        stricter, laxer = int((declines & ~declined).sum()), int((declined & ~declines).sum())
        self.rows += n
        self.stricter += stricter
        self.laxer += laxer
        expected = champion_ppm * amounts // 1_000_000
        self.stopped += int((before > 0).sum())
        self._stopped += int(expected[before > 0].sum())
        self._passed += int(expected[(before > 0) & (after == 0)].sum())
        self._passed -= int(expected[(before == 0) & (after > 0)].sum())
        moved = (after > 0).astype(np.int64) - (before > 0)
        self._window.extend(zip(champion_ppm.tolist(), ppm.tolist(), moved.tolist(), strict=True))
        if self._stricter.add(stricter, n - stricter):
            return Back("declines", f"it alone declines {self.stricter} of {self.rows} decisions")
        if self._laxer.add(laxer, n - laxer):
            return Back(
                "approvals", f"the champion alone declines {self.laxer} of {self.rows} decisions"
            )
        return self._compare()

    def _compare(self) -> Back | None:
        window = np.array(self._window, np.int64)
        n = len(window)
        if n >= ROWS_MIN:
            found = spearman(window[:, 0], window[:, 1])
            if math.atanh(max(found, -0.999)) + 3 / math.sqrt(n - 3) < math.atanh(AGREEMENT):
                return Back(
                    "agreement",
                    f"rank correlation with the champion {found:.2f} over {n} decisions",
                )
        if n >= SHIFT_ROWS_MIN and abs(moved := int(window[:, 2].sum())) > SHIFT * n:
            return Back(
                "declines" if moved > 0 else "approvals",
                f"of {n} decisions it approves {abs(moved)} {'fewer' if moved > 0 else 'more'}",
            )
        if self.stopped >= STOPPED_MIN and self._passed > LOSS_SHARE * self._stopped:
            return Back(
                "expected_loss",
                f"it lets through {self._passed} of {self._stopped} minor units of expected loss "
                f"that the champion stops, in {self.rows} decisions",
            )
        return None


def spearman(one: Ints, other: Ints) -> float:
    """Rank correlation of two rows of numbers, equal ones sharing their rank. 0 where either is
    constant and the other is not; 1 where both are: then they differ in nothing.

    >>> spearman(np.array([1, 2, 3]), np.array([30, 20, 10]))
    -1.0
    """
    a, b = _ranks(one), _ranks(other)
    spread = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    if spread == 0:
        return 1.0 if not a.any() and not b.any() else 0.0
    return min(0.999, float((a * b).sum()) / spread)


def _ranks(values: Ints) -> npt.NDArray[np.float64]:
    ordered = np.sort(values)
    left = np.searchsorted(ordered, values, "left")
    right = np.searchsorted(ordered, values, "right")
    ranks: npt.NDArray[np.float64] = (left + right) / 2.0
    return ranks - ranks.mean()
