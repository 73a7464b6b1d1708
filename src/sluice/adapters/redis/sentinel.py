"""Where the primary is, as Sentinels say.

redis-py asks them too, but over TLS it reads the machine's whole trust store for each of them,
25 ms, and trusts it besides our CA.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from typing import Any

import hiredis

from sluice.adapters.redis.address import SENTINEL, Address, Place
from sluice.adapters.redis.commands import pack
from sluice.adapters.tls import explain
from sluice.errors import Unavailable

ANSWER_MAX_S = 0.25
"""Of one Sentinel; then the next is asked. All of three must fit into a connect's second."""
LOOK_EVERY_S = 1.0
"""How often those connected ask whether the primary is still the one they have: a primary that only
Sentinels and replicas cannot reach goes on answering us."""
_RECEIVE_BYTES = 65_536
_DOWN = {b"s_down", b"o_down", b"disconnected"}


def find(address: Address) -> Address:
    """The primary that the first Sentinel to answer names; the address itself if it is of one
    server. Raises Unavailable where none names one, Misconfigured for files of TLS."""
    if address.mode != SENTINEL:
        return address
    context = address.tls_context()
    why = ""
    for place in address.seeds:
        try:
            return address.at(_named(address, place, context))
        except (OSError, ValueError, hiredis.HiredisError) as exc:
            why = explain(exc, "store") or type(exc).__name__
    raise Unavailable(
        f"no Sentinel names a primary that is up: {why}",
        where=str(address),
        fix="docs/reference/online-store.md, section When it is down",
    )


async def find_soon(address: Address) -> Address:
    """The same without blocking."""
    if address.mode != SENTINEL:
        return address
    return await asyncio.to_thread(find, address)


def _named(address: Address, place: Place, context: ssl.SSLContext | None) -> Place:
    """The primary that one Sentinel names.

    It is greeted with the store's user and password, and asked whatever it says to that: most
    Sentinels have no password. Raises OSError, hiredis.HiredisError; ValueError where it names
    none that is up.
    """
    deadline = time.monotonic() + ANSWER_MAX_S
    asked = pack(b"SENTINEL", b"MASTER", address.service.encode())
    wanted = 1
    if address.password:
        user = (address.username.encode(),) if address.username else ()
        asked = pack(b"AUTH", *user, address.password.encode()) + asked
        wanted = 2
    with socket.create_connection(place, timeout=ANSWER_MAX_S) as plain:
        made = context.wrap_socket(plain, server_hostname=place[0]) if context else plain
        with made:
            made.sendall(asked)
            reply = _received(made, wanted, deadline)
    if isinstance(reply, hiredis.ReplyError):
        raise reply
    try:
        figures = dict(zip(reply[::2], reply[1::2], strict=True))
        flags = set(figures[b"flags"].split(b","))
        found = figures[b"ip"].decode(), int(figures[b"port"])
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise ValueError(f"this is no answer to SENTINEL MASTER: {exc}") from exc
    if b"master" not in flags or flags & _DOWN:
        raise ValueError(f"{found[0]}:{found[1]} is {figures[b'flags'].decode()}")
    return found


def _received(made: socket.socket, wanted: int, deadline: float) -> Any:
    """The last of so many replies."""
    reader = hiredis.Reader()
    reply: Any = False
    while wanted:
        made.settimeout(max(deadline - time.monotonic(), 0.001))
        data = made.recv(_RECEIVE_BYTES)
        if not data:
            raise ConnectionResetError("closed by the other side")
        reader.feed(data)
        while wanted and (reply := reader.gets()) is not False:
            wanted -= 1
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
    return reply
