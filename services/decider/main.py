"""``python -m services.decider.main sync|stream``: one entrypoint of the decider."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import threading
from functools import partial

from services.decider.access import Access, Limits, report_open
from services.decider.admission import Weights
from services.decider.recall import TAIL_MAX, Recall
from services.decider.stream import AfterCommit, StreamProcessor, TransactionLog, limits
from services.loop import ConsumerLoop
from services.repeat import Repeated
from sluice import telemetry
from sluice.application.active import ActiveConfiguration
from sluice.application.once import Once
from sluice.application.ports import TOPIC_REMADE, OnlineConnection
from sluice.bootstrap import services as bootstrap
from sluice.bootstrap.brokers import reached
from sluice.domain.clock import SystemClock
from sluice.domain.features import catalogue
from sluice.errors import Corrupt, SluiceError
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
    bootstrap.configure_logging("decider", settings)
    bootstrap.limit_memory(settings.service.memory_max_mb)
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

    access = await who_may_ask(settings)
    tls = bootstrap.server_tls(settings)
    weights = Weights(settings.decider.priority)
    active = bootstrap.active_configuration(settings)
    store = bootstrap.online_store(settings, batches=False)
    await _open(store, settings)
    await asyncio.to_thread(reached, settings.kafka)
    log = bootstrap.decision_producer(settings)
    await log.ready()
    ids = bootstrap.once(settings, store)
    decider = bootstrap.decider(settings, "sync", ids, log, active, store.refusal)
    beside = _beside(settings, active, store)
    admin = settings.service.admin_host, settings.service.admin_port
    recall = _recall(settings, ids)
    recall.start()

    async def finish() -> None:
        for repeated in beside:
            repeated.stop()
        await asyncio.to_thread(recall.close)
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
        admin=admin if admin[1] else None,
        per_address_max=settings.decider.connections_per_address,
        deadline_ms=settings.decider.deadline_ms,
        weights=weights,
        sampler=bootstrap.sampler(settings),
        access=access,
        tls=tls,
        reload_s=settings.decider.reload_s,
        on_stop=finish,
    )


async def who_may_ask(settings: Settings) -> Access | None:
    """The sync API's access; None where everybody may ask. Raises Misconfigured, Unavailable."""
    credentials = await asyncio.to_thread(bootstrap.credentials, settings)
    if credentials is None:
        report_open(settings.decider.host)
        return None
    given = settings.access
    limits = Limits(given.rate_per_s, given.burst, given.in_flight_max)
    return Access(credentials.tokens, credentials.clients, limits=limits)


async def _stream(settings: Settings) -> None:
    bootstrap.open_admin_port(settings)
    stop = threading.Event()
    events = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        events.add_signal_handler(number, stop.set)
    active = bootstrap.active_configuration(settings)
    online = bootstrap.online_store(settings, batches=True)
    await _open(online, settings)
    await asyncio.to_thread(reached, settings.kafka)
    once = bootstrap.once(settings, online)
    recall = _recall(settings, once)

    async def made() -> ConsumerLoop:
        kafka = await asyncio.to_thread(bootstrap.transactional_stream, settings)
        names = bootstrap.topics(settings)
        ids = AfterCommit(once)
        decider = bootstrap.decider(
            settings, "stream", ids, TransactionLog(kafka, names.decisions), active
        )
        handler = StreamProcessor(
            kafka,
            decider,
            ids,
            recall=recall.start,
            dead_letters=names.dead_letters,
            clock=SystemClock(),
            events=events,
            sampler=bootstrap.sampler(settings),
        )
        return ConsumerLoop(kafka, handler, limits(settings.decider.batch_max))

    loop = await made()
    bootstrap.settle()
    telemetry.event("started", entrypoint="stream", replica=settings.service.name())
    beside = _beside(settings, active, online)
    try:
        await _welcome(online, stop)
        while not stop.is_set():
            try:
                await asyncio.to_thread(loop.run, stop)
            except Corrupt as error:
                if error.code != TOPIC_REMADE:
                    raise
                # An id decided before is known as ever: what comes twice is decided once.
                telemetry.event(TOPIC_REMADE, level=logging.ERROR, reason=str(error))
                loop = await made()
    finally:
        for repeated in beside:
            repeated.stop()
        await asyncio.to_thread(recall.close)
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


def _recall(settings: Settings, once: Once) -> Recall:
    tail = partial(bootstrap.decided_tail, settings, TAIL_MAX)
    return Recall(once, tail, asyncio.get_running_loop())


async def _open(store: OnlineConnection, settings: Settings) -> None:
    """Connect. A store that is down now degrades decisions, it stops none; why is in the log."""
    try:
        await store.open()
    except SluiceError as error:
        why = await asyncio.to_thread(bootstrap.store_trouble, settings) or str(error)
        telemetry.event("store_not_connected", level=logging.ERROR, code=error.code, reason=why)


if __name__ == "__main__":
    raise SystemExit(main())
