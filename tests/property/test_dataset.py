"""Cutting a training set and choosing labels, against plain Python."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sluice.application.dataset import Split, time_slices
from sluice.domain.clock import SECOND_US
from sluice.domain.records.standing import changes

SECONDS = 50
counts = st.lists(st.integers(0, 9), min_size=SECONDS, max_size=SECONDS)


@given(counts, st.integers(0, SECONDS - 1), st.integers(1, SECONDS), st.integers(1, 30))
def test_every_row_of_a_split_is_in_one_partition(per_second, first, length, rows_max):
    until = min(first + length, SECONDS)
    split = Split("train", first * SECOND_US, until * SECOND_US, 0)
    found = time_slices(split, 0, np.array(per_second, np.uint32), rows_max)
    covered = [s for p in found for s in range(p.first_us // SECOND_US, p.until_us // SECOND_US)]
    assert covered == sorted(set(covered))
    assert all(first <= s < until for s in covered)
    assert sum(per_second[s] for s in covered) == sum(per_second[first:until])
    for part in found:
        inside = per_second[part.first_us // SECOND_US : part.until_us // SECOND_US]
        assert sum(inside) > 0
        assert sum(inside) <= rows_max or sum(n > 0 for n in inside) == 1
    assert [p.number for p in found] == list(range(len(found)))


reports = st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans(), st.integers(0, 4))


@given(st.lists(reports, max_size=30), st.randoms())
def test_the_label_in_force_at_any_moment_is_the_strongest_and_of_equals_the_last_known(
    labels, random
):
    places = random.sample(range(1000), len(labels))
    ids, ranks, fraud, known = np.array(labels, np.int64).reshape(-1, 4).T
    kept, last = changes(ids, ranks, fraud != 0, known, np.array(places, np.int64))
    for moment in range(5):
        for one in range(4):
            by_then = [
                (rank, at, places[row], said)
                for row, (i, rank, said, at) in enumerate(labels)
                if i == one and at <= moment
            ]
            told = [row for row in kept.tolist() if ids[row] == one and known[row] <= moment]
            assert bool(told) == bool(by_then)
            if told:
                assert bool(fraud[told[-1]]) == max(by_then)[3]
    assert sorted(ids[kept[last]].tolist()) == sorted(set(ids.tolist()))
