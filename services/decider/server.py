"""The sync API's server: uvicorn on an event loop of ours, draining on SIGTERM.

It speaks the protocols by which KServe's controller, clients and dashboards know a predictor;
KServe's own server is not in the process. One process, one worker: replicas scale it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Awaitable, Callable, Sequence

import prometheus_client
from uvicorn.server import ServerState

from services.decider.access import Access, ServerTls, follow_file
from services.decider.admin import Admin
from services.decider.admission import Weights
from services.decider.connections import ADMIN_CONNECTIONS_MAX, Listener, bounded, listen
from services.decider.http import DEADLINE_MS, DecisionPipeline, SyncApi
from services.decider.serving import Server, config_of
from sluice import telemetry
from sluice.bootstrap.services import settle

GARBAGE_OBJECTS = 20_000
"""New containers until the collector looks for cycles: some MB. What a batch makes dies with it, by
reference count: at Python's 700 the collector looks in vain at every other batch, for 4 % of the
samples of a profile."""


def _predict_seconds(name: str) -> Callable[[float], None]:
    """KServe's own histogram of inferences, by its name: what watches its predictors reads it.

    Call it once a process.
    """
    seconds = prometheus_client.Histogram(
        "request_predict_seconds", "predict request latency", ["model_name"]
    )
    return seconds.labels(name).observe


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
    Call it once a process, on a uvloop loop (:func:`services.decider.serving.run`).
    """
    entrypoint = SyncApi(
        decider,
        name=name,
        columns=columns,
        in_flight_max=in_flight_max,
        deadline_ms=deadline_ms,
        weights=weights,
        sampler=sampler,
        access=access,
        reachable=reachable,
        inferred=_predict_seconds(name),
    )
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
