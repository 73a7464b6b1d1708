"""From nothing to ready, and the memory that takes."""

from __future__ import annotations

import statistics
import time
import urllib.request
from pathlib import Path

from benchmarks.processes import MEASURED, cpu_s, memory_mb, on, wait_until
from benchmarks.report import Row, row
from benchmarks.sync_api import CONNECTIONS, Server, load
from benchmarks.testbed import Testbed

READY_MAX_S = 120.0


def measure(testbed: Testbed, results: Path) -> tuple[list[Row], list[str]]:
    """A cold process with warm caches: page cache and compiled kernel are there."""
    seconds: list[float] = []
    busy: list[float] = []
    fresh: list[float] = []
    bodies = testbed.folder / "start.jsonl"
    bodies.write_bytes(b"\n".join(testbed.traffic.values))
    testbed.topics("start-")
    with testbed.store() as store, testbed.stack(store, "start-") as stack:
        for _ in range(2 * testbed.scale.replays):
            if "decider-sync" in stack.processes:
                stack.kill("decider-sync")
            began = time.perf_counter()
            with on(MEASURED):
                process = stack.start("decider-sync")
            wait_until(lambda: _ready(stack.url), "the sync API is ready", READY_MAX_S)
            seconds.append(time.perf_counter() - began)
            busy.append(cpu_s(process.popen.pid))
            fresh.append(memory_mb(process.popen.pid))
        server = Server(process.popen.pid, f"{stack.url}/v1/authorizations", bodies, '"D0"')
        load(server, "closed", testbed.scale.seconds, connections=2 * CONNECTIONS)
        loaded = memory_mb(process.popen.pid, "VmHWM")
    return [
        row("sync API: start to ready", "s", statistics.median(seconds[1:]), target="<= 5"),
        row("sync API: CPU from start to ready", "s", statistics.median(busy[1:])),
        row("sync API: resident when ready", "MB", statistics.median(fresh), target="<= 400"),
        row("sync API: most resident, after load", "MB", loaded, target="<= 400"),
    ], [
        "the process on one core; starts: " + ", ".join(f"{s:.2f} s" for s in seconds),
        testbed.release[2],
    ]


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=1):
            return True
    except OSError:
        return False
