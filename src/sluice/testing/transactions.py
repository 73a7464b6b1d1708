"""Kafka's transactions in memory: topics in, records out, visible together or not at all."""

from __future__ import annotations

from collections.abc import Iterable

from sluice.application.ports import NO_OFFSETS, Offsets, Partition, ProducerRecord
from sluice.errors import Rejected, Unavailable
from sluice.testing.consumer import FakeConsumer, FakeGroup

Committed = tuple[str, str, bytes, str | None]
"""Topic, key, value and traceparent."""


class FakeTransactions(FakeConsumer):
    """The port Transactions for one group and one member.

    committed_records: what read_committed readers see, in order. fail["lost_commit"]: the next
    commit takes effect and raises this, with another generation.
    """

    def __init__(self, group: FakeGroup | None = None, *mine: Partition) -> None:
        super().__init__(group or FakeGroup(), *mine)
        self.committed_records: list[Committed] = []
        self.generation = 0
        self._open: list[Committed] | None = None

    @property
    def offsets(self) -> dict[Partition, int]:
        """What the group has committed."""
        return self.group.offsets

    def add(self, topic: str, value: bytes, *, partition: int = 0, traceparent: str = "") -> None:
        """Append one message to a topic to be read."""
        self.group.add(topic, value, partition=partition, traceparent=traceparent or None)

    def values(self, topic: str) -> list[bytes]:
        """What committed readers of a topic see."""
        return [value for where, _, value, _ in self.committed_records if where == topic]

    def begin(self) -> None:
        """See the port."""
        assert self._open is None, "a transaction is open"
        self._may_fail("begin")
        self._open = []

    def produce(
        self, topic: str, key: bytes | str | None, value: bytes, traceparent: str | None = None
    ) -> None:
        """See the port. A failure aborts."""
        self.produce_each(topic, [(key, value, traceparent)])

    def produce_each(self, topic: str, records: Iterable[ProducerRecord]) -> None:
        """See the port. A failure aborts."""
        for key, value, traceparent in records:
            assert self._open is not None, "no transaction is open"
            with _Aborting(self):
                self._may_fail("produce")
            text = key.decode() if isinstance(key, bytes) else key or ""
            self._open.append((topic, text, value, traceparent))

    def commit(self, offsets: Offsets) -> None:
        """See the port."""
        assert self._open is not None, "no transaction is open"
        with _Aborting(self):
            self._may_fail("commit")
        self.committed_records += self._open
        self._keep(offsets)
        self._open = None
        if self.fail.get("lost_commit"):
            self.generation += 1
            self._may_fail("lost_commit")

    def rewind(self, starts: Offsets = NO_OFFSETS) -> None:
        """See the port."""
        self._open = None
        super().rewind(starts)

    def close(self) -> None:
        """See the port."""
        self._open = None
        super().close()


class _Aborting:
    """What a transaction gave up is dropped, and its messages come again."""

    def __init__(self, fake: FakeTransactions) -> None:
        self._fake = fake

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, Unavailable | Rejected):
            self._fake.rewind()
