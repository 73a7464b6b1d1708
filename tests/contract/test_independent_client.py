"""Kafka's records between clients that share no code: librdkafka, which is ours, and kafka-python.

What ours writes, the other reads byte for byte; what the other writes, ours decides. So neither the
wire format nor the partitioner is only what librdkafka makes of it.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer
from kafka import KafkaProducer

from local.kafka.broker import Node
from services.decider.stream import AfterCommit, StreamProcessor, TransactionLog, limits
from services.loop import ConsumerLoop
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.kafka.transactions import TransactionalStream
from sluice.application.decide import DecisionPipeline
from sluice.application.once import Once
from sluice.domain.clock import SystemClock
from sluice.domain.records.authorization import EventTimeBounds, encode
from sluice.domain.records.dead_letter import DeadLetter
from sluice.domain.records.decision import Decision
from sluice.testing.policy import make_policy
from sluice.testing.records import make_authorization
from sluice.testing.store import FakeStore
from tests.support.independent import read_independently
from tests.support.kafka import WAIT_MAX_S, read_all

pytestmark = pytest.mark.integration

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
VALUES = [b"", b"\x00\xff\x80 no text", b'{"json":true}', bytes(range(256)) * 400]
"""Nothing, bytes that are no UTF-8, a usual record, and 100 kB: more than a page of a batch."""


@pytest.fixture
def other(kafka: Node) -> Iterator[KafkaProducer]:
    """kafka-python's producer, with its defaults for what is not named."""
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, acks="all")
    yield producer
    producer.close()


def test_what_our_producer_writes_another_client_reads_byte_for_byte(
    kafka: Node, topics: Topics
) -> None:
    headers = [("traceparent", TRACE.encode()), ("twice", b"\x00"), ("twice", b"\xff")]
    keys = [b"tok_1", b"\xfe\x00", None, b"tok_2"]
    producer = EventProducer(kafka.bootstrap, client_id="test")
    for key, value in zip(keys, VALUES, strict=True):
        producer.produce(topics.labels, value, key=key, headers=headers)
    producer.flush(60)
    found = read_independently(kafka.bootstrap, topics.labels)
    expected = [(key, value, headers) for key, value in zip(keys, VALUES, strict=True)]
    assert sorted(((f.key, f.value, f.headers) for f in found), key=repr) == sorted(
        expected, key=repr
    )
    ours = read_all(kafka.bootstrap, topics.labels)
    assert [(m.partition, m.key, m.value) for m in ours] == [
        (f.partition, f.key, f.value) for f in found
    ]


def test_an_aborted_or_open_transaction_is_invisible_to_another_client(
    kafka: Node, topics: Topics
) -> None:
    topic = topics.decisions
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": topic})
    producer.init_transactions(30)

    def write(value: bytes, headers: list[tuple[str, str | bytes | None]]) -> None:
        producer.begin_transaction()
        producer.produce(topic, value, b"card", headers=headers)
        assert producer.flush(60) == 0  # it lies in the log, whatever becomes of it

    write(b"kept 1", [("h", b"1")])
    producer.commit_transaction(30)
    write(b"dropped", [])
    producer.abort_transaction(30)
    write(b"kept 2", [])
    producer.commit_transaction(30)
    kept = [(b"card", b"kept 1", [("h", b"1")]), (b"card", b"kept 2", [])]
    found = read_independently(kafka.bootstrap, topic)
    assert [(f.key, f.value, f.headers) for f in found] == kept
    everything = read_independently(kafka.bootstrap, topic, committed=False)
    assert [f.value for f in everything] == [b"kept 1", b"dropped", b"kept 2"]
    write(b"open", [])
    assert read_independently(kafka.bootstrap, topic) == found
    producer.abort_transaction(30)
    assert read_independently(kafka.bootstrap, topic) == found


def test_both_clients_put_a_card_into_the_same_partition(
    kafka: Node, topics: Topics, other: KafkaProducer
) -> None:
    ours = EventProducer(kafka.bootstrap, client_id="test")
    keys = [f"tok_{number}".encode() for number in range(100)] + [b"\xff" * n for n in range(1, 9)]
    for key in keys:
        ours.produce(topics.labels, b"ours", key=key)
        other.send(topics.labels, b"other", key=key)
    ours.flush(60)
    other.flush(60)
    places: dict[bytes, set[int]] = {}
    for message in read_all(kafka.bootstrap, topics.labels):
        places.setdefault(message.key, set()).add(message.partition)
    assert set(places) == set(keys)
    assert all(len(partitions) == 1 for partitions in places.values())
    assert len(set.union(*places.values())) == 4


async def test_what_another_client_writes_is_decided_and_read_back_by_it(
    kafka: Node, topics: Topics, other: KafkaProducer
) -> None:
    now_us = SystemClock().now_us()
    auths = [
        make_authorization(f"auth-{n}", event_at=now_us, card_token=f"tok_{n % 7}")
        for n in range(100)
    ]

    def send() -> None:
        for auth in auths:
            other.send(
                topics.authorizations,
                encode(auth),
                key=auth.card_token.encode(),
                headers=[("traceparent", TRACE.encode())],
            )
        other.send(topics.authorizations, b"{}", key=b"tok_1")
        other.flush(60)

    await asyncio.to_thread(send)
    await asyncio.to_thread(decide_all, kafka, topics, asyncio.get_running_loop(), len(auths) + 1)

    found = await asyncio.to_thread(read_independently, kafka.bootstrap, topics.decisions)
    decisions = [msgspec.json.decode(f.value or b"", type=Decision) for f in found]
    assert sorted(d.authorization.authorization_id for d in decisions) == sorted(
        auth.authorization_id for auth in auths
    )
    assert {d.authorization for d in decisions} == set(auths)
    assert [f.key for f in found] == [d.authorization.card_token.encode() for d in decisions]
    assert all(f.headers == [("traceparent", TRACE.encode())] for f in found)
    (dead,) = await asyncio.to_thread(read_independently, kafka.bootstrap, topics.dead_letters)
    assert msgspec.json.decode(dead.value or b"", type=DeadLetter).code == "missing_field"
    assert dead.headers == []
    raw = await asyncio.to_thread(read_all, kafka.bootstrap, topics.decisions)
    assert [m.value for m in raw] == [f.value for f in found]
    assert json.loads(raw[0].value)["entrypoint"] == "stream"


def decide_all(kafka: Node, topics: Topics, events: asyncio.AbstractEventLoop, wanted: int) -> None:
    """Run the stream processor until so many messages are decided or refused."""
    clock = SystemClock()
    ids = AfterCommit(Once(FakeStore(clock), clock))
    stream = TransactionalStream(
        kafka.bootstrap,
        group=f"{topics.authorizations}-stream",
        topics=[topics.authorizations],
        transactional_id=f"{topics.authorizations}-0",
        client_id="test",
    )
    decider = DecisionPipeline(
        entrypoint="stream",
        emitter="test",
        ids=ids,
        scorer=Now(None),
        policy=Now(make_policy()),
        log=TransactionLog(stream, topics.decisions),
        clock=clock,
        bounds=EventTimeBounds(),
    )
    handler = StreamProcessor(
        stream, decider, ids, dead_letters=topics.dead_letters, clock=clock, events=events
    )
    loop = ConsumerLoop(stream, handler, limits(batch_max=40))
    stop = threading.Event()
    running = threading.Thread(target=loop.run, args=[stop])
    running.start()
    try:
        deadline = time.monotonic() + WAIT_MAX_S
        while wanted > sum(
            len(read_all(kafka.bootstrap, topic))
            for topic in (topics.decisions, topics.dead_letters)
        ):
            assert time.monotonic() < deadline, "not all were decided"
            assert running.is_alive()
            time.sleep(0.1)
    finally:
        stop.set()
        running.join(WAIT_MAX_S)


class Now:
    """A part that never changes."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def current(self) -> Any:
        return self._value
