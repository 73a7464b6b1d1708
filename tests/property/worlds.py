"""Seeded little worlds that are nasty on purpose, and the stream that runs them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from sluice.domain.features import states
from sluice.domain.features.catalogue import VIEWS
from sluice.domain.features.events import event_rows
from sluice.domain.features.kernel import (
    AUTHORIZATION,
    FRAUD,
    GENUINE,
    WITHDRAWN,
    Kernel,
    Served,
    scratch,
    update,
)
from sluice.domain.records.entity import EntityKind
from tests.property import reference
from tests.property.reference import DAY, HOUR, MINUTE, SECOND, Applied, Event, Label

Ints = npt.NDArray[np.int64]
START = 20_454 * DAY
"""2026-01-01."""
COLUMNS = ("card", "terminal", "merchant", "device")
WORK = scratch()


@dataclass(frozen=True)
class Change:
    """An event or a label on its way to some entities, from one place of one source."""

    what: Applied
    about: Event
    source: int
    offset: int

    def row(self) -> tuple[int, int, int, int]:
        if isinstance(self.what, Event):
            return AUTHORIZATION, self.source, self.offset, 0
        kind = FRAUD if self.what.is_fraud else GENUINE
        if self.what.withdraws:
            kind = WITHDRAWN
        return kind, self.source, self.offset, self.what.known_us

    def event(self) -> Event:
        """With the time that the kernel is given."""
        taken_back = self.what.withdraws if isinstance(self.what, Label) else 0
        return replace(self.about, us=taken_back) if taken_back else self.about


Tempo = Literal["calm", "burst", "ties", "gaps"]
TEMPOS: tuple[Tempo, ...] = ("calm", "burst", "ties", "gaps")


def world(seed: int, n: int, tempo: Tempo) -> list[Change]:
    """n authorizations of a few entities and labels about them, in order of arrival.

    calm: minutes to days apart. burst: hundreds within the hour. ties: many in one microsecond.
    gaps: pauses of over 35 days. In each, some arrive late, a few far too late; of those on time
    some come twice.
    """
    rng = random.Random(f"{seed} {tempo}")
    us = START + rng.randrange(DAY)
    arrivals: list[tuple[int, int, Applied, Event]] = []
    for _ in range(n):
        if tempo == "calm":
            us += rng.choice((SECOND, MINUTE, HOUR, 8 * HOUR)) * rng.randrange(1, 4)
        elif tempo == "burst":
            us += rng.randrange(20 * SECOND) if rng.random() < 0.97 else 9 * HOUR
        elif tempo == "ties":
            us += rng.choice((0, 0, 0, 1, MINUTE - us % MINUTE, HOUR - us % HOUR, DAY - us % DAY))
        else:
            us += rng.randrange(HOUR) if rng.random() < 0.93 else rng.randrange(20 * DAY, 50 * DAY)
        event = Event(
            us=us,
            id=rng.randrange(1, 2**32),
            amount=rng.choice((0, 1, 299, 300, 1000, 123_456, rng.randrange(10**10))),
            card=rng.choice((2**32 - 1, 7)),
            terminal=rng.choice((21, 22)),
            merchant=rng.choice((31, 2**32 - 1, 33)),
            device=rng.choice((0, 0, 41, 2**32 - 1)),
            country=rng.choice((0, 1, 30, 77, 200)),
            card_country=1,
            currency=rng.choice((0, 1, 50)),
            mcc=rng.choice((5411, 6011, 7995, 0, 9999)),
            channel=rng.randrange(1, 6),
            three_ds=rng.randrange(5),
            declined=int(rng.random() < 0.2),
        )
        late = rng.random()
        delay = 0 if late < 0.8 else rng.randrange(3 * HOUR if late < 0.97 else 45 * DAY)
        arrivals.append((us + delay, len(arrivals), event, event))
        if delay == 0 and rng.random() < 0.03:
            arrivals.append((us + delay, len(arrivals), event, event))
        if rng.random() < 0.1:
            known = us + rng.randrange(50 * DAY if tempo == "gaps" else 9 * DAY)
            label = Label(rng.random() < 0.7, known)
            arrivals.append((known + rng.randrange(DAY), len(arrivals), label, event))
    arrivals.sort(key=lambda a: a[:2])
    offsets: dict[int, int] = {}
    changes = []
    for _, _, what, about in arrivals:
        kind = states.LABELS if isinstance(what, Label) else states.DECISIONS
        source = states.source(kind, about.card % 3 if kind == states.DECISIONS else about.id % 2)
        offsets[source] = offsets.get(source, 9) + rng.randrange(1, 5)
        changes.append(Change(what, about, source, offsets[source]))
    return changes


def entities(event: Event) -> list[tuple[EntityKind, int]]:
    """Of an authorization, in the order of VIEWS; without a device there are three."""
    found = [(view, getattr(event, view)) for view in VIEWS]
    return [(view, key) for view, key in found if key]  # type: ignore[misc]


def apply_to(kind: EntityKind, state: bytes, changes: Sequence[Change]) -> tuple[bytes, list[int]]:
    """One entity's state after some changes, and what became of each."""
    done = update(
        [(kind, "k")],
        [state],
        np.array([0, len(changes)], np.int64),
        event_rows([c.event().row() for c in changes]),
        np.array([c.row() for c in changes], np.int64).reshape(-1, 4),
        WORK,
    )
    return done.states[0], done.statuses.tolist()


@dataclass
class Stream:
    """States kept by the kernel beside histories kept by the reference."""

    states: dict[tuple[EntityKind, int], bytes] = field(default_factory=dict)
    cards: dict[int, reference.Card] = field(default_factory=dict)
    tiles: dict[tuple[EntityKind, int], reference.Tiles] = field(default_factory=dict)
    kernel: Kernel = field(default_factory=Kernel)

    def states_of(self, event: Event) -> list[bytes]:
        return [self.states.get((view, getattr(event, view)), b"") for view in VIEWS]  # type: ignore[arg-type]

    def serve(self, event: Event, pending: Iterable[Event] = ()) -> Served:
        judged = replace(event, declined=0)
        entries = [e.row() for e in pending]
        return self.kernel.finalise(event_rows([judged.row()]), [self.states_of(event)], [entries])

    def expect(self, event: Event, pending: Iterable[Event] = ()) -> list[int]:
        card = self.cards.get(event.card, reference.Card())
        card, _ = card.with_pending(event, pending)
        tiles = [
            self.tiles.get((view, getattr(event, view)), reference.Tiles()) for view in VIEWS[1:]
        ]  # type: ignore[arg-type]
        return reference.features(event, card, tiles)

    def apply(self, change: Change) -> None:
        for entity in entities(change.about):
            state, _ = apply_to(entity[0], self.states.get(entity, b""), [change])
            self.states[entity] = state
            if entity[0] == "card":
                self.cards.setdefault(entity[1], reference.Card()).apply(change.what)
            else:
                self.tiles.setdefault(entity, reference.Tiles()).apply(change.what)
