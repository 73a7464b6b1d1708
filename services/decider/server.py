"""KServe's ModelServer with our entrypoint in front, on one event loop, draining on SIGTERM.

KServe brings the protocol's metadata and its own metrics; it neither opens its gRPC server nor runs
the loop. One process, one worker: KServe's ``--workers`` would pickle the model.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from kserve import Model, ModelServer
from kserve.model_server import app as kserve_app
from kserve.protocol.rest.server import RESTServer
from uvicorn.server import ServerState

from services.decider import open_inference
from services.decider.access import Access, ServerTls, follow_file
from services.decider.admin import Admin
from services.decider.admission import Weights
from services.decider.connections import ADMIN_CONNECTIONS_MAX, Listener, bounded, listen
from services.decider.http import DEADLINE_MS, DecisionPipeline, SyncApi
from services.decider.serving import Server, config_of, run
from sluice import telemetry
from sluice.bootstrap.services import settle

__all__ = ["run", "serve"]

GARBAGE_OBJECTS = 20_000
"""New containers until the collector looks for cycles: some MB. What a batch makes dies with it, by
reference count: at Python's 700 the collector looks in vain at every other batch, for 4 % of the
samples of a profile."""


class DeciderModel(Model):
    """What KServe sees of the decider: metadata and readiness."""

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
    admin: tuple[str, int] | socket.socket | None = None,
    per_address_max: int = 0,
    deadline_ms: int = DEADLINE_MS,
    weights: Weights | None = None,
    sampler: telemetry.Sampler | None = None,
    access: Access | None = None,
    tls: ServerTls | None = None,
    reload_s: float = 2.0,
    reachable: Callable[[], Awaitable[None]] | None = None,
    stop: threading.Event | None = None,
    on_stop: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Answer until SIGTERM: then readiness turns 503, the listener stays open for drain_s,
    requests in flight finish, on_stop runs (flush the producer there), and this returns.

    name: of the model, in ``/v2/models/{name}``. columns: the catalogue's features, in order.
    port: 0 lets the system choose; the log event "listening" says which. admin: host and port of
    the admin port, likewise, or a socket that listens there already. per_address_max: connections
    of one address, 0 is no bound. access: who may ask, None for everybody. tls: None for plain
    HTTP, which the admin port always is. reload_s: how often both look whether files changed.
    reachable: raises Unavailable while no record could be made durable; then it is not ready. stop:
    set if SIGTERM came before this was called.
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
        access=access,
        reachable=reachable,
    )
    _behind(name, entrypoint, len(columns))
    listening = listen(host, port)
    server = Server(
        config_of(entrypoint, tls),
        entrypoint,
        listening,
        drain_s=drain_s,
        per_address_max=per_address_max,
        stop=stop,
    )
    operators = None
    if admin is not None:
        operators = Listener(
            "admin",
            bounded(admin) if isinstance(admin, socket.socket) else listen(*admin),
            config_of(Admin(entrypoint, name)),
            ServerState(),
            connections_max=ADMIN_CONNECTIONS_MAX,
        )
        operators.start()
    settle(GARBAGE_OBJECTS)
    telemetry.event(
        "listening",
        host=host,
        port=listening.getsockname()[1],
        admin_port=operators.port if operators else 0,
        model=name,
        tls=tls is not None,
    )
    followed = [access.follow(reload_s)] if access else []
    if tls:
        followed.append(follow_file("certificate", tls.poll, reload_s).stop)
    try:
        await server.serve()
    finally:
        for unfollow in followed:
            unfollow()
        await entrypoint.close()
        if operators is not None:
            operators.close()
            await operators.wait_closed()
        if on_stop is not None:
            await on_stop()
        telemetry.event("stopped")
