"""Cutting a training set and choosing labels, against plain Python."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sluice.application.dataset import Split, newest_known, time_slices
from sluice.domain.clock import SECOND_US

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


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=30), st.randoms())
def test_the_label_in_force_is_the_newest_and_of_equals_the_last_to_come(labels, random):
    places = random.sample(range(1000), len(labels))
    ids = np.array([i for i, _ in labels], np.int64)
    known = np.array([k for _, k in labels], np.int64)
    kept, last = newest_known(ids, known, np.array(places, np.int64))
    newest = {}
    for row, (one, moment) in enumerate(labels):
        newest[one] = max(newest.get(one, (-1, -1, -1)), (moment, places[row], row))
    assert sorted(kept[last].tolist()) == sorted(row for _, _, row in newest.values())
    moments = {(i, k) for i, k in labels}
    assert {(int(ids[r]), int(known[r])) for r in kept} == moments
    assert len(kept) == len(moments)
