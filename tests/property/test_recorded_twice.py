"""Two records of one authorization are one event of the card, and content decides which."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from sluice.domain.features.kernel import DONE, DUPLICATE, Kernel
from tests.examples import examples
from tests.property.reference import DAY, SECOND, Card, Event
from tests.property.test_features import differences
from tests.property.worlds import START, Change, Stream, apply_to

NOW = START + 3 * DAY
KEPT = ("amount", "merchant", "device", "country", "currency", "mcc", "channel")
RECORDS = st.builds(
    Event,
    us=st.sampled_from((NOW, NOW + 1, NOW + SECOND, NOW + 36 * DAY)),
    id=st.integers(1, 2),
    amount=st.sampled_from((0, 7, 2000)),
    card=st.just(7),
    merchant=st.integers(31, 33),
    device=st.sampled_from((0, 41)),
    country=st.integers(0, 2),
    currency=st.integers(0, 2),
    mcc=st.sampled_from((5411, 6011)),
    channel=st.integers(1, 5),
    declined=st.integers(0, 1),
)
IN_FLIGHT = st.builds(replace, RECORDS, declined=st.just(0))
OLDER = [Event(NOW - DAY + i * SECOND, 5, 100 + i, card=7, country=2) for i in range(64)]
"""Fill the ring."""


KERNEL = Kernel()


def numbered(*records: Event) -> list[Change]:
    return [Change(record, record, 0, i) for i, record in enumerate(records)]


def stream_of(records: list[Event]) -> Stream:
    """In which the card alone has seen something."""
    state = apply_to("card", b"", numbered(*records))[0] if records else b""
    return Stream({("card", 7): state}, {7: Card(records)}, kernel=KERNEL)


@given(st.lists(RECORDS, min_size=1, max_size=8), st.randoms(use_true_random=False))
@examples(200)
def test_any_order_of_records_reads_like_brute_force(records, rng):
    probe = Event(NOW + 2 * SECOND, 3, 900, card=7)
    expected = None
    for order in (records, records[::-1], rng.sample(records, len(records))):
        stream = stream_of(order)
        served = stream.serve(probe).features[0].tolist()
        assert differences(served, stream.expect(probe)) == {}
        expected = expected or served
        assert served == expected


def test_the_greater_content_stays_column_by_column_whichever_comes_first():
    first = Event(NOW, 1, 500, card=7, merchant=31, device=41, country=2, currency=3, channel=2)
    for i, column in enumerate(KEPT):
        greater = replace(first, **{column: getattr(first, column) + 1})
        # What comes after the first column that differs plays no part.
        greater = replace(greater, **dict.fromkeys(KEPT[i + 1 :], 0))
        alone, _ = apply_to("card", b"", numbered(greater, greater))
        for records in ((first, greater), (greater, first)):
            state, statuses = apply_to("card", b"", numbered(*records))
            assert statuses == [DONE, DUPLICATE]
            assert state == alone


def test_an_id_decided_twice_with_two_outcomes_and_two_rates_is_one_event_of_its_card():
    approved = Event(NOW, 1, 500, card=7)
    declined = replace(approved, amount=499, declined=1)
    both = replace(approved, declined=1)
    alone, _ = apply_to("card", b"", numbered(both, both))
    assert apply_to("card", b"", numbered(approved, declined))[0] == alone
    assert apply_to("card", b"", numbered(declined, approved))[0] == alone


@given(
    st.sampled_from((0, 1, 63, 64)),
    st.lists(RECORDS, max_size=4),
    st.lists(st.one_of(IN_FLIGHT, st.sampled_from(OLDER[:3])), max_size=6),
    st.randoms(use_true_random=False),
)
@example(64, [], [replace(OLDER[63], id=6), OLDER[0]], random.Random(1))  # it was counted twice
@examples(200)
def test_pending_records_in_any_order_read_like_brute_force(older, records, pending, rng):
    stream = stream_of([*OLDER[:older], *records])
    event = Event(NOW + SECOND, 1, 900, card=7)
    _, counted = stream.cards.get(7, Card()).with_pending(event, pending)
    for order in (pending, pending[::-1], rng.sample(pending, len(pending))):
        served = stream.serve(event, order)
        assert differences(served.features[0].tolist(), stream.expect(event, order)) == {}
        used = [order[p] for p in served.used[0]]
        assert len(used) == len(set(used))
        # Entries of equal content differ in what a card does not keep.
        assert {(e.key, e.content) for e in used} == {(e.key, e.content) for e in counted}
        again = stream.serve(event, used)
        assert again.features.tolist() == served.features.tolist()
        assert again.used == [list(range(len(used)))]
