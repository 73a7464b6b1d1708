"""DESIGN 4.1: states are stored compactly. A seeded bank of 40 days says how compactly."""

from __future__ import annotations

import random
import statistics

import numpy as np

from sluice.domain.features.codec import STATE_BYTES_MAX
from sluice.domain.features.events import event_rows
from sluice.domain.features.kernel import update
from sluice.domain.records.entity import EntityKind
from tests.property.reference import DAY, HOUR, Event
from tests.property.worlds import START, WORK, Change, apply_to

DAYS = 40


def card_history(rng: random.Random, a_day: float) -> list[Event]:
    """Habits: a few merchants most of the time, one or two devices for e-commerce, one country."""
    favourites = [(rng.randrange(1, 2**32), rng.choice((5411, 5814, 5541))) for _ in range(8)]
    devices = [rng.randrange(1, 2**32) for _ in range(2)]
    events = []
    us = START
    while us < START + DAYS * DAY:
        us += round(rng.expovariate(a_day) * DAY)
        online = rng.random() < 0.3
        merchant, mcc = (
            rng.choice(favourites) if rng.random() < 0.6 else (rng.randrange(1, 2**32), 5999)
        )
        events.append(
            Event(
                us=us,
                id=rng.randrange(1, 2**32),
                amount=round(rng.lognormvariate(7.5, 1.2)),
                card=rng.randrange(1, 2**32),
                merchant=merchant,
                device=rng.choice(devices) if online else 0,
                country=44 if rng.random() < 0.95 else rng.randrange(1, 200),
                currency=44,
                mcc=mcc,
                channel=3 if online else rng.choice((1, 2)),
                declined=int(rng.random() < 0.03),
            )
        )
    return events


def sizes(kind: EntityKind, a_day: float, n: int) -> list[int]:
    """Bytes of n states."""
    rng = random.Random(f"{kind} {a_day}")
    histories = [card_history(rng, a_day) for _ in range(n)]
    flat = [e for events in histories for e in events]
    done = update(
        [(kind, "k")] * n,
        [b""] * n,
        np.cumsum([0, *map(len, histories)]).astype(np.int64),
        event_rows([e.row() for e in flat]),
        np.array([(0, 3, i, 0) for i in range(len(flat))], np.int64),
        WORK,
    )
    return [len(state) for state in done.states]


def test_the_median_card_takes_at_most_512_bytes() -> None:
    assert statistics.median(sizes("card", 0.5, 400)) <= 512


def test_no_state_is_larger_than_the_bound_named() -> None:
    for kind, a_day in (("card", 200.0), ("terminal", 2000.0)):
        assert max(sizes(kind, a_day, 1)) < STATE_BYTES_MAX / 3


def test_empty_tiles_and_slots_take_no_bytes() -> None:
    for kind in ("card", "terminal"):
        one = Event(START, 2**32 - 1, 500)
        state, _ = apply_to(kind, b"", [Change(one, one, 0, 0)])
        assert len(state) < 70
        later = Event(START + 34 * DAY + HOUR, 2**32 - 1, 500)
        grown, _ = apply_to(kind, state, [Change(later, later, 0, 1)])
        assert len(grown) - len(state) < 30
