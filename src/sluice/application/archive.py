"""Gather records per partition and roll them into files: each row once, none missing.

A file holds a contiguous run of one partition and is named by its first offset. It appears whole or
not at all, and never replaces another; offsets are committed after it appeared. So after a kill at
any point, reading goes on behind the newest file, whatever the group had committed. A folder that
was lost, or its newest files, is filled again from the topic as far as that reaches; where it does
not, nothing is archived until an operator has said what shall be (docs/decisions/0027).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sluice.application.ports import TOPIC_REMADE, Message, Partition
from sluice.errors import Misconfigured

ROLL_BYTES = 64 * 1024 * 1024
"""Of one partition's records: 30,000 decisions, 8 to 15 MB of parquet."""
BUFFER_MAX_BYTES = 256 * 1024 * 1024
"""Of all partitions together; past it the largest is rolled. Bounds the archiver's memory."""
DAY_MS = 86_400_000


class Files(Protocol):
    """Where the files lie."""

    def end(self, partition: Partition) -> int:
        """Offset behind the newest file of a partition; 0 without one. Asked before the first write
        of a partition that came, and after one that failed: another may have written since."""
        ...

    def topic_id(self, partition: Partition) -> str:
        """Id of the topic that the newest file of a partition is of; "" where none says."""
        ...

    def write(self, partition: Partition, rows: Sequence[Message], topic_id: str = "") -> int:
        """One file of these rows, in order of offset, durable on return. Returns its bytes.
        topic_id: of their topic, "" where its broker gives none.

        Raises Unavailable (overtaken) if another archiver wrote it first, Corrupt if a file of
        this name holds other records or a record does not decode.
        """
        ...


@dataclass(slots=True)
class _Buffer:
    since_s: float
    day: int
    """Of its newest record's writing: a file lies in one day's folder."""
    rows: list[Message] = field(default_factory=list)
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Rolled:
    """One file that was completed. rows: its records, in order."""

    partition: Partition
    rows: Sequence[Message]
    size_bytes: int


class Archiver:
    """Buffers of the partitions that are ours. Does no I/O of its own besides ``files``.

    confirm: ids of the topics that are there now, by name; raises Corrupt where they are others
    than those that we read. Asked before files are written, so that none holds two topics.
    """

    def __init__(
        self,
        files: Files,
        *,
        roll_s: float,
        confirm: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._files = files
        self._roll_s = roll_s
        self._confirm = confirm
        self._buffers: dict[Partition, _Buffer] = {}

    def start(
        self,
        committed: Mapping[Partition, int],
        partitions: Iterable[Partition],
        oldest: Callable[[Partition], int],
    ) -> dict[Partition, int]:
        """Where to read on: behind the newest file, which is where the archive ends, even if more
        is committed; a partition of which there is neither is left out.

        What is committed lay in a file once, so what is missing before it was lost, and comes again
        from the topic. oldest: first offset that a topic still holds; asked where that is needed.
        Raises Misconfigured if the topic no longer has it either, or was made again. Where files
        are and nothing is committed, an operator said to go on without what the topic lacks.
        """
        starts = {}
        ids = self._confirm()
        for partition in partitions:
            self._buffers.pop(partition, None)
            end, done = self._files.end(partition), committed.get(partition, 0)
            if end and self._files.topic_id(partition) not in ("", ids.get(partition[0], "")):
                raise _of_another_topic(partition, end)
            if done > end and (left := oldest(partition)) > end:
                raise _lost(partition, end, done, left)
            if done:
                starts[partition] = end
            elif end:
                starts[partition] = max(end, oldest(partition))
        return starts

    def add(self, batch: Iterable[Message], now_s: float) -> list[Rolled]:
        """Take records in. Returns the files that a new day made necessary."""
        rolled = []
        for record in batch:
            partition = (record.topic, record.partition)
            day = record.written_ms // DAY_MS
            buffer = self._buffers.get(partition)
            # Writers' clocks differ: the day only moves on, or midnight would make a file a record.
            if buffer is not None and day > buffer.day:
                rolled += self.roll([partition])
                buffer = None
            if buffer is None:
                buffer = self._buffers[partition] = _Buffer(now_s, day)
            buffer.rows.append(record)
            buffer.size_bytes += len(record.value)
        return rolled

    def due(self, now_s: float) -> list[Partition]:
        """Partitions whose file is large or old enough, and the largest if all are too much."""
        due = [
            partition
            for partition, buffer in self._buffers.items()
            if buffer.size_bytes >= ROLL_BYTES or now_s - buffer.since_s >= self._roll_s
        ]
        left = {p: b.size_bytes for p, b in self._buffers.items() if p not in due}
        while sum(left.values()) > BUFFER_MAX_BYTES:
            largest = max(left, key=left.__getitem__)
            due.append(largest)
            del left[largest]
        return due

    def held(self) -> list[Partition]:
        """Partitions with records that are in no file yet."""
        return list(self._buffers)

    def roll(self, partitions: Iterable[Partition]) -> list[Rolled]:
        """Write the files of these partitions. The caller commits behind each."""
        rolled = []
        due = [(one, self._buffers[one]) for one in partitions if one in self._buffers]
        ids = self._confirm() if due else {}
        for partition, buffer in due:
            size = self._files.write(partition, buffer.rows, ids.get(partition[0], ""))
            del self._buffers[partition]
            rolled.append(Rolled(partition, buffer.rows, size))
        return rolled

    def drop(self, partitions: Iterable[Partition]) -> None:
        """Forget what is buffered: another member has these partitions now."""
        for partition in partitions:
            self._buffers.pop(partition, None)


def _lost(partition: Partition, end: int, done: int, left: int) -> Misconfigured:
    topic, number = partition
    return Misconfigured(
        f"the archive lacks offsets {end} to {done - 1}, which were archived once, and the topic "
        f"begins at {left}",
        where=f"archiver.root, {topic}/{number}",
        fix="bring the folder back that holds them, or go on without: docs/runbooks/lag.md, "
        "section SluiceArchiverNotWriting",
        code="archive_lost",
    )


def _of_another_topic(partition: Partition, end: int) -> Misconfigured:
    topic, number = partition
    return Misconfigured(
        f"the archive holds offsets up to {end - 1} of another topic of this name, which was "
        "deleted and made again",
        where=f"archiver.root, {topic}/{number}",
        fix="give the archive a new root: docs/runbooks/topic-made-again.md",
        code=TOPIC_REMADE,
    )


def behind(rolled: Iterable[Rolled]) -> dict[Partition, int]:
    """The offsets to commit."""
    return {file.partition: file.rows[-1].offset + 1 for file in rolled}
