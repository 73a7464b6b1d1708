"""``checkpoints.v1``: the second place of a log's checkpoints, and what fences its writers."""

from __future__ import annotations

from collections.abc import Callable

from sluice.adapters.kafka.reader import TopicReader
from sluice.adapters.kafka.transactions import TransactionalProducer
from sluice.audit.checkpoints import parse_checkpoint
from sluice.audit.errors import Malformed
from sluice.audit.notes import parse_note
from sluice.errors import SluiceError

TAIL = 1_000
"""Offsets looked at first for the newest checkpoint of a log; then ten times as many."""


class CheckpointTopic:
    """The port Published: each checkpoint is a transaction of its own, keyed by the log's origin.

    producer: makes the one whose transactional id is the log's. A second process that makes it
    fences the first, which hears of it when it publishes next.
    """

    def __init__(
        self,
        topic: str,
        origin: str,
        reader: Callable[[], TopicReader],
        producer: Callable[[], TransactionalProducer],
    ) -> None:
        self._topic = topic
        self._origin = origin
        self._reader = reader
        self._make = producer
        self._producer: TransactionalProducer | None = None

    def last(self) -> bytes | None:
        """See the port. From here on no earlier writer publishes."""
        if self._producer is None:
            self._producer = self._make()
        self._producer.abort()
        self._producer.renew()
        return self.newest()

    def newest(self) -> bytes | None:
        """The same, and whoever writes the log goes on. Raises Unavailable."""
        reader = self._reader()
        try:
            spans = reader.spans(self._topic).values()
            most = len(spans) * max((end - first for first, end in spans), default=0)
            count = TAIL
            while (found := self._newest(reader, count)) is None and count < most:
                count *= 10
            return found
        finally:
            reader.close()

    def publish(self, signed: bytes) -> None:
        """See the port."""
        if self._producer is None:
            self._producer = self._make()
        try:
            self._producer.begin()
            self._producer.produce(self._topic, self._origin, signed)
            self._producer.commit()
        except SluiceError:
            if self._producer.open:
                self._producer.abort()
            raise

    def _newest(self, reader: TopicReader, count: int) -> bytes | None:
        newest: tuple[int, bytes] | None = None
        for message in reader.tail(self._topic, count):
            if message.key != self._origin.encode():
                continue
            try:
                size = parse_checkpoint(parse_note(message.value).text).size
            except Malformed:
                return message.value  # whoever opens it says so
            if newest is None or size >= newest[0]:
                newest = size, message.value
        return newest[1] if newest else None
