"""Keep the compliance log of some partitions: each offset in exactly one record, none left out.

Where reading goes on is asked of the log itself and not of the consumer group: the offset behind
the last that an entry tells of. What the broker has between two records that it shows (its own
records of transactions, those of aborted ones, what expired before it was read) becomes a gap with
its reason. So for each partition the records' offsets, with the gaps, have no hole and no overlap,
whenever the process died (docs/decisions/0050).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import Any, NamedTuple, Protocol

import msgspec

from sluice.application.append_log import AppendLog, LogStore
from sluice.application.ports import (
    TOPIC_REMADE,
    Count,
    Message,
    Offsets,
    Partition,
    uncounted,
)
from sluice.application.told import Told, change_of
from sluice.audit.entries import join, split
from sluice.audit.notes import Key
from sluice.audit.tiles import ENTRY_MAX_BYTES
from sluice.domain.clock import MINUTE_US, SECOND_US, Clock
from sluice.domain.records.key_event import KeyEvent, record_of
from sluice.domain.records.log_record import (
    WORD,
    GapBody,
    GapReason,
    GapRecord,
    HeartbeatBody,
    HeartbeatRecord,
    KeyRotationBody,
    KeyRotationRecord,
    LogStartBody,
    LogStartRecord,
    LogStopBody,
    LogStopRecord,
    Provenance,
    Purpose,
    Source,
    Stretches,
    TimeSyncBody,
    TimeSyncRecord,
    Word,
    actor_of,
    encode,
)
from sluice.domain.records.superseded import REACH, Superseded
from sluice.errors import Corrupt, Unavailable
from sluice.faultpoints import kill_at

EMITTER = "auditor"
"""Of what the log's writer says of itself; it counts over restarts."""
CHECKPOINT_EVERY_US = 3 * SECOND_US // 4
"""From one that is begun to the next: with the time that one takes, a record is in a published one
within a second of its coming."""
HEARTBEAT_EVERY_US = 5 * SECOND_US
"""Half of what is promised: one that a full disk held up is still in time."""
HEARTBEAT_LATE_US = 2 * SECOND_US
"""What is due for so long is written by ``beat``."""
TIME_SYNC_EVERY_US = 10 * MINUTE_US
"""A clock whose daemon died drifts some 0.3 s in so long at the kernel's worst, 500 ppm."""
UNSIGNED_MAX = 50_000
"""Entries behind the newest checkpoint, some 100 MB; past it the next batch waits for one."""
KEY_EVENTS_MAX = 256
"""Of the keystore, that go before one checkpoint."""
RESUME = "resume.json"
RUNBOOK = "docs/runbooks/compliance-log.md"


class Refused(NamedTuple):
    """A message that gets no record of its own, but a gap. found: what the scanner found."""

    reason: GapReason
    found: str | None = None


class Decided(msgspec.Struct, frozen=True, gc=False):
    """What a decision says of itself: its id, and which numbers its emitter gave up."""

    tenant: str
    authorization_id: str
    emitter: str
    given_up: Stretches


class Read(NamedTuple):
    """A message that was read once. decided: None for what is no decision. draft: whatever its
    entry is made of."""

    message: Message
    decided: Decided | None
    draft: Any


class MakesEntries(Protocol):
    """Makes the entries of the messages of a batch, whatever their topics."""

    def read(self, batch: Sequence[Message]) -> list[Read]:
        """(n,) of each message. A decision is told of by :func:`decided_of`, also where it gets no
        entry."""
        ...

    def entries(
        self, batch: Sequence[Read], superseded: Sequence[bool], at_us: int
    ) -> list[bytes | Refused]:
        """(n,) messages to n entries, or why there is none. superseded: another record of its id
        came before it. Raises Unavailable: then none is taken."""
        ...


class HasKeyEvents(Protocol):
    """What happened to the keys of sealed parts (:class:`sluice.application.ports.Keystore`)."""

    emitter: str
    """Counts them, from 0 without a hole."""

    def events(self, since: int, limit: int) -> list[KeyEvent]:
        """See the port."""
        ...


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """How far a log of ``size`` entries with this root tells. next: by ``topic/partition``, the
    offset behind the last; topics: their ids; sequence: the next of EMITTER; key_events: of the
    keystore; told: what is told once."""

    size: int
    root: str
    next: dict[str, int]
    topics: dict[str, str]
    sequence: int
    key_events: int = 0
    told: Told = msgspec.field(default_factory=Told)


class _Head(msgspec.Struct, frozen=True):
    """What is read of a header to know how far the log is."""

    type: str
    emitter: str | None = None
    source: Source | None = None
    body: msgspec.Raw = msgspec.Raw(b"{}")


class _Gap(msgspec.Struct, frozen=True):
    topic: str | None
    partition: int | None
    until: int


_head = msgspec.json.Decoder(_Head)
_gap = msgspec.json.Decoder(_Gap)
_resume = msgspec.json.Decoder(Resume)


class _Id(msgspec.Struct, frozen=True):
    tenant: str
    authorization_id: str


class _Decided(msgspec.Struct, frozen=True):
    """As a decision has it."""

    authorization: _Id
    emitter: Word = ""
    given_up: Stretches = []


_decided = msgspec.json.Decoder(_Decided)
Earlier = Callable[[int, int, int], Iterable[Message]]
"""Partition of the decisions, first offset and the one behind the last, to what lies there."""
Beside = Callable[[Callable[[], None]], "Future[None]"]
"""Does something in another thread, one after the other."""


class KeepsLog:
    """One log, and what it tells of. For one thread, but for ``beat`` and what ``beside`` does.

    decisions: name of their topic, whose second records of an id are duplicates. rollouts: name of
    the topic by which deciders tell what they obey. resume: where the summary of the last
    checkpoint lies. provenance, replica: of this process. keystore: whose events the log tells of
    too. witnesses: their keys. time_sync: reads how far the clock may be off.
    """

    def __init__(
        self,
        log: AppendLog,
        makes: MakesEntries,
        resume: LogStore,
        clock: Clock,
        beside: Beside,
        *,
        decisions: str,
        earlier: Earlier,
        provenance: Provenance,
        replica: str | None = None,
        rollouts: str = "",
        keystore: HasKeyEvents | None = None,
        witnesses: Sequence[Key] = (),
        time_sync: Callable[[], TimeSyncBody] | None = None,
        count: Count = uncounted,
    ) -> None:
        self._replica = replica
        self._rollouts = rollouts
        self._witnesses = witnesses
        self._time_sync = time_sync
        self._told = Told()
        self._keystore = keystore
        self._key_events = 0
        self._log = log
        self._makes = makes
        self._resume = resume
        self._clock = clock
        self._beside = beside
        self._decisions = decisions
        self._earlier = earlier
        self._provenance = provenance
        self._count = count
        self._next: dict[Partition, int] = {}
        self._topics: dict[str, str] = {}
        self._sequence = 0
        self._gaps = Counter[str]()
        """Offsets by reason, of gaps that are not durable yet."""
        self._writing = Lock()
        """Held from the first number that is used of EMITTER's until its record is durable. Nothing
        in between waits for anybody but the disk."""
        self._superseded: dict[int, Superseded] = {}
        self._finishing: Future[None] | None = None
        self._due: tuple[int, Offsets] | None = None
        """When it was begun, and its offsets: of the checkpoint that is being finished."""
        self._checkpoint_at = self._heartbeat_at = self._time_sync_at = 0
        self._opened = False
        self.signed_at = 0
        """When the newest checkpoint was begun: all that was durable by then is in it."""
        self._finished_s = self.checkpoint_s = 0.0
        """How long it took from there until it was shown."""

    @property
    def next(self) -> Offsets:
        """The offset behind the last that the log tells of, by partition."""
        return self._next

    @property
    def size(self) -> int:
        """Entries that are durable."""
        return self._log.size

    @property
    def signed_size(self) -> int:
        """Entries that the newest checkpoint shows."""
        return self._log.signed.size

    @property
    def opened(self) -> bool:
        """Whether it takes records."""
        return self._opened

    def open(self) -> None:
        """Read how far the log is, after a start and after any error; begin or go on.

        Raises what :meth:`AppendLog.open` does.
        """
        with self._writing:
            self._opened = False
        self._gaps.clear()
        self._wait()
        self._finishing = self._due = None
        unsigned = self._log.open()
        signed = self._log.signed
        held = self._held()
        since = held.size if held else 0
        self._next = {_partition(name): at for name, at in held.next.items()} if held else {}
        self._topics = {**held.topics} if held else {}
        self._sequence = held.sequence if held else 0
        self._key_events = held.key_events if held else 0
        self._told = held.told.copy() if held else Told()
        self._superseded.clear()
        for entry in self._log.entries(since, signed.size):
            self._note(entry)
        for entry in unsigned:
            self._note(entry)
        now = self._clock.now_us()
        body = LogStartBody(
            size=self._log.size,
            cut=int(self._log.cut),
            replica=self._replica,
            provenance=self._provenance,
        )
        self._append([self._own(LogStartRecord, body, now), *self._rotations(now)])
        self._checkpoint_at = self._time_sync_at = now
        self._heartbeat_at = now + HEARTBEAT_EVERY_US
        self._opened = True

    def starts(
        self,
        partitions: Iterable[Partition],
        oldest: Callable[[Partition], int],
        ids: Mapping[str, str],
    ) -> Offsets:
        """Where to read each partition on: behind what the log tells of, or where it begins.

        ids: of the topics that are there now. Raises Corrupt with code TOPIC_REMADE if the log
        tells of another topic of that name.
        """
        found = {}
        for partition in partitions:
            topic, number = partition
            known, now_there = self._topics.get(topic, ""), ids.get(topic, "")
            if known and now_there and known != now_there:
                raise _remade(topic)
            self._topics[topic] = now_there or known
            low = oldest(partition)
            if partition not in self._next:
                self._next[partition] = low
            if low > self._next[partition]:
                self._expired(partition, low)
            found[partition] = self._next[partition]
            if topic == self._decisions:
                self._superseded.pop(number, None)
        return found

    def take(self, batch: Sequence[Message]) -> None:
        """Append the records of a batch: durable on return. What the log has already is passed
        over. Raises Unavailable, also while a checkpoint is too long in coming."""
        self._check()
        if self._log.size - self._log.signed.size > UNSIGNED_MAX:
            self._wait()
        fresh = [one for one in batch if one.offset >= self._next.get(_place(one), 0)]
        if not fresh:
            return
        now = self._clock.now_us()
        self._forget(fresh)
        read = self._makes.read(fresh)
        marks = [self._is_superseded(one.message, one.decided) for one in read]
        made = self._makes.entries(read, marks, now)
        with self._writing:
            self._check()
            self._append([*self._told_of(read, made, now)])

    def _told_of(
        self, read: Sequence[Read], made: Sequence[bytes | Refused], now: int
    ) -> Iterator[bytes]:
        """The entries of a batch, and of what lies between."""
        for (message, said, _), entry in zip(read, made, strict=True):
            place = _place(message)
            at = self._next.get(place, message.offset)
            if message.offset > at:
                yield self._hole(place, at, message.offset, now)
            # Before the record that tells of them: it comes again if only a part of this is kept.
            if said is not None and said.given_up and not isinstance(entry, Refused):
                yield from self._given_up(said, now)
            if message.topic == self._rollouts and not isinstance(entry, Refused):
                # Before the step itself: where a death parts the two, the step comes again.
                yield from self._changes(message, now)
            if isinstance(entry, Refused):
                yield self._gap(place, message.offset, message.offset + 1, entry.reason, now, entry)
            elif len(entry) > ENTRY_MAX_BYTES:
                yield self._gap(place, message.offset, message.offset + 1, "too_large", now)
            else:
                yield entry
            self._next[place] = message.offset + 1

    def tick(self, ends: Callable[[], Offsets]) -> Offsets:
        """What is due: a heartbeat, a checkpoint. Returns the offsets that may be committed, empty
        but after a checkpoint.

        ends: by partition, the offset up to which nothing more was to be read: behind the last
        record there may be some of transactions. Raises what a checkpoint does.
        """
        now = self._clock.now_us()
        if now >= self._heartbeat_at:
            with self._writing:
                self._append([*self._trailing(ends(), now), self._heartbeat(now, taking=True)])
        if self._time_sync is not None and now >= self._time_sync_at:
            with self._writing:
                self._append([self._own(TimeSyncRecord, self._time_sync(), now)])
            self._time_sync_at = now + TIME_SYNC_EVERY_US
        done = self._finished()
        if self._finishing is None and now >= self._checkpoint_at:
            self._checkpoint_at = now + CHECKPOINT_EVERY_US
            self._tell_of_keys(now)
            self._begin()
        return done

    def beat(self) -> None:
        """From another thread: the writer lives, whatever it waits for, a broker or the keystore. A
        heartbeat, if one is late. Raises Unavailable."""
        with self._writing:
            now = self._clock.now_us()
            if self._opened and now >= self._heartbeat_at + HEARTBEAT_LATE_US:
                self._append([self._heartbeat(now, taking=False)])

    def stop(self, ends: Offsets, reason: str) -> Offsets:
        """Say that it ends, with a last checkpoint. Returns what may be committed."""
        now = self._clock.now_us()
        self._wait()
        self._finished()
        with self._writing:
            body = LogStopBody(size=self._log.size, reason=reason)
            self._append([*self._trailing(ends, now), self._own(LogStopRecord, body, now)])
            self._opened = False
        self._begin()
        self._wait()
        return self._finished()

    def close(self) -> None:
        """Let another process write the log."""
        self._opened = False
        self._log.close()

    # How far the log is.

    def _held(self) -> Resume | None:
        """The summary, if it is of this log's tree; without one all entries are read again."""
        try:
            found = _resume.decode(self._resume.read(RESUME))
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return found if self._log.is_beginning(found.size, found.root) else None

    def _note(self, entry: bytes) -> None:
        header, _ = split(entry)
        head = _head.decode(header)
        if head.source is not None:
            self._next[head.source.topic, head.source.partition] = head.source.offset + 1
        elif head.type == "gap":
            gap = _gap.decode(head.body)
            if gap.topic is not None and gap.partition is not None:
                self._next[gap.topic, gap.partition] = gap.until
        if head.emitter == EMITTER:
            self._sequence += 1
            self._told.note(head.type, bytes(head.body))
        elif self._keystore is not None and head.emitter == self._keystore.emitter:
            self._key_events += 1

    # Records of our own.

    def _append(self, entries: Sequence[bytes]) -> None:
        gaps, self._gaps = self._gaps, Counter()
        try:
            self._log.append(entries)
        except BaseException:
            self._opened = False  # what is counted is ahead of what is there
            raise
        for reason, offsets in gaps.items():
            self._count("sluice_auditor_gaps_total", reason, by=offsets)

    def _own(
        self, kind: Callable[..., Any], body: Any, now: int, event_at: int | None = None
    ) -> bytes:
        made = kind(
            log=self._log.origin,
            recorded_at=now,
            emitter=EMITTER,
            sequence=self._sequence,
            event_at=event_at,
            body=body,
        )
        self._sequence += 1
        return join(encode(made))

    def _heartbeat(self, now: int, *, taking: bool) -> bytes:
        self._heartbeat_at = now + HEARTBEAT_EVERY_US
        return self._own(HeartbeatRecord, HeartbeatBody(size=self._log.size, taking=taking), now)

    def _gap(
        self,
        place: Partition,
        first: int,
        until: int,
        reason: GapReason,
        now: int,
        refused: Refused | None = None,
    ) -> bytes:
        self._gaps[reason] += until - first
        body = GapBody(
            topic=place[0],
            partition=place[1],
            emitter=None,
            first=first,
            until=until,
            reason=reason,
            found=refused.found if refused else None,
        )
        return self._own(GapRecord, body, now)

    def _given_up(self, said: Decided, now: int) -> Iterator[bytes]:
        """Numbers that an emitter says no record to have, and nobody to have heard of."""
        for first, until in said.given_up:
            if first >= until:
                continue
            self._gaps["given_up"] += until - first
            body = GapBody(
                topic=None,
                partition=None,
                emitter=said.emitter,
                first=first,
                until=until,
                reason="given_up",
                found=None,
            )
            yield self._own(GapRecord, body, now)

    def _changes(self, message: Message, now: int) -> Iterator[bytes]:
        """What a step tells of that the log has not told yet."""
        change = change_of(message.value)
        if change is not None:
            for kind, body in self._told.new(change):
                yield self._own(kind, body, now, change.at)

    def _rotations(self, now: int) -> Iterator[bytes]:
        """Keys that sign from now on, and have not signed before: the log's and its witnesses'."""
        before = self._log.signed_by
        keys: list[tuple[Purpose, Key]] = [("log", self._log.key)]
        keys += [("witness", key) for key in self._witnesses]
        for purpose, key in keys:
            short = (
                key.short if WORD.fullmatch(key.short) else f"{actor_of(key.name)}+{key.id.hex()}"
            )
            known = self._told.keys.get(f"{purpose} {short.partition('+')[0]}")
            if purpose == "log":
                known = known or before or short
            if known == short:
                continue
            body = KeyRotationBody(
                actor=None, case=None, purpose=purpose, before=known, after=short
            )
            self._told.note_key(body)
            yield self._own(KeyRotationRecord, body, now)

    def _tell_of_keys(self, now: int) -> None:
        if self._keystore is None:
            return
        events = self._keystore.events(self._key_events, KEY_EVENTS_MAX)
        if events:
            emitter, log = self._keystore.emitter, self._log.origin
            told = [
                join(encode(record_of(one, log=log, emitter=emitter, recorded_at=now)))
                for one in events
            ]
            with self._writing:
                self._append(told)
            self._key_events += len(events)

    def _hole(self, place: Partition, first: int, until: int, now: int) -> bytes:
        """What the broker does not show. One offset is Kafka's record of a transaction's end; among
        more there may be records of an aborted transaction, which end with one such."""
        reason: GapReason = "transaction_marker" if until - first == 1 else "aborted"
        return self._gap(place, first, until, reason, now)

    def _expired(self, place: Partition, low: int) -> None:
        """Before reading goes on behind it: whoever reads the log is told."""
        now = self._clock.now_us()
        with self._writing:
            self._append([self._gap(place, self._next[place], low, "expired", now)])
        self._next[place] = low

    def _trailing(self, ends: Offsets, now: int) -> Iterator[bytes]:
        for place, end in ends.items():
            at = self._next.get(place, end)
            if end > at:
                self._next[place] = end
                yield self._hole(place, at, end, now)

    # Second records of an id.

    def _is_superseded(self, message: Message, said: Decided | None) -> bool:
        if message.topic != self._decisions:
            return False
        window = self._superseded.get(message.partition)
        if window is None:
            window = Superseded(since=message.offset)
            first = max(0, message.offset - REACH)
            for earlier in self._earlier(message.partition, first, message.offset):
                _note_id(window, earlier, decided_of(earlier.value))
            self._superseded[message.partition] = window
        return _note_id(window, message, said)

    def _forget(self, fresh: Sequence[Message]) -> None:
        """What no record of this batch, and so of none that comes again, has within its reach."""
        for message in reversed(fresh):  # the first of each partition is the last to say
            if message.topic == self._decisions and message.partition in self._superseded:
                self._superseded[message.partition].forget_before(message.offset)

    # Checkpoints.

    def _begin(self) -> None:
        with self._writing:
            pending, sequence = self._log.begin(), self._sequence
        if pending is None:
            return
        self._due = self._clock.now_us(), {**self._next}
        held = Resume(
            size=pending.made.size,
            root=pending.made.root.hex(),
            next={f"{topic}/{number}": at for (topic, number), at in self._next.items()},
            topics={**self._topics},
            sequence=sequence,
            key_events=self._key_events,
            told=self._told.copy(),
        )

        def finish() -> None:
            began = self._clock.now_us()
            self._log.finish(pending)
            self._finished_s = (self._clock.now_us() - began) / SECOND_US
            self._resume.write([(RESUME, msgspec.json.encode(held))])
            kill_at("auditor.after_resume")

        self._finishing = self._beside(finish)

    def _wait(self) -> None:
        """Until no checkpoint is being finished. What it raised is heard by ``_finished``."""
        if self._finishing is not None:
            self._finishing.exception()

    def _finished(self) -> Offsets:
        if self._finishing is None or not self._finishing.done():
            return {}
        finished, self._finishing = self._finishing, None
        due, self._due = self._due, None
        error = finished.exception()
        if error is not None:
            self._opened = False
            raise error
        if due is None:
            return {}
        self.signed_at, offsets = due
        self.checkpoint_s = self._finished_s
        return offsets

    def _check(self) -> None:
        if not self._opened:
            raise Unavailable("the log is not open", where=self._log.origin, code="log_closed")


def decided_of(value: bytes) -> Decided | None:
    """Of a record of the decisions' topic, which need not be fit for the log; None for what has no
    id."""
    try:
        said = _decided.decode(value)
    except msgspec.DecodeError:
        return None
    found = said.authorization
    return Decided(found.tenant, found.authorization_id, said.emitter, said.given_up)


def _note_id(window: Superseded, message: Message, said: Decided | None) -> bool:
    """Whether it supersedes another. What cannot be read has no id, and supersedes nothing."""
    if said is None:
        return False
    return window.read(message.offset, said.tenant, said.authorization_id)


def _place(message: Message) -> Partition:
    return message.topic, message.partition


def _partition(name: str) -> Partition:
    topic, _, number = name.rpartition("/")
    return topic, int(number)


def _remade(topic: str) -> Corrupt:
    return Corrupt(
        "the log tells of another topic of this name, which was deleted and made again",
        where=topic,
        fix=f"give the new topic's records a new log: {RUNBOOK}",
        code=TOPIC_REMADE,
    )
