"""DESIGN 4.4: an authorization is inside its own windows, and so are those in flight."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from sluice.domain.features.catalogue import FEATURES, INDEX
from sluice.domain.features.events import event_rows
from sluice.domain.features.kernel import TOO_OLD
from tests.property.reference import DAY, MINUTE, Card, Event
from tests.property.test_features import differences
from tests.property.worlds import START, TEMPOS, Change, Stream, Tempo, apply_to, world

COUNTS = [
    i for i, f in enumerate(FEATURES) if f.a.split(".")[1] == "count" and f.window and not f.b
]
WINDOWS = [i for i, f in enumerate(FEATURES) if f.entity == "card" and f.window]
CARD = [i for i, f in enumerate(FEATURES) if f.entity == "card"]


def busy_stream(tempo: Tempo) -> tuple[Stream, list[Event]]:
    """A stream that took 220 of 280 changes, and the authorizations that it did not take."""
    stream = Stream()
    changes = world(9, 280, tempo)
    for change in changes[:220]:
        stream.apply(change)
    return stream, [c.what for c in changes[220:] if isinstance(c.what, Event)]


@pytest.mark.parametrize("tempo", TEMPOS)
def test_an_authorization_counts_in_all_its_windows_however_late_it_is(tempo: Tempo) -> None:
    stream, events = busy_stream(tempo)
    for event in events:
        for late in (0, MINUTE, 3 * DAY, 60 * DAY):
            served = stream.serve(replace(event, us=event.us - late)).features[0]
            assert (served[COUNTS] >= 1).all()


def test_the_first_authorization_of_all_is_alone_in_its_windows() -> None:
    event = Event(START, 1, 500, device=41)
    served = Stream().serve(event).features[0]
    assert (served[COUNTS] == 1).all()
    missing = Stream().kernel.finalise(event_rows([event.row()]), [[None] * 4], [[]])
    assert missing.features[0].tolist() == served.tolist()
    assert missing.missing[0] == 0b1111


@pytest.mark.parametrize("tempo", TEMPOS)
def test_pending_entries_count_as_if_applied_without_their_outcome(tempo: Tempo) -> None:
    stream, events = busy_stream(tempo)
    for i, event in enumerate(events):
        before = [replace(e, declined=0) for e in events[:i] if e.card == event.card]
        pending = list(dict.fromkeys(before))[-20:]
        served = stream.serve(event, pending)
        assert differences(served.features[0].tolist(), stream.expect(event, pending)) == {}

        counted = [pending[p] for p in served.used[0]]
        ahead = Stream(dict(stream.states))
        state, statuses = apply_to(
            "card",
            stream.states.get(("card", event.card), b""),
            [Change(e, e, 4000, n) for n, e in enumerate(counted)],
        )
        assert TOO_OLD not in statuses
        ahead.states["card", event.card] = state
        applied = ahead.serve(event)
        assert applied.features[0, CARD].tolist() == served.features[0, CARD].tolist()


@pytest.mark.parametrize("tempo", TEMPOS)
def test_a_pending_entry_that_the_state_holds_does_not_count_again(tempo: Tempo) -> None:
    """Not even when it was pushed out of a full ring since it was left."""
    stream = Stream()
    changes = [c for c in world(10, 250, tempo) if isinstance(c.what, Event)]
    for change in changes:
        stream.apply(change)
    event = replace(changes[-1].about, us=max(c.about.us for c in changes) + 1, id=9)
    held = [c.about for c in changes if c.about.card == event.card]
    alone = stream.serve(event)
    for start in range(0, len(held), 40):
        served = stream.serve(event, held[start : start + 40])
        assert served.used == [[]]
        assert served.features.tolist() == alone.features.tolist()


@pytest.mark.parametrize("tempo", TEMPOS)
def test_pending_entries_count_once_in_any_order_and_their_own_never(tempo: Tempo) -> None:
    stream, events = busy_stream(tempo)
    event = events[-1]
    pending = [e for e in dict.fromkeys(events[:-1]) if e.card == event.card]
    pending = [e for e in pending if abs(e.us - event.us) < 20 * DAY]
    expected = stream.serve(event, pending)
    rng = random.Random(2)
    for _ in range(5):
        shuffled = rng.sample([*pending, *pending, event, event], 2 * len(pending) + 2)
        served = stream.serve(event, shuffled)
        assert served.features.tolist() == expected.features.tolist()
        assert {shuffled[p] for p in served.used[0]} == {pending[p] for p in expected.used[0]}
        assert len(served.used[0]) == len(expected.used[0])


@pytest.mark.parametrize("tempo", TEMPOS)
def test_an_authorization_decided_again_is_not_counted_twice_on_its_card(tempo: Tempo) -> None:
    stream = Stream()
    for change in world(12, 200, tempo):
        if isinstance(change.what, Event):
            event = change.what
            card = stream.states.get(("card", event.card), b"")
            again, statuses = apply_to("card", card, [change])
            ring_was_full = len(stream.cards.get(event.card, Card()).kept()[1]) == 64
            if statuses == [0] and not ring_was_full:
                after = Stream(dict(stream.states))
                after.states["card", event.card] = again
                first, second = stream.serve(event), after.serve(event)
                assert first.features[0, WINDOWS].tolist() == second.features[0, WINDOWS].tolist()
        stream.apply(change)


def test_an_authorization_without_device_is_served_a_device_never_seen() -> None:
    event = Event(START, 1, 500)
    served = Stream().serve(event)
    assert served.features[0, INDEX["device_count_1d"]] == 1
    assert served.missing[0] == 0
