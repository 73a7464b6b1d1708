"""What the featurizer reads and writes: states, compare-and-set on their version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hiredis import ReplyError

from sluice.adapters.layout import COMPILED, decode_state
from sluice.adapters.redis import figures, idempotency
from sluice.adapters.redis.address import Address
from sluice.adapters.redis.blocking import BlockingConnection
from sluice.adapters.redis.blocking_cluster import BlockingCluster, blocking
from sluice.adapters.redis.commands import (
    SWAP,
    SWAPS_MAX,
    ReadState,
    SwapStates,
    lacks_script,
    pack,
)
from sluice.adapters.redis.idempotency import KEEP_MAX, KeepAnswers
from sluice.application.ports import Count, StateUpdate, StoreInfo, uncounted
from sluice.domain.records.entity import EntityKind
from sluice.errors import Corrupt

COMMANDS_MAX = 1000
"""Commands a round trip: bounds what client and server hold for one batch to a few MB."""


class RedisStateStore:
    """The port StateStore on Redis or Valkey. Connects when first used. In a cluster each state and
    each answer is a command of its own, which its node gets with the others of the batch.

    timeout_s: longest that a round trip may take. answer_ttl_s: as the decider's. count: of what
    goes wrong.
    """

    def __init__(
        self,
        url: str | Address,
        *,
        timeout_s: float = 5.0,
        answer_ttl_s: float = 3600.0,
        count: Count = uncounted,
    ) -> None:
        self.connection = blocking(url, timeout_s=timeout_s, count=count)
        self._count = count
        apart = isinstance(self.connection, BlockingCluster)
        self._swaps_max = 1 if apart else SWAPS_MAX
        self._keep_max = 1 if apart else KEEP_MAX
        self._keep = KeepAnswers(answer_ttl_s)
        self._read = {kind: ReadState(view) for kind, view in COMPILED.items()}
        self._swap = {kind: SwapStates(view) for kind, view in COMPILED.items()}

    def close(self) -> None:
        """Disconnect."""
        self.connection.close()

    def read(self, entities: Sequence[tuple[EntityKind, str]]) -> list[bytes]:
        """See the port. Raises Corrupt where a key holds something that is no state."""
        states: list[bytes] = []
        for at in range(0, len(entities), COMMANDS_MAX):
            some = entities[at : at + COMMANDS_MAX]
            commands = [self._read[kind].command(key) for kind, key in some]
            answers = self.connection.each(
                commands, (COMPILED[kind].key(key) for kind, key in some)
            )
            try:
                states += map(decode_state, answers)
            except (TypeError, ValueError):
                del states[at:]
                states += [self._state(*pair) for pair in zip(some, answers, strict=True)]
        return states

    def _state(self, entity: tuple[EntityKind, str], answer: Any) -> bytes:
        try:
            if not isinstance(answer, ReplyError):
                return decode_state(answer)
            if not str(answer).startswith("WRONGTYPE"):
                raise self.connection.refused(answer)
            why = str(answer)
        except ValueError as exc:
            why = str(exc)
        kind, key = entity
        self._count("sluice_store_states_unreadable_total", kind)
        # A card's key is its token, which no log line may hold.
        raise Corrupt(
            f"the online store holds no {kind} state where one belongs: {why}",
            where=kind if kind == "card" else f"{kind} {key}",
            fix="docs/reference/online-store.md, section Rebuilding",
        )

    def write(self, updates: Sequence[StateUpdate]) -> list[bool]:
        """See the port. Raises Unavailable too if the store is full: it evicts nothing."""
        written: list[bool] = []
        for at in range(0, len(updates), COMMANDS_MAX):
            written += self._write(updates[at : at + COMMANDS_MAX])
        return written

    def _write(self, updates: Sequence[StateUpdate]) -> list[bool]:
        of_kind: dict[EntityKind, list[int]] = {}
        for i, update in enumerate(updates):
            of_kind.setdefault(update.entity, []).append(i)
        calls = [
            some[at : at + self._swaps_max]
            for some in of_kind.values()
            for at in range(0, len(some), self._swaps_max)
        ]
        answers = self._send([[updates[i] for i in call] for call in calls])
        again = [i for i, answer in enumerate(answers) if lacks_script(answer)]
        if again:
            # A new server, or SCRIPT FLUSH. Those that went through must not go again: they
            # would now fail their comparison.
            for node in self.connection.everywhere:
                node.call(pack(b"SCRIPT", b"LOAD", SWAP), 1)
            retried = self._send([[updates[i] for i in calls[call]] for call in again])
            for call, answer in zip(again, retried, strict=True):
                answers[call] = answer
        written = [False] * len(updates)
        for places, answer in zip(calls, answers, strict=True):
            if isinstance(answer, ReplyError):
                raise self.connection.refused(answer)
            for i, swapped in zip(places, answer, strict=True):
                written[i] = swapped == 1
        return written

    def _send(self, calls: Sequence[Sequence[StateUpdate]]) -> list[Any]:
        commands = [self._swap[updates[0].entity].command(updates) for updates in calls]
        firsts = (updates[0] for updates in calls)
        return self.connection.each(
            commands, (COMPILED[first.entity].key(first.key) for first in firsts)
        )

    def remember(self, answers: Sequence[tuple[str, str, bytes, bytes]]) -> None:
        """See the port. Raises Unavailable."""
        step = COMMANDS_MAX // KEEP_MAX * KEEP_MAX
        for at in range(0, len(answers), step):
            some = answers[at : at + step]
            commands = self._keep.commands(some, self._keep_max)
            for reply in self.connection.each(
                commands, (idempotency.key(*answer[:2]) for answer in some)
            ):
                if isinstance(reply, ReplyError):
                    raise self.connection.refused(reply)

    def info(self) -> StoreInfo:
        """Memory and evictions. Raises Unavailable, also where the user may not ask."""
        return figures.of_all(self.connection)

    def clear(self) -> int:
        """See the port. Idempotency records, answers and pending entries stay."""
        return sum(map(_clear, self.connection.everywhere))


def _clear(node: BlockingConnection) -> int:
    """Remove the states that one server holds."""
    shapes = [(view.head, view.tail) for view in COMPILED.values()]
    removed, cursor = 0, b"0"
    while True:
        cursor, keys = _one(node, pack(b"SCAN", cursor, b"COUNT", b"%d" % COMMANDS_MAX))
        mine = [k for k in keys if any(k.startswith(h) and k.endswith(t) for h, t in shapes)]
        for answer in node.each([pack(b"UNLINK", found) for found in mine]) if mine else ():
            if isinstance(answer, ReplyError):
                raise node.refused(answer)
            removed += answer
        if cursor == b"0":
            return removed


def _one(node: BlockingConnection, payload: bytes) -> Any:
    (answer,) = node.call(payload, 1)
    if isinstance(answer, ReplyError):
        raise node.refused(answer)
    return answer
