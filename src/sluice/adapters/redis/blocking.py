"""The same connection for callers that work in batches and may wait: a raw socket and hiredis."""

from __future__ import annotations

import socket
from typing import Any

import hiredis

from sluice.adapters.redis.address import Address, parse
from sluice.adapters.redis.commands import pack
from sluice.errors import Unavailable

RECEIVE_BYTES = 262_144


class BlockingConnection:
    """Connects when first used and after each failure. Not for two threads at once.

    timeout_s: longest silence of the server before a call fails.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self.address: Address = parse(url)
        self.timeout_s = timeout_s
        self.connects = 0
        self._socket: socket.socket | None = None
        self._reader = hiredis.Reader()

    def call(self, payload: bytes, wanted: int) -> list[Any]:
        """Send a batch of commands, return as many replies; a refused one's is a ReplyError.

        Raises Unavailable; then it is unknown which of the commands took effect.
        """
        try:
            if self._socket is None:
                self._connect()
            return self._exchange(payload, wanted)
        except (OSError, hiredis.ProtocolError, hiredis.ReplyError) as exc:
            self.close()
            raise Unavailable(
                f"the online store did not serve us: {exc or type(exc).__name__}",
                where=str(self.address),
                fix="docs/reference/online-store.md, section When it is down",
            ) from exc

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
        self.connects += 1

    def _exchange(self, payload: bytes, wanted: int) -> list[Any]:
        assert self._socket is not None
        self._socket.sendall(payload)
        replies: list[Any] = []
        feed, gets, receive = self._reader.feed, self._reader.gets, self._socket.recv
        while len(replies) < wanted:
            data = receive(RECEIVE_BYTES)
            if not data:
                raise ConnectionResetError("closed by the other side")
            feed(data)
            while len(replies) < wanted:
                reply = gets()
                if reply is False:
                    break
                replies.append(reply)
        return replies
