"""A broker that stalls, or whose network does: nothing waits longer than it says, nothing is lost
or doubled, and all goes on by itself."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from local.kafka.broker import JarNode, Node, free_port, jars_possible
from sluice.adapters.kafka import topics as topic_table
from sluice.adapters.kafka.config import TRANSACTION_MAX_MS
from sluice.adapters.kafka.consumer import GroupConsumer
from sluice.adapters.kafka.decision_log import DecisionProducer
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.kafka.transactions import TransactionalStream
from sluice.errors import Unavailable
from sluice.testing.counting import Counted
from sluice.testing.factories import make_arrival
from sluice.testing.records import make_decision
from tests.support import faulty_network
from tests.support.faulty_network import FaultyNetwork, Toxic
from tests.support.kafka import read_all, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.fault]

BUDGET_MS = 1_000
GENEROUS_S = 20.0
"""On a busy machine; what is promised is the budget."""
LONG_S = TRANSACTION_MAX_MS / 1000 + 2.0
"""Longer than a transaction may take, and than a member of a group may be silent."""


@contextmanager
def paused(node: Node) -> Iterator[None]:
    node.pause()
    try:
        yield
    finally:
        node.resume()


async def appended(log: DecisionProducer, number: int) -> tuple[bool, float]:
    """Append one. Returns whether it is durable, and the seconds until that was known."""
    began = time.monotonic()
    arrival = make_arrival(f"a-{number}", card_token=f"card-{number % 5}")
    try:
        await log.append([(arrival, make_decision(f"a-{number}"))])
    except Unavailable:
        return False, time.monotonic() - began
    return True, time.monotonic() - began


async def durable_at_last(log: DecisionProducer) -> None:
    async with asyncio.timeout(180):
        while not (await appended(log, 0))[0]:
            pass


async def suffer(log: DecisionProducer, begin: Callable[[], None], end: Callable[[], None]) -> Any:
    """Append all through a fault of 3 s. Returns what came of those sent meanwhile."""
    await durable_at_last(log)
    begin()
    asked = []
    for number in range(150):
        asked.append(asyncio.ensure_future(appended(log, number)))
        await asyncio.sleep(0.02)
    end()
    ended = await asyncio.gather(*asked)
    await durable_at_last(log)
    return ended


def log_over(bootstrap: str, topics: Topics, counted: Counted) -> DecisionProducer:
    return DecisionProducer(
        bootstrap,
        topic=topics.decisions,
        client_id="test",
        append_max_ms=BUDGET_MS,
        count=counted,
    )


async def test_what_is_sent_while_the_broker_stalls_is_refused_within_its_budget(kafka, topics):
    counted = Counted()
    log = log_over(kafka.bootstrap, topics, counted)
    ended = await suffer(log, kafka.pause, kafka.resume)
    await log.close()
    assert not all(durable for durable, _ in ended)
    assert max(seconds for _, seconds in ended) < GENEROUS_S
    assert counted["sluice_producer_appends_late_total"] > 0


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FaultyNetwork, Topics]]:
    """A broker of its own behind a network that can be bad, and topics."""
    assert jars_possible(), "the proxy needs a broker from jars, which can advertise its port"
    port = free_port()
    with FaultyNetwork(("127.0.0.1", port)) as network:
        node = JarNode(
            tmp_path_factory.mktemp("kafka"), port, detached=False, advertised=network.address[1]
        )
        node.start()
        names = Topics("bad.")
        topic_table.apply(node.bootstrap, names, partitions=4, replication=1)
        yield network, names
        node.kill()


@pytest.mark.parametrize(
    "toxic",
    [
        faulty_network.hold(),
        faulty_network.timeout(),
        faulty_network.half_open(),
        faulty_network.reset_peer(),
        faulty_network.refused(),
        faulty_network.latency(1500),
        faulty_network.slicer(1, delay_ms=20),
        faulty_network.limit_data(30),
    ],
    ids=lambda toxic: toxic["type"],
)
async def test_what_is_sent_over_a_bad_network_is_refused_within_its_budget(
    behind: tuple[FaultyNetwork, Topics], toxic: Toxic
):
    network, topics = behind
    log = log_over(network.host_port, topics, Counted())
    ended = await suffer(log, lambda: network.be(toxic), network.be)
    await log.close()
    assert not all(durable for durable, _ in ended), "the fault was none"
    assert max(seconds for _, seconds in ended) < GENEROUS_S


def test_a_transaction_that_the_broker_ended_in_its_stall_is_made_again_by_the_same_process(
    kafka, topics
):
    counted = Counted()
    stream = TransactionalStream(
        kafka.bootstrap,
        group=f"{topics.authorizations}entrypoint",
        topics=[topics.authorizations],
        transactional_id=f"{topics.authorizations}entrypoint",
        client_id="test",
        count=counted,
    )
    sender = EventProducer(kafka.bootstrap, client_id="test")
    for number in range(60):
        sender.produce(topics.authorizations, b"%d" % number, key=b"%d" % number)
    sender.flush(60)
    held: list[Any] = []

    def write() -> None:
        stream.begin()
        for message in held:
            stream.produce(topics.decisions, message.key, message.value)

    def all_written() -> bool:
        try:
            held[:] = stream.poll_batch(100, 0.1)
            if held:
                write()
                stream.commit({(m.topic, m.partition): m.offset + 1 for m in held})
        except Unavailable:
            wait_until(rewound, "the way back")
        return len(read_all(kafka.bootstrap, topics.decisions)) >= 60

    def rewound() -> bool:
        try:
            stream.rewind()
        except Unavailable:
            return False
        return True

    wait_until(lambda: held.extend(stream.poll_batch(100, 0.1)) or held, "authorizations")
    write()
    with paused(kafka):
        time.sleep(LONG_S)
    wait_until(all_written, "all are written")
    stream.close()
    found = Counter(int(m.value) for m in read_all(kafka.bootstrap, topics.decisions))
    assert found == Counter(range(60))


def test_a_commit_that_a_stall_refused_stops_nobody_who_does_not_wait_for_it(kafka, topics):
    counted = Counted()
    member = GroupConsumer(
        kafka.bootstrap,
        group=f"{topics.labels}g",
        topics=[topics.labels],
        client_id="test",
        wait_for_commits=False,
        count=counted,
    )
    place = (topics.labels, 0)
    wait_until(lambda: member.poll_batch(1, 0.1) or member.assignment(), "an assignment")

    def failed() -> bool:
        member.commit({place: 0})
        member.poll_batch(1, 0.1)
        return any(name.startswith("sluice_consumer_commits_failed_total") for name in counted)

    with paused(kafka):
        wait_until(failed, "a commit fails")
    wait_until(lambda: not member.poll_batch(1, 0.1) and member.assignment(), "it is back")
    member.commit({place: 0})
    wait_until(lambda: member.committed([place]) == {place: 0}, "the commit arrives")
    member.close()


def test_nothing_is_skipped_where_a_partition_is_lost_and_comes_back_within_one_poll(
    kafka, make_topics
):
    topics = make_topics(1)
    sender = EventProducer(kafka.bootstrap, client_id="test")
    for number in range(20):
        sender.produce(topics.labels, b"%d" % number)
    sender.flush(60)
    member = GroupConsumer(
        kafka.bootstrap, group=f"{topics.labels}g", topics=[topics.labels], client_id="test"
    )
    lost: list[bool] = []
    member.listen(lambda _: None, lambda _, is_lost: lost.append(is_lost))
    got: list[int] = []

    def read_on() -> bool:
        got.extend(int(message.value) for message in member.poll_batch(100, 30.0))
        return len(got) >= 20

    wait_until(read_on, "all are read")
    with paused(kafka):
        time.sleep(LONG_S)
    got.clear()
    wait_until(read_on, "all come again, for none was committed")
    assert lost == [True]
    assert got == list(range(20))
    member.close()
