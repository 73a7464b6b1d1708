"""Kafka's side of a redrive: the bytes at an origin, and sending them again with their note."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import msgspec

from sluice.adapters.kafka.config import trace_headers
from sluice.adapters.kafka.reader import TopicReader
from sluice.adapters.kafka.transactions import TransactionalProducer
from sluice.application.redrive import Original
from sluice.domain.records.dead_letter import DeadLetter
from sluice.domain.records.decision import Origin
from sluice.shown import shown

REDRIVEN_FROM = "redriven-from"
"""Header of a message sent again: topic/partition@offset where it lay first."""

log = logging.getLogger(__name__)


class KafkaOriginals:
    """Records by place."""

    def __init__(self, reader: TopicReader) -> None:
        self._reader = reader

    def at(self, origin: Origin) -> Original | None:
        """See :class:`sluice.application.redrive.Originals`."""
        found = self._reader.at(origin.topic, origin.partition, origin.offset)
        return Original(found.key, found.value, found.traceparent) if found else None


class KafkaSender:
    """One transaction a message, so that it never goes without its note."""

    def __init__(self, producer: TransactionalProducer, dead_letters: str) -> None:
        self._producer = producer
        self._dead_letters = dead_letters

    def send(self, origin: Origin, original: Original, note: bytes) -> None:
        """See :class:`sluice.application.redrive.Sender`."""
        headers = [(REDRIVEN_FROM, str(origin).encode()), *trace_headers(original.traceparent)]
        self._producer.begin()
        self._producer.produce(origin.topic, original.key, original.value, headers)
        self._producer.produce(self._dead_letters, f"{origin.topic}/{origin.partition}", note)
        self._producer.commit()


def read_dead_letters(reader: TopicReader, topic: str) -> Iterator[DeadLetter]:
    """Every dead letter; one that does not decode is logged and left out."""
    decoder = msgspec.json.Decoder(DeadLetter)
    for message in reader.records(topic):
        try:
            yield decoder.decode(message.value)
        except Exception as exc:  # one foreign record hides no other
            said = shown(str(exc))
            log.warning("%s/%d@%d: %s", topic, message.partition, message.offset, said)
