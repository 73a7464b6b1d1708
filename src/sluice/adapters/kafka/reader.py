"""Reads a topic outside any group: all of it, or the record at one place."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from sluice.adapters.kafka.config import (
    LEADERLESS,
    PREFETCH_MAX_KBYTES,
    REQUEST_MAX_S,
    Extra,
    client,
    translate,
)
from sluice.adapters.kafka.consumer import to_message
from sluice.application.ports import Message
from sluice.errors import Unavailable

BATCH = 1_000
POLL_S = 0.2
FETCH_WAIT_MS = 10
"""How long a broker keeps a fetch that finds nothing; no other place of it is read meanwhile. The
client's half second is for who waits for what is to come."""
LEADER_WAIT_S = 0.05
TAIL = 64
"""Offsets looked at first for the last record of a partition; then eight times as many."""


class TopicReader:
    """Reads what committed readers see, up to the end as it is when asked. Commits nothing."""

    def __init__(
        self, bootstrap: str, *, committed: bool = True, extra: Extra | None = None
    ) -> None:
        self._where = bootstrap
        self._consumer = Consumer(
            client(
                bootstrap,
                "sluice-reader",
                extra,
                group_id=f"sluice-reader-{uuid.uuid4()}",  # librdkafka insists; it is not joined
                isolation_level="read_committed" if committed else "read_uncommitted",
                enable_auto_commit=False,
                enable_partition_eof=True,
                queued_max_messages_kbytes=PREFETCH_MAX_KBYTES,
                fetch_wait_max_ms=FETCH_WAIT_MS,
            )
        )

    def records(self, topic: str) -> Iterator[Message]:
        """Every record, partitions interleaved. Raises Misconfigured for an unknown topic."""
        places = [TopicPartition(topic, number) for number in self._known(topic)]
        ends = {place.partition: self._span(place)[1] for place in places}
        waiting = {number for number, end in ends.items() if end > 0}
        if not waiting:
            return
        for place in places:
            place.offset = 0
        yield from self._until(places, ends, waiting)

    def at(self, topic: str, partition: int, offset: int) -> Message | None:
        """The record at one place; None if it expired or there is none."""
        place = TopicPartition(topic, partition, offset)
        low, high = self._span(place)
        if not low <= offset < high:
            return None
        for message in self._until([place], {partition: offset + 1}, {partition}):
            return message if message.offset == offset else None
        return None

    def tail(self, topic: str, count: int, since_ms: int = 0) -> Iterator[Message]:
        """The newest of each partition, in its order: at most ``count`` offsets of all partitions
        together, written at or after a moment (milliseconds UTC)."""
        spans = self.spans(topic)
        each = max(1, count // max(1, len(spans)))
        places = [TopicPartition(topic, number, since_ms) for number in spans]
        try:
            since = self._consumer.offsets_for_times(places, timeout=REQUEST_MAX_S)
        except KafkaException as exc:
            raise translate(exc, "read", topic) from exc
        starts = {}
        for place in since:
            first, end = spans[place.partition]
            at = max(first, end - each, place.offset if place.offset >= 0 else end)
            if at < end:
                starts[place.partition] = at
        yield from self._from(topic, starts, {number: end for number, (_, end) in spans.items()})

    def between(self, topic: str, partition: int, first: int, end: int) -> Iterator[Message]:
        """Records of one partition from ``first`` (or the oldest still there) to before ``end``."""
        if first >= end:
            return
        low, high = self._span(TopicPartition(topic, partition))
        at, end = max(low, first), min(high, end)
        if at < end:
            yield from self._from(topic, {partition: at}, {partition: end})

    def spread(self, topic: str, starts: dict[int, int], ends: dict[int, int]) -> Iterator[Message]:
        """Records of several partitions, interleaved, each from its start to before its end."""
        yield from self._from(topic, starts, ends)

    def _from(self, topic: str, starts: dict[int, int], ends: dict[int, int]) -> Iterator[Message]:
        places = [TopicPartition(topic, number, at) for number, at in starts.items()]
        for message in self._until(places, ends, set(starts)) if places else ():
            if message.offset < ends[message.partition]:
                yield message

    def spans(self, topic: str) -> dict[int, tuple[int, int]]:
        """First and next offset of each partition. Raises Misconfigured for an unknown topic."""
        return {number: self._span(TopicPartition(topic, number)) for number in self._known(topic)}

    def ends(self, topic: str) -> dict[int, int]:
        """Offset behind the last record of each partition: markers of transactions after it do
        not count, as in what a group commits. The first offset where there is no record."""
        return {
            number: self._end(topic, number, *span) for number, span in self.spans(topic).items()
        }

    def _end(self, topic: str, number: int, first: int, end: int) -> int:
        size = TAIL
        while end > first:
            at = max(first, end - size)
            found = [
                message.offset
                for message in self._until(
                    [TopicPartition(topic, number, at)], {number: end}, {number}
                )
            ]
            if found:
                return max(found) + 1
            if at == first:
                break
            size *= 8  # only markers and aborted records so far
        return first

    def close(self) -> None:
        """Free the connections."""
        self._consumer.close()

    def _known(self, topic: str) -> list[int]:
        try:
            found = self._consumer.list_topics(topic, timeout=REQUEST_MAX_S).topics[topic]
        except KafkaException as exc:
            raise translate(exc, "read", topic) from exc
        if found.error is not None:
            raise translate(found.error, "read", topic)
        return sorted(found.partitions)

    def _until(
        self, places: list[TopicPartition], ends: dict[int, int], waiting: set[int]
    ) -> Iterator[Message]:
        self._consumer.assign(places)
        deadline = time.monotonic() + REQUEST_MAX_S
        at = {place.partition: place.offset for place in places}
        while waiting:
            # It returns with so many, or after that time: no more than are left are asked for.
            left = sum(ends[number] - at[number] for number in waiting)
            for message in self._consumer.consume(min(BATCH, left), POLL_S):
                error = message.error()
                if error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                    continue  # librdkafka asks for the group's coordinator although none is joined
                deadline = time.monotonic() + REQUEST_MAX_S
                if error is None:
                    yield to_message(message)
                elif error.code() != KafkaError._PARTITION_EOF:
                    raise translate(error, "read", message.topic())
                at[message.partition()] = message.offset() + (error is None)
                if at[message.partition()] >= ends[message.partition()]:
                    waiting.discard(message.partition())
            if time.monotonic() > deadline:
                # Of a topic that it may not see, librdkafka says nothing to whom it was assigned.
                self._known(places[0].topic)
                raise Unavailable(
                    f"partitions {sorted(waiting)} gave nothing for {REQUEST_MAX_S:.0f} s",
                    where=self._where,
                    fix="a transaction may be open, or the broker down",
                )
        self._consumer.unassign()

    def _span(self, place: TopicPartition) -> tuple[int, int]:
        """First and next offset. Asks again while nobody leads the partition."""
        deadline = time.monotonic() + REQUEST_MAX_S
        while True:
            try:
                span: Any = self._consumer.get_watermark_offsets(place, timeout=REQUEST_MAX_S)
            except KafkaException as exc:
                leaderless = exc.args[0].code() in LEADERLESS
                if not leaderless or time.monotonic() > deadline:
                    raise translate(exc, "read", f"{place.topic}/{place.partition}") from exc
                time.sleep(LEADER_WAIT_S)
            else:
                return int(span[0]), int(span[1])


class NewRecords:
    """What comes to a topic from now on, once each."""

    def __init__(self, reader: TopicReader, topic: str) -> None:
        """Raises Unavailable, and Misconfigured for an unknown topic."""
        self._reader = reader
        self._topic = topic
        self._read = {number: end for number, (_, end) in reader.spans(topic).items()}

    def since(self) -> list[Message]:
        """Records that came since the last call. Raises Unavailable."""
        found: list[Message] = []
        for number, (_, end) in self._reader.spans(self._topic).items():
            found += self._reader.between(self._topic, number, self._read.get(number, 0), end)
            self._read[number] = end
        return found
