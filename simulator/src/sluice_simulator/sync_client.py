"""The sync API as its callers see it: HTTP/1.1 over kept connections, and a patient client.

A generator shares its machine with what it measures, so this is a small protocol on asyncio
rather than a general client: 60 µs a request instead of several hundred.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit

MAX_CONNECTIONS = 256
MAX_HEAD_BYTES = 65_536


class SyncClientError(Exception):
    """The connection failed, or what came back was not HTTP that we understand."""


@dataclass(frozen=True, slots=True)
class Response:
    """Status, headers with lower-case names, body."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._buffer = bytearray()
        self._answer: asyncio.Future[Response] | None = None
        self._transport: asyncio.Transport | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._fail(f"the connection was closed ({exc or 'by the other side'})")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                self.close("the answer's head has no end")
            return
        try:
            first, *lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
            status = int(first.split(" ", 2)[1])
            headers = {
                name.strip().lower(): value.strip()
                for name, _, value in (line.partition(":") for line in lines)
            }
            length = int(headers["content-length"])
        except (KeyError, ValueError, IndexError):
            self.close("the answer has no status or no content-length")
            return
        if len(self._buffer) < end + 4 + length:
            return
        body = bytes(self._buffer[end + 4 : end + 4 + length])
        self._buffer.clear()
        answer, self._answer = self._answer, None
        if headers.get("connection", "").lower() == "close":
            self.close("")
        if answer and not answer.done():
            answer.set_result(Response(status, headers, body))

    def ask(self, request: bytes) -> asyncio.Future[Response]:
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self, why: str) -> None:
        self.closed = True
        if self._transport:
            self._transport.close()
        self._fail(why)

    def _fail(self, why: str) -> None:
        answer, self._answer = self._answer, None
        if answer and not answer.done():
            answer.set_exception(SyncClientError(why))


class SyncClient:
    """Posts to one address. Connections are opened as needed, at most MAX_CONNECTIONS."""

    def __init__(self, url: str, path: str = "/v1/authorizations") -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url!r} is not http://HOST:PORT")
        self._host, self._port = parts.hostname, parts.port or 80
        self._head = (
            f"POST {parts.path.rstrip('/')}{path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._free: list[_Connection] = []
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)

    async def post(self, body: bytes, timeout_s: float) -> Response:
        """One try. Raises DoorError where no answer came in time."""
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
        if connection is None:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(_Connection, self._host, self._port)
        try:
            answer = await connection.ask(self._head + b"%d\r\n\r\n" % len(body) + body)
        except asyncio.CancelledError:
            connection.close("given up")
            raise
        if not connection.closed:
            self._free.append(connection)
        return answer

    def close(self) -> None:
        """Close the kept connections."""
        for connection in self._free:
            connection.close("")
        self._free.clear()
