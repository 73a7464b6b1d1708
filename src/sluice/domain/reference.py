"""The population a release was made for: how each of its inputs, and its score, were distributed.

``reference.json`` of a release, computed from a dataset when it is packed. What a release meets is
counted into the same bins and compared by the population stability index (PSI; Siddiqi, Credit Risk
Scorecards, 2006): the sum over bins of (now - then) ln(now / then). By convention below 0.1 nothing
has moved, above 0.25 the population is another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from sluice.domain.records.authorization import MicrosUtc
from sluice.errors import Misconfigured

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

EDGES_MAX = 32
"""Of one column: a row is found in its bin by five comparisons."""
QUANTILES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Of an input: deciles, and one step more at both ends."""
TAIL = (0.95, 0.99, 0.995, 0.998, 0.999, 0.9999)
"""Of the score besides its deciles: where thresholds lie."""
FLOOR = 0.0001
"""Least share of a bin in a PSI, or one empty bin would make it infinite."""
SEGMENTS_MAX = 64
ROWS_MIN = 1_000
"""Of a reference: fewer leave a bin's share too uncertain to compare with."""
MILLION = 1_000_000

Ppm = Annotated[int, Meta(ge=0, le=MILLION)]
Value = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Shares = Annotated[list[Ppm], Meta(min_length=2, max_length=EDGES_MAX + 1)]


class Distribution(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One column in bins: x <= edges[0], edges[0] < x <= edges[1], ..., edges[-1] < x.

    edges: rising; the first is below and the last at the greatest value seen, so that the outer
    bins are what was never seen. share_ppm: of rows, one more than edges.
    """

    edges: Annotated[list[Value], Meta(min_length=1, max_length=EDGES_MAX)]
    share_ppm: Shares


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The rows of one value of a column that cuts the traffic, in the bins of all rows.

    by: ``channel``, ``region``. share_ppm: of all rows. features: shares of each input, in order.
    score: shares of the score.
    """

    by: str
    value: str
    rows: int
    share_ppm: Ppm
    features: list[Shares]
    score: Shares


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``reference.json``.

    data: SHA-256 of the manifest of the dataset it was computed from; split: which of its splits.
    since, until: of its rows' events. features: inputs in the order of the release's. score: in
    parts per million, of ``model.onnx``. performance: what the release's scores were worth on these
    rows, integers with the unit in the name, for a later comparison by the same measures.
    """

    v: Literal[1] = 1
    data: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    split: str
    since: MicrosUtc
    until: MicrosUtc
    rows: Annotated[int, Meta(ge=ROWS_MIN)]
    features: Annotated[list[Distribution], Meta(min_length=1)]
    score: Distribution
    segments: Annotated[list[Segment], Meta(max_length=SEGMENTS_MAX)] = []
    performance: dict[str, int] = {}


class Column(NamedTuple):
    """A column that cuts the traffic into segments. values: (n,) text."""

    by: str
    values: Sequence[str]


def decode_reference(raw: bytes, width: int, where: str) -> Reference:
    """Parse a reference of ``width`` inputs, and check that its parts fit. Raises Misconfigured."""
    try:
        found = msgspec.json.decode(raw, type=Reference)
    except msgspec.DecodeError as exc:
        raise Misconfigured(str(exc), where=where, fix="docs/reference/release.md") from exc
    if len(found.features) != width:
        raise Misconfigured(
            f"it has {len(found.features)} inputs, the release {width}", where=where
        )
    every = [*found.features, found.score]
    for number, each in enumerate(every):
        name = "score" if number == width else f"features[{number}]"
        if any(b <= a for a, b in zip(each.edges, each.edges[1:], strict=False)):
            raise Misconfigured("the edges do not rise", where=f"{where}, {name}")
        if len(each.share_ppm) != len(each.edges) + 1:
            raise Misconfigured("not one share more than edges", where=f"{where}, {name}")
    bins = [len(each.share_ppm) for each in every]
    for segment in found.segments:
        if [len(shares) for shares in (*segment.features, segment.score)] != bins:
            raise Misconfigured(
                "a segment's shares do not fit the bins",
                where=f"{where}, {segment.by} {segment.value}",
            )
    return found


def make_reference(
    rows: Ints,
    score_ppm: Ints,
    *,
    data: str,
    split: str,
    since: int,
    until: int,
    weights: npt.NDArray[np.floating[Any]] | None = None,
    segments: Sequence[Column] = (),
    performance: Mapping[str, int] | None = None,
) -> Reference:
    """The reference of (n, f) inputs and their (n,) scores. O(f n log n): a second for a million
    values.

    weights: (n,) how many rows of the traffic each stands for; all alike without. segments: columns
    by whose values the rows are cut; a value of fewer than ROWS_MIN rows, or beyond SEGMENTS_MAX,
    is left out. Raises Misconfigured for fewer than ROWS_MIN rows.
    """
    n = len(rows)
    if n < ROWS_MIN:
        raise Misconfigured(
            f"a reference of {n} rows: at least {ROWS_MIN} are needed",
            where=f"split {split}",
            fix="compute it from a larger split",
        )
    weight = np.ones(n) if weights is None else weights.astype(np.float64)
    deciles = [q for q in QUANTILES if q not in TAIL]
    columns = [*(rows[:, i] for i in range(rows.shape[1])), score_ppm]
    edges = [
        _edges(values, weight, QUANTILES if i < rows.shape[1] else (*deciles, *TAIL))
        for i, values in enumerate(columns)
    ]
    bins = [np.searchsorted(e, v) for e, v in zip(edges, columns, strict=True)]

    def shares(at: npt.NDArray[np.bool_] | slice) -> list[list[int]]:
        return [
            _ppm(np.bincount(b[at], weights=weight[at], minlength=len(e) + 1).astype(np.float64))
            for b, e in zip(bins, edges, strict=True)
        ]

    found: list[Segment] = []
    total = float(weight.sum())
    for column in segments:
        values = np.asarray(column.values)
        for value, count in zip(*np.unique(values, return_counts=True), strict=True):
            if count < ROWS_MIN or len(found) >= SEGMENTS_MAX:
                continue
            at = values == value
            *inputs, last = shares(at)
            found.append(
                Segment(
                    by=column.by,
                    value=str(value),
                    rows=int(count),
                    share_ppm=round(MILLION * float(weight[at].sum()) / total),
                    features=inputs,
                    score=last,
                )
            )
    *features, score = (
        Distribution(e.tolist(), s) for e, s in zip(edges, shares(slice(None)), strict=True)
    )
    return Reference(
        data=data,
        split=split,
        since=since,
        until=until,
        rows=n,
        features=features,
        score=score,
        segments=found,
        performance=dict(performance or {}),
    )


def _edges(values: Ints, weight: Floats, quantiles: Sequence[float]) -> Ints:
    """Rising edges: below the least value, at quantiles, and at the greatest value."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    reached = np.cumsum(weight[order])
    at = np.searchsorted(reached, np.array(quantiles) * reached[-1])
    least = max(int(ordered[0]), -(2**63) + 1) - 1
    inner = ordered[np.minimum(at, len(ordered) - 1)]
    return np.unique(np.r_[least, inner, ordered[-1]].astype(np.int64))


def _ppm(counts: Floats) -> list[int]:
    """Counts to parts per million whose sum is a million: the largest takes the rest."""
    shares = np.rint(counts * (MILLION / counts.sum())).astype(np.int64)
    shares[np.argmax(shares)] += MILLION - int(shares.sum())
    return [int(share) for share in shares]


INPUT_PSI = 0.25
"""From which an input counts as shifted."""
ALERTS_PPM = 5_000
"""Share of the traffic whose scores are watched as alerts: the budget that releases are judged
at."""
ONE_IN_A_THOUSAND = 3.09
"""Standard deviations that a normal draw exceeds so often."""


class Comparison(NamedTuple):
    """What was met, against the reference. Indices are PSI.

    inputs: (f,). shifted: share of the inputs from INPUT_PSI on. alerts: how many times as many
    rows as expected have a score above the reference's highest ALERTS_PPM.
    """

    rows: int
    inputs: Floats
    score: float
    shifted: float
    alerts: float


def psi(now: Floats, then: Floats) -> float:
    """The index of one column. now, then: (b,) shares of its bins.

    >>> round(psi(np.array([0.1, 0.9]), np.array([0.2, 0.8])), 3)
    0.081
    """
    return float(_terms(now, then).sum())


def _terms(now: Floats, then: Floats) -> Floats:
    now, then = np.maximum(now, FLOOR), np.maximum(then, FLOOR)
    found: Floats = (now - then) * np.log(now / then)
    return found


def index_by_chance(found: Ints, unit: Ints, expected: Floats, reference_rows: int) -> float:
    """The PSI that n rows of the reference's own population exceed once in a thousand times.

    found: (n,) bin of each row. unit: (n,) what it belongs to, such as its card: rows of one unit
    are alike, so they say less than as many units would. expected: (b,) shares. O(n log n).

    Where nothing has moved, (1/n + 1/m)^-1 PSI is near chi-squared with as many degrees of freedom
    as there are bins less one (Yurdakul, Statistical properties of population stability index,
    2018), here after the approximation of Wilson and Hilferty (1931). Both n and m count less by
    the design effect (Kish, Survey Sampling, 1965): the variance of the bins' shares between units,
    over that of as many independent rows.
    """
    n, size = len(found), len(expected)
    if not n:
        return 0.0
    _, unit = np.unique(unit, return_inverse=True)
    each, counts = np.unique(unit * size + found, return_counts=True)
    bins, rows_of = each % size, np.bincount(unit)
    shares = np.bincount(found, minlength=size) / n
    squares = np.bincount(bins, weights=counts.astype(np.float64) ** 2, minlength=size)
    crossed = np.bincount(bins, weights=counts * rows_of[each // size], minlength=size)
    whole = float((rows_of.astype(np.float64) ** 2).sum())
    variance = squares - 2 * shares * crossed + shares**2 * whole  # of a bin's count, between units
    seen = shares > 0
    freedom = max(int((seen | (expected > 0)).sum()) - 1, 1)
    spread = float(((1 - shares) * n)[seen].sum())
    design = float((variance[seen] / shares[seen]).sum()) / spread if spread > 0 else 1.0
    curve = 2 / (9 * freedom)
    chi = freedom * (1 - curve + ONE_IN_A_THOUSAND * curve**0.5) ** 3
    return max(design, 1.0) * chi * (1 / n + 1 / max(reference_rows, 1))


class Bins:
    """The bins of a reference, side by side: all counts of a population are one vector.

    by: column whose segments the expectation follows. A part of the traffic, such as what one
    entrypoint sees, is compared with the same mix of the reference.
    """

    def __init__(self, reference: Reference, by: str = "channel") -> None:
        columns = [*reference.features, reference.score]
        self._edges = [np.array(column.edges, np.int64) for column in columns]
        sizes = [len(column.share_ppm) for column in columns]
        self._starts = np.r_[0, np.cumsum(sizes)[:-1]].astype(np.int64)
        self.size = sum(sizes)
        self._all = self._vector([column.share_ppm for column in columns])
        self._of = {
            segment.value: self._vector([*segment.features, segment.score])
            for segment in reference.segments
            if segment.by == by
        }
        score = self._all[self._starts[-1] :]
        above = score[::-1].cumsum()[::-1]
        self._alerts = int(self._starts[-1] + np.argmin(np.abs(above - ALERTS_PPM / MILLION)))

    @staticmethod
    def _vector(shares: Sequence[Sequence[int]]) -> Floats:
        return np.concatenate([np.array(each, np.float64) for each in shares]) / MILLION

    def count(self, rows: Ints, score_ppm: Ints) -> Ints:
        """(n, f) inputs in the release's order and (n,) scores to (size,) counts."""
        counts = np.zeros(self.size, np.int64)
        columns = [*np.ascontiguousarray(rows.T), score_ppm]
        for edges, start, values in zip(self._edges, self._starts, columns, strict=True):
            found = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1)
            counts[start : start + len(found)] = found
        return counts

    def score_bins(self, score_ppm: Ints) -> Ints:
        """(n,) scores to their bins among those of the score."""
        return np.searchsorted(self._edges[-1], score_ppm).astype(np.int64)

    def score_shares(self, value: str) -> Floats:
        """Expected in these, of a segment or of all where the reference has none of it."""
        return self._of.get(value, self._all)[self._starts[-1] :]

    def compare(self, counts: Ints, mix: Mapping[str, int]) -> Comparison:
        """counts: sum of :meth:`count`. mix: its rows by the value that cuts the traffic; a value
        that the reference has no segment of is expected to be like all."""
        rows = sum(mix.values())
        expected = sum(
            (self._of.get(value, self._all) * (n / max(1, rows)) for value, n in mix.items()),
            np.zeros(self.size),
        )
        each = np.add.reduceat(_terms(counts / max(1, rows), expected), self._starts)
        promised = max(float(expected[self._alerts :].sum()), FLOOR)
        return Comparison(
            rows,
            each[:-1],
            float(each[-1]),
            float((each[:-1] >= INPUT_PSI).mean()),
            float(counts[self._alerts :].sum()) / max(1, rows) / promised,
        )
