"""What the decider reads and leaves, in one round trip a batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec import structs

from sluice.adapters.feast.plan import COMPILED, decode_state
from sluice.adapters.redis import claims, marker
from sluice.adapters.redis.claims import KeepAnswer
from sluice.adapters.redis.commands import DELETE_IF, ReadState, bulk, pack
from sluice.adapters.redis.connection import Connection, ReplyError
from sluice.adapters.redis.connection import Reply as Answered
from sluice.application.ports import Arrival, Reply
from sluice.domain.clock import Clock
from sluice.domain.decision import MAX_PENDING, Pending
from sluice.domain.events import to_pending
from sluice.domain.observation import EntityKind

BATCH_MAX = 1000
"""Arrivals a round trip; about 1 MB each way, some 10 ms of the server."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Pending).decode

_ENTER = (b"*3\r\n" + bulk(b"RPUSH"), b"*4\r\n" + bulk(b"LTRIM"), b"*4\r\n" + bulk(b"LRANGE"))
_NEWEST = bulk(b"-%d" % MAX_PENDING) + bulk(b"-1")


@dataclass(slots=True)
class Counts:
    """What went wrong without stopping anyone, since the start. For the metrics."""

    views_missing: dict[EntityKind, int] = field(default_factory=lambda: dict.fromkeys(COMPILED, 0))
    """Replies that were errors, or no state."""
    claims_refused: int = 0
    """Arrivals that go on without a claim: the store refused to keep one."""
    pending_refused: int = 0
    """Arrivals that left no entry for the next one of their card."""
    pending_dropped: int = 0
    """Entries pushed out by MAX_PENDING newer ones of the same card."""
    pending_undecodable: int = 0


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """The server's own figures. An evicted state reads as never written: evicted_keys must be 0."""

    used_memory_bytes: int
    max_memory_bytes: int
    """0: no bound."""
    evicted_keys: int
    process_id: int


class RedisOnlineStore:
    """The port OnlineStore on one Redis or Valkey server.

    budget_s: longest wait for a batch's replies. The TTLs: of a claim while its decision is
    made, of an answer, and of a pending entry (longer than the featurizer's lag). on_trust: told
    why states are not served, "" when they are again.
    """

    def __init__(
        self,
        url: str,
        clock: Clock,
        *,
        budget_s: float = 0.010,
        claim_ttl_s: float = 10.0,
        answer_ttl_s: float = 3600.0,
        pending_ttl_s: float = 30.0,
        on_trust: Callable[[str], None] = lambda _why: None,
    ) -> None:
        self.connection = Connection(url, budget_s=budget_s)
        self._trust = marker.Trust(on_trust)
        self.counts = Counts()
        self._clock = clock
        self._pending_ttl_us = round(pending_ttl_s * 1_000_000)
        self._replica = os.urandom(8)
        self._claim_ttl_ms = b"%d" % round(claim_ttl_s * 1000)
        self._claim_tail = b"".join(
            bulk(word) for word in (b"NX", b"GET", b"PX", self._claim_ttl_ms)
        )
        self._keep = KeepAnswer(answer_ttl_s)
        self._expire_tail = bulk(b"%d" % round(pending_ttl_s * 1000))
        self._card, self._terminal, self._merchant, self._device = (
            ReadState(COMPILED[kind]) for kind in ("card", "terminal", "merchant", "device")
        )

    async def open(self) -> None:
        """Connect. Raises Unavailable if the server is down now; it is tried again forever."""
        await self.connection.open()

    async def close(self) -> None:
        """Leave what is unanswered and disconnect."""
        await self.connection.close()

    async def observe(self, batch: Sequence[Arrival]) -> list[Reply]:
        """See the port. Batches above BATCH_MAX take several round trips, each with its budget."""
        replies: list[Reply] = []
        for at in range(0, len(batch), BATCH_MAX):
            replies += await self._observe(batch[at : at + BATCH_MAX])
        return replies

    async def _observe(self, batch: Sequence[Arrival]) -> list[Reply]:
        now_us = self._clock.now_us()
        parts: list[bytes] = []
        left = [self._ask(parts, arrival, now_us) for arrival in batch]
        parts.append(marker.READ)  # last: a store emptied while it answered shows too
        wanted = sum(asked for _, _, asked in left) + 1
        answers = await self.connection.call(b"".join(parts), wanted)
        if isinstance(answers[0], ReplyError) and all(isinstance(a, ReplyError) for a in answers):
            raise self.connection.unavailable(f"it refuses every command ({answers[0]})")
        following = iter(answers).__next__
        oldest_us = now_us - self._pending_ttl_us
        replies = [
            self._reply(following, arrival, claim, entry, oldest_us)
            for arrival, (claim, entry, _) in zip(batch, left, strict=True)
        ]
        if self._trust.judge(following()):
            return replies
        # Claims and answers still hold: what is there was left there.
        return [
            structs.replace(
                reply, card=None, terminal=None, merchant=None, device=None, pending=(), lost=True
            )
            for reply in replies
        ]

    def _ask(self, parts: list[bytes], arrival: Arrival, now_us: int) -> tuple[bytes, bytes, int]:
        """Append one arrival's commands. Returns its claim, its pending entry, their number.

        The states are read before the pending entries: what the featurizer moves from the one to
        the other in between is then seen twice, and dropped by its id, but never missed.
        """
        auth = arrival.auth
        claim = claims.claim(arrival, self._replica)
        entry = _encode(to_pending(auth, arrival.row, now_us))
        list_key = bulk(_pending_key(auth.tenant, auth.card_token))
        parts += (
            _CLAIM,
            bulk(claims.key(auth.tenant, auth.authorization_id)),
            bulk(claim),
            self._claim_tail,
        )
        self._card.add(parts, auth.card_token)
        self._terminal.add(parts, auth.terminal_id)
        self._merchant.add(parts, auth.merchant_id)
        if auth.device_id is not None:
            self._device.add(parts, auth.device_id)
        push, trim, fetch = _ENTER
        parts += (push, list_key, bulk(entry), trim, list_key, _NEWEST, fetch, list_key, _NEWEST)
        parts += (_EXPIRE, list_key, self._expire_tail)
        return claim, entry, 8 if auth.device_id is None else 9

    def _reply(
        self,
        following: Callable[[], Answered],
        arrival: Arrival,
        claim: bytes,
        entry: bytes,
        oldest_us: int,
    ) -> Reply:
        """Take one arrival's replies, in the order of its commands."""
        auth = arrival.auth
        held = self._held(following(), arrival, claim)
        card = self._state("card", following())
        terminal = self._state("terminal", following())
        merchant = self._state("merchant", following())
        device = b"" if auth.device_id is None else self._state("device", following())
        length, _, entries, _ = following(), following(), following(), following()
        if isinstance(length, ReplyError):
            self.counts.pending_refused += 1
        elif length > MAX_PENDING:
            self.counts.pending_dropped += 1
        pending: tuple[Pending, ...] = ()
        if isinstance(entries, ReplyError):
            # Without them the card's windows may lack what was judged moments ago: not exact.
            self.counts.views_missing["card"] += card is not None
            card = None
        elif entries != [entry]:
            pending = self._pending(entries, entry, auth.authorization_id, oldest_us)
        if held is None:
            return Reply(card, terminal, merchant, device, pending)
        list_key = _pending_key(auth.tenant, auth.card_token)
        # It will not be decided here, so what it left must not count.
        self.connection.post(pack(b"LREM", list_key, b"-1", entry), 1)
        return Reply(
            card,
            terminal,
            merchant,
            device,
            pending,
            held.earlier,
            held.claimed_elsewhere,
            held.conflict,
        )

    def _held(self, answer: Answered, arrival: Arrival, claim: bytes) -> claims.Held | None:
        """None if the arrival is ours to decide."""
        if answer is None:
            return None
        if isinstance(answer, ReplyError):
            self.counts.claims_refused += 1
            return None
        held = claims.read(answer, claim, from_stream=arrival.origin is not None)
        if held.earlier is not None or held.claimed_elsewhere or held.conflict:
            return held
        # Ours from before a redelivery: give it the whole time again.
        where = claims.key(arrival.auth.tenant, arrival.auth.authorization_id)
        self.connection.post(pack(b"PEXPIRE", where, self._claim_ttl_ms), 1)
        return None

    def _state(self, kind: EntityKind, answer: Answered) -> bytes | None:
        if answer is None:
            return b""
        if not isinstance(answer, ReplyError):
            try:
                return decode_state(answer)
            except ValueError:
                pass
        self.counts.views_missing[kind] += 1
        return None

    def _pending(
        self, entries: list[bytes], own: bytes, own_id: str, oldest_us: int
    ) -> tuple[Pending, ...]:
        """Others' entries, oldest first, one an id: whoever asks again leaves another."""
        others: dict[str, Pending] = {}
        for raw in entries:
            if raw == own:
                continue
            try:
                entry = _decode(raw)
            except msgspec.DecodeError:
                self.counts.pending_undecodable += 1
                continue
            if entry.left_at >= oldest_us and entry.authorization_id != own_id:
                others.setdefault(entry.authorization_id, entry)
        return tuple(others.values())

    def remember(self, answers: Sequence[tuple[Arrival, bytes]]) -> None:
        """See the port."""
        if answers:
            parts: list[bytes] = []
            for arrival, answer in answers:
                auth = arrival.auth
                self._keep.add(parts, auth.tenant, auth.authorization_id, arrival.digest, answer)
            self.connection.post(b"".join(parts), len(answers))

    def release(self, arrivals: Sequence[Arrival]) -> None:
        """See the port. Only the arrival's own claim goes, never another's or an answer."""
        if arrivals:
            payload = b"".join(
                pack(
                    b"EVAL",
                    DELETE_IF,
                    b"1",
                    claims.key(arrival.auth.tenant, arrival.auth.authorization_id),
                    claims.claim(arrival, self._replica),
                )
                for arrival in arrivals
            )
            self.connection.post(payload, len(arrivals))

    async def ping(self) -> None:
        """Raises Unavailable unless the server answers within the budget."""
        await self.connection.call(pack(b"PING"), 1)

    async def info(self) -> StoreInfo:
        """Memory and evictions. Raises Unavailable."""
        (answer,) = await self.connection.call(pack(b"INFO", b"server", b"memory", b"stats"), 1)
        if isinstance(answer, ReplyError):
            raise self.connection.unavailable(f"it refuses INFO ({answer})")
        lines = answer.decode().splitlines()
        figures = dict(line.split(":", 1) for line in lines if ":" in line)
        return StoreInfo(
            used_memory_bytes=int(figures["used_memory"]),
            max_memory_bytes=int(figures["maxmemory"]),
            evicted_keys=int(figures["evicted_keys"]),
            process_id=int(figures["process_id"]),
        )


_CLAIM = b"*7\r\n" + bulk(b"SET")
_EXPIRE = b"*3\r\n" + bulk(b"PEXPIRE")


def _pending_key(tenant: str, card_token: str) -> bytes:
    return f"sluice:pending:{tenant}:{card_token}".encode()
