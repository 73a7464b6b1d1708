"""A cluster's nodes, each by a connection of its own: one round trip to all that a batch needs.

redis-py's cluster client does the same for almost three times the CPU
(docs/reference/online-store.md, Cost).
Commands are sent to the nodes at once. What a node redirects is asked once more, within the same
budget; what a node does not answer is missing, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain

from hiredis import ReplyError

from sluice.adapters.redis.address import Address, Place, parse, written
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.connection import Connection, Reply, refused
from sluice.adapters.redis.slots import (
    ASK,
    SLOTS,
    Topology,
    UnansweredError,
    mark_keys,
    marks_of,
    redirect,
    topology,
)
from sluice.application.ports import Count, uncounted
from sluice.errors import Unavailable

LOOK_EVERY_S = 1.0
"""How often the nodes are asked who owns what, while all is well; at once where one redirects us
or is lost."""
LOOK_AGAIN_S = 0.1
"""Between two looks while it is not well: a replica that takes over is found so much later."""
LOOK_BUDGET_S = 0.5
ASKING = pack(b"ASKING")

Marks = dict[bytes, list[tuple[bytes, Reply]]]
"""By a node that we met: the watermarks it has, each by its key, read after the states."""


class _Node:
    """One server. marks: the keys of its watermarks. read: what asks for them, if it owns slots."""

    def __init__(self, place: Place, connection: Connection) -> None:
        self.place = place
        self.name = written(place).encode()
        self.connection = connection
        self.marks: tuple[bytes, ...] = ()
        self.read = b""
        self.opening: asyncio.Task[None] | None = None


class Cluster:
    """The nodes, and who owns what just now.

    budget_s: how long a call may take, unless it has a budget of its own. mark: the watermark's
    key, and what asks for it, by its key. changed: told when slots have other owners. count: of
    what goes wrong.
    """

    def __init__(
        self,
        url: str | Address,
        *,
        budget_s: float,
        mark: bytes,
        ask_mark: Callable[[bytes], bytes],
        changed: Callable[[], None] = lambda: None,
        count: Count = uncounted,
    ) -> None:
        self.address: Address = parse(url)
        self.budget_s = budget_s
        self.count = count
        self._marks = mark_keys(mark)
        self._ask_mark = ask_mark
        self._changed = changed
        self._nodes: dict[Place, _Node] = {}
        self._owners: list[_Node | None] = [None] * SLOTS
        self._known: Topology | None = None
        self._stale = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def refusal(self) -> Unavailable | None:
        """Why its nodes turned us away each time we came, by something that only a person mends."""
        if self._known is not None:
            return None
        found = (node.connection.refusal for node in self._nodes.values())
        return next((refusal for refusal in found if refusal is not None), None)

    @property
    def is_up(self) -> bool:
        """True if each slot's owner is known and connected."""
        return all(node is not None and node.connection.is_up for node in set(self._owners))

    def unavailable(self, why: str) -> Unavailable:
        """The error of this store."""
        return Unavailable(
            f"the online store did not serve us: {why}",
            where=str(self.address),
            fix="docs/reference/online-store.md, section When it is down",
        )

    async def open(self) -> None:
        """Connect to the nodes of the URL and learn of the others, and stay connected from now on.

        Raises Unavailable if the first try fails; later ones go on by themselves.
        """
        if self._keeper is not None:
            return
        for place in self.address.seeds:
            self._add(place)
        opened = [node.connection.open() for node in self._nodes.values()]
        failed = [f for f in await asyncio.gather(*opened, return_exceptions=True) if f is not None]
        why: BaseException | None = failed[0] if failed else None
        if len(failed) < len(opened):
            try:
                self._take(await self._look())
                others = [node.opening for node in self._nodes.values() if node.opening]
                await asyncio.gather(*others)  # a second at most
                why = None
            except Unavailable as exc:
                why = exc
        self._keeper = asyncio.create_task(self._keep())
        if why is not None:
            raise why

    async def close(self) -> None:
        """Drop every connection and stop."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None
        for node in [*self._nodes.values()]:
            await self._leave(node)

    async def call(
        self,
        commands: Sequence[bytes],
        slots: Sequence[int],
        budget_s: float = 0.0,
        *,
        at_once: bool = False,
    ) -> tuple[list[Reply], Marks]:
        """The reply to each command, and the watermarks of each node that we met.

        A refused command's is a ReplyError, an UnansweredError where its node gave none. commands
        of one slot take effect in their order. Raises Unavailable if no node answers.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + (budget_s or self.budget_s)
        replies: list[Reply] = [None] * len(commands)
        marks: Marks = {}
        groups: dict[_Node | None, list[int]] = {}
        owners = self._owners
        for i, number in enumerate(slots):
            node = owners[number]
            if node in groups:
                groups[node].append(i)
            else:
                groups[node] = [i]
        sent = [
            (node, places, b"".join([commands[i] for i in places]), 1)
            for node, places in groups.items()
        ]
        met, failed = await self._round(sent, replies, marks, budget_s or self.budget_s, at_once)
        if not met and failed is not None:
            raise failed
        again = self._redirected(sent, commands, replies)
        joining = [node.opening for node, *_ in again if node and node.opening]
        if joining:  # a node that owned nothing until now
            await asyncio.wait(joining, timeout=ends_at - loop.time())
        if again and ends_at > loop.time():
            await self._round(again, replies, marks, ends_at - loop.time(), at_once)
        return replies, marks

    async def _round(
        self,
        sent: Sequence[tuple[_Node | None, Sequence[int], bytes, int]],
        replies: list[Reply],
        marks: Marks,
        budget_s: float,
        at_once: bool,
    ) -> tuple[int, Unavailable | None]:
        """Ask each node once, all at once. sent: node, which commands, their bytes, and how many
        replies there are to one. Returns how many nodes answered, and a failure of the others."""
        # With the marks as they are asked: while we wait, slots may get other owners.
        waiting: list[
            tuple[_Node, tuple[bytes, ...], Sequence[int], int, asyncio.Future[list[Reply]]]
        ] = []
        failed: Unavailable | None = None
        for node, places, payload, each in sent:
            try:
                if node is None:
                    self.count("sluice_store_failures_total", "down")
                    raise self.unavailable("no node owns the slot")
                wanted = each * len(places) + len(node.marks)
                future = node.connection.call(
                    payload + node.read, wanted, budget_s, at_once=at_once
                )
                waiting.append((node, node.marks, places, each, future))
            except Unavailable as exc:
                failed = exc
                self._stale.set()
                self._missing(node, places, exc, replies)
        met = 0
        for node, asked, places, each, future in waiting:
            try:
                answers = await future
            except Unavailable as exc:
                failed = exc
                self._stale.set()
                self._missing(node, places, exc, replies)
                continue
            met += 1
            own = len(answers) - len(asked)
            for i, answer in zip(places, answers[each - 1 : own : each], strict=True):
                replies[i] = answer
            self._note(node, answers[:own], dict(zip(asked, answers[own:], strict=True)), marks)
        return met, failed

    def _note(
        self, node: _Node, served: Sequence[Reply], answers: Mapping[bytes, Reply], marks: Marks
    ) -> None:
        """Keep the watermarks that a node has. One that a reshard is moving says nothing of it, nor
        does a node that serves nothing."""
        if all(isinstance(answer, ReplyError) for answer in chain(answers.values(), served)):
            return
        told = [
            (key, answer)
            for key, answer in answers.items()
            if type(answer) is not ReplyError or not redirect(answer, node.place)
        ]
        marks[node.name] = told or [(node.name, UnansweredError("the node holds no watermark"))]

    def _missing(
        self, node: _Node | None, places: Iterable[int], why: Unavailable, replies: list[Reply]
    ) -> None:
        answer = UnansweredError(
            why.what if node is None else f"by {written(node.place)}: {why.what}"
        )
        for i in places:
            replies[i] = answer

    def _redirected(
        self,
        sent: Sequence[tuple[_Node | None, Sequence[int], bytes, int]],
        commands: Sequence[bytes],
        replies: Sequence[Reply],
    ) -> list[tuple[_Node | None, Sequence[int], bytes, int]]:
        """What is to be asked elsewhere, by node."""
        moved: dict[tuple[_Node, str], list[int]] = {}
        for node, places, _, _ in sent:
            for i in places:
                answer = replies[i]
                if type(answer) is not ReplyError or node is None:
                    continue
                to = redirect(answer, node.place)
                if to is None:
                    if str(answer).startswith("CLUSTERDOWN"):
                        self._stale.set()
                    continue
                self._stale.set()
                self.count("sluice_store_redirects_total", to[0])
                target = self._nodes.get(to[1]) or self._join(to[1])
                moved.setdefault((target, to[0]), []).append(i)
        return [
            (
                node,
                places,
                b"".join([(ASKING if how == "ask" else b"") + commands[i] for i in places]),
                2 if how == "ask" else 1,
            )
            for (node, how), places in moved.items()
        ]

    def post(self, commands: Sequence[bytes], slots: Sequence[int]) -> None:
        """Send commands that nobody waits for. Lost, and counted, where their node is away."""
        groups: dict[_Node | None, list[bytes]] = {}
        for command, number in zip(commands, slots, strict=True):
            groups.setdefault(self._owners[number], []).append(command)
        for node, some in groups.items():
            if node is None:
                self.count("sluice_store_posts_lost_total", "down")
            else:
                node.connection.post(b"".join(some), len(some))

    async def everywhere(self, command: bytes) -> list[Reply]:
        """One command's reply of each node that owns slots. Raises Unavailable."""
        owners = [node for node in dict.fromkeys(self._owners) if node is not None]
        if not owners:
            raise self.unavailable("no node is known")
        return [(await node.connection.call(command, 1))[0] for node in owners]

    async def _keep(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._stale.wait()
            self._stale.clear()
            with suppress(Unavailable):  # each connection says and counts why
                self._take(await self._look())
            if self._known is None or not self._known.whole or not self.is_up:
                self._stale.set()
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _look(self) -> Topology:
        """Of what the nodes say who owns what, the newest. Raises Unavailable."""
        asked = [
            (node, node.connection.call(ASK, 2, LOOK_BUDGET_S))
            for node in self._nodes.values()
            if node.connection.is_up
        ]
        best: Topology | None = None
        why = self.unavailable("no node of the cluster is connected")
        for node, future in asked:
            try:
                found = topology(await future, node.place)
            except Unavailable as exc:
                why = exc
            except ReplyError as exc:
                why = refused(node.connection.address, exc)
            except ValueError as exc:
                why = self.unavailable(str(exc))
            else:
                if best is None or (found.epoch, found.whole) > (best.epoch, best.whole):
                    best = found
        if best is None:
            raise why
        return best

    def _take(self, found: Topology) -> None:
        """Go by what was found from now on."""
        if self._known is not None and self._known.owners == found.owners:
            self._known = found
            return
        if self._known is not None:
            self.count("sluice_store_owner_changes_total")
        self._known = found
        held = marks_of(found.owners, self._marks)
        places = [place for place in dict.fromkeys(found.owners) if place is not None]
        for place in places:
            if place not in self._nodes:
                self._join(place)
        for place, node in [*self._nodes.items()]:
            node.marks = held.get(place, ())
            node.read = b"".join(map(self._ask_mark, node.marks))
            if place not in places and place not in self.address.seeds:
                del self._nodes[place]
                node.opening = asyncio.create_task(self._leave(node))
        of = self._nodes
        self._owners = [None if place is None else of[place] for place in found.owners]
        self._changed()

    def _add(self, place: Place) -> _Node:
        connection = Connection(self.address.at(place), budget_s=self.budget_s, count=self.count)
        node = self._nodes[place] = _Node(place, connection)
        return node

    def _join(self, place: Place) -> _Node:
        node = self._add(place)
        node.opening = asyncio.create_task(_opened(node))
        return node

    async def _leave(self, node: _Node) -> None:
        if node.opening is not None and node.opening is not asyncio.current_task():
            node.opening.cancel()
        await node.connection.close()


async def _opened(node: _Node) -> None:
    with suppress(Unavailable):  # it is tried again by itself
        await node.connection.open()
