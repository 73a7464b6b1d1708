"""The sync API as its callers see it: HTTP/1.1 over kept connections, and a patient client.

A generator shares its machine with what it measures, so this is a small protocol on asyncio
rather than a general client: 60 µs a request instead of several hundred, 30 without a task for
each (:class:`Connection` alone, as the benchmarks use it).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

MAX_CONNECTIONS = 256
MAX_HEAD_BYTES = 65_536


class SyncClientError(Exception):
    """The connection failed, or what came back was not HTTP that we understand."""


@dataclass(frozen=True, slots=True)
class Response:
    """Status, the head as it came, body."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """The first header of this name, in any case of letters."""
        found = _header(self.head, name.lower().encode())
        return None if found is None else found.decode("latin-1")


def _header(head: bytes, name: bytes) -> bytes | None:
    at = head.lower().find(b"\r\n%b:" % name)
    if at < 0:
        return None
    end = head.find(b"\r\n", at + 2)
    return head[at + len(name) + 3 : end if end >= 0 else len(head)].strip()


Done = Callable[[Response | SyncClientError], None]
"""Hears of an answer, or why none came. Called once a request."""


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._done: Done | None = None
        self._transport: asyncio.Transport | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's."""
        self.closed = True
        self._finish(SyncClientError(f"the connection was closed ({exc or 'by the other side'})"))

    def data_received(self, data: bytes) -> None:
        """asyncio's."""
        if self._buffer:
            data = self._buffer + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._buffer = data
            if len(data) > MAX_HEAD_BYTES:
                self.close("the answer's head has no end")
            return
        head = data[:end]
        try:
            status = int(head[9:12])
            length = int(_header(head, b"content-length") or b"")
        except ValueError:
            self.close("the answer has no status or no content-length")
            return
        if len(data) < end + 4 + length:
            self._buffer = data
            return
        self._buffer = b""
        done, self._done = self._done, None
        if (_header(head, b"connection") or b"").lower() == b"close":
            self.close("")
        if done is not None:
            done(Response(status, head, data[end + 4 : end + 4 + length]))

    def ask(self, request: bytes, done: Done) -> None:
        """Send a whole request."""
        assert self._transport is not None
        self._done = done
        self._transport.write(request)

    def close(self, why: str) -> None:
        """Close it; a request on its way hears why."""
        self.closed = True
        if self._transport:
            self._transport.close()
        self._finish(SyncClientError(why))

    def _finish(self, error: SyncClientError) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(error)


def request_head(url: str, path: str = "", *, token: str = "") -> bytes:
    """All of a POST's head up to the length of its body: ``head + b"%d\\r\\n\\r\\n" % n + body``.

    token: a bearer token, if one is needed. Raises ValueError if url is not http[s]://HOST:PORT.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not http[s]://HOST:PORT")
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    return (
        f"POST {parts.path.rstrip('/')}{path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{bearer}"
        "Content-Type: application/json\r\nContent-Length: "
    ).encode()


async def connect(url: str, tls: ssl.SSLContext | None = None) -> Connection:
    """Open one connection. tls: of an https URL, by default the system. Raises OSError."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    loop = asyncio.get_running_loop()
    _, made = await loop.create_connection(
        Connection,
        parts.hostname or "",
        parts.port or (443 if secure else 80),
        ssl=(tls or ssl.create_default_context()) if secure else None,
    )
    return made


class SyncClient:
    """Posts to one address. Connections are opened as needed, at most MAX_CONNECTIONS."""

    def __init__(self, url: str, path: str = "/v1/authorizations") -> None:
        self._url = url
        self._head = request_head(url, path)
        self._free: list[Connection] = []
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)

    async def post(self, body: bytes, timeout_s: float) -> Response:
        """One try. Raises SyncClientError where no answer came in time."""
        async with self._slots:
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._try(body)
            except TimeoutError:
                raise SyncClientError(f"no answer within {timeout_s:g} s") from None
            except OSError as exc:
                raise SyncClientError(str(exc)) from exc

    async def _try(self, body: bytes) -> Response:
        connection = None
        while self._free and connection is None:
            kept = self._free.pop()
            connection = None if kept.closed else kept
        connection = connection or await connect(self._url)
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        connection.ask(self._head + b"%d\r\n\r\n" % len(body) + body, partial(_resolve, answer))
        try:
            response = await answer
        except asyncio.CancelledError:
            connection.close("given up")
            raise
        if not connection.closed:
            self._free.append(connection)
        return response

    def close(self) -> None:
        """Close the kept connections."""
        for connection in self._free:
            connection.close("")
        self._free.clear()


def _resolve(answer: asyncio.Future[Response], what: Response | SyncClientError) -> None:
    if answer.done():
        return
    if isinstance(what, SyncClientError):
        answer.set_exception(what)
    else:
        answer.set_result(what)
