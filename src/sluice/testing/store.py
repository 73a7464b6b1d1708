"""The online store in memory: all three of its ports, time in the test's hands."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from msgspec import structs

from sluice.application.ports import (
    LOST,
    MISSING,
    NOEVICTION,
    READY,
    REBUILDING,
    STORE_LOST,
    WRITABLE,
    Arrival,
    Lookup,
    Offsets,
    StateUpdate,
    Store,
    StoreInfo,
    Watermark,
)
from sluice.domain.clock import Clock
from sluice.domain.features.events import to_pending
from sluice.domain.features.stateformat import NOTE, why_not
from sluice.domain.features.states import etag
from sluice.domain.records.decision import MAX_PENDING, Pending
from sluice.domain.records.entity import EntityKind
from sluice.errors import Unavailable


class FakeClock:
    """Stands still until it is told otherwise."""

    def __init__(self, now_us: int = 1_780_000_000_000_000) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        """Microseconds UTC."""
        return self._now_us

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now_us += round(seconds * 1_000_000)


@dataclass(frozen=True, slots=True)
class _Held:
    """Under an authorization id: an idempotency record, or an answer once there is one."""

    digest: bytes
    owner: object
    until_us: int
    answer: bytes | None = None


_EMPTY = Watermark("", MISSING, {})


class FakeStore:
    """OnlineStore and StateStore with the semantics of the Redis adapter; see :class:`FakeStores`.

    down: every call raises Unavailable, what does not wait is lost. slow: observe alone does. full:
    nothing is kept of ids any more, what is there is still read. turned_away: why the store will
    not have us. figures: what it tells of itself. mark: its watermark, READY
    unless told otherwise. missing: views that observe cannot read. states: what is stored, with
    its event time.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        in_progress_ttl_s: float = 10.0,
        answer_ttl_s: float = 3600.0,
        pending_ttl_s: float = 30.0,
    ) -> None:
        self.down = self.slow = self.full = False
        self.turned_away: Unavailable | None = None
        self.made_from: dict[str, str] = {}
        """Ids of topics, by name."""
        self.figures = StoreInfo(0, 0, 0, 0, NOEVICTION)
        self.mark = Watermark("first", READY, {}, NOTE)
        self.missing: set[EntityKind] = set()
        self.states: dict[tuple[EntityKind, str], tuple[bytes, int]] = {}
        self._clock = clock
        self._in_progress_us = round(in_progress_ttl_s * 1_000_000)
        self._answer_us = round(answer_ttl_s * 1_000_000)
        self._pending_us = round(pending_ttl_s * 1_000_000)
        self._ids: dict[tuple[str, str], _Held] = {}
        self._pending: dict[tuple[str, str], list[Pending]] = {}

    def empty(self) -> None:
        """As FLUSHALL does: states, idempotency records, pending entries and watermark go."""
        self.mark = _EMPTY
        for part in (self.states, self._ids, self._pending, self.made_from):
            part.clear()

    def check(self) -> None:
        """Raises Unavailable while ``down``."""
        if self.down:
            raise Unavailable("the fake store is down")

    async def observe(self, batch: Sequence[Arrival]) -> list[Lookup]:
        """See the port."""
        self.check()
        if self.slow:
            raise Unavailable("the fake store is slow")
        return [self._observe(arrival) for arrival in batch]

    async def identify(self, batch: Sequence[Arrival]) -> list[Lookup]:
        """See the port."""
        self.check()
        nothing = Lookup(None, None, None, None)
        return [
            self._found(arrival, nothing, again=True) or self._take(arrival, nothing)
            for arrival in batch
        ]

    def _observe(self, arrival: Arrival) -> Lookup:
        auth, now = arrival.auth, self._clock.now_us()
        reply = Lookup(
            card=self._view("card", auth.card_token),
            terminal=self._view("terminal", auth.terminal_id),
            merchant=self._view("merchant", auth.merchant_id),
            device=b"" if auth.device_id is None else self._view("device", auth.device_id),
            pending=self._others(arrival, now),
        )
        if self.mark.why_not_served():
            reply = Lookup(None, None, None, None, lost=True)
        if self.full:
            return structs.replace(reply, unidentified=True)
        found = self._found(arrival, reply, again=arrival.origin is not None)
        if found is not None:
            return found
        entries = self._pending.setdefault((auth.tenant, auth.card_token), [])
        entries.append(to_pending(auth, arrival.row, now))
        del entries[:-MAX_PENDING]
        return self._take(arrival, reply)

    def _found(self, arrival: Arrival, reply: Lookup, *, again: bool) -> Lookup | None:
        """What the id's key holds for an arrival, None if it is free. again: its own record is."""
        held = self._ids.get(_id_key(arrival))
        if held is None or held.until_us <= self._clock.now_us():
            return None
        if held.digest != arrival.digest:
            return structs.replace(reply, conflict=True)
        if held.answer is not None:
            return structs.replace(reply, earlier=held.answer)
        if again and held.owner == _owner(arrival):
            return None
        return structs.replace(reply, in_progress_elsewhere=True)

    def _take(self, arrival: Arrival, reply: Lookup) -> Lookup:
        if self.full:
            return structs.replace(reply, unidentified=True)
        until_us = self._clock.now_us() + self._in_progress_us
        self._ids[_id_key(arrival)] = _Held(arrival.digest, _owner(arrival), until_us)
        return reply

    def _view(self, kind: EntityKind, key: str) -> bytes | None:
        return None if kind in self.missing else self.states.get((kind, key), (b"", 0))[0]

    def _others(self, arrival: Arrival, now: int) -> tuple[Pending, ...]:
        auth = arrival.auth
        others: dict[str, Pending] = {}
        # The newest MAX_PENDING, of which the arrival's own entry is one.
        for entry in self._pending.get((auth.tenant, auth.card_token), [])[-MAX_PENDING + 1 :]:
            fresh = entry.left_at >= now - self._pending_us
            if fresh and entry.authorization_id != auth.authorization_id:
                others.setdefault(entry.authorization_id, entry)
        return tuple(others.values())

    # `remember` is one name in both ports with two signatures: the featurizer's is given tuples
    # of plain values. One fake serves both, so it tells them apart by their length.
    def remember(
        self,
        answers: Sequence[tuple[Arrival, bytes]] | Sequence[tuple[str, str, bytes, bytes]],
    ) -> None:
        """See both ports."""
        for item in answers:
            if len(item) == 2:
                if self.down:
                    return
                arrival, answer = item
                self._keep(_id_key(arrival), arrival.digest, answer)
            else:
                self.check()
                tenant, authorization_id, digest, answer = item
                self._keep((tenant, authorization_id), digest, answer)

    def _keep(self, where: tuple[str, str], digest: bytes, answer: bytes) -> None:
        held = self._ids.get(where)
        fresh = held is not None and held.until_us > self._clock.now_us()
        if self.full or (fresh and held is not None and held.answer is not None):
            return
        until_us = self._clock.now_us() + self._answer_us
        self._ids[where] = _Held(digest, None, until_us, answer)

    def release(self, arrivals: Sequence[Arrival]) -> None:
        """See the port."""
        for arrival in arrivals:
            held = self._ids.get(_id_key(arrival))
            if not self.down and held is not None and held.owner == _owner(arrival):
                del self._ids[_id_key(arrival)]

    def info(self) -> StoreInfo:
        """See the port."""
        self.check()
        return self.figures

    def refusal(self) -> Unavailable | None:
        """See the port."""
        return self.turned_away

    def clear(self) -> int:
        """See the port."""
        self.check()
        removed = len(self.states)
        self.states.clear()
        return removed

    def close(self) -> None:
        """Nothing to leave."""

    def read(self, entities: Sequence[tuple[EntityKind, str]]) -> list[bytes]:
        """See the port."""
        self.check()
        return [self.states.get(entity, (b"", 0))[0] for entity in entities]

    def write(self, updates: Sequence[StateUpdate]) -> list[bool]:
        """See the port."""
        self.check()
        return [self._write(update) for update in updates]

    def _write(self, update: StateUpdate) -> bool:
        where = (update.entity, update.key)
        if etag(self.states.get(where, (b"", 0))[0]) != update.etag:
            return False
        self.states[where] = (update.state, update.event_us)
        return True


class FakeWatermark:
    """The port WatermarkStore over the mark of a FakeStore."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store

    def read(self) -> Watermark:
        """See the port."""
        self._store.check()
        return self._store.mark

    def initialise(self) -> bool:
        """See the port."""
        if self.read() != _EMPTY:
            return False
        self._set(id=uuid.uuid4().hex, state=READY, format=NOTE, **self._begun())
        return True

    def adopt(self) -> None:
        """See the port."""
        mark = self.read()
        if mark.state == MISSING:
            return
        if why := why_not(mark.format):
            raise Unavailable(f"the fake store is not used: {why}", code=STORE_LOST)
        self._set(format=NOTE)

    def advance(self, known: Offsets, ends: Offsets | None = None) -> None:
        """See the port."""
        mark = self.read()
        if mark.state not in WRITABLE:
            raise Unavailable(f"the fake store's states are {mark.state}", code=STORE_LOST)
        self.adopt()
        applied = dict(mark.applied)
        for place, offset in known.items():
            have = applied.get(place, 0)
            if have < offset:
                why = f"it ends at offset {have} of {place[0]}/{place[1]}"
                self._set(state=LOST, applied=applied, why=why)
                raise Unavailable(
                    f"the fake store went back: its states end at offset {have} of "
                    f"{place[0]}/{place[1]}",
                    code=STORE_LOST,
                )
            end = offset if ends is None else ends.get(place, offset)
            if end > have:
                applied[place] = end
        self._set(applied=applied)

    def bind(self, topic_ids: Mapping[str, str]) -> None:
        """See the port."""
        self.read()
        for topic, topic_id in topic_ids.items():
            if self._store.made_from.setdefault(topic, topic_id) != topic_id:
                self.lose(f"{topic} was deleted and made again")
                raise Unavailable(f"the fake store is of another {topic}", code=STORE_LOST)

    def lose(self, why: str) -> None:
        """See the port."""
        self.read()
        self._set(state=LOST, why=why)

    def begin(self) -> str:
        """See the port."""
        self.read()
        self._store.made_from.clear()
        self._store.mark = Watermark(uuid.uuid4().hex, REBUILDING, {}, NOTE, "", **self._begun())
        return self._store.mark.id

    def _begun(self) -> dict[str, Any]:
        info = self._store.figures
        return {"run_id": info.run_id, "evicted_keys": info.evicted_keys}

    def move(self, watermark_id: str, state: str, applied: Offsets | None = None) -> None:
        """See the port."""
        mark = self.read()
        if mark.id != watermark_id:
            raise Unavailable(
                "the store was lost again, or another rebuild took it", code=STORE_LOST
            )
        self._set(state=state, applied={**mark.applied, **(applied or {})})

    def close(self) -> None:
        """Nothing to leave."""

    def _set(self, **changes: object) -> None:
        self._store.mark = replace(self._store.mark, **changes)  # type: ignore[arg-type]


class _Online:
    """A FakeStore as a decider's connection."""

    def __init__(self, store: FakeStore, on_trust: Callable[[str], None]) -> None:
        self._store = store
        self._on_trust = on_trust
        self._why: str | None = None
        self._distrust = ""
        self.identify = store.identify
        self.remember = store.remember
        self.release = store.release
        self.refusal = store.refusal

    async def open(self) -> None:
        self._store.check()

    async def close(self) -> None: ...

    async def observe(self, batch: Sequence[Arrival]) -> list[Lookup]:
        replies = await self._store.observe(batch)
        why = self._distrust or self._store.mark.why_not_served()
        self._tell(why)
        if why:
            return [
                structs.replace(
                    reply,
                    card=None,
                    terminal=None,
                    merchant=None,
                    device=None,
                    pending=(),
                    lost=True,
                )
                for reply in replies
            ]
        return replies

    def distrust(self, why: str) -> None:
        self._distrust = why
        if why:
            self._tell(why)

    def _tell(self, why: str) -> None:
        if why != self._why:
            self._why = why
            self._on_trust(why)


class FakeStores:
    """The port Store: any number of connections to one FakeStore. Register it under a scheme of
    its own in ``bootstrap.STORES``."""

    def __init__(self, store: FakeStore) -> None:
        self.store = store

    def online(self, *, batches: bool, on_trust: Callable[[str], None]) -> _Online:
        """See the port."""
        return _Online(self.store, on_trust)

    def states(self) -> FakeStore:
        """See the port."""
        return self.store

    def watermark(self) -> FakeWatermark:
        """See the port."""
        return FakeWatermark(self.store)


def declare_ready(store: Store) -> None:
    """Give a new store its watermark, as the first start of a featurizer does."""
    watermark = store.watermark()
    watermark.initialise()
    watermark.close()


def _id_key(arrival: Arrival) -> tuple[str, str]:
    return arrival.auth.tenant, arrival.auth.authorization_id


def _owner(arrival: Arrival) -> object:
    return arrival.origin or arrival.received_at
