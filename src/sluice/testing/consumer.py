"""Kafka's topics and a member of a group, in memory. For one thread, as the real one."""

from __future__ import annotations

from collections.abc import Iterable

from sluice.application.ports import (
    NO_OFFSETS,
    TOPIC_REMADE,
    Message,
    Offsets,
    OnAssign,
    OnRevoke,
    Partition,
)
from sluice.errors import Corrupt


class FakeGroup:
    """A consumer group, and the topics it reads. offsets: what is committed, by partition. oldest:
    where a partition begins, if not at 0."""

    def __init__(self, *partitions: Partition) -> None:
        self.records: dict[Partition, list[Message]] = {place: [] for place in partitions}
        self.offsets: dict[Partition, int] = {}
        self.oldest: dict[Partition, int] = {}
        self.ids = {topic: "first" for topic, _ in partitions}
        """Of topics."""

    def remake(self, topic: str) -> None:
        """Delete a topic with what is committed of it, and make it again."""
        self.ids[topic] = f"after {self.ids[topic]}"
        for place in self.records:
            if place[0] == topic:
                self.records[place] = []
                self.offsets.pop(place, None)

    def add(
        self, topic: str, value: bytes = b"", *, partition: int = 0, traceparent: str | None = None
    ) -> Message:
        """Append one message to its partition, which is made if it is new."""
        records = self.records.setdefault((topic, partition), [])
        records.append(Message(value, b"", topic, partition, len(records), traceparent))
        return records[-1]


class FakeConsumer:
    """The port Consumer. Takes every partition of its group, unless told which are its own.

    broker_away: no broker can be reached. fail: exceptions that the next calls of that name raise,
    in turn. batches: sizes of what was read. Partitions given and taken change hands inside the
    next poll_batch, as at the broker.
    """

    def __init__(self, group: FakeGroup, *mine: Partition) -> None:
        self.group = group
        self.fail: dict[str, list[Exception]] = {}
        self.batches: list[int] = []
        self.closed = False
        self.broker_away = False
        self._all = not mine
        self._coming: list[Partition] = [*mine]
        self._going: list[tuple[list[Partition], bool]] = []
        self._position: dict[Partition, int] = {}
        self._ids: dict[str, str] = {}
        self._on_assign: OnAssign = lambda _: None
        self._on_revoke: OnRevoke = lambda _, __: None

    def give(self, *partitions: Partition) -> None:
        """The group gives these to us, with the next poll_batch."""
        self._coming += partitions

    def take(self, *partitions: Partition, lost: bool = False) -> None:
        """The group takes these from us, with the next poll_batch. lost: it has done so already."""
        self._all = False
        self._going.append(([*partitions], lost))

    def listen(self, on_assign: OnAssign, on_revoke: OnRevoke) -> None:
        """See the port."""
        self._on_assign, self._on_revoke = on_assign, on_revoke

    def poll_batch(self, limit: int, wait_s: float) -> list[Message]:
        """See the port; does not wait."""
        self._may_fail("poll_batch")
        self._rebalance()
        self.confirm()
        batch: list[Message] = []
        for place in self._position:
            at = self._position[place]
            some = self.group.records[place][at : at + limit - len(batch)]
            self._position[place] += len(some)
            batch += some
        if batch:
            self.batches.append(len(batch))
        return batch

    def confirm(self) -> dict[str, str]:
        """See the port."""
        self._may_fail("confirm")
        for topic, known in self._ids.items():
            if self.group.ids[topic] != known:
                raise Corrupt("the topic was made again", where=topic, code=TOPIC_REMADE)
        return {**self._ids}

    def commit(self, offsets: Offsets) -> None:
        """See the port."""
        self._may_fail("commit")
        self._keep(offsets)

    def _keep(self, offsets: Offsets) -> None:
        """Commit what is of the topics that are there now; the rest would count for nothing."""
        now = self.group.ids
        self.group.offsets.update(
            {p: o for p, o in offsets.items() if self._ids[p[0]] == now[p[0]]}
        )

    def rewind(self, starts: Offsets = NO_OFFSETS) -> None:
        """See the port."""
        self._may_fail("rewind")
        known = {**self.group.offsets, **starts}
        self._position = {place: known.get(place, 0) for place in self._position}

    def oldest(self, partition: Partition) -> int:
        """See the port."""
        self._may_fail("oldest")
        return self.group.oldest.get(partition, 0)

    def committed(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """See the port."""
        self._may_fail("committed")
        return {p: self.group.offsets[p] for p in partitions if p in self.group.offsets}

    def assignment(self) -> list[Partition]:
        """See the port."""
        return [*self._position]

    def partitions(self) -> list[Partition]:
        """See the port."""
        return [*self.group.records]

    def lag(self) -> dict[Partition, int]:
        """See the port."""
        return {place: len(self.group.records[place]) - at for place, at in self._position.items()}

    def uncommitted(self) -> dict[Partition, int]:
        """See the port."""
        self._may_fail("uncommitted")
        done = self.committed(self._position)
        return {
            place: len(self.group.records[place])
            - max(done.get(place, 0), self.group.oldest.get(place, 0))
            for place in self._position
        }

    def reachable(self) -> bool:
        """See the port."""
        return not self.broker_away

    def close(self) -> None:
        """See the port."""
        if not self.closed:
            self.closed = True
            self._leave(self.assignment(), lost=False)

    def _rebalance(self) -> None:
        going, self._going = self._going, []
        for partitions, lost in going:
            self._leave(partitions, lost=lost)
        coming, self._coming = self._coming, []
        if self._all:
            coming += [place for place in self.group.records if place not in self._position]
        if coming:
            for topic, _ in coming:
                self._ids.setdefault(topic, self.group.ids.setdefault(topic, "first"))
            starts: Offsets = {}
            try:
                starts = self._on_assign(coming) or {}
            finally:  # as librdkafka: they are ours all the same, from the committed offsets
                for place in coming:
                    self.group.records.setdefault(place, [])
                    self._position[place] = starts.get(place, self.group.offsets.get(place, 0))

    def _leave(self, partitions: list[Partition], *, lost: bool) -> None:
        if partitions:
            self._on_revoke(partitions, lost)
        for place in partitions:
            self._position.pop(place, None)

    def _may_fail(self, step: str) -> None:
        if self.fail.get(step):
            raise self.fail[step].pop(0)
