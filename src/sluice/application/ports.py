"""What the decision pipeline needs of the outside. Adapters keep these promises, fakes keep the
same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from sluice.application.sealing import SealingKey
from sluice.domain.features.stateformat import why_not
from sluice.domain.records.authorization import Authorization
from sluice.domain.records.decision import Decision, Origin, Pending
from sluice.domain.records.entity import EntityKind
from sluice.domain.records.key_event import KeyEvent
from sluice.domain.reference import Reference
from sluice.errors import Unavailable

Ints = npt.NDArray[np.int64]

Partition = tuple[str, int]
"""Topic and number."""
Offsets = Mapping[Partition, int]
"""By topic and partition: the next offset to read."""
NO_OFFSETS: Offsets = MappingProxyType({})


class Message(msgspec.Struct, frozen=True, gc=False):
    """One record as it lies in Kafka. value is b"" for a tombstone."""

    value: bytes
    key: bytes | None
    topic: str
    partition: int
    offset: int
    traceparent: str | None
    written_ms: int = 0
    """When its producer wrote it, milliseconds UTC."""


OnAssign = Callable[[list[Partition]], Offsets | None]
"""Told which partitions come; may answer with offsets to start at instead of the committed ones."""
OnRevoke = Callable[[list[Partition], bool], None]
"""Told which partitions leave. True: they are lost already, another member may have them, and a
commit would be refused; drop what is unfinished. False: finish and commit now."""


TOPIC_REMADE = "topic_remade"
"""Code of a Corrupt: a topic was deleted and made again, and its offsets mean other records."""
RECORDS_GONE = "records_gone"
"""Code of a Corrupt: records expired before they were read."""


class Consumer(Protocol):
    """A member of a consumer group. Commits nothing by itself. One thread only."""

    def listen(self, on_assign: OnAssign, on_revoke: OnRevoke) -> None:
        """Whom to tell of partitions that come and leave; before the first poll_batch. They are
        called inside poll_batch and close."""
        ...

    def poll_batch(self, limit: int, wait_s: float) -> list[Message]:
        """Up to limit messages, in order within a partition; waits at most wait_s for the first.
        Raises Unavailable, Misconfigured; Corrupt with code TOPIC_REMADE, or RECORDS_GONE where
        nothing may be passed over."""
        ...

    def confirm(self) -> Mapping[str, str]:
        """Ask whether all that we read is of the topics that are there now. Returns their ids by
        name, none where the broker gives none. Raises Corrupt with code TOPIC_REMADE, Unavailable.
        """
        ...

    def commit(self, offsets: Offsets) -> None:
        """Commit the next offset of each partition. Raises Unavailable, with code "rebalanced" if
        they are no longer ours."""
        ...

    def rewind(self, starts: Offsets = NO_OFFSETS) -> None:
        """Go back to the committed offsets, or to those of starts: what was read since comes again.
        Raises Unavailable."""
        ...

    def oldest(self, partition: Partition) -> int:
        """The first offset that its topic still holds. Raises Unavailable."""
        ...

    def committed(self, partitions: Iterable[Partition]) -> Offsets:
        """The committed offset of each, those without one left out. Raises Unavailable."""
        ...

    def assignment(self) -> list[Partition]:
        """The partitions that are ours now."""
        ...

    def partitions(self) -> list[Partition]:
        """All of our topics, whoever in the group has them. Raises Unavailable."""
        ...

    def lag(self) -> Offsets:
        """Messages behind the end, of each partition of ours; makes no request."""
        ...

    def uncommitted(self) -> Offsets:
        """Messages that are not committed, of each partition of ours: what waits while nothing is
        read. Asks the broker. Raises Unavailable."""
        ...

    def reachable(self) -> bool:
        """False while no broker can be reached. Asks one only if all were lost."""
        ...

    def close(self) -> None:
        """Leave the group; tells of what we hold."""
        ...


ProducerRecord = tuple[bytes | str | None, bytes, str | None]
"""Key, value and traceparent."""


class Transactions(Consumer, Protocol):
    """A member whose offsets are committed together with the records made from its messages.

    ``commit`` shows both at once. Where it raises, neither is visible and the same messages come
    again; Corrupt (fenced): exit. ``rewind`` first drops what is open.

    generation: another number where a commit raised without knowing what became of it, because the
    broker said nothing for longer than a transaction may take. It is visible or not, and after
    ``rewind`` the committed offsets tell.
    """

    @property
    def generation(self) -> int:
        """See the class."""
        ...

    def begin(self) -> None:
        """Open a transaction. Raises Corrupt if another process took our id."""
        ...

    def produce(
        self, topic: str, key: bytes | str | None, value: bytes, traceparent: str | None = None
    ) -> None:
        """Queue one record of it. A failure may surface at the commit only."""
        ...

    def produce_each(self, topic: str, records: Iterable[ProducerRecord]) -> None:
        """Queue many."""
        ...


class Count(Protocol):
    """Where an adapter counts what goes wrong and stops nobody, at the place where it happens.

    metric, labels: a row of :data:`sluice.telemetry.TABLE`, which adapters do not import.
    """

    def __call__(self, metric: str, /, *labels: str, by: float = 1) -> None:
        """Add to a counter."""
        ...


def uncounted(metric: str, /, *labels: str, by: float = 1) -> None:
    """The Count of verbs and tests that show no metrics."""


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """An authorization at an entrypoint, before anything was looked up.

    row: the kernel's (:func:`sluice.domain.features.events.event_row`).
    digest: 8-byte BLAKE2b of the canonical encoding; tells a repeat from a conflict.
    traceparent: W3C trace context of the caller, valid, carried on to ``decisions.v1``.
    """

    auth: Authorization
    amount_minor: int
    """In the reference currency."""
    row: tuple[int, ...]
    digest: bytes
    received_at: int
    origin: Origin | None = None
    traceparent: str | None = None


class Lookup(msgspec.Struct, frozen=True, gc=False):
    """What the store knew of one arrival, in one round trip that also left a pending entry.

    A state is None where its view could not be read, b"" where the entity was never written.
    earlier: the answer's bytes if this id was decided before; in_progress_elsewhere: another
    arrival holds the id and has not answered yet; conflict: the id came with other content.
    lost: the store forgot what it held and is not rebuilt yet; every view is None. unidentified:
    the store neither kept an idempotency record nor said what it knows of the id; an earlier answer
    may have been missed.
    """

    card: bytes | None
    terminal: bytes | None
    merchant: bytes | None
    device: bytes | None
    pending: tuple[Pending, ...] = ()
    earlier: bytes | None = None
    in_progress_elsewhere: bool = False
    conflict: bool = False
    lost: bool = False
    unidentified: bool = False


UNIDENTIFIED = Lookup(None, None, None, None, unidentified=True)
"""The lookup in a store that is down: every view missing, and nothing known of the id."""


class OnlineStore(Protocol):
    """Reads states and leaves pending entries; one round trip for the whole batch."""

    async def observe(self, batch: Sequence[Arrival]) -> list[Lookup]:
        """(n,) arrivals to (n,) replies, in order: of two arrivals of one card, the second
        sees the first as pending. Raises Unavailable past its budget."""
        ...

    async def identify(self, batch: Sequence[Arrival]) -> list[Lookup]:
        """The ids alone: take or find the idempotency record, read an earlier answer. Every view is
        None. (n,) arrivals, of which ``observe`` may have left a record that nobody heard of, to n
        replies. Raises Unavailable past its own budget."""
        ...

    def remember(self, answers: Sequence[tuple[Arrival, bytes]]) -> None:
        """Keep each answer under its authorization id, unless an answer is there already: what was
        answered first stays. Does not wait, may be lost."""
        ...

    def release(self, arrivals: Sequence[Arrival]) -> None:
        """Give up the idempotency records of arrivals that got no decision; does not wait, may be
        lost."""
        ...


class OnlineConnection(OnlineStore, Protocol):
    """The same, and its connection."""

    async def open(self) -> None:
        """Connect. Raises Unavailable if it is down now; it is tried again forever."""
        ...

    async def close(self) -> None:
        """Leave what is unanswered and disconnect."""
        ...

    def refusal(self) -> Unavailable | None:
        """Why it turned us away each time we came: a password, rights or a database that are not
        the server's. None if it has ever had us, or does not answer at all."""
        ...

    def distrust(self, why: str) -> None:
        """Serve no state while there is a reason; "" for none any more. From any thread."""
        ...


@dataclass(frozen=True, slots=True)
class Scores:
    """Probability of fraud in parts per million, and what speaks for it.

    ppm: (n,) int64. Reasons of a row are computed only where someone asks: see Scorer.reasons.
    """

    ppm: Ints
    release: str


class Scorer(Protocol):
    """One release of a model. Deterministic: same rows, same bits, whatever the batch."""

    release: str
    digest: str
    """SHA-256 of its manifest: what an activation names."""
    signer: str
    """Id of the key that signed it; "" for what needs no signature."""
    tolerates: frozenset[str]
    """Views that may be missing (degradation level D1)."""
    columns: Ints
    """(f,) of its inputs, in catalogue rows."""
    reference: Reference | None
    """The population that it was made for, where it says so."""

    def score(self, features: Ints) -> Scores:
        """(n, f) catalogue features to n scores. Raises Unavailable if the model cannot run."""
        ...

    def reasons(self, row: Ints) -> list[str]:
        """(f,) one row to reason codes, strongest first."""
        ...


NOT_SENT = "not_sent"
"""Code of an Unavailable: refused before anything left this process."""


Became = Callable[[Sequence[int]], None]
"""Takes the places of the records that are not known to be durable, and never will be."""


class DecisionLog(Protocol):
    """``decisions.v1``."""

    async def append(self, decisions: Sequence[tuple[Arrival, Decision]], became: Became) -> None:
        """Returns when every record is durable (acks=all). Raises Unavailable if one may not be;
        its code is NOT_SENT if none can be.

        became: told, in the caller's event loop, what became of the records after such an error;
        at most once, never after a NOT_SENT, and not while nobody knows."""
        ...


class StateUpdate(msgspec.Struct, frozen=True):
    """One state to store, if the stored one still carries the etag that we read.

    etag: bytes 1..9 of the state read (:func:`sluice.domain.features.states.etag`), b"" for none.
    event_us: newest event in the state; becomes Feast's event timestamp.
    """

    entity: EntityKind
    key: str
    etag: bytes
    state: bytes
    event_us: int


UNKNOWN = "unknown"
"""The eviction policy of a store that does not say."""
NOEVICTION = "noeviction"
"""The only one that forgets nothing."""


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """The store's own figures. An evicted state reads as never written: evicted_keys must be 0, the
    policy noeviction."""

    used_memory_bytes: int
    max_memory_bytes: int
    """0: no bound."""
    evicted_keys: int
    """Since the server started."""
    process_id: int
    eviction_policy: str
    """UNKNOWN where the server hides it."""
    run_id: str = ""
    """Of the server's start: where it is another one, evicted_keys began anew."""
    replica: bool = False
    """It takes no writes, and may be behind."""


class StateStore(Protocol):
    """The featurizer's side of the online store. Synchronous: its caller works in batches."""

    def read(self, entities: Sequence[tuple[EntityKind, str]]) -> list[bytes]:
        """(n,) entities to (n,) states, b"" where none. Raises Unavailable."""
        ...

    def write(self, updates: Sequence[StateUpdate]) -> list[bool]:
        """Compare and set each; False where another writer came first. Raises Unavailable."""
        ...

    def remember(self, answers: Sequence[tuple[str, str, bytes, bytes]]) -> None:
        """Keep (tenant, authorization_id, digest, answer) of decided authorizations, each unless an
        answer is there already. Raises Unavailable."""
        ...

    def info(self) -> StoreInfo:
        """Memory and evictions. Raises Unavailable, also where we may not ask."""
        ...

    def clear(self) -> int:
        """Remove every state, and nothing else; nobody may write meanwhile. Returns how many.
        Raises Unavailable."""
        ...

    def close(self) -> None:
        """Disconnect."""
        ...


# What a store is. Only READY is served.
READY = "ready"
"""Its states are what the log makes."""
LOST = "lost"
"""It forgot some."""
REBUILDING = "rebuilding"
"""They are being made again from the archive."""
CATCHING_UP = "catching_up"
"""Featurizers apply what the archive does not hold yet."""
MISSING = "missing"
"""A store without a watermark: new, or emptied."""
WRITABLE = frozenset({READY, CATCHING_UP})
"""What featurizers write to."""
NO_TOPIC = "no_topic"
"""Code of Unavailable: the brokers answer, and a topic is not there."""
STORE_LOST = "store_lost"
"""Code of an Unavailable: the store lacks what it once held, or holds states of another format than
ours, and waiting does not help."""
STORE_RUNBOOK = "docs/runbooks/store-down.md"


@dataclass(frozen=True, slots=True)
class Watermark:
    """What a store says of itself. id: made anew with each installation and each rebuild."""

    id: str
    state: str
    applied: Offsets
    """What has taken effect in it."""
    format: str = ""
    """What its states mean (:mod:`sluice.domain.features.stateformat`); "" if it does not say."""
    why: str = ""
    """Why it is LOST, if whoever found it so has said."""
    run_id: str = ""
    evicted_keys: int = 0
    """The server's, when the store was declared or its rebuild began: what had been evicted by then
    was no state of ours, or is made again."""

    def why_not_served(self) -> str:
        """Why deciders leave its states out, "" if they do not."""
        return why_not(self.format) if self.state == READY else self.state

    def why_not_written(self) -> str:
        """Why featurizers stay away from it, "" if they do not: its state, or its format."""
        if self.state not in WRITABLE:
            if self.state == MISSING:
                return ""
            return f"the online store's states are {self.state}{self.why and f' ({self.why})'}"
        why = why_not(self.format)
        return why and f"the online store is not used: {why}"

    def why_forgetful(self, info: StoreInfo) -> str:
        """Why what is in it now need not be what was put there, "" if it is: an evicted state reads
        as one that was never written, and an evicted idempotency record as an id never seen."""
        if info.eviction_policy not in (NOEVICTION, UNKNOWN):
            return (
                f"its maxmemory-policy is {info.eviction_policy}, by which it may forget any key: "
                f"set {NOEVICTION}"
            )
        known = self.evicted_keys if info.run_id == self.run_id else 0
        if self.state != MISSING and info.evicted_keys > known:
            return f"it evicted {info.evicted_keys - known} keys"
        return ""


class WatermarkStore(Protocol):
    """A store's watermark, for those that write states: featurizer, backfill, rebuild.

    Every method raises Unavailable where the store is, Misconfigured where it refuses our password.
    """

    def read(self) -> Watermark:
        """What the store says of itself; state MISSING without a watermark."""
        ...

    def initialise(self) -> bool:
        """Declare a new, empty store READY. False, and nothing changes, if it has a watermark."""
        ...

    def adopt(self) -> None:
        """Note that its states have our format, before we write the first. Nothing without a
        watermark. Raises Unavailable with code STORE_LOST if they have one that we cannot read."""
        ...

    def advance(self, known: Offsets, ends: Offsets | None = None) -> None:
        """Check that the store holds what it must, and note what it holds from now on.

        known: what was applied to it before, as far as we know. ends: of the batch just applied,
        a part of the same partitions. Offsets only rise. Raises Unavailable with code STORE_LOST if
        it is behind ``known`` (it is LOST from then on), is not WRITABLE, has no watermark, or a
        format that we cannot :meth:`adopt`; the caller then writes nothing more to it.
        """
        ...

    def bind(self, topic_ids: Mapping[str, str]) -> None:
        """Check that the states were made from these topics, by name, and note what is not noted
        yet. Raises Unavailable with code STORE_LOST if they were made from other ones: it is LOST
        from then on."""
        ...

    def lose(self, why: str) -> None:
        """Mark the store as LOST: nobody serves it or writes to it until it is rebuilt."""
        ...

    def begin(self) -> str:
        """Take the store for a rebuild. Returns the new id, by which later moves prove theirs."""
        ...

    def move(self, watermark_id: str, state: str, applied: Offsets | None = None) -> None:
        """Go on to the next state of a rebuild. Raises Unavailable with code STORE_LOST if the
        store is no longer the one begun with."""
        ...

    def close(self) -> None:
        """Disconnect."""
        ...


class Store(Protocol):
    """One online store, by its three sides. Each call makes a connection of its own, which its
    caller closes."""

    def online(self, *, batches: bool, on_trust: Callable[[str], None]) -> OnlineConnection:
        """The decider's. batches: with the stream processor's budget. on_trust: told why states
        are not served, "" when they are again."""
        ...

    def states(self) -> StateStore:
        """The featurizer's."""
        ...

    def watermark(self) -> WatermarkStore:
        """What it says of itself."""
        ...


class Keystore(Protocol):
    """Keys of the compliance log's sealed parts: one for each subject and quarter.

    subject: :func:`sluice.application.sealing.subject_of`; period: ``period_of``, like 2026Q4.
    emitter: who its events are of, for as long as there are copies of it.
    """

    @property
    def emitter(self) -> str:
        """See the class."""
        ...

    def subject(self, tenant: str, card_token: str) -> str:
        """The pseudonym of a card, by the keystore's own pepper. Asks nobody."""
        ...

    def keys(self, wanted: Sequence[tuple[str, str]]) -> list[SealingKey | None]:
        """(n,) subjects and periods to n keys to seal with; None where it was destroyed: then
        nothing is sealed. One that was never made is made, and durable on return. Raises
        Unavailable; Corrupt where keystore and root keys do not belong together."""
        ...

    def key(self, subject: str, period: str) -> SealingKey:
        """The same for one. Raises Erased besides."""
        ...

    def existing(self, subject: str, period: str) -> SealingKey:
        """The key to open with; makes none. Raises Erased where there is none (any more)."""
        ...

    def events(self, since: int, limit: int) -> list[KeyEvent]:
        """What happened to the keys, from this sequence on, at most ``limit`` of them.

        since: one behind the last that the log holds. Raises Corrupt where the keystore has had
        fewer: it was brought back from a copy, and may hold keys that were destroyed since.
        """
        ...
