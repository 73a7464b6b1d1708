"""What the decider reads and leaves, in one round trip a batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate, chain

import msgspec
from msgspec import structs

from sluice.adapters.layout import COMPILED, decode_state
from sluice.adapters.redis import figures, idempotency, watermark
from sluice.adapters.redis.address import CLUSTER, Address, parse
from sluice.adapters.redis.cluster import Cluster
from sluice.adapters.redis.commands import DELETE_IF, ReadState, bulk, code_of, pack, size_of
from sluice.adapters.redis.connection import Connection, ReplyError, refused
from sluice.adapters.redis.connection import Reply as Answered
from sluice.adapters.redis.idempotency import KEEP_MAX, KeepAnswers
from sluice.adapters.redis.slots import UnansweredError, slot, tags
from sluice.application.ports import (
    UNIDENTIFIED,
    Arrival,
    Count,
    Lookup,
    StoreInfo,
    uncounted,
)
from sluice.domain.clock import Clock
from sluice.domain.features.events import to_pending
from sluice.domain.records.decision import MAX_PENDING, Pending
from sluice.domain.records.entity import EntityKind
from sluice.errors import Unavailable

BATCH_MAX = 1000
"""Arrivals a round trip; about 1 MB each way, some 10 ms of the server."""
PENDING_TTL_S = 30.0
"""How long a pending entry stands in for a state: a featurizer further behind than this leaves an
authorization that nobody sees. The alerts' thresholds follow it (tests/deploy/test_alerts.py)."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Pending).decode

_COMMANDS = 7
"""An arrival's: its idempotency record, three states, and three on the list of its card."""
_END = b"\r\n"
_NEWEST_RANGE = (b"-%d" % MAX_PENDING, b"-1")
_IDEMPOTENCY = b"*7\r\n" + bulk(b"SET")
_GET = b"*2\r\n" + bulk(b"GET")
_PUSH = b"*3\r\n" + bulk(b"RPUSH")
_FETCH = b"*4\r\n" + bulk(b"LRANGE")
_NEWEST = _END + b"".join(map(bulk, _NEWEST_RANGE))
_EXPIRE = b"*3\r\n" + bulk(b"PEXPIRE")


class RedisOnlineStore:
    """The port OnlineStore on Redis or Valkey, of one server or of many.

    In a cluster a card's state and its pending entries lie in one slot, and the other keys where
    they hash to: a batch is one round trip to each node that it needs, all at once. What a node
    does not answer is missing, view by view.

    budget_s: longest wait for a batch's replies. identify_budget_s: the same for the ids alone.
    at_once: do not wait for states behind a batch that was given up. Who reads ahead has to wait:
    a stall would pass all that it can read without states. The TTLs: of an idempotency record
    while its decision is made, of an answer, and of a pending entry (longer than the featurizer's
    lag).
    on_trust: told why states are not served, "" when they are again. count: of what goes wrong.
    """

    def __init__(
        self,
        url: str | Address,
        clock: Clock,
        *,
        budget_s: float = 0.010,
        identify_budget_s: float = 0.025,
        at_once: bool = False,
        in_progress_ttl_s: float = 10.0,
        answer_ttl_s: float = 3600.0,
        pending_ttl_s: float = PENDING_TTL_S,
        on_trust: Callable[[str], None] = lambda _why: None,
        count: Count = uncounted,
    ) -> None:
        self._identify_budget_s = identify_budget_s
        self._at_once = at_once
        self._count = count
        self._trust = watermark.Trust(on_trust)
        address = parse(url)
        self.connection: Connection | Cluster
        self._cluster: Cluster | None = None
        if address.mode == CLUSTER:
            self.connection = self._cluster = Cluster(
                address,
                budget_s=budget_s,
                mark=watermark.KEY,
                ask_mark=watermark.read,
                changed=self._trust.forget_nodes,
                count=count,
            )
        else:
            self.connection = self._one = Connection(
                address,
                budget_s=budget_s,
                count=count,
                turned_away=partial(self._trust.distrust, "greeting"),
            )
        self._clock = clock
        self._pending_ttl_us = round(pending_ttl_s * 1_000_000)
        self._replica = os.urandom(8)
        self._in_progress_ttl_ms = b"%d" % round(in_progress_ttl_s * 1000)
        self._idempotency_tail = _END + b"".join(
            map(bulk, (b"NX", b"GET", b"PX", self._in_progress_ttl_ms))
        )
        self._keep = KeepAnswers(answer_ttl_s)
        self._expire_tail = _END + bulk(b"%d" % round(pending_ttl_s * 1000))
        self._card, self._terminal, self._merchant, self._device = (
            ReadState(COMPILED[kind]) for kind in ("card", "terminal", "merchant", "device")
        )

    async def open(self) -> None:
        """Connect. Raises Unavailable if the server is down now; it is tried again forever."""
        await self.connection.open()

    async def close(self) -> None:
        """Leave what is unanswered and disconnect."""
        await self.connection.close()

    async def observe(self, batch: Sequence[Arrival]) -> list[Lookup]:
        """See the port. Batches above BATCH_MAX take several round trips, each with its budget."""
        replies: list[Lookup] = []
        for at in range(0, len(batch), BATCH_MAX):
            replies += await self._observe(batch[at : at + BATCH_MAX])
        return replies

    async def _observe(self, batch: Sequence[Arrival]) -> list[Lookup]:
        now_us = self._clock.now_us()
        records = [idempotency.record(arrival, self._replica) for arrival in batch]
        left = [_encode(to_pending(arrival.auth, arrival.row, now_us)) for arrival in batch]
        asked = [_COMMANDS + (arrival.auth.device_id is not None) for arrival in batch]
        answers, marks = await self._asked(batch, records, left, sum(asked))
        first = answers[0]
        if isinstance(first, ReplyError) and all(isinstance(a, ReplyError) for a in answers):
            self._count("sluice_store_errors_total", code_of(first), by=len(answers) + len(marks))
            self._count("sluice_store_failures_total", "refused")
            self._trust.judge(marks)
            raise refused(self.connection.address, first)
        oldest_us = now_us - self._pending_ttl_us
        replies = [
            self._reply(answers[end - number : end], arrival, record, entry, oldest_us)
            for arrival, record, entry, number, end in zip(
                batch, records, left, asked, accumulate(asked), strict=True
            )
        ]
        if self._trust.judge(marks):
            return replies
        for _, reply in chain.from_iterable(marks.values()):
            if isinstance(reply, ReplyError):
                self._count("sluice_store_errors_total", code_of(reply))
        # Idempotency records and answers still hold: what is there was left there.
        return [
            structs.replace(
                reply, card=None, terminal=None, merchant=None, device=None, pending=(), lost=True
            )
            for reply in replies
        ]

    async def _asked(
        self,
        batch: Sequence[Arrival],
        records: Sequence[bytes],
        left: Sequence[bytes],
        wanted: int,
    ) -> tuple[list[Answered], Mapping[bytes, list[tuple[bytes, Answered]]]]:
        """The answers to each arrival's commands, in the order of ``_ask``, and the watermarks
        read after them: a store emptied while it answered shows too."""
        if self._cluster is None:
            parts: list[bytes] = []
            self._ask(parts, batch, records, left)
            parts.append(watermark.READ)
            answers = await self._one.call(b"".join(parts), wanted + 1, at_once=self._at_once)
            mark = answers.pop()
            return answers, {watermark.KEY: [(watermark.KEY, mark)]}
        commands: list[bytes] = []
        slots: list[int] = []
        for arrival, record, entry in zip(batch, records, left, strict=True):
            auth = arrival.auth
            commands += self._apart(arrival, record, entry)
            card = slot(COMPILED["card"].key(auth.card_token))
            slots += (
                slot(idempotency.key(auth.tenant, auth.authorization_id)),
                card,
                slot(COMPILED["terminal"].key(auth.terminal_id)),
                slot(COMPILED["merchant"].key(auth.merchant_id)),
            )
            if auth.device_id is not None:
                slots.append(slot(COMPILED["device"].key(auth.device_id)))
            slots += (card, card, card)
        return await self._cluster.call(commands, slots, at_once=self._at_once)

    def _apart(self, arrival: Arrival, record: bytes, entry: bytes) -> list[bytes]:
        """The same commands as ``_ask``'s, each by itself."""
        auth = arrival.auth
        key = idempotency.key(auth.tenant, auth.authorization_id)
        size, record_size, entry_size = size_of(len(key)), size_of(len(record)), size_of(len(entry))
        pending = self._pending_key(auth.tenant, auth.card_token)
        pending_size = size_of(len(pending))
        device = auth.device_id
        return [
            b"".join((_IDEMPOTENCY, size, key, _END, record_size, record, self._idempotency_tail)),
            self._card.command(auth.card_token),
            self._terminal.command(auth.terminal_id),
            self._merchant.command(auth.merchant_id),
            *(() if device is None else (self._device.command(device),)),
            b"".join((_PUSH, pending_size, pending, _END, entry_size, entry, _END)),
            b"".join((_FETCH, pending_size, pending, _NEWEST)),
            b"".join((_EXPIRE, pending_size, pending, self._expire_tail)),
        ]

    def _ask(
        self,
        parts: list[bytes],
        batch: Sequence[Arrival],
        records: Sequence[bytes],
        left: Sequence[bytes],
    ) -> None:
        """The commands of each arrival: _COMMANDS, and one more where there is a device.

        The states are read before the pending entries: what the featurizer moves from the one to
        the other in between is then seen twice, and dropped by its id, but never missed.
        """
        size, idempotency_tail, expire_tail = size_of, self._idempotency_tail, self._expire_tail
        card, terminal, merchant, device = self._card, self._terminal, self._merchant, self._device
        for arrival, record, entry in zip(batch, records, left, strict=True):
            auth = arrival.auth
            key = idempotency.key(auth.tenant, auth.authorization_id)
            parts += (
                _IDEMPOTENCY,
                size(len(key)),
                key,
                _END,
                size(len(record)),
                record,
                idempotency_tail,
            )
            card.add(parts, auth.card_token)
            terminal.add(parts, auth.terminal_id)
            merchant.add(parts, auth.merchant_id)
            if auth.device_id is not None:
                device.add(parts, auth.device_id)
            key = _pending_key(auth.tenant, auth.card_token)
            key_size = size(len(key))
            parts += (
                *(_PUSH, key_size, key, _END, size(len(entry)), entry, _END),
                *(_FETCH, key_size, key, _NEWEST),
                *(_EXPIRE, key_size, key, expire_tail),
            )

    def _pending_key(self, tenant: str, card_token: str) -> bytes:
        """In a cluster with a tag, by which it lies in the slot of the card's state."""
        if self._cluster is None:
            return _pending_key(tenant, card_token)
        tag = tags()[slot(COMPILED["card"].key(card_token))]
        return b"sluice:pending:{%b}:%b" % (tag, f"{tenant}:{card_token}".encode())

    def _post(self, commands: Sequence[bytes], keys: Sequence[bytes]) -> None:
        """Send what nobody waits for."""
        if self._cluster is None:
            self._one.post(b"".join(commands), len(commands))
        else:
            self._cluster.post(commands, list(map(slot, keys)))

    def _reply(
        self,
        answers: list[Answered],
        arrival: Arrival,
        record: bytes,
        entry: bytes,
        oldest_us: int,
    ) -> Lookup:
        """Judge the answers to one arrival's commands."""
        auth = arrival.auth
        if auth.device_id is None:
            found, card, terminal, merchant, length, entries, _ = answers
            device: bytes | None = b""
        else:
            found, card, terminal, merchant, device, length, entries, _ = answers
            device = self._state("device", device)
        card = self._state("card", card)
        terminal = self._state("terminal", terminal)
        merchant = self._state("merchant", merchant)
        if isinstance(length, ReplyError):
            if not isinstance(length, UnansweredError):
                self._count("sluice_store_pending_refused_total")
            self._count("sluice_store_errors_total", code_of(length))
        elif length > MAX_PENDING:
            self._count("sluice_store_pending_dropped_total")
            key = self._pending_key(auth.tenant, auth.card_token)
            self._post([pack(b"LTRIM", key, *_NEWEST_RANGE)], [key])
        pending: tuple[Pending, ...] = ()
        if isinstance(entries, ReplyError):
            # Without them the card's windows may lack what was judged moments ago: not exact.
            self._count("sluice_store_errors_total", code_of(entries))
            if card is not None and not isinstance(entries, UnansweredError):
                self._count("sluice_store_states_unreadable_total", "card")
            card = None
        elif entries != [entry]:
            pending = self._pending(entries, entry, auth.authorization_id, oldest_us)
        if isinstance(found, ReplyError):
            if not isinstance(found, UnansweredError):
                self._count("sluice_store_idempotency_refused_total")
            self._count("sluice_store_errors_total", code_of(found))
            return Lookup(card, terminal, merchant, device, pending, unidentified=True)
        # Behind HTTP each arrival is observed once.
        again = arrival.origin is not None
        held = None if found is None else self._held(found, arrival, record, again=again)
        if held is None:
            return Lookup(card, terminal, merchant, device, pending)
        list_key = self._pending_key(auth.tenant, auth.card_token)
        # It will not be decided here, so what it left must not count.
        self._post([pack(b"LREM", list_key, b"-1", entry)], [list_key])
        return Lookup(
            card,
            terminal,
            merchant,
            device,
            pending,
            held.earlier,
            held.in_progress_elsewhere,
            held.conflict,
        )

    def _held(
        self, answer: bytes, arrival: Arrival, record: bytes, *, again: bool
    ) -> idempotency.Held | None:
        """None if the arrival is ours to decide, though its idempotency record was there."""
        held = idempotency.read(answer, record, again=again)
        if held.earlier is not None or held.in_progress_elsewhere or held.conflict:
            return held
        # Ours from before a redelivery: give it the whole time again.
        where = idempotency.key(arrival.auth.tenant, arrival.auth.authorization_id)
        self._post([pack(b"PEXPIRE", where, self._in_progress_ttl_ms)], [where])
        return None

    def _state(self, kind: EntityKind, answer: Answered) -> bytes | None:
        if answer is None:
            return b""
        if isinstance(answer, ReplyError):
            self._count("sluice_store_errors_total", code_of(answer))
            if isinstance(answer, UnansweredError):
                return None
        else:
            try:
                return decode_state(answer)
            except ValueError:
                pass
        self._count("sluice_store_states_unreadable_total", kind)
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
                self._count("sluice_store_pending_undecodable_total")
                continue
            if entry.left_at >= oldest_us and entry.authorization_id != own_id:
                others.setdefault(entry.authorization_id, entry)
        return tuple(others.values())

    async def identify(self, batch: Sequence[Arrival]) -> list[Lookup]:
        """See the port. Batches above BATCH_MAX take several round trips, each with its budget."""
        replies: list[Lookup] = []
        for at in range(0, len(batch), BATCH_MAX):
            replies += await self._identify(batch[at : at + BATCH_MAX])
        return replies

    async def _identify(self, batch: Sequence[Arrival]) -> list[Lookup]:
        commands: list[bytes] = []
        size = size_of
        records = [idempotency.record(arrival, self._replica) for arrival in batch]
        keys = [
            idempotency.key(arrival.auth.tenant, arrival.auth.authorization_id) for arrival in batch
        ]
        for key, record in zip(keys, records, strict=True):
            key_size, tail = size(len(key)), self._idempotency_tail
            claim = (_IDEMPOTENCY, key_size, key, _END, size(len(record)), record, tail)
            # A server that takes no writes (full, or a replica) may still know the answer.
            commands += (b"".join(claim), b"".join((_GET, key_size, key, _END)))
        if self._cluster is None:
            answers = await self._one.call(
                b"".join(commands), len(commands), self._identify_budget_s
            )
        else:
            slots = [number for number in map(slot, keys) for _ in range(2)]
            answers, _ = await self._cluster.call(commands, slots, self._identify_budget_s)
        replies = []
        for i, (arrival, record) in enumerate(zip(batch, records, strict=True)):
            taken, found = answers[2 * i : 2 * i + 2]
            refused = isinstance(taken, ReplyError)
            if refused:
                self._count("sluice_store_idempotency_refused_total")
                self._count("sluice_store_errors_total", code_of(taken))
                if found is None or isinstance(found, ReplyError):
                    replies.append(UNIDENTIFIED)
                    continue
            held = None
            if refused or taken is not None:
                held = self._held(found if refused else taken, arrival, record, again=True)
            replies.append(
                Lookup(None, None, None, None)
                if held is None
                else Lookup(
                    None,
                    None,
                    None,
                    None,
                    (),
                    held.earlier,
                    held.in_progress_elsewhere,
                    held.conflict,
                )
            )
        return replies

    def remember(self, answers: Sequence[tuple[Arrival, bytes]]) -> None:
        """See the port."""
        if answers:
            kept = [
                (arrival.auth.tenant, arrival.auth.authorization_id, arrival.digest, answer)
                for arrival, answer in answers
            ]
            keys = [idempotency.key(tenant, found) for tenant, found, _, _ in kept]
            self._post(self._keep.commands(kept, 1 if self._cluster else KEEP_MAX), keys)

    def release(self, arrivals: Sequence[Arrival]) -> None:
        """See the port. Only the arrival's own idempotency record goes, never another's or an
        answer."""
        if arrivals:
            keys = [
                idempotency.key(arrival.auth.tenant, arrival.auth.authorization_id)
                for arrival in arrivals
            ]
            commands = [
                pack(b"EVAL", DELETE_IF, b"1", key, idempotency.record(arrival, self._replica))
                for key, arrival in zip(keys, arrivals, strict=True)
            ]
            self._post(commands, keys)

    def distrust(self, why: str) -> None:
        """See the port."""
        self._trust.distrust("watch", why)

    def refusal(self) -> Unavailable | None:
        """See the port."""
        return self.connection.refusal

    async def info(self) -> StoreInfo:
        """Memory and evictions. Raises Unavailable."""
        if self._cluster is None:
            answers = await self._one.call(figures.ASK, 1)
        else:
            answers = await self._cluster.everywhere(figures.ASK)
        for answer in answers:
            if isinstance(answer, ReplyError):
                raise self.connection.unavailable(f"it refuses INFO ({answer})")
        return figures.together([figures.read(answer) for answer in answers])


def _pending_key(tenant: str, card_token: str) -> bytes:
    return f"sluice:pending:{tenant}:{card_token}".encode()
