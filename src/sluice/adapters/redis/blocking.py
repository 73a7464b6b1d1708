"""The same connection for callers that work in batches and may wait: a raw socket and hiredis."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import hiredis

from sluice.adapters.redis.address import SENTINEL, Address, parse
from sluice.adapters.redis.commands import code_of, pack
from sluice.adapters.redis.refusals import meaning
from sluice.adapters.redis.sentinel import LOOK_EVERY_S, find
from sluice.adapters.tls import explain
from sluice.application.ports import Count, uncounted
from sluice.errors import Unavailable

RECEIVE_BYTES = 262_144


class BlockingConnection:
    """Connects when first used and after each failure. Not for two threads at once.

    timeout_s: after this a call has failed, whether nothing came or too little. count: of what goes
    wrong.
    """

    def __init__(self, url: str | Address, *, timeout_s: float, count: Count = uncounted) -> None:
        self.address: Address = parse(url)
        self.timeout_s = timeout_s
        self.count = count
        self._socket: socket.socket | None = None
        self._reader = hiredis.Reader()
        self._deadline = 0.0
        self._primary = self.address
        """Where it was found; its own address but with Sentinels."""
        self._found_at = 0.0

    @property
    def everywhere(self) -> list[BlockingConnection]:
        """Each server that holds a part of the store: this one holds all."""
        return [self]

    def each(self, commands: Sequence[bytes], keys: Iterable[bytes] = ()) -> list[Any]:
        """The reply to each command. keys: where each belongs, for a cluster; not looked at."""
        return self.call(b"".join(commands), len(commands))

    def marks(self, key: bytes) -> list[bytes]:
        """Every key of the watermark, whose one name is this."""
        return [key]

    def call(self, payload: bytes, wanted: int) -> list[Any]:
        """Send a batch of commands, return as many replies; a refused one's is a ReplyError.

        Raises Unavailable; then it is unknown which of the commands took effect.
        """
        self.send(payload)
        return self.receive(wanted)

    def send(self, payload: bytes) -> None:
        """The first half of a call: several servers can work at once."""
        self._leave_if_ended()
        self._follow()
        self._tried(lambda: self._send(payload))

    def receive(self, wanted: int) -> list[Any]:
        """The second half, once after each ``send``."""
        replies: list[Any] = self._tried(lambda: self._receive(wanted))
        return replies

    def _leave_if_ended(self) -> None:
        """Drop a connection that was closed while we were silent, as servers and proxies do with
        idle ones: the call then makes another instead of failing on it. Nothing is unanswered
        here, so whatever can be read is an end, or what nobody asked for."""
        if self._socket is not None and _readable(self._socket):
            self.close()
            self.count("sluice_store_connections_lost_total", "closed")

    def _follow(self) -> None:
        """Leave a primary that is none any more. Sentinels that are away change nothing."""
        if self.address.mode != SENTINEL or self._socket is None:
            return
        if time.monotonic() - self._found_at >= LOOK_EVERY_S:
            self._found_at = time.monotonic()
            with suppress(Unavailable):
                if find(self.address) != self._primary:
                    self.close()

    def _tried(self, attempt: Callable[[], Any]) -> Any:
        greeted = False
        try:
            if self._socket is None:
                self._connect()
            greeted = True
            return attempt()
        except Unavailable as exc:  # no Sentinel names a primary
            self._count_failure(exc, greeted)
            raise
        except (OSError, hiredis.ProtocolError, hiredis.ReplyError) as exc:
            self.close()
            self._count_failure(exc, greeted)
            if isinstance(exc, hiredis.ReplyError):
                raise self.refused(exc) from exc
            raise Unavailable(
                f"the online store did not serve us: {explain(exc, 'store') or type(exc).__name__}",
                where=str(self.address),
                fix="docs/reference/online-store.md, section When it is down",
            ) from exc

    def refused(self, answer: hiredis.ReplyError) -> Unavailable:
        """The error of a command that the server refused, counted by the server's word for it."""
        if not str(answer).startswith("NOSCRIPT"):  # a new server: the script is sent again
            self.count("sluice_store_errors_total", code_of(answer))
        known = meaning(answer)
        return Unavailable(
            f"the online store refuses a command: {known.what} ({answer})",
            where=str(self.address),
            fix=known.fix,
            code=known.code,
        )

    def _count_failure(self, error: Exception, greeted: bool) -> None:
        if not greeted:
            self.count("sluice_store_connects_total", "failed")
            why = "down"
        elif isinstance(error, TimeoutError):
            self.count("sluice_store_connections_lost_total", "hang")
            why = "timeout"
        else:
            fault = "protocol" if isinstance(error, hiredis.ProtocolError) else "closed"
            self.count("sluice_store_connections_lost_total", fault)
            why = "lost"
        self.count("sluice_store_failures_total", why)

    def close(self) -> None:
        """Drop the connection; the next call makes another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._reader = hiredis.Reader()

    def _connect(self) -> None:
        at = self._primary = find(self.address)
        self._found_at = time.monotonic()
        if at.path:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            made.settimeout(self.timeout_s)
            made.connect(at.path)
        else:
            made = socket.create_connection((at.host, at.port), timeout=self.timeout_s)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = at.tls_context()
        self._socket = context.wrap_socket(made, server_hostname=at.host) if context else made
        greeting = at.greeting()
        self._send(b"".join(pack(*words) for words in greeting))
        refused = at.refusal(self._receive(len(greeting)))
        if refused is not None:
            raise refused
        self.count("sluice_store_connects_total", "made")

    def _send(self, payload: bytes) -> None:
        assert self._socket is not None
        # A socket's own timeout begins anew with each byte: a reply that drips would never be late.
        self._deadline = time.monotonic() + self.timeout_s
        self._socket.settimeout(self.timeout_s)
        self._socket.sendall(payload)

    def _receive(self, wanted: int) -> list[Any]:
        assert self._socket is not None
        deadline, replies = self._deadline, list[Any]()
        feed, gets, receive = self._reader.feed, self._reader.gets, self._socket.recv
        while len(replies) < wanted:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"timed out after {len(replies)} of {wanted} replies")
            self._socket.settimeout(left)
            data = receive(RECEIVE_BYTES)
            if not data:
                raise ConnectionResetError("closed by the other side")
            feed(data)
            while len(replies) < wanted:
                reply = gets()
                if reply is False:
                    break
                replies.append(reply)
        if self._reader.has_data():
            # A reply that nobody asked for would answer the next question.
            raise hiredis.ProtocolError("the server said more than was asked")
        return replies


def _readable(connection: socket.socket) -> bool:
    """Whether there are bytes, or an end, just now."""
    looked = select.poll()  # select() ends at 1,024 files
    looked.register(connection, select.POLLIN)
    return bool(looked.poll(0))
