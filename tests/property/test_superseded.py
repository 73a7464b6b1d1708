"""Which of an id's records counts is a function of the log alone, wherever a reader begins."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sluice.domain.records.superseded import REACH, Superseded
from tests.examples import examples

REACH_HERE = 7
GAPS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=40)
"""Offsets leave out what transactions mark; few ids, so that they come again."""
Record = tuple[int, str, str]


def log_of(gaps: list[tuple[int, int]]) -> list[Record]:
    offset, found = -1, []
    for gap, number in gaps:
        offset += gap
        found.append((offset, f"tenant-{number % 2}", f"a-{number // 2}"))
    return found


def expected(log: list[Record]) -> list[bool]:
    """Brute force: any record of the id among the offsets before."""
    return [
        any(other[1:] == one[1:] and one[0] - REACH_HERE <= other[0] < one[0] for other in log)
        for one in log
    ]


def begun_at(log: list[Record], start: int) -> Superseded:
    """By a reader whose first record is log[start]; what is within reach was read before."""
    first = log[start][0]
    window = Superseded(since=first, reach=REACH_HERE)
    for one in log[:start]:
        if one[0] >= first - REACH_HERE:
            window.read(*one)
    return window


@given(GAPS, st.data())
@examples(300)
def test_any_reader_says_the_same_from_where_it_begins(gaps, data):
    log = log_of(gaps)
    start = data.draw(st.integers(0, len(log) - 1))
    window = begun_at(log, start)
    assert [window.read(*one) for one in log[start:]] == expected(log)[start:]


@given(GAPS, st.data())
@examples(300)
def test_what_comes_again_is_what_it_was_and_memory_stays_within_reach(gaps, data):
    log, said = log_of(gaps), expected(log_of(gaps))
    window, at, committed = Superseded(reach=REACH_HERE), 0, 0
    while at < len(log):
        end = data.draw(st.integers(at + 1, len(log)))
        window.forget_before(log[at][0])
        committed = at
        assert [window.read(*one) for one in log[at:end]] == said[at:end]
        if data.draw(st.booleans()):  # the batch is given up and read again
            at = committed
            assert [window.read(*one) for one in log[at:end]] == said[at:end]
        in_reach = [one for one in log[:end] if one[0] >= log[at][0] - REACH_HERE]
        assert len(window) <= len(in_reach)
        assert window.since == log[at][0]
        at = end


def test_the_memory_is_bounded_by_the_reach_whatever_comes() -> None:
    window = Superseded()
    for offset in range(3 * REACH):
        if offset % 500 == 0:
            window.forget_before(offset)
        assert not window.read(offset, "acme", f"a-{offset}")
    assert len(window) <= REACH + 500
