"""``python -m services.labeller.main``: reports, over HTTP and from a topic, become labels."""

from __future__ import annotations

import asyncio
import logging
import threading
from functools import partial

from services.decider.access import Access, ServerTls, follow_file
from services.decider.connections import listen
from services.decider.main import who_may_ask
from services.decider.serving import Server, config_of, run
from services.labeller.http import LabelApi
from services.labeller.intake import LIMITS, Reports
from services.loop import ConsumerLoop
from services.repeat import Repeated
from services.waiting import StoppedError, Waiting, for_brokers
from sluice import telemetry
from sluice.bootstrap import services as bootstrap
from sluice.domain.clock import SystemClock
from sluice.errors import SluiceError, Unavailable
from sluice.settings import Settings, load
from sluice.telemetry import HEALTH, METRICS

LOOK_S = 1.0
"""How often it reads on what others wrote, and so sees whether the brokers are there."""
DRAIN_S = 0.0
"""There is no other one to go to: whoever comes now comes again."""


def main() -> int:
    """Run until SIGTERM. Returns the exit status: 0 stopped, 1 gave up (see the log)."""
    settings, _ = load()
    try:
        stop = bootstrap.start("labeller", settings).stop
        waiting = Waiting(stop)
        tls = bootstrap.server_tls(settings, "labeller")
        access = waiting.until(partial(who_may_ask, settings, "labeller"), lambda _: "keys")
        names = bootstrap.topics(settings)
        own = [settings.labeller.topic] if settings.labeller.topic else []
        for_brokers(waiting, settings, names.labels, names.dead_letters, *own)
        parts = waiting.until(partial(bootstrap.labeller, settings), lambda _: "broker")
        waiting.until(parts.labeller.refresh, lambda _: "broker")
        run(_serve(settings, stop, parts, access, tls))
    except StoppedError:
        pass
    except SluiceError as error:
        telemetry.event("stopped", level=logging.ERROR, code=error.code, reason=str(error))
        return 1
    telemetry.event("stopped", code="sigterm")
    return 0


async def _serve(
    settings: Settings,
    stop: threading.Event,
    parts: bootstrap.LabellerParts,
    access: Access | None,
    tls: ServerTls | None,
) -> None:
    """Answer until SIGTERM, or until something ends it, which this raises."""
    api = LabelApi(parts.labeller, access=access)
    listening = listen(settings.labeller.host, settings.labeller.port)
    server = Server(
        config_of(api, tls),
        api,
        listening,
        drain_s=DRAIN_S,
        per_address_max=settings.decider.connections_per_address,
        stop=stop,
    )
    of_topic = telemetry.Health()
    ends: list[asyncio.Task[None]] = [asyncio.create_task(_look(parts, of_topic))]
    if parts.consumer is not None:
        handler = Reports(parts.labeller, SystemClock())
        loop = ConsumerLoop(parts.consumer, handler, LIMITS, health=of_topic)
        ends.append(asyncio.create_task(asyncio.to_thread(loop.run, stop)))
    beside = [access.follow(settings.decider.reload_s)] if access else []
    if tls:
        beside.append(follow_file("certificate", tls.poll, settings.decider.reload_s).stop)
    show = Repeated(
        "maturity",
        settings.labeller.maturity_s,
        partial(bootstrap.show_maturity, parts.labeller),
    )
    show.once()
    beside.append(show.start().stop)
    bootstrap.settle()
    port = listening.getsockname()[1]
    telemetry.event("listening", host=settings.labeller.host, port=port, tls=tls is not None)
    serving = asyncio.create_task(server.serve())
    try:
        await asyncio.wait([serving, *ends], return_when=asyncio.FIRST_COMPLETED)
    finally:
        server.should_exit = api.draining = True
        await serving
        stop.set()
        for end in beside:
            end()
        ends[0].cancel()
        ended = await asyncio.gather(*ends, return_exceptions=True)
        await asyncio.to_thread(parts.topic.close)
    for error in ended:
        if isinstance(error, Exception):
            raise error


async def _look(parts: bootstrap.LabellerParts, of_topic: telemetry.Health) -> None:
    """Follow the topic, and say whether reports are welcome. Raises what ends the service."""
    while True:
        try:
            await asyncio.to_thread(parts.labeller.refresh)
        except Unavailable as error:
            HEALTH.beat(ready=False, why=str(error))
        else:
            reads = parts.consumer is None or of_topic.ready()
            HEALTH.beat(ready=reads, why="" if reads else f"its topic: {of_topic.why}")
            for what, number in zip(
                ("reports", "authorizations"), parts.labeller.remembered, strict=True
            ):
                METRICS.set("sluice_labeller_remembered", number, what)
        await asyncio.sleep(LOOK_S)


if __name__ == "__main__":
    raise SystemExit(main())
