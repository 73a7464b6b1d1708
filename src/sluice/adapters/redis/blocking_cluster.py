"""A cluster for callers that work in batches and may wait: a blocking connection to each node."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from hiredis import ReplyError

from sluice.adapters.redis.address import CLUSTER, Address, Place, parse
from sluice.adapters.redis.blocking import BlockingConnection
from sluice.adapters.redis.cluster import ASKING
from sluice.adapters.redis.slots import ASK, SLOTS, mark_keys, redirect, slot, topology
from sluice.application.ports import Count, uncounted
from sluice.errors import Unavailable

LOOK_MAX_S = 0.5
"""Of one node that is asked who owns what; then the next is."""
LOOK_EVERY_S = 1.0
SILENT_S = 10.0
"""So long a node that gave no answer is asked last: an address of the URL that is gone would cost
each look LOOK_MAX_S."""
ROUNDS_MAX = 5
"""Of one batch: a slot may be moved again while we follow it."""
PAUSE_S = 0.05
"""Before another round."""
_AGAIN = ("TRYAGAIN", "CLUSTERDOWN")


class BlockingCluster:
    """See :class:`BlockingConnection`, of which it has one a node. Not for two threads at once."""

    def __init__(self, url: str | Address, *, timeout_s: float, count: Count = uncounted) -> None:
        self.address: Address = parse(url)
        self.timeout_s = timeout_s
        self.count = count
        self._nodes: dict[Place, BlockingConnection] = {}
        self._owners: list[Place | None] = [None] * SLOTS
        self._looked_at = float("-inf")
        self._silent_until: dict[Place, float] = {}

    def each(self, commands: Sequence[bytes], keys: Iterable[bytes]) -> list[Any]:
        """The reply to each command; keys: where each belongs. All nodes work at once; redirects
        are followed. A refused command's reply is a ReplyError.

        Raises Unavailable; then it is unknown which of the commands took effect.
        """
        slots = list(map(slot, keys))
        replies: list[Any] = [None] * len(commands)
        left = dict.fromkeys(range(len(commands)), "")
        sent_to: dict[int, Place] = {}
        if time.monotonic() - self._looked_at >= LOOK_EVERY_S:
            self._look()
        for attempt in range(ROUNDS_MAX):
            if attempt:
                time.sleep(PAUSE_S * (attempt - 1))
            groups: dict[tuple[Place, str], list[int]] = {}
            for i, how in left.items():
                place = sent_to.get(i) or self._owners[slots[i]]
                if place is None:
                    raise self._unavailable("no node owns the slot", "down")
                groups.setdefault((place, how), []).append(i)
            self._round(groups, commands, replies)
            left, sent_to = self._redirected(groups, replies)
            if not left:
                break
            self._look()
        return replies

    def _round(
        self,
        groups: dict[tuple[Place, str], list[int]],
        commands: Sequence[bytes],
        replies: list[Any],
    ) -> None:
        sent: list[tuple[Place, str, list[int]]] = []
        try:
            for (place, how), places in groups.items():
                ask = ASKING if how == "ask" else b""
                if sent and any(place == other for other, _, _ in sent):
                    self._take(sent, replies)
                self._node(place).send(b"".join([ask + commands[i] for i in places]))
                sent.append((place, how, places))
            self._take(sent, replies)
        except Unavailable:
            # Replies that nobody reads any more would answer the next question.
            for place, _, _ in sent:
                self._node(place).close()
            self._looked_at = float("-inf")
            raise

    def _take(self, sent: list[tuple[Place, str, list[int]]], replies: list[Any]) -> None:
        while sent:
            place, how, places = sent[0]
            each = 2 if how == "ask" else 1
            answers = self._node(place).receive(each * len(places))
            sent.pop(0)
            for i, answer in zip(places, answers[each - 1 :: each], strict=True):
                replies[i] = answer

    def _redirected(
        self, groups: dict[tuple[Place, str], list[int]], replies: Sequence[Any]
    ) -> tuple[dict[int, str], dict[int, Place]]:
        left: dict[int, str] = {}
        sent_to: dict[int, Place] = {}
        for (place, _), places in groups.items():
            for i in places:
                answer = replies[i]
                if not isinstance(answer, ReplyError):
                    continue
                to = redirect(answer, place)
                if to is not None:
                    self.count("sluice_store_redirects_total", to[0])
                    left[i], sent_to[i] = to
                elif str(answer).startswith(_AGAIN):
                    left[i] = ""
        return left, sent_to

    @property
    def everywhere(self) -> list[BlockingConnection]:
        """A connection to each node that owns slots."""
        self._look()
        return [self._node(place) for place in dict.fromkeys(self._owners) if place is not None]

    def marks(self, key: bytes) -> list[bytes]:
        """Every key of the watermark, whose one name is this."""
        return list(mark_keys(key))

    def refused(self, answer: ReplyError) -> Unavailable:
        """See :meth:`BlockingConnection.refused`."""
        self._looked_at = float("-inf")
        return BlockingConnection(self.address, timeout_s=0, count=self.count).refused(answer)

    def close(self) -> None:
        """Drop the connections; the next call makes others."""
        for node in self._nodes.values():
            node.close()

    def _node(self, place: Place) -> BlockingConnection:
        if place not in self._nodes:
            at = self.address.at(place)
            self._nodes[place] = BlockingConnection(at, timeout_s=self.timeout_s, count=self.count)
        return self._nodes[place]

    def _look(self) -> None:
        """Ask the nodes that we know who owns what, and those of the URL; go by the newest answer.
        Raises Unavailable if none answers."""
        best, why = None, self._unavailable("no node answers")
        known = dict.fromkeys((*filter(None, dict.fromkeys(self._owners)), *self.address.seeds))
        began = time.monotonic()
        silent = {place for place in known if self._silent_until.get(place, began) > began}
        for place in sorted(known, key=silent.__contains__):
            if place in silent and best is not None:
                break
            node = self._node(place)
            node.timeout_s = min(LOOK_MAX_S, self.timeout_s)
            try:
                found = topology(node.call(ASK, 2), place)
            except Unavailable as exc:
                why = exc
                self._silent_until[place] = time.monotonic() + SILENT_S
            except ReplyError as exc:
                why = node.refused(exc)
            except ValueError as exc:
                why = self._unavailable(str(exc))
            else:
                if best is None or (found.epoch, found.whole) > (best.epoch, best.whole):
                    best = found
            finally:
                node.timeout_s = self.timeout_s
        if best is None:
            raise why
        self._looked_at = time.monotonic()
        if list(best.owners) != self._owners:
            had_any = any(self._owners)
            self._owners = list(best.owners)
            if had_any:
                self.count("sluice_store_owner_changes_total")

    def _unavailable(self, why: str, counted: str = "") -> Unavailable:
        if counted:
            self.count("sluice_store_failures_total", counted)
        return Unavailable(
            f"the online store did not serve us: {why}",
            where=str(self.address),
            fix="docs/reference/online-store.md, section When it is down",
        )


Blocking = BlockingConnection | BlockingCluster
"""A store, of one server or of many."""


def blocking(url: str | Address, *, timeout_s: float, count: Count = uncounted) -> Blocking:
    """The connection for this address. Connects when first used."""
    address = parse(url)
    kind = BlockingCluster if address.mode == CLUSTER else BlockingConnection
    return kind(address, timeout_s=timeout_s, count=count)
