"""Reads a topic by kafka-python, which shares no code with librdkafka, our own client."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition

from tests.support.kafka import WAIT_MAX_S


class Found(NamedTuple):
    """A record as kafka-python gives it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def read_independently(bootstrap: str, topic: str, *, committed: bool = True) -> list[Found]:
    """Every record up to the ends as they are now, by partition and offset."""
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        isolation_level="read_committed" if committed else "read_uncommitted",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    try:
        places = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic) or ()]
        assert places, f"{topic} is unknown to kafka-python"
        consumer.assign(places)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(places)
        found: list[Any] = []
        deadline = time.monotonic() + WAIT_MAX_S
        while any(consumer.position(place) < end for place, end in ends.items()):
            assert time.monotonic() < deadline, "kafka-python does not reach the end"
            for records in consumer.poll(timeout_ms=200).values():
                found += records
    finally:
        consumer.close()
    found.sort(key=lambda record: (record.partition, record.offset))
    return [Found(r.partition, r.offset, r.key, r.value, list(r.headers)) for r in found]
