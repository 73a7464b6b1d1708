"""The featurizer's loop over a real store: what it takes for a loss, and what it does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import pytest

from services.featurizer.main import Loop
from sluice.adapters.kafka.config import Partition
from sluice.adapters.kafka.consumer import Message
from sluice.adapters.redis import marker
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.adapters.redis.marker import Marker
from sluice.adapters.redis.states import RedisStateStore
from sluice.application.featurize import Applied
from sluice.application.ports import LOST, READY, STORE_LOST
from sluice.bootstrap import FeaturizerParts
from sluice.domain.stateformat import TABLES, note
from sluice.errors import Unavailable

pytestmark = pytest.mark.integration

A, B = ("decisions.v1", 0), ("decisions.v1", 1)


class Group:
    """What Kafka knows of the group: offsets committed, and who has which partition."""

    def __init__(self) -> None:
        self.offsets: dict[Partition, int] = {}
        self.down = False


class Consumer:
    """One member, fed by hand."""

    def __init__(self, group: Group, *mine: Partition) -> None:
        self.group = group
        self.mine = list(mine)
        self.batch: list[Message] = []

    def give(self, place: Partition, first: int, count: int) -> None:
        self.batch += [
            Message(b"", None, *place, offset, None) for offset in range(first, first + count)
        ]

    def poll_batch(self, limit: int, wait_s: float) -> list[Message]:
        taken, self.batch = self.batch, []
        return taken

    def assignment(self) -> list[Partition]:
        return self.mine

    def partitions(self) -> list[Partition]:
        return [A, B]

    def committed(self, partitions: list[Partition]) -> dict[Partition, int]:
        return {p: self.group.offsets[p] for p in partitions if p in self.group.offsets}

    def commit_later(self, offsets: dict[Partition, int]) -> None:
        if self.group.down:
            raise Unavailable("the broker is down")
        self.group.offsets |= offsets

    def rewind(self) -> None:
        self.batch = []

    def lag(self) -> dict[Partition, int]:
        return {}


class Counting:
    """In the featurizer's place: counts what it was given."""

    def __init__(self) -> None:
        self.applied = 0

    def apply(self, batch: list[Message]) -> Applied:
        self.applied += len(batch)
        return Applied(Counter(), Counter(), Counter(), [])


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedStore]:
    with EmbeddedStore() as running:
        yield running


@pytest.fixture
def store(server: EmbeddedStore) -> Iterator[RedisStateStore]:
    made = RedisStateStore(server.url)
    made.connection.call(pack(b"FLUSHALL"), 1)
    yield made
    made.close()


class Member:
    """A loop with its parts."""

    def __init__(self, store: RedisStateStore, group: Group, *mine: Partition) -> None:
        self.consumer = Consumer(group, *mine)
        self.featurizer = Counting()
        self.marker = Marker(store.connection)
        parts: Any = (self.consumer, self.featurizer, store, self.marker)
        self.loop = Loop(FeaturizerParts(*cast("Any", parts)), 100)

    def handle(self, place: Partition, first: int, count: int) -> None:
        self.consumer.give(place, first, count)
        self.loop.once()


def lost(member: Member, *given: Any) -> bool:
    with pytest.raises(Unavailable) as caught:
        member.handle(*given) if given else member.loop.once()
    return caught.value.code == STORE_LOST and member.marker.read().state == LOST


def test_the_first_featurizer_of_an_installation_declares_the_store_ready(store):
    member = Member(store, Group(), A)
    member.loop.once()
    assert member.marker.read().state == READY
    member.handle(A, 0, 10)
    assert member.marker.read().applied == {A: 10}
    assert member.consumer.group.offsets == {A: 10}


def test_an_empty_store_is_lost_if_anyone_of_the_group_had_committed(store):
    group = Group()
    group.offsets = {B: 5}  # a partition of another member
    member = Member(store, group, A)
    assert lost(member, A, 0, 10)
    assert member.featurizer.applied == 0


def test_a_restart_goes_on_and_a_store_ahead_of_kafka_lost_nothing(store):
    group = Group()
    first = Member(store, group, A)
    group.down = True
    with pytest.raises(Unavailable, match="broker"):
        first.handle(A, 0, 10)  # in the store, not committed
    group.down = False
    second = Member(store, group, A)
    second.handle(A, 0, 12)
    assert second.marker.read().applied == group.offsets == {A: 12}


def test_a_store_behind_the_group_is_lost_before_anything_is_written_to_it(store):
    group = Group()
    Member(store, group, A).handle(A, 0, 10)
    store.connection.call(pack(b"HSET", marker.KEY, b"decisions.v1/0", b"7"), 1)
    member = Member(store, group, A)
    assert lost(member, A, 10, 5)
    assert (member.featurizer.applied, group.offsets) == (0, {A: 10})


def test_a_partition_that_comes_later_is_compared_before_its_first_batch(store):
    group = Group()
    member, other = Member(store, group, A), Member(store, group, B)
    member.handle(A, 0, 10)
    other.handle(B, 0, 10)
    store.connection.call(pack(b"HSET", marker.KEY, b"decisions.v1/1", b"7"), 1)
    member.consumer.mine = [A, B]
    assert lost(member, B, 10, 5)
    assert member.featurizer.applied == 10


def test_what_was_written_and_forgotten_before_the_commit_comes_again_and_is_no_loss(store):
    group = Group()
    member = Member(store, group, A)
    member.handle(A, 0, 10)
    group.down = True
    with pytest.raises(Unavailable, match="broker"):
        member.handle(A, 10, 5)
    store.connection.call(pack(b"HSET", marker.KEY, b"decisions.v1/0", b"10"), 1)
    group.down = False
    member.loop.rewind()
    member.handle(A, 10, 5)
    assert member.marker.read().applied == group.offsets == {A: 15}


def test_a_flush_between_two_batches_stops_the_second(store):
    group = Group()
    member = Member(store, group, A)
    member.handle(A, 0, 10)
    store.connection.call(pack(b"FLUSHALL"), 1)
    with pytest.raises(Unavailable) as caught:
        member.handle(A, 10, 5)
    assert caught.value.code == STORE_LOST
    assert group.offsets == {A: 10}


def test_a_store_of_another_format_is_left_to_those_whose_it_is(store):
    group = Group()
    Member(store, group, A).handle(A, 0, 10)
    newer = note({**TABLES, "country": {**TABLES["country"], "QQ": 251}})
    store.connection.call(pack(b"HSET", marker.KEY, b"format", newer.encode()), 1)
    member = Member(store, group, A)
    with pytest.raises(Unavailable, match="country has 251 entries, ours has 250") as caught:
        member.handle(A, 10, 5)
    assert caught.value.code == STORE_LOST  # so it leaves the group, and waits
    assert (member.featurizer.applied, group.offsets) == (0, {A: 10})
    assert member.marker.read().state == READY
    assert "ours has 250" in member.marker.read().why_not_written()
