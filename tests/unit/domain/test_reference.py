from typing import Any

import numpy as np
import pytest

from sluice.domain.reference import (
    MILLION,
    Bins,
    Column,
    Comparison,
    Ints,
    Reference,
    index_by_chance,
    make_reference,
    psi,
)
from sluice.errors import Misconfigured

WHERE: Any = {"data": "0" * 64, "split": "validation", "since": 0, "until": 1}
RNG = np.random.default_rng(1)
N = 20_000


def compared(reference: Reference, rows: Ints, score: Ints, channel: str = "") -> Comparison:
    bins = Bins(reference)
    return bins.compare(bins.count(rows, score), {channel: len(rows)})


def drawn(n: int) -> Ints:
    """An amount, a flag, a count that is mostly zero, and a constant."""
    rng = np.random.default_rng(n)
    amount = np.exp(rng.normal(8, 1, n))
    rows = np.c_[amount, rng.random(n) < 0.3, rng.poisson(0.1, n), np.full(n, 7)]
    found: Ints = rows.astype(np.int64)
    return found


def test_what_comes_from_the_same_population_has_a_small_index_and_another_a_large_one() -> None:
    rows = drawn(N)
    reference = make_reference(rows, rows[:, 0] % 1000, **WHERE)
    again, other = drawn(5_000), drawn(5_001)
    other[:, 0] //= 3
    other[:, 1] = 1
    other[:, 2] += 2
    other[:, 3] = 0
    assert all(sum(c.share_ppm) == MILLION for c in (*reference.features, reference.score))
    same = compared(reference, again, again[:, 0] % 1000)
    assert same.inputs.max() < 0.02
    assert same.score < 0.02
    assert same.shifted == 0
    assert 0.5 < same.alerts < 2
    moved = compared(reference, other, np.full(5_001, 990))
    assert moved.inputs.min() > 0.5
    assert moved.score > 0.5
    assert moved.shifted == 1


def test_the_outer_bins_are_what_was_never_seen() -> None:
    rows = drawn(N)
    reference = make_reference(rows, rows[:, 0], **WHERE)
    for i, column in enumerate(reference.features):
        assert column.share_ppm[0] == column.share_ppm[-1] == 0
        assert column.edges[0] == rows[:, i].min() - 1
        assert column.edges[-1] == rows[:, i].max()


def test_the_scores_tail_has_bins_of_its_own() -> None:
    score = RNG.permutation(N)
    reference = make_reference(score[:, None], score, **WHERE)
    assert len(reference.score.edges) > len(reference.features[0].edges)
    higher = np.where(score > N * 0.98, N - 1, score)
    assert compared(reference, score[:, None], score).alerts == pytest.approx(1, abs=0.02)
    assert compared(reference, score[:, None], higher).alerts == pytest.approx(4, abs=0.1)


def test_a_row_counts_as_many_times_as_its_weight_says() -> None:
    rows = drawn(N)
    often = np.repeat(rows, 1 + rows[:, 1] * 2, axis=0)
    by_weight = make_reference(rows, rows[:, 0], weights=1.0 + rows[:, 1] * 2, **WHERE)
    by_rows = make_reference(often, often[:, 0], **WHERE)
    assert by_weight.features == by_rows.features
    assert by_weight.score == by_rows.score


def test_a_segment_is_in_the_bins_of_all_rows_and_a_small_one_is_left_out() -> None:
    rows = drawn(N)
    channel = np.where(np.arange(N) < 900, "moto", np.where(rows[:, 1] == 1, "ecom", "chip"))
    reference = make_reference(
        rows, rows[:, 0], segments=[Column("channel", channel.tolist())], **WHERE
    )
    chip, ecom = reference.segments
    assert (chip.value, ecom.value) == ("chip", "ecom")
    assert [len(s) for s in ecom.features] == [len(c.share_ppm) for c in reference.features]
    assert ecom.share_ppm == pytest.approx(rows[:, 1].mean() * MILLION, abs=20_000)
    part = rows[channel == "ecom"]
    assert compared(reference, part, part[:, 0]).inputs[1] > 1
    assert compared(reference, part, part[:, 0], "ecom").inputs[1] < 1e-3


def test_extremes_of_64_bits_are_binned() -> None:
    rows = np.zeros((1000, 1), np.int64)
    rows[0], rows[1] = -(2**63), 2**63 - 1
    edges = make_reference(rows, rows[:, 0], **WHERE).features[0].edges
    assert edges == sorted(set(edges))
    assert edges[-1] == 2**63 - 1


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(Misconfigured, match="999 rows"):
        make_reference(np.zeros((999, 1), np.int64), np.zeros(999, np.int64), **WHERE)


def test_an_empty_bin_does_not_make_the_index_infinite() -> None:
    rows = np.zeros((1000, 1), np.int64)
    reference = make_reference(rows, rows[:, 0], **WHERE)
    assert compared(reference, rows, rows[:, 0]).score == 0
    assert 5 < compared(reference, rows, rows[:, 0] + 1).score < 20
    nothing = compared(reference, rows[:0], rows[:0, 0])
    assert (nothing.rows, nothing.alerts) == (0, 0)


BINS = np.array([0.1] * 9 + [0.05, 0.03, 0.01, 0.008, 0.0015, 0.0005])


def redrawn(rng: np.random.Generator, units: int, rows_each: int, shares: Any = BINS) -> Ints:
    """Bins of rows of which each unit's are alike."""
    return np.repeat(rng.choice(len(shares), units, p=shares), rows_each)


@pytest.mark.parametrize(("units", "rows_each"), [(600, 1), (5_000, 1), (600, 8), (150, 20)])
def test_chance_alone_hardly_ever_passes_the_index_by_chance(units: int, rows_each: int) -> None:
    rng = np.random.default_rng(5)
    passed, rows_passed, reached = 0, 0, []
    for _ in range(300):
        found = redrawn(rng, units, rows_each)
        index = psi(np.bincount(found, minlength=len(BINS)) / len(found), BINS)
        unit = np.arange(len(found)) // rows_each
        limit = index_by_chance(found, unit, BINS, 10**9)
        passed += index > limit
        rows_passed += index > index_by_chance(found, np.arange(len(found)), BINS, 10**9)
        reached.append(index / limit)
    assert passed <= 3
    assert max(reached) > 0.5, "it is a limit near what happens, not any large number"
    if rows_each > 1:
        assert rows_passed > 250, "rows of one card are not as many cards"


def test_a_small_reference_has_chance_of_its_own() -> None:
    found = redrawn(np.random.default_rng(6), 1_000, 1)
    unit = np.arange(1_000)
    large, small = (index_by_chance(found, unit, BINS, rows) for rows in (10**9, 1_000))
    assert small == pytest.approx(2 * large, rel=0.01)


def test_what_moved_does_not_widen_what_chance_may_do() -> None:
    rng = np.random.default_rng(7)
    unit = np.arange(2_000)
    moved = redrawn(rng, 2_000, 1, BINS[::-1])
    same = redrawn(rng, 2_000, 1)
    limits = [index_by_chance(found, unit, BINS, 10**6) for found in (moved, same)]
    assert limits[0] == pytest.approx(limits[1], rel=0.3)
    assert psi(np.bincount(moved, minlength=len(BINS)) / 2_000, BINS) > 10 * limits[0]
