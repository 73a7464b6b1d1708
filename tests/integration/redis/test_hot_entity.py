"""One terminal with most of the traffic, over a real store: one write a batch, and exact."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.application.featurize import Featurizer
from sluice.bootstrap.services import store_at
from sluice.domain.features import states
from sluice.domain.features.events import event_rows
from sluice.domain.features.kernel import Kernel
from sluice.domain.records.authorization import encode
from sluice.domain.records.observation import COLUMNS, Observations
from tests.property import reference
from tests.property.reference import Event
from tests.property.worlds import START

pytestmark = pytest.mark.integration

BATCHES, ROWS = 16, 500
HOT = "terminal-hot"
SECOND = 1_000_000


@dataclass
class Record:
    topic: str
    partition: int
    offset: int
    value: bytes


@dataclass
class Nowhere:
    """Observations make no further ones."""

    partitions: int = 1
    produced: list[bytes] = field(default_factory=list)

    def produce(self, partition: int, value: bytes) -> None:
        self.produced.append(value)

    def flush(self) -> None: ...


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedStore]:
    with EmbeddedStore() as running:
        yield running


def test_a_terminal_with_most_of_the_traffic_is_written_once_a_batch_and_is_exact(
    server: EmbeddedStore,
) -> None:
    # 8,000 authorizations in 40 s, 200 a second; one in ten is another terminal's.
    rng = random.Random(17)
    at_us = START
    expected = reference.Tiles()
    store = store_at(server.url).states()
    # A second featurizer takes over, and reads the last batch once more.
    first, second = (
        Featurizer(store=store, observations=Nowhere(), topics={"observations.v1": "observations"})
        for _ in range(2)
    )
    written = 0
    for number in range(BATCHES):
        columns: Any = {name: [] for name in COLUMNS if name != "withdrawn_us"}
        cold = set()
        for row in range(ROWS):
            at_us += rng.randrange(SECOND // 100)
            event = Event(
                us=at_us, id=number * ROWS + row + 1, amount=rng.randrange(10_000),
                card=rng.randrange(1, 2**32), declined=int(rng.random() < 0.1),
            )  # fmt: skip
            key = HOT if rng.random() < 0.9 else f"terminal-{rng.randrange(50)}"
            if key == HOT:
                expected.apply(event)
            else:
                cold.add(key)
            given = {
                "entity": "terminal", "key": key, "kind": 0,
                "source": states.source(states.DECISIONS, row % 3),
                "offset": number * ROWS + row, "at_us": at_us, "amount_minor": event.amount,
                "card_tag": event.card, "declined": event.declined,
            }  # fmt: skip
            for name, column in columns.items():
                column.append(given[name])
        record: Any = Record("observations.v1", 0, number, encode(Observations(**columns)))
        done = (first if number < BATCHES // 2 else second).apply([record])
        assert done.written["terminal"] == 1 + len(cold)
        assert not done.conflicts
        written += 1
        if number == BATCHES // 2:
            again = first.apply([record])
            assert (again.written["terminal"], again.results["observations", "redelivered"]) == (
                0,
                ROWS,
            )
    (state,) = store.read([("terminal", HOT)])
    assert written == BATCHES  # for 7,200 authorizations of it
    assert len(state) < 2_000

    judged = Event(us=at_us, id=999_999, amount=777, card=12345)
    served = Kernel().finalise(
        event_rows([replace(judged, declined=0).row()]), [[b"", state, b"", b""]], [[]]
    )
    exact = reference.features(
        judged, reference.Card(), [expected, reference.Tiles(), reference.Tiles()]
    )
    assert served.features[0].tolist() == exact
    store.close()
