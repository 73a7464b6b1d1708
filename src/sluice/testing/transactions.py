"""Kafka's transactions in memory: one topic in, records out, visible together or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sluice.adapters.kafka.config import Header, Partition, ProducerRecord
from sluice.adapters.kafka.consumer import Message
from sluice.errors import Unavailable


class FakeTransactions:
    """Keeps the promises of TransactionalStream for one group and one member.

    committed: (topic, key, value, headers) that read_committed readers see, in order.
    offsets: next to read. fail: exceptions that the next steps of that name raise, in turn.
    """

    def __init__(self) -> None:
        self.committed: list[tuple[str, str, bytes, dict[str, bytes]]] = []
        self.offsets: dict[Partition, int] = {}
        self.fail: dict[str, list[Exception]] = {}
        self.batches: list[int] = []
        self.closed = False
        self._messages: list[Message] = []
        self._position: dict[Partition, int] = {}
        self._open: list[tuple[str, str, bytes, dict[str, bytes]]] | None = None

    def add(self, topic: str, value: bytes, *, partition: int = 0, traceparent: str = "") -> None:
        """Append one message to the topic to be read."""
        offset = sum((m.topic, m.partition) == (topic, partition) for m in self._messages)
        message = Message(value, b"", topic, partition, offset, traceparent or None)
        self._messages.append(message)

    def values(self, topic: str) -> list[bytes]:
        """What committed readers of a topic see."""
        return [value for where, _, value, _ in self.committed if where == topic]

    def poll_batch(self, limit: int, wait_s: float) -> list[Message]:
        """The next messages from where we stand; does not wait."""
        self._may_fail("poll_batch")
        batch = [
            m for m in self._messages if m.offset >= self._position.get((m.topic, m.partition), 0)
        ][:limit]
        for message in batch:
            self._position[message.topic, message.partition] = message.offset + 1
        if batch:
            self.batches.append(len(batch))
        return batch

    def begin(self) -> None:
        """Open a transaction."""
        assert self._open is None, "a transaction is open"
        self._may_fail("begin")
        self._open = []

    def produce(
        self, topic: str, key: bytes | str | None, value: bytes, headers: Sequence[Header] = ()
    ) -> None:
        """Queue one record of it."""
        assert self._open is not None, "no transaction is open"
        self._may_fail("produce")
        text = key.decode() if isinstance(key, bytes) else key or ""
        self._open.append((topic, text, value, dict(headers)))

    def produce_each(self, topic: str, records: Iterable[ProducerRecord]) -> None:
        """Queue many."""
        for key, value, headers in records:
            self.produce(topic, key, value, headers)

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Show all, or abort and raise."""
        assert self._open is not None, "no transaction is open"
        try:
            self._may_fail("commit")
        except Unavailable:
            self.abort()
            raise
        self.committed += self._open
        self.offsets.update(offsets)
        self._open = None

    def abort(self) -> None:
        """Drop what is open and go back."""
        if self._open is not None:
            self._open = None
            self.rewind()

    def rewind(self) -> None:
        """Go back to the committed offsets."""
        self._position = dict(self.offsets)

    def lag(self) -> dict[Partition, int]:
        """Messages not read yet."""
        lags = dict.fromkeys([(m.topic, m.partition) for m in self._messages], 0)
        for message in self._messages:
            partition = (message.topic, message.partition)
            lags[partition] += message.offset >= self._position.get(partition, 0)
        return lags

    def close(self) -> None:
        """Leave."""
        self.abort()
        self.closed = True

    def _may_fail(self, step: str) -> None:
        if self.fail.get(step):
            raise self.fail[step].pop(0)
