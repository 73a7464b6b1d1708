"""KServe's ModelServer with our entrypoint in front, on one event loop, draining on SIGTERM.

KServe brings the protocol's other endpoints, metadata and ``/metrics``; it neither opens its gRPC
server nor runs the loop. One process, one worker: KServe's ``--workers`` would pickle the model.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from functools import partial
from typing import Any

import uvicorn
import uvloop
from kserve import Model, ModelServer
from kserve.errors import InvalidInput
from kserve.model_server import app as kserve_app
from kserve.protocol.rest.server import RESTServer
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from services.decider import open_inference
from services.decider.admission import Weights
from services.decider.asgi import CLOSE, Header
from services.decider.http import AUTHORIZATIONS, DEADLINE_MS, DecisionPipeline, SyncApi
from services.decider.problems import Problem
from sluice import telemetry
from sluice.bootstrap.services import settle
from sluice.domain.records.authorization import MAX_BODY_BYTES

CONNECTIONS_MAX = 4096
"""Past it uvicorn itself answers 503. A connection takes about 20 KB."""
READ_TIMEOUT_S = 5.0
"""From a request's first byte (or the connection) to its last: what is slower is cut off."""
MAX_HEADER_BYTES = 65_536
"""Of an unfinished header; httptools itself would keep any amount."""
KEEP_ALIVE_S = 65
"""Longer than the 60 s of the usual proxy, so that the proxy closes first."""
GARBAGE_OBJECTS = 20_000
"""New containers until the collector looks for cycles: some MB. What a batch makes dies with it, by
reference count: at Python's 700 the collector looks in vain at every other batch, for 4 % of the
samples of a profile."""
FINISH_S = 10
"""For requests in flight, after the drain."""

_HEADERS_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class DeciderModel(Model):
    """What KServe sees of the decider: metadata, readiness and the V1 protocol."""

    def __init__(self, name: str, entrypoint: SyncApi, columns: int) -> None:
        super().__init__(name)
        self._entrypoint = entrypoint
        self._columns = columns
        self.ready = True

    async def healthy(self) -> bool:
        """Ready as the entrypoint is."""
        return await self._entrypoint.ready()

    def get_input_types(self) -> list[dict[str, Any]]:
        """The two inputs, one a request."""
        return [
            {"name": open_inference.FEATURES, "datatype": "INT64", "shape": [-1, self._columns]},
            {"name": open_inference.AUTHORIZATIONS, "datatype": "BYTES", "shape": [-1]},
        ]

    def get_output_types(self) -> list[dict[str, Any]]:
        """The output of each input."""
        return [
            {"name": open_inference.SCORES, "datatype": "INT64", "shape": [-1]},
            {"name": open_inference.ANSWERS, "datatype": "BYTES", "shape": [-1]},
        ]

    async def predict(self, payload: Any, headers: Any = None) -> Any:
        """The V1 protocol: ``instances`` are authorizations, ``predictions`` their answers."""
        if not isinstance(payload, dict) or not isinstance(payload.get("instances"), list):
            raise InvalidInput('Expected "instances" to be a list of authorizations')
        instances = payload["instances"]
        if not 1 <= len(instances) <= open_inference.MAX_ROWS:
            raise InvalidInput(f"Expected 1 to {open_inference.MAX_ROWS} instances")
        answers = await self._entrypoint.judge(instances, (headers or {}).get("traceparent"))
        if isinstance(answers, Problem):
            raise InvalidInput(f"{answers.code}: {answers.detail or answers.title}")
        return {"predictions": answers}


class _Corked:
    """A transport that sends at once what one turn of the loop wrote in pieces.

    uvicorn writes header and body apart, each a system call and a packet. One of them fewer saves
    8 to 25 us of CPU a request, of 65 to 95.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Keep it for the end of this turn."""
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(data)

    def close(self) -> None:
        """Send what is kept, then close."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with the two limits it lacks (time to read a request, size of a header),
    and a shorter way for what we are here for.

    An authorization goes to the entrypoint when it is whole, and the answer into the transport:
    without a task, an ASGI message or a wake-up of its own. What is unusual (a large body, one
    announced by ``expect``, a sender that does not read) goes through ASGI.
    """

    def connection_made(self, transport: Any) -> None:
        super().connection_made(_Corked(transport, self.loop))
        self.reading_since: float | None = self.loop.time()
        self._in_header = True
        self._header_bytes = 0
        self._incomplete: RequestResponseCycle | None = None
        """The authorization whose body is still to come."""

    def data_received(self, data: bytes) -> None:
        if self.reading_since is None:
            self.reading_since = self.loop.time()
        super().data_received(data)
        if self._in_header:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
                self.transport.write(_HEADERS_TOO_LARGE)
                self.transport.close()

    def on_message_begin(self) -> None:
        self._in_header = True
        self._header_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_header = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        cycle = self._incomplete
        if cycle is not None and len(cycle.body) > MAX_BODY_BYTES:
            self._incomplete = None
            super()._start_asgi_task(cycle, self.app)

    def on_message_complete(self) -> None:
        self.reading_since = None
        super().on_message_complete()
        cycle, self._incomplete = self._incomplete, None
        if cycle is not None:
            self._hand_over(cycle)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if (
            cycle.scope["path"] != AUTHORIZATIONS
            or cycle.scope["method"] != "POST"
            or not isinstance(app, SyncApi)
            or cycle.waiting_for_100_continue
            or self.flow.write_paused
        ):
            super()._start_asgi_task(cycle, app)
        elif cycle.more_body:
            self._incomplete = cycle
        else:  # it came while its predecessor on this connection was being decided
            self._hand_over(cycle)

    def _hand_over(self, cycle: RequestResponseCycle) -> None:
        entrypoint = self.app
        assert isinstance(entrypoint, SyncApi)
        body = bytes(cycle.body)
        entrypoint.authorize(cycle.scope["headers"], body, partial(self._respond, cycle))

    def _respond(
        self, cycle: RequestResponseCycle, status: int, headers: list[Header], body: bytes
    ) -> None:
        if cycle.disconnected:
            return
        if not cycle.keep_alive and CLOSE not in headers:
            headers.append(CLOSE)
        parts = [STATUS_LINE[status]]
        for name, value in (*self.server_state.default_headers, *headers):
            parts += (name, b": ", value, b"\r\n")
        parts += (b"content-length: %d\r\n\r\n" % len(body), body)
        self.transport.write(b"".join(parts))
        cycle.response_started = cycle.response_complete = True
        if CLOSE in headers:
            self.transport.close()
        cycle.on_response()


class _Server(uvicorn.Server):
    """uvicorn, told by us when to stop: SIGTERM drains first, SIGINT stops at once."""

    def __init__(self, config: uvicorn.Config, entrypoint: SyncApi, drain_s: float) -> None:
        super().__init__(config)
        self._entrypoint = entrypoint
        self._drain_s = drain_s
        self._stopping = False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._drain)
        loop.add_signal_handler(signal.SIGINT, self._stop)
        cutter = loop.create_task(self._cut_off_the_slow())
        try:
            yield
        finally:
            cutter.cancel()
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

    async def _cut_off_the_slow(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1.0)
            limit = loop.time() - READ_TIMEOUT_S
            for connection in list(self.server_state.connections):
                since = getattr(connection, "reading_since", None)
                if since is not None and since < limit:
                    connection.transport.abort()


def _behind(name: str, entrypoint: SyncApi, columns: int) -> None:
    """Make KServe's application complete. Once a process: KServe keeps it in a module."""
    logging.getLogger("kserve").addHandler(logging.NullHandler())  # else it configures its own
    logging.getLogger("kserve.trace").setLevel(logging.WARNING)  # two lines a request otherwise
    server = ModelServer(workers=1, enable_grpc=False, enable_latency_logging=False)
    server.register_model(DeciderModel(name, entrypoint, columns))
    RESTServer(
        "kserve.model_server:app", server.dataplane, server.model_repository_extension, 0
    ).create_application()


async def serve(
    decider: DecisionPipeline,
    *,
    name: str,
    columns: Sequence[str],
    host: str,
    port: int,
    drain_s: float,
    in_flight_max: int,
    deadline_ms: int = DEADLINE_MS,
    weights: Weights | None = None,
    sampler: telemetry.Sampler | None = None,
    on_stop: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Answer until SIGTERM: then readiness turns 503, the listener stays open for drain_s,
    requests in flight finish, on_stop runs (flush the producer there), and this returns.

    name: of the model, in ``/v2/models/{name}``. columns: the catalogue's features, in order.
    port: 0 lets the system choose; the log event "listening" says which.
    Call it once a process, on a uvloop loop (:func:`run`).
    """
    entrypoint = SyncApi(
        decider,
        kserve_app,
        name=name,
        columns=columns,
        in_flight_max=in_flight_max,
        deadline_ms=deadline_ms,
        weights=weights,
        sampler=sampler,
    )
    _behind(name, entrypoint, len(columns))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=2048)
    server = _Server(
        uvicorn.Config(
            entrypoint,
            http=_Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=FINISH_S,
        ),
        entrypoint,
        drain_s,
    )
    settle(GARBAGE_OBJECTS)
    telemetry.event("listening", host=host, port=listener.getsockname()[1], model=name)
    try:
        await server.serve(sockets=[listener])
    finally:
        await entrypoint.close()
        if on_stop is not None:
            await on_stop()
        telemetry.event("stopped")


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a service's coroutine on a uvloop of ours: ``uvloop.install()`` breaks KServe."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)
