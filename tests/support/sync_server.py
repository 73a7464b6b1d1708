"""The sync API's server as a process around a fake decider, and requests as bytes for it."""

from __future__ import annotations

import json
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.support.messages import authorization

PROCESS = "tests.integration.fake_decider_process"
WAIT_S = 60
get, post = partial(httpx.get, timeout=WAIT_S), partial(httpx.post, timeout=WAIT_S)
"""httpx's own are out of patience after 5 s."""


class Server(NamedTuple):
    """A process that listens. log: what it said, JSON lines."""

    process: subprocess.Popen[bytes]
    port: int
    admin_port: int
    log: Path

    @property
    def url(self) -> str:
        """The public port."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin(self) -> str:
        """The admin port."""
        return f"http://127.0.0.1:{self.admin_port}"

    def events(self) -> list[dict[str, Any]]:
        """What it logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def connect(self) -> socket.socket:
        """A connection to the public port whose operations do not wait forever."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)

    def catch_up(self) -> None:
        """Return once it has read all that was sent before: what comes later is answered. Twice,
        for a connection is accepted in one turn of its loop and read in the next."""
        for _ in range(2):
            assert get(f"{self.admin}/v2/health/live").status_code == 200

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It does nothing; what is sent meanwhile waits in the kernel."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def memory_mb(self, what: str = "VmRSS") -> float:
        """A line of its status, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith(what))
        return int(line.split()[1]) / 1024


@contextmanager
def serving(folder: Path, *, files_max: int = 0, **options: float) -> Iterator[Server]:
    """A server until the end of the ``with``.

    files_max: open files that it may have, 0 as many as we. options: drain_s, in_flight_max,
    per_address_max, memory_max_mb, slow_s.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"

    def limit() -> None:
        if files_max:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))

    with log.open("wb") as stderr, (folder / "lines").open("wb") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-m", PROCESS, json.dumps(options)],
            stdout=stdout,
            stderr=stderr,
            cwd=Path(__file__).parents[2],
            preexec_fn=limit,  # noqa: PLW1509 (no thread of ours runs yet)
        )
    try:
        yield Server(process, *_listening(process, log), log)
    finally:
        process.kill()
        process.wait()


def _listening(process: subprocess.Popen[bytes], log: Path) -> tuple[int, int]:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and process.poll() is None:
        lines = log.read_text().split("\n")[:-1]
        found = [e for e in map(json.loads, lines) if e["event"] == "listening"]
        if found:
            return found[0]["port"], found[0]["admin_port"]
        time.sleep(0.02)
    raise AssertionError(log.read_text())


def request(authorization_id: str, *headers: str, version: str = "1.1") -> bytes:
    """A whole request that asks for a decision."""
    body = json.dumps(authorization(authorization_id)).encode()
    head = [
        f"POST /v1/authorizations HTTP/{version}",
        "host: x",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class Answer(NamedTuple):
    """One response as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Its body."""
        return json.loads(self.body)


class Answers:
    """Reads responses with a content-length off a connection, in order."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._data = b""

    def next(self) -> Answer | None:
        """The next one, None where the connection ended before its first byte."""
        while b"\r\n\r\n" not in self._data:
            if not self._more():
                assert not self._data, self._data
                return None
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        length = int(headers.get("content-length", "0"))
        while len(self._data) < length:
            assert self._more(), "the connection ended inside an answer"
        body, self._data = self._data[:length], self._data[length:]
        return Answer(int(first.split(" ", 2)[1]), headers, body)

    def rest(self) -> list[Answer]:
        """All to the end of the connection."""
        found = []
        while (answer := self.next()) is not None:
            found.append(answer)
        return found

    def _more(self) -> bool:
        try:
            data = self._connection.recv(65_536)
        except ConnectionResetError:
            data = b""
        self._data += data
        return bool(data)
