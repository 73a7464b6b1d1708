"""``python -m services.witness.main``: cosigns checkpoints of the logs it is told of."""

from __future__ import annotations

import asyncio
import logging
import threading

from services.decider.connections import listen
from services.decider.serving import Server, config_of, run
from services.witness.http import WitnessApi
from sluice import telemetry
from sluice.application.cosign import Witness
from sluice.bootstrap import services as bootstrap
from sluice.bootstrap import witness as parts
from sluice.errors import SluiceError, Unavailable
from sluice.settings import Settings, load
from sluice.telemetry import HEALTH, METRICS

BEAT_S = 1.0
DRAIN_S = 0.0
"""There is no other one to go to: whoever comes now comes again."""
CONNECTIONS_PER_ADDRESS = 64


def main() -> int:
    """Run until SIGTERM. Returns the exit status: 0 stopped, 1 gave up (see the log)."""
    settings, _ = load()
    try:
        stop = bootstrap.start("witness", settings).stop
        witness = parts.witness(settings)
        run(_serve(settings, stop, witness))
    except SluiceError as error:
        telemetry.event("stopped", level=logging.ERROR, code=error.code, reason=str(error))
        return 1
    telemetry.event("stopped", code="sigterm")
    return 0


async def _serve(settings: Settings, stop: threading.Event, witness: Witness) -> None:
    api = WitnessApi(witness)
    listening = listen(settings.witness.host, settings.witness.port)
    server = Server(
        config_of(api),
        api,
        listening,
        drain_s=DRAIN_S,
        per_address_max=CONNECTIONS_PER_ADDRESS,
        stop=stop,
    )
    beats = asyncio.create_task(_beat(witness))
    telemetry.event(
        "listening",
        host=settings.witness.host,
        port=listening.getsockname()[1],
        key=str(witness.key),
        logs=witness.sizes,
    )
    try:
        await server.serve()
    finally:
        beats.cancel()


async def _beat(witness: Witness) -> None:
    """Say that it turns, whether it can remember, and what it cosigned last."""
    while True:
        try:
            await asyncio.to_thread(witness.check)
        except Unavailable as error:
            HEALTH.beat(ready=False, why=str(error))
        else:
            HEALTH.beat(ready=True)
        for origin, size in witness.sizes.items():
            METRICS.set("sluice_witness_size", size, origin)
        await asyncio.sleep(BEAT_S)


if __name__ == "__main__":
    raise SystemExit(main())
