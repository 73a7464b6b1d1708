"""uvicorn as our entrypoints use it: our protocol and listener, and SIGTERM drains first."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, Protocol

import uvicorn
import uvloop

from services.decider.access import ServerTls
from services.decider.asgi import App
from services.decider.connections import Listener, connections_max
from services.decider.protocol import HttpProtocol
from sluice import telemetry

FINISH_S = 10
"""For requests in flight, after the drain."""


class Drains(Protocol):
    """An application that is told when no new requests are welcome."""

    draining: bool


class Server(uvicorn.Server):
    """uvicorn, told by us when to stop: SIGTERM drains first, SIGINT stops at once."""

    def __init__(
        self,
        config: uvicorn.Config,
        entrypoint: Drains,
        listening: socket.socket,
        *,
        drain_s: float,
        per_address_max: int,
        stop: threading.Event | None = None,
    ) -> None:
        super().__init__(config)
        self._entrypoint = entrypoint
        self._listening = listening
        self._drain_s = drain_s
        self._per_address_max = per_address_max
        self._stop_before = stop
        self._stopping = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, but connections are accepted by a listener of ours."""
        await self.lifespan.startup()
        listener = Listener(
            "api",
            self._listening,
            self.config,
            self.server_state,
            connections_max=connections_max(),
            per_address_max=self._per_address_max,
        )
        listener.start()
        self.servers = [listener]
        self.started = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM drains, SIGINT stops at once."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._drain)
        loop.add_signal_handler(signal.SIGINT, self._stop)
        if self._stop_before is not None and self._stop_before.is_set():
            self._drain()
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGTERM)
            loop.remove_signal_handler(signal.SIGINT)

    def _drain(self) -> None:
        if self._entrypoint.draining:
            return
        self._entrypoint.draining = True
        telemetry.event("draining", seconds=self._drain_s)
        asyncio.get_running_loop().call_later(self._drain_s, self._stop)

    def _stop(self) -> None:
        self._entrypoint.draining = True
        if self._stopping:
            self.force_exit = True
        self._stopping = self.should_exit = True


def config_of(app: App, tls: ServerTls | None = None) -> uvicorn.Config:
    """How an application is served: our protocol, no second log, TLS if there is a certificate."""
    config = uvicorn.Config(
        app,
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=FINISH_S,
        ssl_context_factory=None if tls is None else lambda _config, _default: tls.context,
    )
    config.load()
    return config


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a service's coroutine on a uvloop of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)
