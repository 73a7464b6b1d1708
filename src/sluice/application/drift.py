"""Has the traffic left what a release was made for, and what are its scores worth now?

Rows of a time out of the archive, scored again by the release, are compared with its reference: all
of them, and each segment with the same segment. Where labels have matured, the scores are measured
as they were when the reference was made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import msgspec
import numpy as np

from sluice.application.judging.measures import Bools, Floats, Window, measure
from sluice.application.population import ROWS_MIN, SCORE_PSI, SHIFTED
from sluice.application.ports import Ints, Scorer
from sluice.domain.features import catalogue
from sluice.domain.reference import (
    MILLION,
    Bins,
    Column,
    Comparison,
    Reference,
    index_by_chance,
    make_reference,
    psi,
)
from sluice.errors import Misconfigured

SCORE_DRIFT = 0.1
"""PSI of the score from which the traffic has moved: the convention's first step."""
SHIFTED_DRIFT = 0.2
"""Share of the inputs: likewise. Calendar and ages alone move a twentieth of them."""
FRAUDS_MIN = 50
"""Fewer say nothing about what scores are worth."""
WORTH = 0.8
"""Share of the reference's average precision below which the scores are worth less."""
NAMED = 20
"""Inputs in a report's text and of each segment, most shifted first."""
MEASURED = (
    *("auc", "average_precision", "log_loss", "ece", "expected_to_actual"),
    *("recall_at_fpr_0_1", "recall_at_fpr_0_5", "recall_at_fpr_1", "euros_at_budget"),
)
"""Figures that a reference keeps, in millionths, and a report repeats."""

Verdict = Literal["as_made_for", "drifted", "out_of_domain", "too_few"]


class Piece(NamedTuple):
    """Some rows of the archive. features: (n, N). segments: by column. labelled: something is known
    of it. weight: of one row (inverse of the probability it was let through with), 0 for one that
    was declined and of which nothing is known. mature: old enough for its labels."""

    features: Ints
    segments: Mapping[str, list[str]]
    event_us: Ints
    card: Ints
    amount_minor: Ints
    fraud: Bools
    weight: Floats
    mature: Bools


class InputDrift(msgspec.Struct, frozen=True):
    """One input."""

    name: str
    psi: float


class SegmentDrift(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one value of a column, against those of the reference. share: of all rows.

    reference_rows: of the same value, 0 where it had too few; it is compared with all rows then,
    and not judged. score_psi_by_chance: what an index reaches once in a thousand times where
    nothing moved.
    """

    by: str
    value: str
    rows: int
    share: float
    share_then: float
    reference_rows: int
    score_psi: float
    score_psi_by_chance: float
    inputs_shifted: float
    alerts_to_promised: float
    inputs: list[InputDrift]


class Worth(msgspec.Struct, frozen=True):
    """What scores are worth: rows with mature labels, and figures by name; then: the
    reference's."""

    rows: int
    frauds: int
    now: dict[str, float]
    then: dict[str, float]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. Times are microseconds UTC; inputs by PSI, most shifted first. why: of the
    verdict, [] for as_made_for."""

    v: Literal[1] = 1
    release: str
    since: int
    until: int
    rows: int
    reference_rows: int
    reference_split: str
    verdict: Verdict
    why: list[str]
    score_psi: float
    score_psi_by_chance: float
    inputs_shifted: float
    alerts_to_promised: float
    inputs: list[InputDrift]
    segments: list[SegmentDrift]
    missing_segments: list[str]
    """Of the reference, that did not occur."""
    worth: Worth | None
    """None where no row is old enough."""
    other_catalogue: int = 0
    """Rows passed over, for their features are another catalogue's."""
    told_at: int | None = None
    """``until`` of the report that told the same before; None: nobody did."""


def told_at(report: Report, earlier: Iterable[Report], within_us: int) -> int | None:
    """When the same was told before: ``until`` of the newest earlier report with the same release
    and verdict that told it itself, less than within_us before this one's; None without one.

    A report of the same time is this one made again, and one that only repeated another does not
    count, so that what goes on is told once in every within_us.
    """
    return max(
        (
            one.until
            for one in earlier
            if (one.release, one.verdict, one.told_at) == (report.release, report.verdict, None)
            and report.until - within_us < one.until < report.until
        ),
        default=None,
    )


class DriftLog(Protocol):
    """The archive's rows of a time. other_catalogue: those passed over so far."""

    other_catalogue: int

    def pieces(self) -> Iterable[Piece]:
        """All of them, in any order."""
        ...


@dataclass
class _Counted:
    """Rows in the reference's bins; the bin of each one's score, and its card, piece by piece."""

    counts: Ints
    rows: int = 0
    score_bins: list[Ints] = field(default_factory=list)
    cards: list[Ints] = field(default_factory=list)

    def add(self, counts: Ints, score_bins: Ints, cards: Ints) -> None:
        self.counts += counts
        self.rows += len(cards)
        self.score_bins.append(score_bins.astype(np.int8))
        self.cards.append(cards)

    def by_chance(self, expected: Floats, reference_rows: int) -> float:
        """See :func:`sluice.domain.reference.index_by_chance`."""
        if not self.rows:
            return 0.0
        found, cards = np.concatenate(self.score_bins), np.concatenate(self.cards)
        return index_by_chance(found.astype(np.int64), cards, expected, reference_rows)


@dataclass
class _Judged:
    """What performance is measured on, piece by piece."""

    scores: list[Ints] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)


def drift(
    log: DriftLog,
    scorer: Scorer,
    since: int,
    until: int,
    progress: Callable[[int], None] = lambda rows: None,
) -> Report:
    """Compare rows of a time with a release's reference. progress: rows done.

    Raises Misconfigured if the release has none; Unavailable if it fails on a row.
    """
    reference = scorer.reference
    if reference is None:
        raise Misconfigured(
            "it has no reference to compare with",
            where=scorer.release,
            fix="sluice release reference, and sign it again",
        )
    bins = Bins(reference)
    every = _Counted(np.zeros(bins.size, np.int64))
    parts: dict[tuple[str, str], _Counted] = {}
    judged = _Judged()
    for piece in log.pieces():
        score = scorer.score(piece.features).ppm
        rows = piece.features[:, scorer.columns]
        score_bins = bins.score_bins(score)
        every.add(bins.count(rows, score), score_bins, piece.card)
        for by, values in piece.segments.items():
            text = np.asarray(values)
            for value in np.unique(text).tolist():
                at = np.flatnonzero(text == value)
                part = parts.setdefault((by, value), _Counted(np.zeros(bins.size, np.int64)))
                part.add(bins.count(rows[at], score[at]), score_bins[at], piece.card[at])
        if (old := np.flatnonzero(piece.mature & (piece.weight > 0))).size:
            judged.scores.append(score[old])
            judged.windows.append(
                Window(
                    piece.fraud, piece.amount_minor, piece.card, piece.event_us, piece.weight
                ).rows(old)
            )
        progress(every.rows)
    names = [catalogue.FEATURES[at].name for at in scorer.columns.tolist()]
    found = Bins(reference, by="").compare(every.counts, {"": every.rows})
    segments = [
        _segment(reference, key, part, every.rows, names) for key, part in sorted(parts.items())
    ]
    worth = _worth(judged, reference)
    by_chance = every.by_chance(bins.score_shares(""), reference.rows)
    verdict, why = _verdict(found, by_chance, segments, worth, reference)
    known = {(segment.by, segment.value) for segment in reference.segments}
    return Report(
        release=scorer.release,
        since=since,
        until=until,
        rows=every.rows,
        reference_rows=reference.rows,
        reference_split=reference.split,
        verdict=verdict,
        why=why,
        score_psi=_round(found.score),
        score_psi_by_chance=_round(by_chance),
        inputs_shifted=_round(found.shifted),
        alerts_to_promised=_round(found.alerts),
        inputs=_inputs(found, names, len(names)),
        segments=segments,
        missing_segments=[" ".join(key) for key in sorted(known - parts.keys())],
        worth=worth,
        other_catalogue=log.other_catalogue,
    )


def reference_of(
    rows: Ints,
    score_ppm: Ints,
    window: Window,
    segments: list[Column],
    *,
    data: str,
    split: str,
    since: int,
    until: int,
) -> Reference:
    """The reference of (n, f) inputs and their scores, with what the scores were worth on them.
    Raises Misconfigured for too few rows."""
    figures = measure(score_ppm / MILLION, window)
    return make_reference(
        rows,
        score_ppm,
        data=data,
        split=split,
        since=since,
        until=until,
        weights=window.weight,
        segments=segments,
        performance={
            f"{name}_ppm": round(figures[name] * MILLION)
            for name in MEASURED
            if np.isfinite(figures[name])
        },
    )


def _round(value: float) -> float:
    return round(value, 4)


def _inputs(found: Comparison, names: list[str], most: int) -> list[InputDrift]:
    order = np.argsort(-found.inputs, kind="stable")[:most].tolist()
    return [InputDrift(names[i], _round(float(found.inputs[i]))) for i in order]


def _segment(
    reference: Reference, key: tuple[str, str], part: _Counted, rows: int, names: list[str]
) -> SegmentDrift:
    by, value = key
    bins = Bins(reference, by)
    found = bins.compare(part.counts, Counter({value: part.rows}))
    then = next((s for s in reference.segments if (s.by, s.value) == key), None)
    reference_rows = then.rows if then else 0
    by_chance = part.by_chance(bins.score_shares(value), reference_rows or reference.rows)
    return SegmentDrift(
        by=by,
        value=value,
        rows=part.rows,
        share=_round(part.rows / rows),
        share_then=_round(then.share_ppm / MILLION if then else 0.0),
        reference_rows=reference_rows,
        score_psi=_round(found.score),
        score_psi_by_chance=_round(by_chance),
        inputs_shifted=_round(found.shifted),
        alerts_to_promised=_round(found.alerts),
        inputs=_inputs(found, names, NAMED),
    )


def _worth(judged: _Judged, reference: Reference) -> Worth | None:
    if not judged.scores:
        return None
    window = Window.joined(judged.windows)
    figures = measure(np.concatenate(judged.scores) / MILLION, window)
    then = reference.performance
    return Worth(
        len(window.fraud),
        int(window.fraud.sum()),
        {name: _round(figures[name]) for name in MEASURED if np.isfinite(figures[name])},
        {name: then[f"{name}_ppm"] / MILLION for name in MEASURED if f"{name}_ppm" in then},
    )


def _verdict(
    found: Comparison,
    by_chance: float,
    segments: list[SegmentDrift],
    worth: Worth | None,
    reference: Reference,
) -> tuple[Verdict, list[str]]:
    if found.rows < ROWS_MIN:
        return "too_few", [f"{found.rows} rows: {ROWS_MIN} say something"]
    out: list[str] = []
    why: list[str] = []
    beyond = found.score - by_chance
    for score, limits, said in (
        (found.score, (SCORE_PSI, SHIFTED), out),
        (beyond, (SCORE_DRIFT, SHIFTED_DRIFT), why),
    ):
        if score >= limits[0]:
            said.append(_said("the score's index", found.score, by_chance, limits[0]))
        if found.shifted >= limits[1]:
            said.append(f"{found.shifted:.0%} of the inputs moved, at least {limits[1]:.0%}")
    if out:
        return "out_of_domain", out
    why += [
        _said(
            f"the score's index in {each.by} {each.value}",
            each.score_psi,
            each.score_psi_by_chance,
            SCORE_PSI,
        )
        for each in segments
        if each.rows >= ROWS_MIN
        and each.reference_rows
        and each.score_psi - each.score_psi_by_chance >= SCORE_PSI
    ]
    why += _strangers(segments, reference)
    if worth is not None and worth.frauds >= FRAUDS_MIN:
        now, then = (figures.get("average_precision", 0) for figures in (worth.now, worth.then))
        if now < WORTH * then:
            why.append(f"the average precision is {now:.3f}, and was {then:.3f}")
    return ("drifted", why) if why else ("as_made_for", [])


def _strangers(segments: list[SegmentDrift], reference: Reference) -> list[str]:
    """What is wrong with how many rows are of values that the reference has too few rows of: their
    scores have nothing to be compared with."""
    said = []
    for by in dict.fromkeys(each.by for each in segments):
        mine = [each for each in segments if each.by == by]
        now = sum(each.share for each in mine if not each.reference_rows)
        then = 1 - sum(s.share_ppm for s in reference.segments if s.by == by) / MILLION
        if now > then and psi(np.array([now, 1 - now]), np.array([then, 1 - then])) >= SCORE_PSI:
            names = ", ".join(each.value for each in mine if not each.reference_rows)
            said.append(
                f"{now:.1%} of the rows are of a {by} that it was not made for, {names}; "
                f"{then:.1%} were"
            )
    return said


def _said(what: str, index: float, by_chance: float, limit: float) -> str:
    return f"{what} is {index:.2f}, at least {limit} where chance gives up to {by_chance:.2f}"
