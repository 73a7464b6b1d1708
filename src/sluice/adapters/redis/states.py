"""What the featurizer reads and writes: states, compare-and-set on their version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hiredis import ReplyError

from sluice.adapters.layout import COMPILED, decode_state
from sluice.adapters.redis import figures
from sluice.adapters.redis.address import Address
from sluice.adapters.redis.blocking import BlockingConnection
from sluice.adapters.redis.client import connect, translated
from sluice.adapters.redis.commands import SWAP, SWAPS_MAX, ReadState, SwapStates, pack
from sluice.adapters.redis.idempotency import KEEP_MAX, KeepAnswers
from sluice.application.ports import Count, StateUpdate, StoreInfo, uncounted
from sluice.domain.records.entity import EntityKind
from sluice.errors import Corrupt

COMMANDS_MAX = 1000
"""Commands a round trip: bounds what client and server hold for one batch to a few MB."""


class RedisStateStore:
    """The port StateStore on one Redis or Valkey server. Connects when first used.

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
        self.connection = BlockingConnection(url, timeout_s=timeout_s, count=count)
        self._address = self.connection.address
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
            parts: list[bytes] = []
            for kind, key in some:
                self._read[kind].add(parts, key)
            answers = self.connection.call(b"".join(parts), len(some))
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
        self.connection.count("sluice_store_states_unreadable_total", kind)
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
            some[at : at + SWAPS_MAX]
            for some in of_kind.values()
            for at in range(0, len(some), SWAPS_MAX)
        ]
        answers = self._send([[updates[i] for i in call] for call in calls])
        if any(_lacks_script(answer) for answer in answers):
            # A new server, or SCRIPT FLUSH. Those that went through must not go again: they
            # would now fail their comparison.
            self.connection.call(pack(b"SCRIPT", b"LOAD", SWAP), 1)
            again = [i for i, answer in enumerate(answers) if _lacks_script(answer)]
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
        parts: list[bytes] = []
        for updates in calls:
            self._swap[updates[0].entity].add(parts, updates)
        return self.connection.call(b"".join(parts), len(calls))

    def remember(self, answers: Sequence[tuple[str, str, bytes, bytes]]) -> None:
        """See the port. Raises Unavailable."""
        step = COMMANDS_MAX // KEEP_MAX * KEEP_MAX
        for at in range(0, len(answers), step):
            commands = self._keep.commands(answers[at : at + step])
            for reply in self.connection.call(b"".join(commands), len(commands)):
                if isinstance(reply, ReplyError):
                    raise self.connection.refused(reply)

    def info(self) -> StoreInfo:
        """Memory and evictions. Raises Unavailable, also where the user may not ask."""
        return figures.read(self._one(figures.ASK))

    def clear(self) -> int:
        """See the port. Idempotency records, answers and pending entries stay."""
        shapes = [(view.head, view.tail) for view in COMPILED.values()]
        removed = 0
        with translated(self._address, self.connection.count), connect(self._address) as server:
            cursor = 0
            while True:
                cursor, keys = server.scan(cursor, count=COMMANDS_MAX)
                mine = [
                    k for k in keys if any(k.startswith(h) and k.endswith(t) for h, t in shapes)
                ]
                if mine:
                    removed += server.unlink(*mine)
                if not cursor:
                    return removed

    def _one(self, payload: bytes) -> Any:
        (answer,) = self.connection.call(payload, 1)
        if isinstance(answer, ReplyError):
            raise self.connection.refused(answer)
        return answer


def _lacks_script(answer: Any) -> bool:
    return isinstance(answer, ReplyError) and str(answer).startswith("NOSCRIPT")
