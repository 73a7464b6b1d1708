"""The stream processor on a real Kafka: what is read is what is decided, buried and committed."""

import asyncio
import json
import threading
import time
from collections import Counter
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer
from prometheus_client import REGISTRY

from local.kafka.broker import Node
from services.decider.stream import AfterCommit, StreamProcessor, TransactionLog, limits
from services.loop import ConsumerLoop
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.kafka.transactions import TransactionalStream
from sluice.application.decide import DecisionPipeline
from sluice.application.once import Once
from sluice.domain.clock import SystemClock
from sluice.domain.records.authorization import EventTimeBounds
from sluice.domain.records.dead_letter import DeadLetter
from sluice.domain.records.decision import Decision
from sluice.testing.policy import make_policy
from sluice.testing.store import FakeStore
from tests.support import messages
from tests.support.kafka import read_all

pytestmark = pytest.mark.integration

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
COUNT = 1000


def _drained(topic: str) -> bool:
    """Read to the end of all four partitions, as the loop's own metric tells."""
    lags = [
        sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "sluice_consumer_lag_messages" and sample.labels["topic"] == topic
    ]
    return len(lags) == 4 and not any(lags)


class Now:
    def __init__(self, value: Any) -> None:
        self._value = value

    def current(self) -> Any:
        return self._value


def authorization(number: int) -> bytes:
    token = f"tok_{number % 97}"
    return json.dumps(
        messages.authorization(f"auth-{number}", event_at=time.time_ns() // 1000, card_token=token)
    ).encode()


async def test_every_offset_ends_as_exactly_one_decision_or_dead_letter(
    kafka: Node, topics: Topics
) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for number in range(COUNT):
        value, key = authorization(number), f"tok_{number % 97}"
        producer.produce(
            topics.authorizations, value, key, headers=[("traceparent", TRACE.encode())]
        )
        if number % 10 == 0:
            producer.produce(topics.authorizations, value, key)
        if number % 50 == 0:
            producer.produce(topics.authorizations, b"{}", key)
    assert producer.flush(60) == 0

    clock = SystemClock()
    ids = AfterCommit(Once(FakeStore(clock), clock))
    entrypoint = await asyncio.to_thread(
        lambda: TransactionalStream(
            kafka.bootstrap,
            group=f"{topics.authorizations}-stream",
            topics=[topics.authorizations],
            transactional_id=f"{topics.authorizations}-0",
            client_id="test",
        )
    )
    decider = DecisionPipeline(
        entrypoint="stream",
        emitter="test",
        ids=ids,
        scorer=Now(None),
        policy=Now(make_policy()),
        log=TransactionLog(entrypoint, topics.decisions),
        clock=clock,
        bounds=EventTimeBounds(),
    )
    handler = StreamProcessor(
        entrypoint,
        decider,
        ids,
        dead_letters=topics.dead_letters,
        clock=clock,
        events=asyncio.get_running_loop(),
    )
    loop = ConsumerLoop(entrypoint, handler, limits(batch_max=200))
    stop = threading.Event()
    running = asyncio.create_task(asyncio.to_thread(loop.run, stop))
    deadline = time.monotonic() + 60
    while decider.sequence < COUNT or not _drained(topics.authorizations):
        assert time.monotonic() < deadline, decider.sequence
        assert not running.done()
        await asyncio.sleep(0.05)
    stop.set()
    await running

    read = await asyncio.to_thread(read_all, kafka.bootstrap, topics.authorizations)
    records = await asyncio.to_thread(read_all, kafka.bootstrap, topics.decisions)
    buried = await asyncio.to_thread(read_all, kafka.bootstrap, topics.dead_letters)
    decisions = [msgspec.json.decode(m.value, type=Decision) for m in records]
    dead_letters = [msgspec.json.decode(m.value, type=DeadLetter) for m in buried]
    places = Counter(str(record.origin) for record in [*decisions, *dead_letters])
    assert places == Counter(f"{m.topic}/{m.partition}@{m.offset}" for m in read)
    assert sorted(d.authorization.authorization_id for d in decisions) == sorted(
        f"auth-{number}" for number in range(COUNT)
    )
    assert Counter(dead_letter.code for dead_letter in dead_letters) == {
        "duplicate": 100,
        "missing_field": 20,
    }
    assert sorted(d.sequence for d in decisions) == list(range(COUNT))
    assert {m.traceparent for m in records} == {TRACE}
