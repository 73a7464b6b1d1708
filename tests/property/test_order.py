"""DESIGN 4.1: a state is a function of the set of events, whatever their order."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sluice.domain.features.kernel import DONE, DUPLICATE, TOO_OLD
from sluice.domain.records.entity import ENTITY_KINDS, EntityKind
from tests.examples import examples
from tests.property.reference import DAY, HOUR, MINUTE, Event, Label
from tests.property.worlds import START, TEMPOS, Change, Tempo, apply_to, entities, world

KINDS = st.sampled_from(ENTITY_KINDS)
EDGES = st.sampled_from((0, 1, MINUTE, HOUR, DAY, 34 * DAY, 35 * DAY, 36 * DAY))
TIMES = st.builds(
    lambda days, edge, nudge: START + days * DAY + edge + nudge,
    st.integers(0, 3),
    EDGES,
    st.integers(-1, 1),
)
EVENTS = st.builds(
    Event,
    us=TIMES,
    id=st.integers(1, 2**32 - 1),
    amount=st.integers(0, 10**10),
    card=st.integers(1, 2**32 - 1),
    merchant=st.integers(1, 3),
    device=st.integers(0, 2),
    country=st.integers(0, 3),
    declined=st.integers(0, 1),
)
LABELS = st.builds(Label, is_fraud=st.booleans(), known_us=TIMES)


def numbered(what: Iterable[Event | Label], source: int = 0) -> list[Change]:
    """In this order out of one source."""
    return [
        Change(w, w if isinstance(w, Event) else Event(0, 1, 0), source, i)
        for i, w in enumerate(what)
    ]


TWINS = [
    Event(1_767_312_000_000_001, 1, 0, card=1, merchant=1, country=0),
    Event(1_767_312_000_000_001, 1, 0, card=1, merchant=1, country=1),
]
"""Two records of one microsecond and one tag: the first to come once stayed."""


@given(KINDS, st.lists(st.one_of(EVENTS, LABELS), max_size=12), st.randoms(use_true_random=False))
@example("card", TWINS, random.Random(1))
@examples(200)
def test_any_order_of_events_gives_the_same_bytes(
    kind: EntityKind, what: list[Event | Label], rng: random.Random
) -> None:
    expected = apply_to(kind, b"", numbered(what))[0]
    assert apply_to(kind, b"", numbered(what[::-1]))[0] == expected
    shuffled = rng.sample(what, len(what))
    assert apply_to(kind, b"", numbered(shuffled))[0] == expected


@pytest.mark.parametrize("tempo", TEMPOS)
@pytest.mark.parametrize("kind", ENTITY_KINDS)
def test_any_order_gives_the_same_bytes_when_the_ring_and_all_tiles_overflow(
    kind: EntityKind, tempo: Tempo
) -> None:
    changes = {c.what if kind == "card" else i: c for i, c in enumerate(world(2, 400, tempo))}
    what = [c.what for c in changes.values()]
    expected = apply_to(kind, b"", numbered(what))[0]
    rng = random.Random(1)
    for _ in range(10):
        rng.shuffle(what)
        assert apply_to(kind, b"", numbered(what))[0] == expected
    assert apply_to(kind, b"", numbered(sorted(what, key=time_of)))[0] == expected
    assert apply_to(kind, b"", numbered(sorted(what, key=time_of, reverse=True)))[0] == expected


def time_of(what: Event | Label) -> int:
    return what.us if isinstance(what, Event) else what.known_us


@pytest.mark.parametrize("tempo", TEMPOS)
def test_sources_may_be_mixed_in_any_way_and_cut_into_any_updates(tempo: Tempo) -> None:
    changes = world(3, 300, tempo)
    rng = random.Random(7)
    for entity in {e for c in changes for e in entities(c.about)}:
        mine = [c for c in changes if entity in entities(c.about)]
        expected, _ = apply_to(entity[0], b"", mine)
        queues = [
            [c for c in mine if c.source == source] for source in sorted({c.source for c in mine})
        ]
        state = b""
        while any(queues):
            queue = rng.choice([q for q in queues if q])
            taken = [queue.pop(0) for _ in range(min(rng.randrange(1, 4), len(queue)))]
            state, _ = apply_to(entity[0], state, taken)
        assert state == expected


def test_of_two_records_of_one_authorization_a_decline_counts_whichever_comes_first() -> None:
    approved = Event(START, 5, 100)
    declined = replace(approved, declined=1)
    state, statuses = apply_to("card", b"", numbered([approved, declined]))
    assert statuses == [DONE, DUPLICATE]
    assert apply_to("card", b"", numbered([declined, approved]))[0] == state


def test_a_second_record_is_known_only_while_the_first_is_among_the_64_remembered() -> None:
    """The limit of a bounded state: such a record would need two idempotency records over 64 events
    apart."""
    first = Event(START, 5, 100)
    newer = [Event(START + i, 5, 100) for i in range(1, 65)]
    _, statuses = apply_to("card", b"", numbered([first, *newer[:63], first]))
    assert statuses[-1] == DUPLICATE
    _, statuses = apply_to("card", b"", numbered([first, *newer, first]))
    assert statuses[-1] == DONE


@given(KINDS, st.lists(EVENTS, min_size=1, max_size=8))
@examples(50)
def test_what_is_too_old_after_the_others_leaves_the_same_state_as_before_them(
    kind: EntityKind, events: list[Event]
) -> None:
    old = replace(events[0], us=min(e.us for e in events) - 40 * DAY, id=77)
    newest = replace(events[0], us=max(e.us for e in events), id=78)
    late, statuses = apply_to(kind, b"", numbered([*events, newest, old]))
    early, _ = apply_to(kind, b"", numbered([old, *events, newest]))
    assert statuses[-1] == TOO_OLD
    assert late == early
