"""The sync API over the fake decider, with access and TLS as its settings say.

Logs the ids that reach the decider (``decided``), and at the start each route of KServe's.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from kserve.model_server import app as kserve_app

from services.decider import server
from services.decider.main import who_may_ask
from sluice import telemetry
from sluice.application.decide import Result
from sluice.application.ports import Arrival
from sluice.bootstrap import services as bootstrap
from sluice.errors import SluiceError
from sluice.settings import load
from sluice.testing.deciding import COLUMNS, FakePipeline


class Telling(FakePipeline):
    async def decide(
        self, batch: Sequence[Arrival], *, deadline_us: int | None = None
    ) -> list[Result]:
        telemetry.event("decided", ids=[arrival.auth.authorization_id for arrival in batch])
        return await super().decide(batch, deadline_us=deadline_us)


def paths(router: Any) -> list[str]:
    """Of all routes, also of routers that are included (which FastAPI keeps as they are)."""
    found = []
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        found += paths(inner) if inner is not None else [route.path]
    return found


async def tell_routes() -> None:
    await asyncio.sleep(0)  # the server is made in between
    telemetry.event("routes", paths=paths(kserve_app))


async def main() -> None:
    settings, _ = load()
    access = await who_may_ask(settings)
    told = asyncio.create_task(tell_routes())
    await server.serve(
        Telling(),
        name="sluice",
        columns=COLUMNS,
        host="127.0.0.1",
        port=0,
        drain_s=0,
        in_flight_max=64,
        access=access,
        tls=bootstrap.server_tls(settings),
        reload_s=0.1,
    )
    await told


if __name__ == "__main__":
    telemetry.configure_logging("decider")
    try:
        server.run(main())
    except SluiceError as error:
        telemetry.event("stopped", level=40, code=error.code, reason=str(error))
        raise SystemExit(1) from None
