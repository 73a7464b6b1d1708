"""Whether nothing is missing from logs: each offset of their sources in exactly one record.

``offsets = decisions + labels and others + duplicates + dead letters + gaps`` for each partition,
and no hole in any emitter's sequence. What a broker has besides comes from its watermarks. That a
gap holds no committed record, as its reason says, is asked of the broker too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import UNSET

from sluice.audit.errors import Tampered
from sluice.domain.records.log_record import GapBody, GapRecord, LogRecord

HOLES_MAX = 100_000
"""Of one partition or emitter; further ones are counted as one."""
ASKED_MAX = 20_000
"""Gaps that a broker is asked about at once."""
GAP, DUPLICATE = "gap", "duplicate"
NAMELESS = frozenset({"expired", "forbidden_content", "unreadable", "too_large"})
"""Reasons of gaps that had an emitter's number, which nobody may write down or can read."""
EMPTY = frozenset({"aborted", "transaction_marker", "expired"})
"""Reasons of gaps where the broker has no committed record, or has it no more."""
Watermarks = Mapping[tuple[str, int], tuple[int, int]]
"""(topic, partition) to its first offset and the one behind its last."""


class Looked(NamedTuple):
    """What a broker has at some offsets. hidden: [first, until) of committed records, in order.
    gone: how many offsets it does not have, or not any more."""

    hidden: list[tuple[int, int]]
    gone: int


Look = Callable[[str, int, Sequence[tuple[int, int]]], Looked]
"""Topic, partition and stretches of offsets, [first, until) in order, to what the broker has there.
Raises Unavailable."""


class Missing(msgspec.Struct, frozen=True):
    """Offsets of a partition, or sequences of an emitter, in no record: [first, until). hidden:
    they are of committed records, and the log says of them that there are none."""

    first: int
    until: int
    topic: str | None = None
    partition: int | None = None
    emitter: str | None = None
    hidden: bool = False

    def __str__(self) -> str:
        """For people."""
        last = f" to {self.until - 1}" if self.until - self.first > 1 else ""
        of = self.emitter if self.topic is None else f"{self.topic}/{self.partition}"
        return f"{of}@{self.first}{last}" + ", committed, in a gap" * self.hidden


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
    """One partition. first, until: of the offsets that are to be accounted for. unproved: offsets
    that only the log says to hold no record: retention has deleted them, or no broker was asked."""

    topic: str
    partition: int
    first: int
    until: int
    records: dict[str, int]
    """Offsets by the type of the record that they are in."""
    gaps: dict[str, int]
    """Of these the gaps', by reason."""
    missing: int
    hidden: int
    """Of the gaps' offsets, those of committed records."""
    unproved: int


class Accounts(NamedTuple):
    """What the broker, or the logs themselves, say there must be, and what of it is missing.

    in_flight: numbers of emitters that no record has, and that none of the emitter's records calls
    settled: their decisions were on their way to the broker when it was last heard of, and nobody
    hears a decision before it is settled.
    """

    balances: list[Balance]
    missing: list[Missing]
    in_flight: list[Missing]


class _Partition:
    """What logs say of one."""

    __slots__ = ("asked", "gaps", "gone", "hidden", "records", "stretch")

    def __init__(self) -> None:
        self.stretch = Stretch()
        self.records: dict[str, int] = {}
        self.gaps: dict[str, int] = {}
        self.asked: list[tuple[int, int]] = []
        """Gaps of which the broker was not asked yet."""
        self.hidden: list[tuple[int, int]] = []
        self.gone = 0


class _Emitter:
    """The numbers of one."""

    __slots__ = ("given_up", "settled", "stretch")

    def __init__(self) -> None:
        self.stretch = Stretch()
        self.settled = -1
        """Below it all its numbers are durable or given up, by its own word; -1: it says none."""
        self.given_up: list[tuple[int, int]] = []
        """The record of such a number may have been kept by a broker all the same."""


class Accounting:
    """Takes the records of one log after another. look: asks a broker what gaps hold."""

    def __init__(self, look: Look | None = None) -> None:
        self._look = look
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self._emitters: dict[str, _Emitter] = {}
        self._nameless = 0
        self._to_ask = 0

    def take(self, first: int, records: Sequence[LogRecord[Any]], kinds: Sequence[str]) -> None:
        """Account for entries, of which the first has this index. kinds: their types.

        Raises Tampered if another entry has done so: no writer does that. Raises Unavailable where
        the broker does not answer.
        """
        since = 0
        for at in [at for at, kind in enumerate(kinds) if kind == GAP]:
            self._take_records(first, records, kinds, since, at + 1)
            self._take_gap(first + at, cast(GapRecord, records[at]).body)
            since = at + 1
        self._take_records(first, records, kinds, since, len(records))

    def _take_records(
        self,
        first: int,
        records: Sequence[LogRecord[Any]],
        kinds: Sequence[str],
        since: int,
        until: int,
    ) -> None:
        """Those of one partition and type together, and those of one emitter."""
        places: dict[tuple[str, int, str], list[int]] = {}
        numbers: dict[str, list[int]] = {}
        for at in range(since, until):
            record = records[at]
            source, emitter = record.source, record.emitter
            if source is not None:
                key = source.topic, source.partition, kinds[at]
                these = places.get(key)
                if these is None:
                    these = places[key] = []
                these.append(at)
            if emitter is not None and record.sequence is not None:
                if source is None:  # what a log's writer says of itself is counted in each log anew
                    emitter = f"{emitter} of {record.log}"
                these = numbers.get(emitter)
                if these is None:
                    these = numbers[emitter] = []
                these.append(at)
        twice: list[tuple[int, str]] = []
        for (topic, number, kind), these in places.items():
            partition = self._partition((topic, number))
            partition.records[kind] = partition.records.get(kind, 0) + len(these)
            offsets = [records[at].source.offset for at in these]  # type: ignore[union-attr]
            for at in _refused(partition.stretch, offsets):
                twice.append((these[at], f"{topic}/{number}@{offsets[at]}"))
        for name, these in numbers.items():
            found = self._emitter(name)
            sequences = [records[at].sequence or 0 for at in these]
            for at in _refused(found.stretch, sequences):
                if not _spend(found.given_up, sequences[at]):
                    twice.append((these[at], f"number {sequences[at]} of {name}"))
            newest = these[sequences.index(max(sequences))]  # what it calls settled only grows
            found.settled = max(found.settled, _settled(records[newest], kinds[newest]))
        if twice:
            at, what = min(twice)
            raise _twice(first + at, what)

    def _take_gap(self, index: int, gap: GapBody) -> None:
        first, until = gap.first, gap.until
        if gap.emitter is not None:
            found = self._emitter(gap.emitter)
            # An emitter may say it twice, and a record that it gave up may be there all the same.
            for a, b in found.stretch.holes(first, until):
                found.stretch.take(a, b)
                _add(found.given_up, a, b)
        if gap.topic is None or gap.partition is None:
            return
        partition = self._partition((gap.topic, gap.partition))
        if not partition.stretch.take(first, until):
            raise _twice(index, f"{gap.topic}/{gap.partition}@{first}")
        partition.records[GAP] = partition.records.get(GAP, 0) + until - first
        partition.gaps[gap.reason] = partition.gaps.get(gap.reason, 0) + until - first
        if gap.reason in NAMELESS:
            self._nameless += until - first
        if gap.reason in EMPTY:
            self._ask_of(partition, first, until)

    def _ask_of(self, partition: _Partition, first: int, until: int) -> None:
        if self._look is None:
            partition.gone += until - first
            return
        partition.asked.append((first, until))
        self._to_ask += 1
        if self._to_ask >= ASKED_MAX:
            self._ask()

    def _ask(self) -> None:
        """Raises Unavailable."""
        if self._look is None:
            return
        for (topic, number), partition in self._partitions.items():
            if partition.asked:
                looked = self._look(topic, number, sorted(partition.asked))
                partition.asked.clear()
                partition.hidden += looked.hidden[: HOLES_MAX - len(partition.hidden)]
                partition.gone += looked.gone
        self._to_ask = 0

    def _emitter(self, name: str) -> _Emitter:
        found = self._emitters.get(name)
        if found is None:
            found = self._emitters[name] = _Emitter()
        return found

    def _partition(self, key: tuple[str, int]) -> _Partition:
        found = self._partitions.get(key)
        if found is None:
            found = self._partitions[key] = _Partition()
        return found

    def accounts(self, watermarks: Watermarks | None, *, whole: bool) -> Accounts:
        """The balance. watermarks: of all partitions that the logs are of; None asks only for
        holes. whole: the logs were read from their first entry, and so were emitters. Raises
        Unavailable where the broker does not answer."""
        self._ask()
        balances, missing = [], []
        wanted = dict(watermarks or {})
        for key, known in self._partitions.items():
            stretch = known.stretch
            begin, end = wanted.get(key, (stretch.first, stretch.next))
            first = min(begin, stretch.first) if whole else stretch.first
            wanted[key] = first, max(end, stretch.next)
        for (topic, number), (first, until) in sorted(wanted.items()):
            partition = self._partitions.get((topic, number)) or _Partition()
            holes = partition.stretch.holes(first, until)
            missing += [Missing(a, b, topic, number) for a, b in holes]
            missing += [Missing(a, b, topic, number, hidden=True) for a, b in partition.hidden]
            balances.append(
                Balance(
                    topic, number, first, until, partition.records, partition.gaps,
                    missing=sum(b - a for a, b in holes),
                    hidden=sum(b - a for a, b in partition.hidden),
                    unproved=partition.gone,
                )
            )  # fmt: skip
        numbers, in_flight = [], []
        for name, emitter in self._emitters.items():
            stretch, settled = emitter.stretch, emitter.settled
            for a, b in stretch.holes(0 if whole else stretch.first, stretch.next):
                bound = b if settled < 0 else min(b, max(a, settled))
                if a < bound:
                    numbers.append(Missing(a, bound, emitter=name))
                if bound < b:
                    in_flight.append(Missing(bound, b, emitter=name))
        if sum(one.until - one.first for one in numbers) > self._nameless:
            missing += numbers
        return Accounts(balances, missing, in_flight)


def _refused(stretch: Stretch, numbers: list[int]) -> Sequence[int]:
    """Take numbers. Returns the places of those that were taken before."""
    first, count = numbers[0], len(numbers)
    # As they mostly come: one after the other, and behind the last.
    if first == stretch.next and numbers == list(range(first, first + count)):
        stretch.next += count
        return ()
    return [at for at, number in enumerate(numbers) if not stretch.take(number, number + 1)]


def _settled(record: LogRecord[Any], kind: str) -> int:
    """As a decision's decider says; -1 if it does not."""
    decision = record.body.decision if kind == DUPLICATE else record.body
    settled = getattr(decision, "settled", UNSET)
    return -1 if settled is UNSET else int(settled)


def _add(ranges: list[tuple[int, int]], first: int, until: int) -> None:
    if len(ranges) >= HOLES_MAX:
        del ranges[0]
    ranges.append((first, until))


def _spend(ranges: list[tuple[int, int]], number: int) -> bool:
    """Whether a number is in one of these; not a second time."""
    for at, (first, until) in enumerate(ranges):
        if first <= number < until:
            left = ((first, number), (number + 1, until))
            ranges[at : at + 1] = [(a, b) for a, b in left if a < b]
            return True
    return False


def _twice(index: int, what: str) -> Tampered:
    return Tampered(
        f"entry {index} accounts for {what}, as one before it does", first=index, until=index + 1
    )
