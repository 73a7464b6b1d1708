"""One asyncio connection: many batches in flight, answered in order, reconnecting by itself.

Our own protocol over hiredis, because it costs 17 us of CPU for a read of six keys where
redis.asyncio costs 70 to 180.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, cast

import hiredis

from sluice.adapters.redis.address import SENTINEL, Address, parse
from sluice.adapters.redis.commands import code_of, pack
from sluice.adapters.redis.refusals import OURS_TO_MEND, meaning
from sluice.adapters.redis.sentinel import find_soon
from sluice.adapters.tls import explain
from sluice.application.ports import Count, uncounted
from sluice.errors import Misconfigured, Unavailable

ReplyError = hiredis.ReplyError
Reply = Any
"""bytes, int, None, a list of these, or a ReplyError."""

MAX_IN_FLIGHT = 1024
"""Batches unanswered on the connection; past it the store is late and we say so at once."""
HANG_S = 1.0
"""A server that leaves a batch unanswered for so long (or for the budget, if that is longer) is
taken for dead: the connection is dropped and made anew."""
CONNECT_TIMEOUT_S = 1.0
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.05, 1.0
"""Pause before the next try to connect, after a failure or a connection that soon broke; doubles.
One that lasted for the longest pause was good: the next is tried at once, and pauses begin anew."""
IDLE_S = 1.0
"""On a connection unused for so long the server is asked for a sign of life: what ends in silence
somewhere on the way is noticed before an authorization meets it."""
PIECE_BYTES = 16_384
"""Fed to the parser at once. After each reply it moves what is left in its buffer to the front:
256 kB at once cost 2.1 us for the replies of one authorization, 16 kB cost 0.7."""
SECOND_LOOK_S = 0.0005
"""After a stall of our own loop, replies may wait unread while timers fire: read them first."""
APART_S = 0.001
"""Between two looks for calls past their deadline, each at every call in flight: a call is failed
so much late at most, and 1,024 unanswered ones cost 5 % of a core."""


_NOT_YET = object()
"""What the parser says until a reply is whole."""


_PING = pack(b"PING")


class _Call:
    """A batch on the wire. future None: nobody waits for it. deadline: inf where it was given up,
    or is nobody's."""

    __slots__ = ("deadline", "future", "replies", "sent", "wanted")

    def __init__(
        self, wanted: int, future: asyncio.Future[list[Reply]] | None, sent: float, deadline: float
    ) -> None:
        self.wanted = wanted
        self.future = future
        self.sent = sent
        self.deadline = deadline
        self.replies: list[Reply] = []


class _Link(asyncio.Protocol):
    """One connection's life. Replies come in the order of the commands, so a queue matches them."""

    def __init__(self, owner: Connection) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_NOT_YET)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        """When the timer fires: never later than the nearest deadline."""
        self._hang_s = max(HANG_S, owner.budget_s)
        self.calls: deque[_Call] = deque()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self.alive = False
        self.greeted = False
        """Until then losing it is a connect that failed, and counted as that alone."""
        self.used_at = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio.Transport without being one.
        self._transport = cast(asyncio.Transport, transport)
        self.alive = True

    def connection_lost(self, exc: Exception | None) -> None:
        if self.alive and self.greeted:
            self._owner.count("sluice_store_connections_lost_total", "closed")
        why = explain(exc, "store") if exc else "closed by the other side"
        self._end(f"the connection was lost ({why})")

    def _end(self, why: str) -> None:
        self.alive = False
        if self._timer is not None:
            self._timer.cancel()
        while self.calls:
            call = self.calls.popleft()
            if call.future is None:
                self._owner.count("sluice_store_posts_lost_total", "lost")
            elif not call.future.done():
                call.future.set_exception(self._owner.failed("lost", why))
        if not self.lost.done():
            self.lost.set_result(None)

    def drop(self, why: str, fault: str = "") -> None:
        """End it from our side, at once. fault: of the server's, as it is counted."""
        if fault and self.alive and self.greeted:
            self._owner.count("sluice_store_connections_lost_total", fault)
        self._end(why)
        if self._transport is not None:
            self._transport.abort()

    @property
    def is_behind(self) -> bool:
        """Whether the next reply is one that was given up: others come after it."""
        return bool(self.calls) and self.calls[0].deadline == math.inf

    def send(
        self,
        payload: bytes,
        wanted: int,
        future: asyncio.Future[list[Reply]] | None,
        budget_s: float,
    ) -> None:
        assert self._transport is not None
        now = self.used_at = self._loop.time()
        deadline = now + budget_s
        self.calls.append(_Call(wanted, future, now, deadline))
        self._transport.write(payload)
        if deadline < self._due:
            self._wake_at(deadline, False)

    def _wake_at(self, due: float, looked_again: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_at(due, self._expire, looked_again)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        size = len(data)
        try:
            for start in range(0, size, PIECE_BYTES):
                reader.feed(data, start, min(PIECE_BYTES, size - start))
                self._answer()
        except hiredis.ProtocolError as exc:
            self.drop(f"the answer is not the Redis protocol ({exc})", "protocol")
            return
        if not self.calls and reader.has_data():
            # A reply that nobody asked for would answer the next question.
            self.drop("the server said more than was asked", "protocol")

    def _answer(self) -> None:
        """Hand on the replies that are whole. Raises hiredis.ProtocolError."""
        calls, gets = self.calls, self._reader.gets
        while calls:
            call = calls[0]
            replies = call.replies
            replies += islice(iter(gets, _NOT_YET), call.wanted - len(replies))
            if len(replies) < call.wanted:
                return
            calls.popleft()
            if call.future is None:
                refused = _first_error(replies)
                if refused is not None:
                    self._owner.count("sluice_store_posts_lost_total", "refused")
                    self._owner.count("sluice_store_errors_total", code_of(refused))
            elif not call.future.done():
                call.future.set_result(replies)

    def _expire(self, looked_again: bool) -> None:
        """Fail the calls past their deadline; their replies are still read and thrown away.

        One timer a connection, for the nearest deadline: a timer a call would cost 2 us each.
        """
        self._timer, self._due = None, math.inf
        if not self.calls:
            return
        now = self._loop.time()
        due = self.calls[0].sent + self._hang_s
        if not looked_again and (due <= now or any(call.deadline <= now for call in self.calls)):
            self._wake_at(now + SECOND_LOOK_S, True)
            return
        if due <= now:
            self.drop(f"no answer for {self._hang_s} s", "hang")
            return
        for call in self.calls:
            if call.deadline > now:
                due = min(due, call.deadline)
            else:
                call.deadline = math.inf
                if call.future is not None and not call.future.done():
                    late_ms = round((now - call.sent) * 1000)
                    call.future.set_exception(
                        self._owner.failed("timeout", f"no answer for {late_ms} ms")
                    )
        self._wake_at(max(due, now + APART_S), False)


def refused(address: Address, answer: Exception) -> Unavailable:
    """The error of what a server refuses, by a code of its own."""
    known = meaning(answer)
    return Unavailable(
        f"the online store did not serve us: {known.what} ({answer})",
        where=str(address),
        fix=known.fix,
        code=known.code,
    )


class Connection:
    """A store's address and the link that is up just now, if one is.

    budget_s: how long a call may wait for its replies, unless it has a budget of its own.
    count: of what goes wrong.
    """

    def __init__(
        self,
        url: str | Address,
        *,
        budget_s: float,
        count: Count = uncounted,
        turned_away: Callable[[str], None] = lambda _why: None,
    ) -> None:
        """turned_away: told why the server will not have us, "" when it has."""
        self.address: Address = parse(url)
        self.budget_s = budget_s
        self.count = count
        self.refusal: Unavailable | None = None
        """Why it turned us away each time we came, by something that only a person mends."""
        self._turned_away = turned_away
        self._welcome = False
        self._primary = self.address
        """Where it was found; its own address but with Sentinels."""
        self._link: _Link | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._why_down = "the connection was never opened"

    def unavailable(self, why: str) -> Unavailable:
        """The error of this store."""
        return Unavailable(
            f"the online store did not serve us: {why}",
            where=str(self.address),
            fix="docs/reference/online-store.md, section When it is down",
        )

    def failed(self, why: str, text: str) -> Unavailable:
        """The same, counted: a call gets no answer. why: timeout, down, lost, full or refused."""
        self.count("sluice_store_failures_total", why)
        return self.unavailable(text)

    @property
    def is_up(self) -> bool:
        """True if a greeting was answered and the link has not broken since."""
        return self._link is not None and self._link.alive

    def call(
        self, payload: bytes, wanted: int, budget_s: float = 0.0, *, at_once: bool = False
    ) -> asyncio.Future[list[Reply]]:
        """Send a batch of commands, get as many replies; a refused command's is a ReplyError.

        budget_s: of this call; 0 is the connection's. at_once: do not wait behind a call that was
        given up and is unanswered still; the commands take effect all the same.

        Raises Unavailable at once while there is no link, else past the budget.
        """
        link = self._link
        if link is None or not link.alive:
            raise self.failed("down", self._why_down)
        if len(link.calls) >= MAX_IN_FLIGHT:
            raise self.failed("full", f"{MAX_IN_FLIGHT} batches are unanswered")
        future: asyncio.Future[list[Reply]] = link._loop.create_future()
        if at_once and link.is_behind:
            future.set_exception(self.failed("timeout", "an earlier batch is unanswered"))
        link.send(payload, wanted, future, budget_s or self.budget_s)
        return future

    def post(self, payload: bytes, wanted: int) -> None:
        """Send a batch that nobody waits for. Lost, and counted, while there is no link."""
        link = self._link
        if link is None or not link.alive:
            self.count("sluice_store_posts_lost_total", "down")
            return
        if len(link.calls) >= MAX_IN_FLIGHT:
            self.count("sluice_store_posts_lost_total", "full")
            return
        link.send(payload, wanted, None, self.budget_s)

    async def open(self) -> None:
        """Connect, and stay connected from now on.

        Raises Unavailable if the first try fails; later ones go on by themselves.
        """
        if self._keeper is None:
            first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._keeper = asyncio.create_task(self._keep(first))
            await asyncio.wait((first, self._keeper), return_when=asyncio.FIRST_COMPLETED)
            if self._keeper.done():
                self._keeper.result()
            first.result()

    async def close(self) -> None:
        """Drop the link and stop."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None
        if self._link is not None:
            self._link.drop("closed by us")
            self._link = None
        self._why_down = "the connection was closed"

    async def _keep(self, first: asyncio.Future[None]) -> None:
        loop, backoff_s = asyncio.get_running_loop(), 0.0
        while True:
            try:
                self._link = await self._connect()
            except Exception as error:  # in whatever way it fails, the next one is due
                self.count("sluice_store_connects_total", "failed")
                known = error if isinstance(error, Unavailable) else self.unavailable(repr(error))
                self._why_down = known.what
                if not first.done():
                    first.set_exception(known)
                backoff_s = max(backoff_s, BACKOFF_FIRST_S)
            else:
                self.count("sluice_store_connects_total", "made")
                if not first.done():
                    first.set_result(None)
                since = loop.time()
                await self._watch(self._link)
                self._why_down = "the connection was lost and is being made anew"
                if loop.time() - since >= BACKOFF_MAX_S:
                    backoff_s = 0.0
            # Jitter, or a store that comes back is met by every replica at once.
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))
            backoff_s = min(max(2 * backoff_s, BACKOFF_FIRST_S), BACKOFF_MAX_S)

    async def _watch(self, link: _Link) -> None:
        """Until it is lost; while nobody else does, ask the server whether it is still there."""
        loop = asyncio.get_running_loop()
        asks = self.address.mode == SENTINEL
        while not link.lost.done():
            quiet_s = IDLE_S if asks else link.used_at + IDLE_S - loop.time()
            await asyncio.wait((link.lost,), timeout=quiet_s)
            if link.alive and loop.time() - link.used_at >= IDLE_S:
                link.send(_PING, 1, None, self.budget_s)
            if asks and link.alive and await self._elsewhere():
                link.drop("Sentinels name another primary")

    async def _elsewhere(self) -> bool:
        """Whether Sentinels name another server than the one we have; no if they are away."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await find_soon(self.address) != self._primary
        except (TimeoutError, Unavailable):
            return False

    async def _connect(self) -> _Link:
        loop = asyncio.get_running_loop()
        link = _Link(self)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                at = self._primary = await find_soon(self.address)
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                if at.path:
                    await loop.create_unix_connection(lambda: link, at.path)
                else:
                    await loop.create_connection(
                        lambda: link, at.host, at.port, ssl=at.tls_context()
                    )
                greeting = at.greeting()
                answered: asyncio.Future[list[Reply]] = loop.create_future()
                payload = b"".join(pack(*words) for words in greeting)
                link.send(payload, len(greeting), answered, math.inf)
                turned_away = at.refusal(await answered)
        except (OSError, ValueError, Misconfigured) as exc:  # ValueError: no name of a host
            link.drop("not connected")
            why = explain(exc, "store") or "timeout"
            raise self.unavailable(f"cannot connect ({why})") from exc
        except asyncio.CancelledError:
            link.drop("closed by us")
            raise
        if turned_away is not None:
            link.drop("not connected")
            error = refused(self.address, turned_away)
            self._greeted(error)
            self.count("sluice_store_errors_total", code_of(turned_away))
            raise error
        self._greeted(None)
        link.greeted = True
        return link

    def _greeted(self, refusal: Unavailable | None) -> None:
        """Note how the server received us, and say so."""
        self._welcome = self._welcome or refusal is None
        mended = self._welcome or refusal is None or refusal.code not in OURS_TO_MEND
        self.refusal = None if mended else refusal
        self._turned_away(str(refusal or ""))


def _first_error(replies: Sequence[Reply]) -> hiredis.ReplyError | None:
    return next((reply for reply in replies if isinstance(reply, ReplyError)), None)
