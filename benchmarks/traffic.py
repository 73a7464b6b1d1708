"""The simulator's traffic as an acquirer would send it: JSON bodies, without end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import date, timedelta

from sluice_simulator.batch import Batch
from sluice_simulator.config import Config
from sluice_simulator.world import World

from sluice.domain.records.authorization import encode

CHUNK = 2048


def bodies(cards: int, seed: int, first: date, tenant: str) -> Iterator[bytes]:
    """The world's authorizations from a day on. The same arguments give the same ids."""
    world = World(Config(cards=cards, tenant=tenant), seed)
    for days in itertools.count():
        for day in world.days(first + timedelta(days=days), 1):
            for at in range(0, len(day), CHUNK):
                yield from map(encode, Batch(world, day.rows[at : at + CHUNK]).structs())
