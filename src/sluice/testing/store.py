"""The online store in memory: both of its ports, time in the test's hands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import structs

from sluice.adapters.redis.states import RedisStateStore
from sluice.adapters.redis.watermark import StoreWatermark
from sluice.application.ports import Arrival, Lookup, StateUpdate
from sluice.domain.clock import Clock
from sluice.domain.features.events import to_pending
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


class FakeStore:
    """OnlineStore and StateStore with the semantics of the Redis adapter.

    down: every call raises Unavailable, what does not wait is lost. lost: states are gone and not
    rebuilt. missing: views that observe cannot read. states: what is stored, with its event time.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        in_progress_ttl_s: float = 10.0,
        answer_ttl_s: float = 3600.0,
        pending_ttl_s: float = 30.0,
    ) -> None:
        self.down = False
        self.lost = False
        self.missing: set[EntityKind] = set()
        self.states: dict[tuple[EntityKind, str], tuple[bytes, int]] = {}
        self._clock = clock
        self._in_progress_us = round(in_progress_ttl_s * 1_000_000)
        self._answer_us = round(answer_ttl_s * 1_000_000)
        self._pending_us = round(pending_ttl_s * 1_000_000)
        self._held: dict[tuple[str, str], _Held] = {}
        self._pending: dict[tuple[str, str], list[Pending]] = {}

    def _check(self) -> None:
        if self.down:
            raise Unavailable("the fake store is down")

    async def observe(self, batch: Sequence[Arrival]) -> list[Lookup]:
        """See the port."""
        self._check()
        return [self._observe(arrival) for arrival in batch]

    def _observe(self, arrival: Arrival) -> Lookup:
        auth, now = arrival.auth, self._clock.now_us()
        reply = Lookup(
            card=self._view("card", auth.card_token),
            terminal=self._view("terminal", auth.terminal_id),
            merchant=self._view("merchant", auth.merchant_id),
            device=b"" if auth.device_id is None else self._view("device", auth.device_id),
            pending=self._others(arrival, now),
        )
        if self.lost:
            reply = Lookup(None, None, None, None, lost=True)
        where = _id_key(arrival)
        held = self._held.get(where)
        if held is None or held.until_us <= now:
            held = None
        elif held.digest != arrival.digest:
            return structs.replace(reply, conflict=True)
        elif held.answer is not None:
            return structs.replace(reply, earlier=held.answer)
        elif arrival.origin is None or held.owner != arrival.origin:
            return structs.replace(reply, in_progress_elsewhere=True)
        self._held[where] = _Held(arrival.digest, _owner(arrival), now + self._in_progress_us)
        entries = self._pending.setdefault((auth.tenant, auth.card_token), [])
        entries.append(to_pending(auth, arrival.row, now))
        del entries[:-MAX_PENDING]
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
                self._check()
                tenant, authorization_id, digest, answer = item
                self._keep((tenant, authorization_id), digest, answer)

    def _keep(self, where: tuple[str, str], digest: bytes, answer: bytes) -> None:
        until_us = self._clock.now_us() + self._answer_us
        self._held[where] = _Held(digest, None, until_us, answer)

    def release(self, arrivals: Sequence[Arrival]) -> None:
        """See the port."""
        for arrival in arrivals:
            held = self._held.get(_id_key(arrival))
            if not self.down and held is not None and held.owner == _owner(arrival):
                del self._held[_id_key(arrival)]

    def read(self, entities: Sequence[tuple[EntityKind, str]]) -> list[bytes]:
        """See the port."""
        self._check()
        return [self.states.get(entity, (b"", 0))[0] for entity in entities]

    def write(self, updates: Sequence[StateUpdate]) -> list[bool]:
        """See the port."""
        self._check()
        return [self._write(update) for update in updates]

    def _write(self, update: StateUpdate) -> bool:
        where = (update.entity, update.key)
        if etag(self.states.get(where, (b"", 0))[0]) != update.etag:
            return False
        self.states[where] = (update.state, update.event_us)
        return True


def declare_ready(url: str) -> None:
    """Give a new store its watermark, as the first start of a featurizer does."""
    store = RedisStateStore(url)
    StoreWatermark(store.connection).initialise()
    store.close()


def _id_key(arrival: Arrival) -> tuple[str, str]:
    return arrival.auth.tenant, arrival.auth.authorization_id


def _owner(arrival: Arrival) -> object:
    return arrival.origin or arrival.received_at
