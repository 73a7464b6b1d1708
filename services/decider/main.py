"""``python -m services.decider.main sync|stream``: one entrypoint of the decider."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import threading
from dataclasses import dataclass
from functools import partial

from services.decider.access import Access, Limits, ServerTls, report_open
from services.decider.admission import Weights
from services.decider.recall import TAIL_MAX, Recall
from services.decider.stream import AfterCommit, StreamProcessor, TransactionLog, limits
from services.loop import ConsumerLoop
from services.repeat import Repeated
from services.waiting import StoppedError, Waiting, for_brokers, for_release, for_store
from sluice import telemetry
from sluice.application.challengers import WORK_S
from sluice.application.once import Once
from sluice.application.population import LOOK_S
from sluice.application.ports import TOPIC_REMADE, OnlineConnection, Transactions
from sluice.bootstrap import services as bootstrap
from sluice.domain.clock import SystemClock
from sluice.domain.features import catalogue
from sluice.errors import Corrupt, SluiceError
from sluice.settings import Settings, load
from sluice.telemetry import METRICS

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
    try:
        started = bootstrap.start("decider", settings, entrypoint=entrypoint)
        waiting = Waiting(started.stop)
        if entrypoint == "sync":
            from services.decider.serving import run  # noqa: PLC0415 (only this entrypoint needs it)

            parts = _what_sync_needs(settings, waiting)
            run(_sync(settings, started, parts))
        else:
            active, kafka = _what_stream_needs(settings, waiting)
            asyncio.run(_stream(settings, started.stop, active, kafka))
    except StoppedError:
        telemetry.event("stopped", code="sigterm")
    except SluiceError as error:
        telemetry.event("stopped", level=logging.ERROR, code=error.code, reason=str(error))
        return 1
    return 0


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the sync API begins with, once all of it is there."""

    active: bootstrap.Active
    access: Access | None
    tls: ServerTls | None


def _what_sync_needs(settings: Settings, waiting: Waiting) -> _Parts:
    """Waits for it; what is wrong in the settings or the policy is said before. Raises
    Misconfigured, Corrupt, StoppedError."""
    METRICS.set("sluice_decider_ready", 0)
    tls = bootstrap.server_tls(settings)
    Weights(settings.decider.priority)
    access = waiting.until(partial(who_may_ask, settings), lambda _: "keys")
    for_release(waiting, settings, needed=True)
    active = bootstrap.active(settings, "sync")
    for_brokers(waiting, settings, bootstrap.topics(settings).decisions)
    for_store(waiting, settings)
    return _Parts(active, access, tls)


def _what_stream_needs(
    settings: Settings, waiting: Waiting
) -> tuple[bootstrap.Active, Transactions]:
    """The same."""
    for_release(waiting, settings, needed=False)
    active = bootstrap.active(settings, "stream")
    names = bootstrap.topics(settings)
    for_brokers(waiting, settings, names.authorizations, names.decisions, names.dead_letters)
    for_store(waiting, settings)
    # The coordinator of transactions may be away alone, or still hold what our predecessor left.
    kafka = waiting.until(partial(bootstrap.transactional_stream, settings), lambda _: "broker")
    return active, kafka


async def _sync(settings: Settings, started: bootstrap.Started, parts: _Parts) -> None:
    from services.decider.server import serve  # noqa: PLC0415

    active = parts.active
    store = bootstrap.online_store(settings, batches=False)
    await _open(store, settings)
    log = bootstrap.decision_producer(settings)
    ids = bootstrap.once(settings, store)
    decider = bootstrap.decider(settings, "sync", ids, log, active, store.refusal)
    beside = _beside(settings, active, store)
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
        admin=started.admin.hand_over() if started.admin else None,
        per_address_max=settings.decider.connections_per_address,
        deadline_ms=settings.decider.deadline_ms,
        weights=Weights(settings.decider.priority),
        sampler=bootstrap.sampler(settings),
        access=parts.access,
        tls=parts.tls,
        reload_s=settings.decider.reload_s,
        reachable=log.reachable,
        stop=started.stop,
        on_stop=finish,
    )


def who_may_ask(settings: Settings, api: bootstrap.Api = "decider") -> Access | None:
    """An API's access; None where everybody may ask. Raises Misconfigured, Unavailable."""
    credentials = bootstrap.credentials(settings, api)
    if credentials is None:
        report_open(settings.decider.host if api == "decider" else settings.labeller.host)
        return None
    given = settings.access
    limits = Limits(given.rate_per_s, given.burst, given.in_flight_max)
    return Access(credentials.tokens, credentials.clients, limits=limits)


async def _stream(
    settings: Settings,
    stop: threading.Event,
    active: bootstrap.Active,
    kafka: Transactions,
) -> None:
    events = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        events.add_signal_handler(number, stop.set)
    online = bootstrap.online_store(settings, batches=True)
    await _open(online, settings)
    once = bootstrap.once(settings, online)
    recall = _recall(settings, once)

    def made(kafka: Transactions) -> ConsumerLoop:
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
            lacks=active.configuration.lacks,
            dead_letters=names.dead_letters,
            clock=SystemClock(),
            events=events,
            sampler=bootstrap.sampler(settings),
        )
        return ConsumerLoop(kafka, handler, limits(settings.decider.batch_max))

    loop = made(kafka)
    bootstrap.settle()
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
                again = await asyncio.to_thread(bootstrap.transactional_stream, settings)
                loop = made(again)
    finally:
        for repeated in beside:
            repeated.stop()
        await asyncio.to_thread(recall.close)
        await online.close()
    telemetry.event("stopped")


def _beside(
    settings: Settings, active: bootstrap.Active, store: OnlineConnection
) -> list[Repeated]:
    """What is due again and again beside the decisions; begun."""
    watch = bootstrap.store_watch(settings, store)
    return [
        Repeated("follow", settings.decider.reload_s, active.follow).start(),
        Repeated("beside", WORK_S, active.challengers.work).start(),
        Repeated("store_watch", STORE_WATCH_S, watch.look).start(),
        Repeated(
            "population", LOOK_S, bootstrap.population_check(active.configuration).look
        ).start(),
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
