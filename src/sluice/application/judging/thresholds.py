"""Thresholds on the score by what decisions cost, found on labelled rows.

Of rows that are weeks old a third to a half of the frauds may still be unreported, and each of them
counts as a genuine purchase that a decline would lose. So a known fraud stands for the share of its
age that is known (``reported_share``), as in :func:`sluice.application.judging.rows.corrected`.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from sluice.application.judging.measures import Bools, Floats, Ints
from sluice.application.maturity import SHARE_MIN
from sluice.domain.clock import DAY_US
from sluice.domain.release import Step
from sluice.errors import Rejected

STEPS: tuple[Step, ...] = ("challenge", "review", "decline")
Minor = Annotated[int, Meta(ge=0, le=10**9)]


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What decisions cost, in minor units of the reference currency. A fraud that is not stopped
    costs its amount.

    challenge_minor: the patience of a genuine holder who is asked. challenge_stops_ppm: share of
    frauds that do not get past a challenge. review_minor: an analyst's time, for fraud and genuine
    alike. reviews_a_day: what the analysts can look at, for the traffic that the rows are of; None
    is any number. false_decline_minor: a genuine purchase lost, and the holder's trust.
    """

    challenge_minor: Minor = 200
    challenge_stops_ppm: Annotated[int, Meta(ge=0, le=1_000_000)] = 900_000
    review_minor: Minor = 500
    reviews_a_day: Annotated[int, Meta(ge=0)] | None = None
    false_decline_minor: Minor = 3_000


class Chosen(NamedTuple):
    """steps: thresholds, ppm; a step that never pays is left out. cost_minor: of the rows with
    them. nothing_minor: of the rows with no decision but approve. reviews_a_day: that they ask."""

    steps: dict[Step, int]
    cost_minor: int
    nothing_minor: int
    reviews_a_day: float


def cost_of(
    steps: dict[Step, int],
    ppm: Ints,
    fraud: Bools,
    amount_minor: Ints,
    costs: Costs,
    reported_share: Floats | None = None,
) -> int:
    """What the rows cost with thresholds: the sum that :func:`by_cost` makes smallest."""
    action = severity(steps, ppm)
    each = _costs(fraud, amount_minor, costs, reported_share)
    return round(float(each[action, np.arange(len(ppm))].sum()))


def severity(steps: dict[Step, int], ppm: Ints) -> Ints:
    """(n,) 0 approve to 3 decline: the strictest step whose threshold a score reaches."""
    found = np.zeros(len(ppm), np.int64)
    for level, step in enumerate(STEPS, 1):
        if step in steps:
            found[ppm >= steps[step]] = level
    return found


def _costs(fraud: Bools, amount_minor: Ints, costs: Costs, reported_share: Floats | None) -> Floats:
    """(4, n) of each row, by severity. A known fraud stands for 1 / reported_share of them, and for
    as many genuine rows fewer: right in the sum, not row by row."""
    stands = fraud.astype(np.float64)
    if reported_share is not None:
        stands /= np.clip(reported_share, SHARE_MIN, 1.0)
    loss, genuine = stands * amount_minor, 1 - stands
    passes = 1 - costs.challenge_stops_ppm / 1e6
    return np.stack(
        [
            loss,
            loss * passes + genuine * costs.challenge_minor,
            np.full(len(fraud), float(costs.review_minor)),
            genuine * costs.false_decline_minor,
        ]
    )


def by_cost(
    ppm: Ints,
    fraud: Bools,
    amount_minor: Ints,
    event_us: Ints,
    costs: Costs | None = None,
    reported_share: Floats | None = None,
) -> Chosen:
    """The three thresholds under which the rows cost least, of all with two digits.

    Columns of length n. fraud: known ones. reported_share: of the frauds of a row's age the share
    that is known, in (0, 1]; None is all of them.

    Exact over 540 values each (10 to 990,000 ppm): sums from the top of the scores, then the best
    place of each threshold below the one above it. Two digits are what the rows can tell apart,
    and what a person can read. Raises Rejected (empty_class) without frauds or genuine rows.
    """
    costs = costs or Costs()
    if not fraud.any() or fraud.all():
        raise Rejected(
            f"{int(fraud.sum())} frauds in {len(fraud)} rows: no threshold can be found",
            fix="choose a longer calibration split, or one whose labels are known",
            code="empty_class",
        )
    grid = _grid()
    order = np.argsort(-ppm, kind="stable")
    above = np.searchsorted(-ppm[order], -grid, side="right")  # rows at or above each threshold
    each = _costs(fraud, amount_minor, costs, reported_share)[:, order]
    sums = np.concatenate([np.zeros((4, 1)), np.cumsum(each, axis=1)], axis=1)[:, above]
    approve, challenge, review, decline = sums
    days = max(1, len(np.unique(event_us // DAY_US)))
    # From the strictest: decline [0, i), review [i, j), challenge [j, k), approve the rest.
    first = decline - review
    after_review = _best(first, above, None if costs.reviews_a_day is None
                         else costs.reviews_a_day * days)  # fmt: skip
    second = first[after_review] + review - challenge
    after_challenge = _best(second, above, None)
    k = int(np.argmin(second[after_challenge] + challenge - approve))
    j = int(after_challenge[k])
    i = int(after_review[j])
    steps: dict[Step, int] = {}
    for step, at, over in (("challenge", k, j), ("review", j, i), ("decline", i, 0)):
        if above[at] > (above[over] if step != "decline" else 0):
            steps[step] = int(grid[at])  # type: ignore[index]
    return Chosen(
        steps,
        cost_of(steps, ppm, fraud, amount_minor, costs, reported_share),
        round(float(each[0].sum())),
        float(above[j] - above[i]) / days,
    )


def _grid() -> Ints:
    """Thresholds from the strictest down; the first stops nothing."""
    digits = np.arange(10, 100)
    values = np.concatenate([digits * 10**power for power in range(5)])
    return np.r_[1_000_001, np.unique(values)[::-1]].astype(np.int64)


def _best(value: Floats, above: Ints, most: int | None) -> Ints:
    """(m,) for each place the best place at or before it: the smallest value, the earliest of
    equals. most: rows that may lie between the two."""
    if most is None:
        smallest = np.minimum.accumulate(value)
        fresh = np.r_[True, value[1:] < smallest[:-1]]
        return np.maximum.accumulate(np.where(fresh, np.arange(len(value)), 0))
    begin = np.searchsorted(above, above - most, side="left")
    return np.array([b + int(np.argmin(value[b : i + 1])) for i, b in enumerate(begin)], np.int64)
