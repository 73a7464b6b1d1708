"""What another policy or release would have said of a stretch of decisions, against what was said.

Every decision that counts is judged again over the features that it was served, by the degradation
level that it had; with another release by that one's score, as if it had been there in time. What
was said is taken from the records, a let-through as the decline that it was drawn from. The breaker
leaves nothing out, chance lets nothing through: this is the policy as it is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec
import numpy as np

from sluice.application.dry_run import Rows, severities
from sluice.application.ports import Scorer
from sluice.application.rejudge import LEVELS
from sluice.domain.clock import to_datetime
from sluice.domain.features import catalogue
from sluice.domain.policy.economics import Bools, Ints, Worth, worth
from sluice.domain.policy.policy import Policy
from sluice.domain.records.decision import Decision
from sluice.domain.records.entity import mask_of
from sluice.domain.records.outcome import BY_SEVERITY, Outcome
from sluice.errors import Misconfigured, Rejected

SEGMENTS = ("channel", "region", "tenant", "mcc", "merchant_country")
"""Fields of the authorization that cut the traffic."""
VALUES_MAX = 2_000
"""Of one of them; what comes later is counted as OTHER."""
OTHER = "(other)"
SEGMENT_ROWS_MIN = 200
"""Fewer rows are no segment to go by: one flip would be half a point."""
SEGMENTS_TOLD = 10
_DECLINE, _REVIEW = Outcome.DECLINE.severity, Outcome.REVIEW.severity


class Piece(NamedTuple):
    """Some decisions that count. fraud: (n,) whether a label in force says so; labelled: (n,)
    whether anything is known."""

    decisions: list[Decision]
    fraud: Bools
    labelled: Bools


class Flip(msgspec.Struct, frozen=True):
    """Decisions that would have another outcome. frauds: of those that are known by now."""

    was: Outcome
    becomes: Outcome
    decisions: int
    amount_minor: int
    frauds: int
    fraud_minor: int


class Side(msgspec.Struct, frozen=True):
    """What was said, or would have been. stopped is all but approve.

    fraud_stopped_minor: of known frauds; genuine_stopped: decisions not known as fraud.
    queue_a_day, queue_max: reviews, on the mean and on the worst day.
    """

    outcomes: dict[str, int]
    declined_minor: int
    frauds_stopped: int
    fraud_stopped_minor: int
    fraud_missed_minor: int
    genuine_stopped: int
    genuine_stopped_minor: int
    queue_a_day: float
    queue_max: int


class Segment(msgspec.Struct, frozen=True):
    """One value of a field. stricter, milder: decisions flipped that way; stricter_ppm: of its
    decisions."""

    by: str
    value: str
    decisions: int
    stricter: int
    milder: int
    stricter_ppm: int
    declines_before: int
    declines_after: int
    flipped_minor: int


class Impact(msgspec.Struct, frozen=True, kw_only=True):
    """See the module. Money is minor units of currency.

    before: ids of the policies that decided. left_out: decisions that were made while the breaker
    left something out. without_score: that had no score, and have none here. passed_over: of
    another catalogue. segments: by how many of its decisions became stricter, worst first; those
    with fewer than SEGMENT_ROWS_MIN are not told.
    """

    v: int = 1
    policy: str
    release: str | None
    before: list[str]
    since: int
    until: int
    days: int
    currency: str
    decisions: int
    passed_over: int
    left_out: int
    without_score: int
    frauds_known: int
    flipped: int
    flipped_per_100k: float
    stricter: int
    milder: int
    flips: list[Flip]
    was: Side
    would_be: Side
    queue: list[tuple[str, int, int]]
    """By day (UTC): reviews as they were, and as they would have been."""
    segments: list[Segment]
    worst: Segment | None


class _Sums:
    """Of both sides, added up piece by piece."""

    def __init__(self) -> None:
        self.flips: dict[tuple[int, int], list[int]] = {}
        self.worth: tuple[list[Worth], list[Worth]] = ([], [])
        self.outcomes = (np.zeros(4, np.int64), np.zeros(4, np.int64))
        self.declined = [0, 0]
        self.queue: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self.days: set[str] = set()
        self.segments: dict[tuple[str, str], Ints] = {}
        self.before: Counter[str] = Counter()
        self.rows = self.passed_over = self.left_out = self.without_score = self.frauds = 0
        self.since = self.until = 0

    def add(self, piece: Piece, was: Ints, now: Ints) -> None:
        decisions = piece.decisions
        amount = np.array([d.reference_amount_minor for d in decisions], np.int64)
        self.rows += len(decisions)
        self.frauds += int(piece.fraud.sum())
        self.before.update(d.policy for d in decisions)
        decided = [d.decided_at for d in decisions]
        self.since = min([*([self.since] if self.since else []), *decided])
        self.until = max(self.until, *decided)
        for side, severity in enumerate((was, now)):
            self.worth[side].append(worth(severity, piece.fraud, amount))
            self.outcomes[side][:] += np.bincount(severity, minlength=4)
            self.declined[side] += int(amount[severity == _DECLINE].sum())
        days = [f"{to_datetime(us):%Y-%m-%d}" for us in decided]
        self.days.update(days)
        for side, severity in enumerate((was, now)):
            self.queue[side].update(days[i] for i in np.flatnonzero(severity == _REVIEW).tolist())
        for i in np.flatnonzero(was != now).tolist():
            sums = self.flips.setdefault((int(was[i]), int(now[i])), [0, 0, 0, 0])
            fraud = bool(piece.fraud[i])
            for at, value in enumerate((1, amount[i], fraud, amount[i] if fraud else 0)):
                sums[at] += int(value)
        told = np.stack(
            [
                np.ones(len(was), np.int64),
                now > was,
                now < was,
                was == _DECLINE,
                now == _DECLINE,
                np.where(now != was, amount, 0),
            ]
        ).astype(np.int64)
        for by in SEGMENTS:
            values = [str(getattr(d.authorization, by)) for d in decisions]
            rows: dict[str, list[int]] = {}
            for i, value in enumerate(values):
                rows.setdefault(value, []).append(i)
            for value, of in rows.items():
                key = by, value
                if key not in self.segments and len(self.segments) >= VALUES_MAX * len(SEGMENTS):
                    key = by, OTHER
                total = told[:, of].sum(axis=1)
                self.segments[key] = self.segments.get(key, np.zeros(6, np.int64)) + total

    def side(self, which: int) -> Side:
        total = self.worth[which]
        queue = [self.queue[which][day] for day in self.days]
        return Side(
            outcomes={
                outcome: int(n)
                for outcome, n in zip(BY_SEVERITY, self.outcomes[which], strict=True)
            },
            declined_minor=self.declined[which],
            frauds_stopped=sum(w.frauds_stopped for w in total),
            fraud_stopped_minor=sum(w.stopped_minor for w in total),
            fraud_missed_minor=sum(w.let_through_minor for w in total),
            genuine_stopped=sum(w.false_positives for w in total),
            genuine_stopped_minor=sum(w.genuine_stopped_minor for w in total),
            queue_a_day=round(sum(queue) / len(queue), 1),
            queue_max=max(queue),
        )


def impact(
    pieces: Iterable[Piece],
    policy: Policy,
    scorer: Scorer | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> Impact:
    """Judge a stretch again. Raises Rejected if there is no decision in it, Misconfigured for a
    policy that counts in another currency, Unavailable if the release fails on a row."""
    sums = _Sums()
    for each in pieces:
        ours = [i for i, d in enumerate(each.decisions) if d.catalogue == catalogue.DIGEST]
        sums.passed_over += len(each.decisions) - len(ours)
        if not ours:
            continue
        piece = Piece([each.decisions[i] for i in ours], each.fraud[ours], each.labelled[ours])
        _check_currency(piece.decisions, policy)
        rows = rows_of(piece.decisions)
        sums.without_score += int((rows.level >= 2).sum()) if scorer is None else 0
        sums.left_out += _left_out(piece.decisions, rows.missing)
        sums.add(piece, said(piece.decisions), severities(policy, rows, scorer).astype(np.int64))
        progress(sums.rows)
    if not sums.rows:
        raise Rejected(
            "the archive holds no decision of that time"
            + (f" but {sums.passed_over:,} of another catalogue" if sums.passed_over else ""),
            fix="--archive, --days; the archiver writes with a delay of up to archiver.roll_s",
            code="no_decisions",
        )
    flips = [
        Flip(BY_SEVERITY[was], BY_SEVERITY[now], *counted)
        for (was, now), counted in sorted(sums.flips.items(), key=lambda one: -one[1][0])
    ]
    order = {outcome: i for i, outcome in enumerate(BY_SEVERITY)}
    stricter = sum(f.decisions for f in flips if order[f.becomes] > order[f.was])
    flipped = sum(f.decisions for f in flips)
    segments = _segments(sums.segments)
    return Impact(
        policy=policy.id,
        release=None if scorer is None else scorer.release,
        before=[name for name, _ in sums.before.most_common()],
        since=sums.since,
        until=sums.until,
        days=len(sums.days),
        currency=policy.fx.reference,
        decisions=sums.rows,
        passed_over=sums.passed_over,
        left_out=sums.left_out,
        without_score=sums.without_score,
        frauds_known=sums.frauds,
        flipped=flipped,
        flipped_per_100k=round(100_000 * flipped / sums.rows, 1),
        stricter=stricter,
        milder=flipped - stricter,
        flips=flips,
        was=sums.side(0),
        would_be=sums.side(1),
        queue=[(day, sums.queue[0][day], sums.queue[1][day]) for day in sorted(sums.days)],
        segments=segments[:SEGMENTS_TOLD],
        worst=next((one for one in segments if one.stricter or one.milder), None),
    )


def rows_of(decisions: list[Decision]) -> Rows:
    """As they were decided."""
    levels = {level: i for i, level in enumerate(LEVELS)}
    return Rows(
        [d.authorization for d in decisions],
        np.array([d.features for d in decisions], np.int64).reshape(-1, catalogue.N),
        np.array([_missing(d) for d in decisions], np.int64),
        np.array([levels[d.degradation_level] for d in decisions], np.int64),
        np.array([d.score_ppm or 0 for d in decisions], np.int64),
    )


def said(decisions: list[Decision]) -> Ints:
    """(n,) severities as they were, a let-through as the decline that it was drawn from."""
    return np.array(
        [_DECLINE if d.let_through_ppm else d.outcome.severity for d in decisions], np.int64
    )


def _missing(decision: Decision) -> int:
    return mask_of(view for view in catalogue.VIEWS if decision.states.of(view) is None)


def _left_out(decisions: list[Decision], missing: Ints) -> int:
    """How many name rules that could not fire although no view was missing."""
    return sum(
        bool(d.silenced) and not mask for d, mask in zip(decisions, missing.tolist(), strict=True)
    )


def _check_currency(decisions: list[Decision], policy: Policy) -> None:
    for d in decisions:
        if d.reference_currency != policy.fx.reference:
            raise Misconfigured(
                f"the policy counts in {policy.fx.reference}, these decisions were made in "
                f"{d.reference_currency}",
                where=policy.id,
                fix="amounts of another reference currency are not comparable",
            )


def _segments(found: dict[tuple[str, str], Ints]) -> list[Segment]:
    """Worst first."""
    told = []
    for (by, value), sums in found.items():
        rows, stricter, milder, before, after, minor = map(int, sums)
        if rows >= SEGMENT_ROWS_MIN:
            ppm = 1_000_000 * stricter // rows
            told.append(Segment(by, value, rows, stricter, milder, ppm, before, after, minor))
    told.sort(key=lambda s: (-s.stricter / s.decisions, -s.milder / s.decisions, s.by, s.value))
    return told
