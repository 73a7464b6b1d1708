"""``python -m services.decider.main sync|stream``: one entrypoint of the decider."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import threading

from services.decider.stream import AfterCommit, StreamProcessor, TransactionLog, limits
from services.loop import ConsumerLoop
from services.repeat import Repeated
from sluice import telemetry
from sluice.application.active import ActiveConfiguration
from sluice.application.ports import OnlineConnection
from sluice.bootstrap import services as bootstrap
from sluice.domain.clock import SystemClock
from sluice.domain.features import catalogue
from sluice.errors import SluiceError
from sluice.settings import Settings, load

STORE_WATCH_S = 2.0
"""How often the store is asked for its figures: a tenth of a millisecond of its time each."""
WELCOME_S = 0.2


def main(argv: list[str] | None = None) -> int:
    """Run one entrypoint until SIGTERM. Returns 0, or 1 if it had to give up (see the log)."""
    parser = argparse.ArgumentParser(prog="decider", description=__doc__)
    parser.add_argument("entrypoint", choices=("sync", "stream"))
    entrypoint = parser.parse_args(argv).entrypoint
    bootstrap.unsettled()
    settings, _ = load()
    telemetry.configure_logging("decider", level=settings.service.log_level)
    try:
        if entrypoint == "sync":
            from services.decider import server  # noqa: PLC0415 (KServe: only this entrypoint needs it)

            server.run(_sync(settings))
        else:
            asyncio.run(_stream(settings))
    except SluiceError as error:
        telemetry.event("stopped", level=logging.ERROR, code=error.code, reason=str(error))
        return 1
    return 0


async def _sync(settings: Settings) -> None:
    from services.decider.server import serve  # noqa: PLC0415

    active = bootstrap.active_configuration(settings)
    store = bootstrap.online_store(settings, batches=False)
    with contextlib.suppress(SluiceError):
        await store.open()  # a store that is down now degrades decisions, it stops none
    log = bootstrap.decision_producer(settings)
    await log.ready()
    decider = bootstrap.decider(settings, "sync", store, log, active, store.refusal)
    beside = _beside(settings, active, store)

    async def finish() -> None:
        for repeated in beside:
            repeated.stop()
        await log.close()
        await store.close()

    await serve(
        decider,
        name=settings.decider.model_name,
        columns=catalogue.NAMES,
        host=settings.decider.host,
        port=settings.decider.port,
        drain_s=settings.decider.drain_s,
        in_flight_max=settings.decider.in_flight_max,
        deadline_ms=settings.decider.deadline_ms,
        sampler=bootstrap.sampler(settings),
        on_stop=finish,
    )


async def _stream(settings: Settings) -> None:
    if settings.service.metrics_port:
        telemetry.start_metrics_server(settings.service.metrics_port)
    stop = threading.Event()
    events = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        events.add_signal_handler(number, stop.set)
    active = bootstrap.active_configuration(settings)
    online = bootstrap.online_store(settings, batches=True)
    with contextlib.suppress(SluiceError):
        await online.open()
    kafka = await asyncio.to_thread(bootstrap.transactional_stream, settings)
    names = bootstrap.topics(settings)
    store = AfterCommit(online)
    decider = bootstrap.decider(
        settings, "stream", store, TransactionLog(kafka, names.decisions), active
    )
    handler = StreamProcessor(
        kafka,
        decider,
        store,
        dead_letters=names.dead_letters,
        clock=SystemClock(),
        events=events,
        sampler=bootstrap.sampler(settings),
    )
    loop = ConsumerLoop(kafka, handler, limits(settings.decider.batch_max))
    bootstrap.settle()
    telemetry.event("started", entrypoint="stream", replica=settings.service.name())
    beside = _beside(settings, active, online)
    try:
        await _welcome(online, stop)
        await asyncio.to_thread(loop.run, stop)
    finally:
        for repeated in beside:
            repeated.stop()
        await online.close()
    telemetry.event("stopped")


def _beside(
    settings: Settings, active: ActiveConfiguration, store: OnlineConnection
) -> list[Repeated]:
    """What is due again and again beside the decisions; begun."""
    watch = bootstrap.store_watch(settings, store)
    return [
        Repeated("follow", settings.decider.reload_s, active.poll).start(),
        Repeated("store_watch", STORE_WATCH_S, watch.look).start(),
    ]


async def _welcome(store: OnlineConnection, stop: threading.Event) -> None:
    """Return when nothing that only a person mends keeps us from the store; or when told to stop.

    Until then nothing is read: each authorization would be decided without features for good.
    """
    while store.refusal() is not None and not stop.is_set():
        await asyncio.sleep(WELCOME_S)


if __name__ == "__main__":
    raise SystemExit(main())
