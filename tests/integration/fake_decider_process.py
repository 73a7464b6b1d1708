"""A real server process around the fake decider. Its argument is a JSON object: drain_s,
in_flight_max, per_address_max, memory_max_mb, slow_s.

Prints its log to stderr. An authorization whose id starts with "slow" takes slow_s (0.5 s), with
"heavy" it holds the loop for 20 ms, with "hungry" it wants 8 GB.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence

from services.decider import server, serving
from sluice import telemetry
from sluice.application.decide import Result
from sluice.application.ports import Arrival
from sluice.bootstrap.memory import limit_memory
from sluice.testing.deciding import COLUMNS, FakePipeline


class SlowPipeline(FakePipeline):
    def __init__(self, slow_s: float) -> None:
        super().__init__()
        self._slow_s = slow_s

    async def decide(
        self, batch: Sequence[Arrival], *, deadline_us: int | None = None
    ) -> list[Result]:
        if any(arrival.auth.authorization_id.startswith("slow") for arrival in batch):
            await asyncio.sleep(self._slow_s)
        if any(arrival.auth.authorization_id.startswith("heavy") for arrival in batch):
            time.sleep(0.02)
        if any(arrival.auth.authorization_id.startswith("hungry") for arrival in batch):
            bytearray(8 << 30)
        return await super().decide(batch, deadline_us=deadline_us)


async def flush() -> None:
    telemetry.event("flushed")


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    telemetry.configure_logging("decider")
    limit_memory(options.get("memory_max_mb", 0))
    serving.run(
        server.serve(
            SlowPipeline(options.get("slow_s", 0.5)),
            name="sluice",
            columns=COLUMNS,
            host="127.0.0.1",
            port=0,
            admin=("127.0.0.1", 0),
            per_address_max=options.get("per_address_max", 0),
            drain_s=options.get("drain_s", 0),
            in_flight_max=options.get("in_flight_max", 64),
            on_stop=flush,
        )
    )
