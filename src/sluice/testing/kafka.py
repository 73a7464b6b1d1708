"""Aids for tests that talk to a broker: read a topic to its end, wait until something holds."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from sluice.adapters.kafka.config import REQUEST_MAX_S, traceparent_of
from sluice.adapters.kafka.consumer import Message

WAIT_MAX_S = 60.0
"""A test that waits longer has failed; the shared machine's worst rebalance took 12 s."""


def wait_until(holds: Callable[[], Any], what: str, *, at_most_s: float = WAIT_MAX_S) -> Any:
    """Ask until the answer is true, and return it. Raises AssertionError naming what."""
    deadline = time.monotonic() + at_most_s
    while True:
        answer = holds()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"still not so after {at_most_s:.0f} s: {what}"
        time.sleep(0.02)


def read_all(bootstrap: str, topic: str, *, committed: bool = True) -> list[Message]:
    """Every record of a topic up to its end as it is now, by partition and offset.

    committed: only what read_committed readers see. Waits for open transactions to end.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"read-all-{uuid.uuid4()}",
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=REQUEST_MAX_S).topics[topic].partitions
        places = [TopicPartition(topic, number, 0) for number in partitions]
        ends = {
            place.partition: wait_until(partial(_span, consumer, place), f"{place} answers")[1]
            for place in places
        }
        consumer.assign(places)
        found: list[Message] = []
        waiting = {number for number, end in ends.items() if end > 0}
        deadline = time.monotonic() + WAIT_MAX_S
        while waiting:
            assert time.monotonic() < deadline, f"{topic}: partitions {waiting} do not end"
            for message in consumer.consume(1_000, 0.2):
                error = message.error()
                if error is None:
                    found.append(
                        Message(
                            message.value() or b"",
                            message.key(),
                            message.topic(),
                            message.partition(),
                            message.offset(),
                            traceparent_of(message.headers()),
                        )
                    )
                elif error.code() == KafkaError._PARTITION_EOF:
                    # An open transaction ends the partition early, before its last offset.
                    if message.offset() >= ends[message.partition()]:
                        waiting.discard(message.partition())
                    else:
                        consumer.seek(message)
                else:
                    raise AssertionError(error)
    finally:
        consumer.close()
    return sorted(found, key=lambda message: (message.partition, message.offset))


def _span(consumer: Consumer, place: TopicPartition) -> tuple[int, int] | None:
    """First and next offset; None while a partition made a moment ago has no leader yet."""
    try:
        return consumer.get_watermark_offsets(place, timeout=REQUEST_MAX_S)
    except KafkaException as exc:
        if exc.args[0].code() == KafkaError.NOT_LEADER_FOR_PARTITION:
            return None
        raise
