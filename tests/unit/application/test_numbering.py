"""The numbers of an emitter: no hole without a reason, whatever becomes of its appends."""

from __future__ import annotations

import random

from sluice.application.numbering import Numbers, Taken
from sluice.domain.records.decision import MAX_GIVEN_UP


def test_what_was_given_up_is_told_by_the_next_record() -> None:
    numbers = Numbers()
    first = numbers.take(3)
    numbers.give_up(first.first)
    assert numbers.take(2) == Taken(3, 0, [(0, 3)])
    numbers.settle(3)
    assert numbers.take(1) == Taken(5, 5, [])


def test_it_is_told_again_while_the_record_that_told_it_is_lost() -> None:
    numbers = Numbers()
    numbers.take(2)
    numbers.settle(0, [1])
    assert numbers.take(2) == Taken(2, 1, [(1, 2)])
    assert numbers.take(1) == Taken(4, 1, [])
    numbers.settle(2, [0])
    assert numbers.take(1) == Taken(5, 1, [(1, 3)])
    numbers.settle(4)
    numbers.settle(5)
    assert numbers.take(1) == Taken(6, 6, [])


def test_numbers_that_are_taken_back_are_taken_again_and_nothing_is_forgotten() -> None:
    numbers = Numbers()
    numbers.take(1)
    numbers.give_up(0)
    assert numbers.take(2) == Taken(1, 0, [(0, 1)])
    numbers.back_to(1)
    assert numbers.take(2) == Taken(1, 0, [(0, 1)])
    numbers.settle(1, [0, 1])
    numbers.back_to(0)
    assert numbers.take(1) == Taken(0, 0, [])


def test_a_record_tells_of_so_many_stretches() -> None:
    numbers = Numbers()
    for batch in [numbers.take(2) for _ in range(MAX_GIVEN_UP + 5)]:
        numbers.settle(batch.first, [0])
    one = numbers.take(1)
    assert (len(one.given_up), one.settled) == (MAX_GIVEN_UP, 0)
    numbers.settle(one.first)
    two = numbers.take(1)
    assert (len(two.given_up), two.settled) == (5, 2 * MAX_GIVEN_UP)
    numbers.settle(two.first)
    three = numbers.take(1)
    assert (three.given_up, three.settled) == ([], three.first)


def test_every_hole_below_what_is_settled_was_told_by_a_durable_record() -> None:
    """Whatever is lost, in whatever order, and wherever it is killed."""
    rng = random.Random(17)
    for _ in range(300):
        numbers, flying = Numbers(), dict[int, tuple[int, Taken]]()
        durable, told, settled, last = set[int](), set[int](), 0, -1
        for _ in range(rng.randrange(60)):
            if not flying or rng.random() < 0.5:
                count = rng.randrange(1, 5)
                taken = numbers.take(count)
                flying[taken.first] = count, taken
                continue
            first = rng.choice(list(flying))
            count, taken = flying.pop(first)
            lost = [at for at in range(count) if rng.random() < 0.4]
            numbers.settle(first, lost)
            durable |= {first + at for at in range(count) if at not in lost}
            if 0 not in lost:
                told |= {n for a, b in taken.given_up for n in range(a, b)}
            if len(lost) < count:
                settled = max(settled, taken.settled)
                last = max(last, first + count - 1)
            # Killed here: the log holds these.
            assert not durable & told
            assert set(range(settled)) <= durable | told
