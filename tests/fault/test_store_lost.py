"""A store that comes back empty: decisions go on and say so, states are made again from the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from services.kafka.broker import Node, free_port
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.domain import catalogue
from sluice.domain.authorization import encode
from sluice.testing.factories import make_label
from sluice.testing.kafka import read_all, wait_until
from sluice.testing.recount import Books, committed, wait_applied
from sluice.testing.traffic import StreamTraffic
from sluice.testing.world import World, make_world

pytestmark = [pytest.mark.fault, pytest.mark.slow]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """At one port, with nothing on disk."""
    with EmbeddedStore(port=free_port(), directory=tmp_path / "store") as store:
        yield store


@pytest.fixture
def world(kafka: Node, store: EmbeddedStore, tmp_path: Path) -> Iterator[World]:
    with make_world(kafka.bootstrap, store.url, tmp_path / "world") as world:
        world.start("decider-stream", "featurizer")
        yield world


def stream(world: World, name: str, count: int) -> None:
    """Send so many, and wait until they are decided."""
    before = len(world.books().decisions)
    traffic = StreamTraffic(world.bootstrap, world.topics.authorizations, name, rate=400)
    with traffic:
        wait_until(lambda: traffic.sent >= count, "traffic was sent")
    wait_until(lambda: len(world.books().decisions) == before + traffic.sent, "all is decided")


def label_some(world: World, books: Books) -> None:
    producer = EventProducer(world.bootstrap, client_id="test")
    for decision in books.decisions[::10]:
        label = make_label(decision.authorization, known_at=decision.decided_at)
        producer.produce(world.topics.labels, encode(label), key=label.authorization_id)
    producer.flush(30)


def rungs(world: World, name: str) -> Counter[str]:
    return Counter(
        d.rung
        for d in world.books().decisions
        if d.authorization.authorization_id.startswith(f"{name}-")
    )


def forget(world: World, topics: list[str], *, to_end: str) -> None:
    """Set the featurizer's group back to the beginning of topics, and to the end of another.

    As ``kafka-consumer-groups.sh --reset-offsets`` in docs/runbooks/rebuild-states.md.
    """
    ends = dict.fromkeys(topics, -2) | {to_end: -1}
    places = [
        TopicPartition(topic, partition, _offset(world, topic, partition, ends[topic]))
        for topic, partition in committed(world.bootstrap, world.featurizer_group)
    ]
    admin = AdminClient({"bootstrap.servers": world.bootstrap})
    asked = ConsumerGroupTopicPartitions(world.featurizer_group, places)
    admin.alter_consumer_group_offsets([asked])[world.featurizer_group].result(10)


def _offset(world: World, topic: str, partition: int, where: int) -> int:
    if where == -2:
        return 0
    mine = [m.offset for m in read_all(world.bootstrap, topic) if m.partition == partition]
    return max(mine) + 1


def test_without_the_store_decisions_go_on_at_a_lower_rung_and_recover(
    world: World, store: EmbeddedStore
) -> None:
    stream(world, "before", 200)
    assert set(rungs(world, "before")) == {"D0"}
    known = world.settle()

    store.stop()
    applied = {
        partition: offset
        for (topic, partition), offset in committed(world.bootstrap, world.featurizer_group).items()
        if topic == world.topics.decisions
    }
    stream(world, "without", 100)
    without = [d for d in world.books().decisions if d.sequence >= len(known.decisions)]
    assert {d.rung for d in without} == {"D2"}
    assert {tuple(d.degraded) for d in without} == {("store", *catalogue.VIEWS)}

    # Ids decided before are known by the store alone: a repeat that comes now is decided again.
    again = known.authorizations[0]
    producer = EventProducer(world.bootstrap, client_id="test")
    producer.produce(world.topics.authorizations, again.value, key=again.key)
    producer.flush(30)
    wait_until(lambda: len(world.books().decided_twice()) == 1, "the repeat was decided")

    store.start()
    wait_until(lambda: a_few_more_are_complete(world), "decisions are complete again")

    # What states held is gone until they are rebuilt. They hold what the featurizer had not
    # applied by then: nothing of the outage itself is lost.
    books = world.settle()
    assert books.wrong_states(store.url) != []
    assert books.wrong_states(store.url, since=lambda m: m.offset >= applied[m.partition]) == []


def a_few_more_are_complete(world: World) -> bool:
    name = f"again{len(world.books().decisions)}"
    stream(world, name, 5)
    return set(rungs(world, name)) == {"D0"}


def test_states_lost_with_the_store_are_rebuilt_from_the_log(
    world: World, store: EmbeddedStore
) -> None:
    stream(world, "before", 200)
    label_some(world, world.books())
    books = world.settle()
    assert books.wrong_states(store.url) == []

    assert world.stack.stop("featurizer") == 0
    store.stop()
    store.start()
    stream(world, "meanwhile", 100)
    assert world.books().wrong_states(store.url) != []
    forget(world, [world.topics.decisions, world.topics.labels], to_end=world.topics.observations)
    world.start("featurizer")
    wait_applied(world.bootstrap, world.topics, world.featurizer_group)
    assert world.books().wrong_states(store.url) == []
