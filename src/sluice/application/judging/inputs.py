"""Whether features are what the deciders had: rows as a run learnt them are held against its
training set, and the set's own against the feature log, bit for bit.

A column in another unit, one that knew labels too early, and one that another kernel computed are
the same mistake: what a model learnt, or is judged by, is not what it will be served. What tells
them apart is how the two differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sluice.application.judging.measures import Bools, Floats, Ints, average_precision
from sluice.application.judging.verdict import Check, Reason

UNIT_ROWS_MIN = 20
"""Rows in which both are large enough to tell a factor from a difference."""
UNIT_VALUE_MIN = 20
"""Below, integers are too coarse for it."""
UNIT_FACTOR_MIN = 1.5
UNIT_SPREAD = 0.06
"""How far a row's factor may be from the usual one: a division may round."""
UNIT_SHARE = 0.9
"""Of the rows that must have that factor."""
LEAK_FRAUDS_MIN = 20
LEAK_GAIN = 0.02
"""Average precision of one column alone, above what it has in the log: it knows more."""
SHOWN = (0.05, 0.5, 0.95)
"""Quantiles of what is not 0 that are told."""


class Extract(NamedTuple):
    """n rows of a training set, in order of time. ids (n,) texts, event_us (n,), fraud (n,) as
    the set has it, features (n, k) in the set's order."""

    ids: Sequence[str]
    event_us: Ints
    fraud: Bools
    features: Ints


class Pair(NamedTuple):
    """The same m rows twice. given: (m, k) what is tried. held: (m, k) what it must be. names: of
    the k columns. fraud: (m,)."""

    given_by: str
    held_by: str
    names: Sequence[str]
    given: Ints | Floats
    held: Ints | Floats
    fraud: Bools


@dataclass(frozen=True)
class Inputs:
    """What was compared.

    learnt: rows as the run learnt them, beside the set's train. strange: of those, how many the set
    does not have. logged: rows of the set, beside the feature log's: of train, and of the tests,
    for what is wrong may be wrong in one of them. left_out: columns that were
    not compared with it, and why. wanted: a feature log was named, so rows must lie in it.
    """

    learnt: Pair
    strange: int = 0
    logged: Sequence[Pair] = ()
    left_out: str = ""
    wanted: bool = False


class _Apart(NamedTuple):
    """One column that differs. much: how bad, to choose the worst of its reason."""

    reason: Reason
    much: float
    found: str


def check_inputs(inputs: Inputs) -> list[Check]:
    """One check where nothing differs, else one for each reason, told of the worst column."""
    apart = [one for pair in (inputs.learnt, *inputs.logged) for one in _apart(pair)]
    rows = sum(len(pair.given) for pair in inputs.logged)
    if inputs.strange:
        found = f"{inputs.strange} rows that the run says it learnt are not in the set's train"
        apart.append(_Apart("other_features", 1.0, found))
    if inputs.wanted and not rows:
        found = "no row of the set lies in the feature log: it is another one, or its days are gone"
        apart.append(_Apart("other_features", 0.0, found))
    if not apart:
        log = (
            f"{rows:,} rows of the set are the feature log's" + inputs.left_out
            if rows
            else "no feature log was at hand to hold the set against (--archive)"
        )
        found = f"{len(inputs.learnt.given):,} rows as the run learnt them are the set's; {log}"
        return [Check(reason="other_features", passed=True, found=found)]
    checks = []
    for reason in dict.fromkeys(one.reason for one in apart):
        mine = sorted((one for one in apart if one.reason == reason), key=lambda one: -one.much)
        more = f"; {len(mine) - 1} more like it" if len(mine) > 1 else ""
        checks.append(Check(reason=reason, passed=False, found=mine[0].found + more))
    return checks


def _apart(pair: Pair) -> list[_Apart]:
    """The columns that differ, and in what way."""
    differ = pair.given != pair.held
    found = []
    for i in np.flatnonzero(differ.any(axis=0)).tolist():
        given, held = pair.given[:, i].astype(np.float64), pair.held[:, i].astype(np.float64)
        share = float(differ[:, i].mean())
        sizes = (
            f"{pair.given_by} {_quantiles(given)}, {pair.held_by} {_quantiles(held)} (5, 50, 95 % "
            "of what is not 0)"
        )
        name = pair.names[i]
        factor = unit_factor(given, held)
        if factor is not None:
            much = share * abs(float(np.log(factor)))
            text = f"{name} has another unit, {factor:.3g} times: {sizes}"
            found.append(_Apart("unit_changed", much, text))
            continue
        knows, knew = (_alone(column, pair.fraud) for column in (given, held))
        if pair.fraud.sum() >= LEAK_FRAUDS_MIN and knows > knew + LEAK_GAIN:
            text = (
                f"{name} knows more of fraud than it did then: average precision alone {knows:.3f} "
                f"in what {pair.given_by}, {knew:.3f} in what {pair.held_by}, on the same rows; "
                f"{share:.1%} of them differ"
            )
            found.append(_Apart("leak", knows - knew, text))
            continue
        text = f"{name} is another in {share:.1%} of {len(given):,} rows: {sizes}"
        found.append(_Apart("other_features", share, text))
    return found


def unit_factor(given: Floats, held: Floats) -> float | None:
    """What one column is a multiple of another by, None if it is not. (n,) each.

    >>> unit_factor(np.arange(100.0) * 100, np.arange(100.0))
    100.0
    >>> unit_factor(np.arange(100.0) + 7, np.arange(100.0)) is None
    True
    """
    large = np.minimum(np.abs(given), np.abs(held)) >= UNIT_VALUE_MIN
    if large.sum() < UNIT_ROWS_MIN:
        return None
    factors = given[large] / held[large]
    factor = float(np.median(factors))
    if factor <= 0 or max(factor, 1 / factor) < UNIT_FACTOR_MIN:
        return None
    near = np.abs(factors / factor - 1) <= UNIT_SPREAD
    return factor if near.mean() >= UNIT_SHARE else None


def _alone(column: Floats, fraud: Bools) -> float:
    """Average precision of a column by itself, whichever way it points; 0 without frauds."""
    if not fraud.any():
        return 0.0
    weight = np.ones(len(column))
    return max(average_precision(sign * column, fraud, weight) for sign in (1.0, -1.0))


def _quantiles(column: Floats) -> str:
    some = column[column != 0]
    if not len(some):
        return "0 throughout"
    return ", ".join(f"{value:.6g}" for value in np.quantile(some, SHOWN, method="nearest"))


def cut_stretches(rows: Extract, count: int, most: int) -> list[Extract]:
    """``count`` stretches of at most ``most`` rows, evenly spread."""
    n = len(rows.ids)
    size = min(most, -(-n // count))
    begins: list[int] = np.linspace(0, n - size, count).astype(np.int64).tolist() if n else []
    return [
        Extract(
            rows.ids[b : b + size],
            rows.event_us[b : b + size],
            rows.fraud[b : b + size],
            rows.features[b : b + size],
        )
        for b in dict.fromkeys(begins)
    ]
