"""A listening socket and the connections that came through it: how many, from whom, for how long.

We accept ourselves. libuv takes one connection a turn of the loop, and under load a turn decides a
batch: a hundred newcomers a second, while the others stand in the kernel's queue. And only who
accepts can close an idle connection for a new one, or turn one away before it costs anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import resource
import socket
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from services.decider.protocol import GOODBYES, READ_TIMEOUT_S, Heads, HttpProtocol
from sluice import telemetry
from sluice.telemetry import METRICS

CONNECTIONS_MAX = 4096
"""Of the sync API. One costs about 20 KB, and as much as the bounds below while it sends."""
ADMIN_CONNECTIONS_MAX = 64
"""Of the admin port: probes and a scraper or two."""
FILES_BESIDE = 256
"""Open files that are no connection of a sender: Kafka, store, release, policies."""
HELD_MAX_BYTES = 64 * 1024 * 1024
"""Read and not yet parsed, over all connections of a listener; who comes past it is closed."""
SOCKET_BUFFER_BYTES = 131_072
"""Of each direction of a connection in the kernel, which would else keep megabytes for each sender
that does not read; it doubles what it is given."""
BACKLOG = 2048
ACCEPTS_A_TURN = 64
"""Of one turn of the loop: about 3 ms."""
ACCEPT_PAUSE_S = 0.1
"""After an accept that failed, for want of files say; the listener would be ready at once again."""
LOOK_EVERY_S = 0.1
LOOK_AFTER = 16
"""How often all connections are looked through for idle ones, when there is no room: a millisecond
for thousands. Or when so large a part of them is new: a 16th."""


class Listener:
    """One port. Lives in the loop that runs when it is made.

    name: ``api`` or ``admin``, for metrics. config: uvicorn's, loaded. state: whose ``connections``
    are ours. connections_max, per_address_max: open at once; per_address_max 0 is no bound.
    """

    def __init__(
        self,
        name: str,
        listening: socket.socket,
        config: uvicorn.Config,
        state: ServerState,
        *,
        connections_max: int,
        per_address_max: int = 0,
        metrics: telemetry.Metrics = METRICS,
    ) -> None:
        self.config = config
        self.state = state
        self.loop = asyncio.get_running_loop()
        self.count = 0
        self.heads = Heads()
        self._name = name
        self._listening = listening
        self._connections_max = connections_max
        self._per_address_max = per_address_max
        self._metrics = metrics
        self._by_address: dict[str, int] = {}
        self._held = 0
        self._failing = False
        self._idle: list[tuple[float, HttpProtocol]] = []
        """Those that were idle at the last look, the longest last."""
        self._idle_of: dict[str, list[tuple[float, HttpProtocol]]] = {}
        self._look_at = 0.0
        self._taken = 0
        """Newcomers since the last look."""
        self._connecting: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        listening.setblocking(False)

    @property
    def port(self) -> int:
        """The one it listens on."""
        port: int = self._listening.getsockname()[1]
        return port

    def start(self) -> None:
        """Accept from now on."""
        self._sweeper = self.loop.create_task(self._sweep())
        self._accept_on()

    def close(self) -> None:
        """Accept no more. Open connections stay."""
        if self._listening.fileno() >= 0:
            self.loop.remove_reader(self._listening.fileno())
            self._listening.close()

    async def wait_closed(self) -> None:
        """As asyncio's servers have it. Stops looking after what is still open."""
        if self._sweeper is not None:
            self._sweeper.cancel()

    # ------------------------------------------------------------ coming

    def _accept_on(self) -> None:
        if self._listening.fileno() >= 0:
            self.loop.add_reader(self._listening.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                connection, peer = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                self.loop.remove_reader(self._listening.fileno())
                self.loop.call_later(ACCEPT_PAUSE_S, self._accept_on)
                self.count_closed("accept_failed")
                if not self._failing:
                    telemetry.event("accept_failed", level=logging.ERROR, reason=error.strerror)
                self._failing = True
                return
            self._failing = False
            address = whose(peer[0])
            if self._has_room(address):
                self._take(connection, address)
            else:
                self._turn_away(connection)

    def _has_room(self, address: str) -> bool:
        mine = self._by_address.get(address, 0)
        if self._per_address_max and mine >= self._per_address_max and not self._make_room(address):
            self.count_closed("address_full")
            return False
        if self.count >= self._connections_max and not self._make_room():
            self.count_closed("full")
            return False
        return True

    def _make_room(self, address: str | None = None) -> bool:
        """Close the connection that is idle for longest, if there is one; of this address only."""
        if not self._candidates(address) and (
            self.loop.time() >= self._look_at or self._taken >= self._connections_max // LOOK_AFTER
        ):
            self._look()
        found = self._candidates(address)
        while found:
            since, connection = found.pop()
            if connection.counted and connection.idle_since == since:
                self.left(connection)
                connection.cut("idle")
                return True
        return False

    def _candidates(self, address: str | None) -> list[tuple[float, HttpProtocol]]:
        return self._idle if address is None else self._idle_of.get(address, [])

    def _look(self) -> None:
        idle = [(c.idle_since, c) for c in self._connections() if c.idle_since is not None]
        self._taken = 0
        self._look_at = self.loop.time() + LOOK_EVERY_S
        self._idle = sorted(idle, key=lambda found: -found[0])
        self._idle_of = {}
        for found in self._idle:
            self._idle_of.setdefault(found[1].address, []).append(found)

    def _connections(self) -> list[HttpProtocol]:
        return [c for c in self.state.connections if isinstance(c, HttpProtocol)]

    def _turn_away(self, connection: socket.socket) -> None:
        """Say that there is no room, as far as that is possible without waiting."""
        with contextlib.suppress(OSError):
            connection.setblocking(False)
            if self.config.ssl is None:
                connection.send(GOODBYES["overloaded"])
                connection.shutdown(socket.SHUT_WR)
        connection.close()

    def _take(self, connection: socket.socket, address: str) -> None:
        connection.setblocking(False)
        self.count += 1
        self._taken += 1
        self._by_address[address] = self._by_address.get(address, 0) + 1
        task = self.loop.create_task(self._connect(connection, HttpProtocol(self, address)))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: socket.socket, protocol: HttpProtocol) -> None:
        tls: dict[str, Any] = {}
        if self.config.ssl is not None:
            tls = {"ssl": self.config.ssl, "ssl_handshake_timeout": READ_TIMEOUT_S}
        try:
            await self.loop.connect_accepted_socket(lambda: protocol, connection, **tls)
        except OSError:  # it left before it was here, or its handshake failed
            self.left(protocol)
            self.count_closed("not_connected")
            connection.close()

    # ------------------------------------------------------------ going

    def left(self, connection: HttpProtocol) -> None:
        """A connection is no longer one of ours. Once is enough, more does not matter."""
        if not connection.counted:
            return
        connection.counted = False
        self.count -= 1
        left = self._by_address[connection.address] - 1
        if left:
            self._by_address[connection.address] = left
        else:
            del self._by_address[connection.address]

    def count_closed(self, reason: str) -> None:
        """A connection that was not left to end by itself."""
        self._metrics.count("sluice_decider_connections_closed_total", self._name, reason)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            now = self.loop.time()
            for connection in self._connections():
                try:
                    connection.check(now)
                except Exception:  # one connection's trouble is not its neighbours'
                    telemetry.event("connection_failed", level=logging.ERROR, error=True)
                    self.count_closed("failed")
                    connection.transport.abort()
            self._metrics.set("sluice_decider_connections", self.count, self._name)

    # ------------------------------------------------------------ what is held

    def hold(self, size: int) -> bool:
        """Whether so many bytes more may wait to be parsed; if so they are counted."""
        if self._held + size > HELD_MAX_BYTES:
            return False
        self._held += size
        return True

    def let_go(self, size: int) -> None:
        """So many of them wait no more."""
        self._held -= size


def whose(address: str) -> str:
    """Which connections count together: those of an IPv4 address, or of an IPv6 network of 64 bits,
    the least that anybody is given.

    >>> whose("10.0.0.7"), whose("::ffff:10.0.0.7"), whose("2001:db8::7:1"), whose("fe80::1%eth0")
    ('10.0.0.7', '10.0.0.7', '2001:db8::', 'fe80::')
    """
    if ":" not in address:
        return address
    v6 = ipaddress.IPv6Address(address.partition("%")[0])
    if v6.ipv4_mapped is not None:
        return str(v6.ipv4_mapped)
    return str(ipaddress.IPv6Address(int(v6) >> 64 << 64))


def listen(host: str, port: int) -> socket.socket:
    """A listening socket whose connections have bounded buffers. port: 0 lets the system choose."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return bounded(socket.create_server((host, port), family=family, backlog=BACKLOG))


def bounded(listening: socket.socket) -> socket.socket:
    """The same of a socket that listens already."""
    for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        listening.setsockopt(socket.SOL_SOCKET, buffer, SOCKET_BUFFER_BYTES)
    return listening


def connections_max() -> int:
    """CONNECTIONS_MAX, or as many as the limit on open files leaves, once it is raised as far as
    it goes. A process without files for Kafka or the store decides nothing."""
    wanted = CONNECTIONS_MAX + ADMIN_CONNECTIONS_MAX + FILES_BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return CONNECTIONS_MAX
    most = max(1, soft - ADMIN_CONNECTIONS_MAX - FILES_BESIDE)
    telemetry.event("few_files", level=logging.WARNING, files=soft, connections=most)
    return most
