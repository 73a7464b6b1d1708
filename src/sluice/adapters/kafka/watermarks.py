"""What a broker says that its partitions hold, read by kafka-python.

Whoever checks the log's writer asks through code that the writer does not share: everything else
here reads with librdkafka.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError

from sluice.application.log_accounting import HOLES_MAX, Looked, Watermarks
from sluice.errors import Unavailable

REQUEST_MAX_MS = 10_000
BOOTSTRAP_MAX_MS = 4_000
READ_MAX_BYTES = 65_536
"""Of one answer: a broker gives a whole batch of records in any case."""
NEAR = 64
"""Offsets between two stretches that are read over: some 100 KB, about what a new request costs."""
NOTHING_MAX_S = 10.0
"""A broker that gives nothing for so long, though its partition goes on, is away."""
SPEAKS = (2, 3)
"""The broker version that is spoken to, which every later one still answers. A newer one's first
request has an answer from the demo's embedded broker that kafka-python cannot read."""

_OPTIONS = {
    "security.protocol": "security_protocol",
    "sasl.mechanism": "sasl_mechanism",
    "sasl.username": "sasl_plain_username",
    "sasl.password": "sasl_plain_password",
    "ssl.ca.location": "ssl_cafile",
    "ssl.certificate.location": "ssl_certfile",
    "ssl.key.location": "ssl_keyfile",
    "ssl.key.password": "ssl_password",
}
"""librdkafka's names of options, and kafka-python's."""


class Brokers:
    """Asks brokers what is committed. extra: librdkafka's options. Raises Unavailable."""

    def __init__(self, bootstrap: str, extra: Mapping[str, str]) -> None:
        self._where = bootstrap
        self._options = {
            "bootstrap_servers": bootstrap.split(","),
            "request_timeout_ms": REQUEST_MAX_MS,
            "bootstrap_timeout_ms": BOOTSTRAP_MAX_MS,
            "api_version": SPEAKS,
        } | {_OPTIONS[key]: value for key, value in extra.items()}
        self._consumer: KafkaConsumer | None = None
        with self._or_unavailable("are not there"):
            self._admin = KafkaAdminClient(**self._options)

    def watermarks(self, topics: Sequence[str]) -> Watermarks:
        """(topic, partition) to its first offset, and the one behind its last committed one.

        A partition that never held a record is left out. Raises Unavailable.
        """
        with self._or_unavailable("do not tell their watermarks"):
            parts = [
                TopicPartition(topic["name"], part["partition_index"])
                for topic in self._admin.describe_topics(list(topics))
                for part in topic["partitions"]
            ]
            spans = self._spans(parts)
        return {(p.topic, p.partition): span for p, span in spans.items() if span[1]}

    def look(self, topic: str, partition: int, stretches: Sequence[tuple[int, int]]) -> Looked:
        """Which of these offsets, [first, until) in rising order, are of committed records, and how
        many are not there any more.

        Reads what lies there and little more. Raises Unavailable.
        """
        place = TopicPartition(topic, partition)
        with self._or_unavailable(f"do not give {topic}/{partition}"):
            low, end = self._spans([place])[place]
            there = [(max(a, low), min(b, end)) for a, b in stretches if max(a, low) < min(b, end)]
            gone = sum(b - a for a, b in stretches) - sum(b - a for a, b in there)
            found: list[tuple[int, int]] = []
            if there:
                consumer = self._reader()
                consumer.assign([place])
                for offset in self._committed(consumer, place, there):
                    more = found and (found[-1][1] == offset or len(found) >= HOLES_MAX)
                    first = found.pop()[0] if more else offset
                    found.append((first, offset + 1))
        return Looked(found, gone)

    def close(self) -> None:
        """Free the connections."""
        self._admin.close()
        if self._consumer is not None:
            self._consumer.close()

    def _reader(self) -> KafkaConsumer:
        """Made where something is to be read: it does not say when nobody is there."""
        if self._consumer is None:
            self._consumer = KafkaConsumer(
                isolation_level="read_committed",
                max_partition_fetch_bytes=READ_MAX_BYTES,
                allow_auto_create_topics=False,
                auto_offset_reset="none",
                # Only where records are is asked. The demo's broker numbers batches anew, and their
                # sums no longer hold.
                check_crcs=False,
                **self._options,
            )
        return self._consumer

    def _spans(self, parts: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        first, until = (
            self._admin.list_partition_offsets(dict.fromkeys(parts, end), "read_committed")
            for end in (OffsetSpec.EARLIEST, OffsetSpec.LATEST)
        )
        return {part: (first[part].offset, until[part].offset) for part in parts}

    def _committed(
        self,
        consumer: KafkaConsumer,
        place: TopicPartition,
        stretches: Sequence[tuple[int, int]],
    ) -> Iterator[int]:
        """The offsets of committed records in stretches that the partition has."""
        firsts = [first for first, _ in stretches]
        since = at = -1
        """All from since on to before at was read."""
        for first, until in stretches:
            if not since <= first <= at + NEAR or since < 0:
                consumer.seek(place, first)
                since = at = first
            gives_up = time.monotonic() + NOTHING_MAX_S
            while at < until:
                for record in consumer.poll(timeout_ms=1000).get(place, ()):
                    one = bisect_right(firsts, record.offset) - 1
                    if one >= 0 and record.offset < stretches[one][1]:
                        yield record.offset
                before, at = at, consumer.position(place)
                if at > before:
                    gives_up = time.monotonic() + NOTHING_MAX_S
                elif time.monotonic() > gives_up:
                    raise Unavailable(
                        f"it gave nothing from {at} on for {NOTHING_MAX_S:.0f} s",
                        where=f"{place.topic}/{place.partition}",
                        fix="is the broker up?",
                    )

    @contextmanager
    def _or_unavailable(self, what: str) -> Iterator[None]:
        try:
            yield
        except KafkaError as exc:
            raise Unavailable(f"the brokers {what}: {exc}", where=self._where) from exc
