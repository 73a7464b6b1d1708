"""The same connection for callers that work in batches and may wait: a raw socket and hiredis."""

from __future__ import annotations

import socket
import time
from typing import Any

import hiredis

from sluice.adapters.redis.address import Address, parse
from sluice.adapters.redis.commands import code_of, pack
from sluice.adapters.redis.refusals import meaning
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

    def call(self, payload: bytes, wanted: int) -> list[Any]:
        """Send a batch of commands, return as many replies; a refused one's is a ReplyError.

        Raises Unavailable; then it is unknown which of the commands took effect.
        """
        greeted = False
        try:
            if self._socket is None:
                self._connect()
            greeted = True
            return self._exchange(payload, wanted)
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
        at = self.address
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
        for reply in self._exchange(b"".join(pack(*words) for words in greeting), len(greeting)):
            if isinstance(reply, hiredis.ReplyError):
                raise reply
        self.count("sluice_store_connects_total", "made")

    def _exchange(self, payload: bytes, wanted: int) -> list[Any]:
        assert self._socket is not None
        # A socket's own timeout begins anew with each byte: a reply that drips would never be late.
        deadline = time.monotonic() + self.timeout_s
        self._socket.settimeout(self.timeout_s)
        self._socket.sendall(payload)
        replies: list[Any] = []
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
