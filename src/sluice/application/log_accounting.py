"""Whether nothing is missing from logs: each offset of their sources in exactly one record.

``offsets = decisions + labels and others + duplicates + dead letters + gaps`` for each partition,
and no hole in any emitter's sequence. What a broker has besides comes from its watermarks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import msgspec

from sluice.audit.errors import Tampered
from sluice.domain.records.log_record import GapRecord, LogRecord

HOLES_MAX = 100_000
"""Of one partition or emitter; further ones are counted as one."""
GAP = "gap"
NAMELESS = frozenset({"expired", "forbidden_content", "unreadable", "too_large"})
"""Reasons of gaps that had an emitter's number, which nobody may write down or can read."""
Watermarks = Mapping[tuple[str, int], tuple[int, int]]
"""(topic, partition) to its first offset and the one behind its last."""


class Missing(msgspec.Struct, frozen=True):
    """Offsets of a partition, or sequences of an emitter, in no record: [first, until)."""

    first: int
    until: int
    topic: str | None = None
    partition: int | None = None
    emitter: str | None = None

    def __str__(self) -> str:
        """For people."""
        last = f" to {self.until - 1}" if self.until - self.first > 1 else ""
        of = self.emitter if self.topic is None else f"{self.topic}/{self.partition}"
        return f"{of}@{self.first}{last}"


class Stretch:
    """Numbers from the first one taken on, each of them once, in nearly any order.

    >>> stretch = Stretch()
    >>> [stretch.take(5, 6), stretch.take(8, 10), stretch.take(6, 7), stretch.take(8, 9)]
    [True, True, True, False]
    >>> list(stretch.holes(5, 12))
    [(7, 8), (10, 12)]
    """

    __slots__ = ("_firsts", "_untils", "first", "next")

    def __init__(self) -> None:
        self.first = -1
        """-1: none was taken."""
        self.next = -1
        self._firsts: list[int] = []
        self._untils: list[int] = []

    def take(self, first: int, until: int) -> bool:
        """Whether none of first to until - 1 was taken before; only then it is now."""
        if first == self.next:
            self.next = until
            return True
        if self.first < 0:
            self.first, self.next = first, until
            return True
        if first > self.next:
            self._open(self.next, first)
            self.next = until
            return True
        if until <= self.first:
            if until < self.first:
                self._open(until, self.first)
            self.first = first
            return True
        at = bisect_right(self._firsts, first) - 1
        if at < 0 or until > self._untils[at]:
            return False
        begin, end = self._firsts[at], self._untils[at]
        del self._firsts[at], self._untils[at]
        if begin < first:
            self._open(begin, first)
        if until < end:
            self._open(until, end)
        return True

    def holes(self, first: int, until: int) -> list[tuple[int, int]]:
        """What of first to until - 1 was never taken."""
        if self.first < 0:
            return [(first, until)] if first < until else []
        found = [(first, min(self.first, until))] if first < self.first else []
        for begin, end in zip(self._firsts, self._untils, strict=True):
            if end > first and begin < until:
                found.append((max(begin, first), min(end, until)))
        if self.next < until:
            found.append((max(self.next, first), until))
        return found

    def _open(self, begin: int, end: int) -> None:
        at = bisect_right(self._firsts, begin)
        if len(self._firsts) >= HOLES_MAX:
            at = min(at, len(self._firsts) - 1)
            self._firsts[at] = min(self._firsts[at], begin)
            self._untils[at] = max(self._untils[at], end)
            return
        self._firsts.insert(at, begin)
        self._untils.insert(at, end)


class Balance(msgspec.Struct, frozen=True):
    """One partition. first, until: of the offsets that are to be accounted for."""

    topic: str
    partition: int
    first: int
    until: int
    records: dict[str, int]
    """Offsets by the type of the record that they are in."""
    missing: int


class Accounts(NamedTuple):
    """What the broker, or the logs themselves, say there must be, and what of it is missing."""

    balances: list[Balance]
    missing: list[Missing]


class Accounting:
    """Takes the records of one log after another."""

    def __init__(self) -> None:
        self._partitions: dict[tuple[str, int], tuple[Stretch, dict[str, int]]] = {}
        self._emitters: dict[str, Stretch] = {}
        self._nameless = 0

    def take(self, index: int, record: LogRecord[Any], kind: str) -> None:
        """Account for one entry, of a type. Raises Tampered if another has done so: no writer does
        that."""
        source, sequence = record.source, record.sequence
        if record.emitter is not None and sequence is not None:
            # What a log's writer says of itself is counted in each log anew.
            own = f" of {record.log}" if source is None else ""
            emitter = record.emitter + own
            if not self._emitter(emitter).take(sequence, sequence + 1):
                raise _twice(index, f"number {sequence} of {emitter}")
        if source is not None:
            key = source.topic, source.partition
            self._offsets(index, key, source.offset, source.offset + 1, kind)
        if kind == GAP:
            gap = cast(GapRecord, record).body
            if gap.emitter is not None and not self._emitter(gap.emitter).take(
                gap.first, gap.until
            ):
                raise _twice(index, f"number {gap.first} of {gap.emitter}")
            if gap.topic is not None and gap.partition is not None:
                key = gap.topic, gap.partition
                self._offsets(index, key, gap.first, gap.until, kind)
                if gap.reason in NAMELESS:
                    self._nameless += gap.until - gap.first

    def _emitter(self, name: str) -> Stretch:
        found = self._emitters.get(name)
        if found is None:
            found = self._emitters[name] = Stretch()
        return found

    def _offsets(self, index: int, key: tuple[str, int], first: int, until: int, kind: str) -> None:
        found = self._partitions.get(key)
        if found is None:
            found = self._partitions[key] = Stretch(), {}
        stretch, counts = found
        if not stretch.take(first, until):
            raise _twice(index, f"{key[0]}/{key[1]}@{first}")
        counts[kind] = counts.get(kind, 0) + until - first

    def accounts(self, watermarks: Watermarks | None, *, whole: bool) -> Accounts:
        """The balance. watermarks: of all partitions that the logs are of; None asks only for
        holes. whole: the logs were read from their first entry, and so were emitters."""
        balances, missing = [], []
        wanted = dict(watermarks or {})
        for key, (stretch, _) in self._partitions.items():
            begin, end = wanted.get(key, (stretch.first, stretch.next))
            first = min(begin, stretch.first) if whole else stretch.first
            wanted[key] = first, max(end, stretch.next)
        for (topic, partition), (first, until) in sorted(wanted.items()):
            stretch, counts = self._partitions.get((topic, partition), (Stretch(), {}))
            holes = stretch.holes(first, until)
            missing += [Missing(a, b, topic=topic, partition=partition) for a, b in holes]
            lacks = sum(b - a for a, b in holes)
            balances.append(Balance(topic, partition, first, until, counts, lacks))
        numbers = [
            Missing(a, b, emitter=name)
            for name, stretch in self._emitters.items()
            for a, b in stretch.holes(0 if whole else stretch.first, stretch.next)
        ]
        if sum(one.until - one.first for one in numbers) > self._nameless:
            missing += numbers
        return Accounts(balances, missing)


def _twice(index: int, what: str) -> Tampered:
    return Tampered(
        f"entry {index} accounts for {what}, as one before it does", first=index, until=index + 1
    )
