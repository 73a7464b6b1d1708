"""A real server process around the fake decider: arguments are drain_s and in_flight_max.

Prints its log to stderr; an authorization whose id starts with "slow" takes 0.5 s.
"""

import asyncio
import sys
from collections.abc import Sequence

from services.decider import server
from sluice import telemetry
from sluice.application.decide import Result
from sluice.application.ports import Arrival
from sluice.testing.deciding import COLUMNS, FakePipeline


class SlowPipeline(FakePipeline):
    async def decide(
        self, batch: Sequence[Arrival], *, deadline_us: int | None = None
    ) -> list[Result]:
        if any(arrival.auth.authorization_id.startswith("slow") for arrival in batch):
            await asyncio.sleep(0.5)
        return await super().decide(batch, deadline_us=deadline_us)


async def flush() -> None:
    telemetry.event("flushed")


if __name__ == "__main__":
    telemetry.configure_logging("decider")
    server.run(
        server.serve(
            SlowPipeline(),
            name="sluice",
            columns=COLUMNS,
            host="127.0.0.1",
            port=0,
            drain_s=float(sys.argv[1]),
            in_flight_max=int(sys.argv[2]),
            on_stop=flush,
        )
    )
