"""The sync API over the fake decider, with access and TLS as its settings say.

Logs the ids that reach the decider (``decided``).
"""

from collections.abc import Sequence

from services.decider import server, serving
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


async def main() -> None:
    settings, _ = load()
    access = who_may_ask(settings)
    await server.serve(
        Telling(),
        name="sluice",
        columns=COLUMNS,
        host="127.0.0.1",
        port=0,
        drain_s=0,
        in_flight_max=64,
        admin=("127.0.0.1", 0),
        access=access,
        tls=bootstrap.server_tls(settings),
        reload_s=0.1,
    )


if __name__ == "__main__":
    telemetry.configure_logging("decider")
    try:
        serving.run(main())
    except SluiceError as error:
        telemetry.event("stopped", level=40, code=error.code, reason=str(error))
        raise SystemExit(1) from None
