"""HTTP/1.1 of one connection: uvicorn's parser and cycle, with bounds on what a stranger may cost.

An authorization goes to the entrypoint when it is whole, and the answer into the transport: without
a task, an ASGI message or a wake-up of its own. What is unusual (a large body, one announced by
``expect``) goes through ASGI.

A client sends the same head with each request, but for the length of the body. So heads that the
parser has read are remembered (:class:`Heads`), and a request that comes whole behind one of them
is not parsed again. The less a refusal costs, the less a flood takes from others.

Answers leave in the order of the requests, also the one that says that the rest is no HTTP. While
one request is answered at most the next ones of one piece stand behind it; what else has arrived is
held as bytes, the connection is read no further, and what is held is bounded over all connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import httptools
import msgspec
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from services.decider.access import PEER, peer_of
from services.decider.asgi import CLOSE, Header, problem_headers
from services.decider.http import AUTHORIZATIONS, SyncApi
from services.decider.problems import problem
from sluice import telemetry
from sluice.domain.records.authorization import MAX_BODY_BYTES

PIECE_BYTES = 4096
"""What the parser gets at once. An authorization with its headers is a quarter of it, and the
smallest requests there are, 200 in a piece, cost a third of a megabyte."""
PIECES_A_TURN = 16
"""Of one connection; then others have their turn."""
MAX_HEADER_BYTES = 65_536
"""Of a message that is not whole, beside its body: header, chunk sizes, trailer. httptools itself
would keep any amount."""
HEADERS_MAX = 128
"""Of one request; each costs 25 times the four bytes that it needs on the wire."""
READ_TIMEOUT_S = 5.0
"""From a request's first byte (or the connection) to its last: what is slower is cut off."""
UNREAD_TIMEOUT_S = 5.0
"""For the sender to take the answers that fill our buffer, or the last ones of a closed connection:
who does not is cut off."""
KEEP_ALIVE_S = 65.0
"""Longer than the 60 s of the usual proxy, so that the proxy closes first."""


def _goodbye(code: str) -> bytes:
    """The answer to what is no request: written as it is, before the connection closes."""
    what = problem(code)
    body = msgspec.json.encode(what)
    headers = (*problem_headers(what), (b"content-length", b"%d" % len(body)), CLOSE)
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return STATUS_LINE[what.status] + lines + b"\r\n" + body


GOODBYES = {code: _goodbye(code) for code in ("invalid_http", "headers_too_large", "overloaded")}
HEADS_MAX = 1024
HEAD_MAX_BYTES = 1024
"""Of a head that is remembered: together some 2 MB. A client's heads differ in the length of the
body, so it has about a hundred."""
_HEAD_END = b"\r\n\r\n"
_TARGET = AUTHORIZATIONS.encode()
_UNUSUAL = frozenset(
    (b"connection", b"expect", b"traceparent", b"transfer-encoding", b"upgrade", b"trailer")
)
"""Headers that make the rest of a request another, or that no two requests have alike."""
_OF_AN_UPGRADE = (b"upgrade", b"http2-settings")
"""Headers and connection options that offer another protocol."""


class Port(Protocol):
    """What a connection needs of the one that accepted it: ``connections.Listener``."""

    config: uvicorn.Config
    state: ServerState
    loop: asyncio.AbstractEventLoop

    def left(self, connection: HttpProtocol) -> None:
        """It is closed."""
        ...

    def count_closed(self, reason: str) -> None:
        """It does not end by itself."""
        ...

    def hold(self, size: int) -> bool:
        """Whether so many bytes more may wait to be parsed."""
        ...

    def let_go(self, size: int) -> None:
        """So many of them wait no more."""
        ...

    @property
    def heads(self) -> Heads:
        """Those read before on any of its connections."""
        ...


class Heads:
    """Heads of ordinary authorizations as they came, and the headers that the parser found in each.

    What a parser makes of a head depends on its bytes alone. So this holds only heads of requests
    that it read whole, in one piece, from the first byte on: HTTP/1.1, POST to AUTHORIZATIONS, kept
    alive, of one announced length. At most HEADS_MAX; then it begins anew.
    """

    def __init__(self) -> None:
        self._headers: dict[bytes, tuple[tuple[Header, ...], int]] = {}

    def __len__(self) -> int:
        return len(self._headers)

    def find(self, piece: bytes) -> tuple[tuple[Header, ...], int] | None:
        """Headers of the request that a piece is the whole of, and where its body begins."""
        end = piece.find(_HEAD_END) + len(_HEAD_END)
        found = self._headers.get(piece[:end])
        return (found[0], end) if found is not None and found[1] == len(piece) - end else None

    def learn(self, piece: bytes, protocol: HttpToolsProtocol) -> None:
        """Take note of the head of a piece, if the request just parsed is the whole of it."""
        cycle = protocol.cycle
        headers = tuple(cycle.scope["headers"])
        if any(name in _UNUSUAL for name, _ in headers):
            return
        end = piece.find(_HEAD_END) + len(_HEAD_END)
        if (
            end > HEAD_MAX_BYTES
            or cycle.body != piece[end:]
            or cycle.more_body
            or not cycle.keep_alive
            or protocol.url != _TARGET
            or cycle.scope["method"] != "POST"
            or cycle.scope["http_version"] != "1.1"
            or [value for name, value in headers if name == b"content-length"]
            != [b"%d" % (len(piece) - end)]
        ):
            return
        if len(self._headers) >= HEADS_MAX:
            self._headers.clear()
        self._headers[piece[:end]] = headers, len(piece) - end


class _Whole(RequestResponseCycle):
    """A request that came whole behind a known head. Nobody waits for its body."""

    message_event = asyncio.Event()
    disconnected = response_started = response_complete = more_body = False
    keep_alive = True

    def __init__(self) -> None:
        pass


class _TooManyHeadersError(Exception):
    """Ends the parser's work inside one of its callbacks."""


class _Corked:
    """A transport that sends at once what one turn of the loop wrote in pieces.

    uvicorn writes header and body apart, each a system call and a packet. One of them fewer saves
    8 to 25 us of CPU a request, of 65 to 95.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Keep it for the end of this turn."""
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(data)

    def write_whole(self, data: bytes) -> None:
        """Of what is not in pieces: uvloop itself sends together what one turn wrote."""
        if self._held:
            self._held.append(data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Send what is kept, then close."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Flow(FlowControl):
    """Reads on only when nothing that was read is still to be parsed."""

    def __init__(self, transport: Any, protocol: HttpProtocol) -> None:
        super().__init__(transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        if self.read_paused and not self._protocol.behind():
            super().resume_reading()


class HttpProtocol(HttpToolsProtocol):
    """One connection. ``reading_since``, ``idle_since`` and ``unread_since`` are times of the loop:
    since when a request has been arriving, nothing was going on, an answer was not taken."""

    cycle: RequestResponseCycle

    def __init__(self, port: Port, address: str) -> None:
        super().__init__(port.config, port.state, {}, port.loop)
        self.address = address
        self.counted = True
        """Whether the listener still counts it among its connections."""
        self._port = port
        self.reading_since: float | None = None
        self.idle_since: float | None = None
        self.unread_since: float | None = None
        self._closing_since: float | None = None
        self._message_bytes = 0
        """Fed to the parser of the message that is not whole."""
        self._body_bytes = 0
        """Of them the body."""
        self._held = b""
        """Read and not yet parsed."""
        self._answering: RequestResponseCycle | None = None
        """The request that is being answered; those behind it stand in ``pipeline``."""
        self._incomplete: RequestResponseCycle | None = None
        """The authorization whose body is still to come."""
        self._upgrading = False
        self._goodbye = ""
        """Code of what is said when all before it is answered; nothing more is parsed."""
        self._between = True
        """The parser has read the last request to its end, and nothing of the next."""
        self._entrypoint = self.app if isinstance(self.app, SyncApi) else None

    # ------------------------------------------------------------ the connection

    def connection_made(self, transport: Any) -> None:
        """It is open."""
        super().connection_made(_Corked(transport, self.loop))
        self._peer = peer_of(transport.get_extra_info("ssl_object"))
        self.flow = _Flow(self.transport, self)
        self.headers: list[Header] = []
        self.reading_since = self.idle_since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed: what was begun for it ends unheard."""
        self._drop_held()
        self.pipeline.clear()
        self._incomplete = None
        cycle, self._answering = self._answering, None
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        self.idle_since = self.reading_since = self.unread_since = None
        self._port.left(self)
        super().connection_lost(exc)

    def cut(self, reason: str) -> None:
        """End it at once, and count why."""
        self._port.count_closed(reason)
        self.transport.abort()

    def check(self, now: float) -> None:
        """Cut or close what has taken too long. Called about once a second."""
        if self.transport.is_closing():
            if self._closing_since is None:
                self._closing_since = now
            elif self._closing_since < now - UNREAD_TIMEOUT_S:
                self.cut("slow_reader")
        elif self.unread_since is not None and self.unread_since < now - UNREAD_TIMEOUT_S:
            self.cut("slow_reader")
        elif (
            self.reading_since is not None
            and self.reading_since < now - READ_TIMEOUT_S
            and not self.behind()
        ):
            self.cut("slow_sender")
        elif self.idle_since is not None and self.idle_since < now - KEEP_ALIVE_S:
            self.transport.close()

    def pause_writing(self) -> None:
        """The sender does not read: its buffer is full."""
        self.unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self.unread_since = None
        super().resume_writing()
        self.loop.call_soon(self._go_on)

    # ------------------------------------------------------------ what arrives

    def behind(self) -> bool:
        """Whether requests, or bytes that may be some, wait for their turn."""
        return bool(self._held or self.pipeline or self._goodbye)

    def data_received(self, data: bytes) -> None:
        """Parse it, or hold it while others are before it."""
        if self._goodbye or self.transport.is_closing():
            return
        if len(data) <= PIECE_BYTES and not self.behind():
            if self._between and self._answering is None and self._entrypoint is not None:
                self._read(data, self._entrypoint)
            else:
                self._parse(data)
        elif self._port.hold(len(data)):
            self._held += data
            self.flow.pause_reading()
            if not self.pipeline:
                self._parse_held()
        else:
            self._end_with("overloaded")

    def _read(self, piece: bytes, entrypoint: SyncApi) -> None:
        """Take what may be a whole authorization, by its head if that is known."""
        heads = self._port.heads
        found = heads.find(piece)
        if found is None:
            before = self.cycle
            self._parse(piece)
            if self._between and self.cycle is not before:
                heads.learn(piece, self)
            return
        headers, end = found
        self.reading_since = self.idle_since = None
        cycle = _Whole()
        self.cycle = self._answering = cycle
        self._hand_over(cycle, entrypoint, headers, piece[end:])

    def _parse_held(self) -> None:
        """Parse what is held until a request has to wait, the turn is over or nothing is left."""
        held, at = self._held, 0
        for _ in range(PIECES_A_TURN):
            if at >= len(held) or self.pipeline or self._goodbye or self.transport.is_closing():
                break
            self._parse(held[at : at + PIECE_BYTES])
            at += PIECE_BYTES
        if self._held:  # else it was dropped meanwhile
            left = held[at:]
            self._port.let_go(len(held) - len(left))
            self._held = left
        if not self.pipeline:  # else the end of the answer before it goes on
            self.loop.call_soon(self._go_on)

    def _drop_held(self) -> None:
        self._port.let_go(len(self._held))
        self._held = b""

    def _parse(self, piece: bytes) -> None:
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._begin_without_upgrade(piece[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            many = isinstance(error.__context__, _TooManyHeadersError)
            self._end_with("headers_too_large" if many else "invalid_http")
            return
        if self.reading_since is not None:
            self._message_bytes += len(piece)
            beside = self._message_bytes - 2 * self._body_bytes
            if beside > MAX_HEADER_BYTES or len(self.headers) > HEADERS_MAX:
                self._end_with("headers_too_large")

    def _begin_without_upgrade(self, rest: bytes) -> None:
        """Read a request that offers another protocol as if it had not: RFC 9110, 7.8. The parser
        takes the offer for accepted, and the body for what follows the request."""
        if self.parser.get_method() == b"CONNECT":
            self._end_with("invalid_http")
            return
        self._upgrading = False
        self.parser: httptools.HttpRequestParser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        head = [self.scope["method"].encode(), b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                kept = b", ".join(o for o in options if o.lower() not in _OF_AN_UPGRADE)
                head += [name, b": ", kept, b"\r\n"]
            elif name not in _OF_AN_UPGRADE:
                head += [name, b": ", value, b"\r\n"]
        self._parse(b"".join((*head, b"\r\n", rest)))

    def _end_with(self, code: str) -> None:
        """Say so when all whole requests before it are answered, then close."""
        self._port.count_closed(code)
        self._goodbye = code
        self._drop_held()
        self.flow.pause_reading()
        cycle = self.cycle
        if cycle is not None and cycle.more_body and not cycle.response_complete:
            # It is the broken one: nobody decides half a request.
            if self.pipeline and self.pipeline[0][0] is cycle:
                self.pipeline.popleft()
            else:
                self._answering = self._incomplete = None
                if cycle.response_started:
                    self.transport.close()
                    return
                cycle.disconnected = True
                cycle.message_event.set()
        self._go_on()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._between = False
        self.reading_since = self.loop.time()
        self.idle_since = None
        self._message_bytes = self._body_bytes = 0
        super().on_message_begin()
        if self._peer is not None:
            self.scope[PEER] = self._peer

    def on_headers_complete(self) -> None:
        """A request whose body, if any, is still to come."""
        if len(self.headers) > HEADERS_MAX:
            raise _TooManyHeadersError
        if self.parser.should_upgrade():
            self._upgrading = True
            self.scope["method"] = self.parser.get_method().decode("ascii")
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of it."""
        self._body_bytes += len(body)
        super().on_body(body)
        cycle = self._incomplete
        if cycle is not None and len(cycle.body) > MAX_BODY_BYTES:
            self._incomplete = None
            super()._start_asgi_task(cycle, self.app)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self._upgrading:
            return
        self._between = True
        self.reading_since = None
        super().on_message_complete()
        cycle, self._incomplete = self._incomplete, None
        if cycle is not None:
            self._hand_over_parsed(cycle)

    # ------------------------------------------------------------ what is answered

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self.flow.write_paused:  # decide nothing more for who does not read
            self.pipeline.append((cycle, app))
            self.flow.pause_reading()
            return
        self._answering = cycle
        if (
            cycle.scope["path"] != AUTHORIZATIONS
            or cycle.scope["method"] != "POST"
            or self._entrypoint is None
            or cycle.waiting_for_100_continue
        ):
            super()._start_asgi_task(cycle, app)
        elif cycle.more_body:
            self._incomplete = cycle
        else:  # it came while its predecessor on this connection was being decided
            self._hand_over_parsed(cycle)

    def _hand_over_parsed(self, cycle: RequestResponseCycle) -> None:
        assert self._entrypoint is not None
        self._hand_over(cycle, self._entrypoint, cycle.scope["headers"], bytes(cycle.body))

    def _hand_over(
        self,
        cycle: RequestResponseCycle,
        entrypoint: SyncApi,
        headers: Sequence[Header],
        body: bytes,
    ) -> None:
        try:
            entrypoint.authorize(headers, body, partial(self._respond, cycle), self._peer)
        except Exception:
            # Inside the parser it would be a 400, although the row may be decided: say nothing.
            telemetry.event("request_failed", level=logging.ERROR, error=True)
            self.cut("failed")

    def _respond(
        self, cycle: RequestResponseCycle, status: int, headers: list[Header], body: bytes
    ) -> None:
        if cycle.disconnected:
            return
        if not cycle.keep_alive and CLOSE not in headers:
            headers.append(CLOSE)
        parts = [STATUS_LINE[status]]
        for name, value in (*self.server_state.default_headers, *headers):
            parts += (name, b": ", value, b"\r\n")
        parts += (b"content-length: %d\r\n\r\n" % len(body), body)
        self.transport.write_whole(b"".join(parts))
        cycle.response_started = cycle.response_complete = True
        if CLOSE in headers:
            self.transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """A request is answered."""
        self._answering = None
        if self.transport.is_closing():
            return
        if self.behind():  # later, so that refusals at once do not pile up on the stack
            self.loop.call_soon(self._go_on)
        else:
            self._wait_for_more()

    def _go_on(self) -> None:
        """Take the next request, or the next bytes, or say goodbye, where it is their turn."""
        if self.transport.is_closing() or self.flow.write_paused:
            return
        if self._answering is None and self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        if self._goodbye:
            if self._answering is None and not self.pipeline:
                self.transport.write(GOODBYES[self._goodbye])
                self.transport.close()
        elif self._held and not self.pipeline:
            if self.reading_since is not None:  # it was we who let it wait
                self.reading_since = self.loop.time()
            self._parse_held()
        elif not self.behind():
            self._wait_for_more()

    def _wait_for_more(self) -> None:
        self.flow.resume_reading()
        if self._answering is None and self.reading_since is None:
            self.idle_since = self.loop.time()
