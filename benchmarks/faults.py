"""The sync API through a bad network: ``python -m benchmarks.faults``, one row a fault.

Asked in an open loop, so that what comes while others wait is counted too. The target is a p99.9 of
at most the deadline and 5 ms, whatever the fault in front of the store: its part of the answer is
left out in time, or the caller hears so in time. In front of Kafka the record's budget comes on
top. Measured on a quiet machine; a busy one shows its own stalls.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from local.kafka.broker import JarNode, free_port
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.domain.records.authorization import encode
from tests.support import faulty_network
from tests.support.deployment import Deployment, make_deployment
from tests.support.faulty_network import FaultyNetwork, Toxic
from tests.support.traffic import authorizations

DEADLINE_MS = 50
RECORD_BUDGET_MS = 1_000
SLACK_MS = 5
FAULTS: dict[str, tuple[Toxic, ...]] = {
    "none": (),
    "+20 ms": (faulty_network.latency(20),),
    "+100 ms": (faulty_network.latency(100),),
    "+500 ms": (faulty_network.latency(500),),
    "jitter 0-100 ms": (faulty_network.latency(50, jitter_ms=50),),
    "reset": (faulty_network.reset_peer(50),),
    "half-open": (faulty_network.half_open(),),
    "black hole": (faulty_network.timeout(),),
    "drip": (faulty_network.slicer(1, delay_ms=1),),
    "truncation": (faulty_network.limit_data(1_000),),
    "stall": (faulty_network.hold(),),
}
"""By the name of their row."""
RECOVERED_MAX_S = 30.0


class Row(NamedTuple):
    """What one fault did. Shares are of what was asked while it lasted."""

    where: str
    fault: str
    asked: int
    unanswered: int
    decided: float
    complete: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    limit_ms: int
    recovered_s: float

    @property
    def held(self) -> bool:
        """Everybody heard in time."""
        return not self.unanswered and self.p999_ms <= self.limit_ms


HEAD = (
    f"{'at':6} {'fault':16} {'asked':>6} {'lost':>5} {'200':>6} {'D0':>6} {'p50':>7} {'p99':>7} "
    f"{'p99.9':>7} {'max':>7} {'limit':>6} {'well again':>11}"
)


def line(row: Row) -> str:
    """A row to print."""
    return (
        f"{row.where:6} {row.fault:16} {row.asked:6} {row.unanswered:5} {row.decided:6.1%} "
        f"{row.complete:6.1%} {row.p50_ms:7.1f} {row.p99_ms:7.1f} {row.p999_ms:7.1f} "
        f"{row.max_ms:7.1f} {row.limit_ms:6} {row.recovered_s:9.2f} s"
        f"{'' if row.held else '  MISSED'}"
    )


def measure(seconds: float, rate: float) -> Iterator[Row]:
    """Each fault in front of the store, then each in front of Kafka, for so many seconds each."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        with FaultyNetwork(("127.0.0.1", port)) as to_kafka, EmbeddedStore() as store:
            host, _, number = store.url.removeprefix("redis://").partition("/")[0].rpartition(":")
            node = JarNode(
                Path(folder) / "kafka", port, detached=False, advertised=to_kafka.address[1]
            )
            node.start()
            try:
                with (
                    FaultyNetwork((host, int(number))) as to_store,
                    make_deployment(
                        node.bootstrap,
                        store.url,
                        Path(folder) / "world",
                        environment={
                            "SLUICE_STORE_BUDGET_MS": "10",
                            "SLUICE_DECIDER_DEADLINE_MS": str(DEADLINE_MS),
                            "SLUICE_DECIDER_RECORD_BUDGET_MS": str(RECORD_BUDGET_MS),
                        },
                    ) as deployment,
                ):
                    deployment.start("featurizer")  # it makes the store ready, over a good network
                    deployment.stack.store_url = f"redis://{to_store.host_port}"
                    deployment.start("decider-sync")
                    work = _Work(deployment, Path(folder), seconds, rate)
                    work.load("warm", 2.0)
                    for fault, toxics in FAULTS.items():
                        yield work.row("store", fault, toxics, to_store, DEADLINE_MS)
                    for fault, toxics in FAULTS.items():
                        both = DEADLINE_MS + RECORD_BUDGET_MS
                        yield work.row("kafka", fault, toxics, to_kafka, both)
            finally:
                node.kill()


class _Work:
    def __init__(self, deployment: Deployment, folder: Path, seconds: float, rate: float) -> None:
        self._url = f"{deployment.stack.url}/v1/authorizations"
        self._folder = folder
        self._seconds = seconds
        self._rate = rate

    def row(
        self, where: str, fault: str, toxics: tuple[Toxic, ...], network: FaultyNetwork, ms: int
    ) -> Row:
        with network.being(*toxics):
            found = self.load(f"{where}-{fault}", self._seconds)
        answered = max(found["answered"], 1)
        return Row(
            where,
            fault,
            found["answered"] + found["unanswered"],
            found["unanswered"],
            found["ok"] / answered,
            found["marked"] / answered,
            found["p50_ms"],
            found["p99_ms"],
            found["p999_ms"],
            found["max_ms"],
            ms + SLACK_MS,
            self._recovery_s(f"{where}-{fault}-after"),
        )

    def _recovery_s(self, name: str) -> float:
        """From the end of the fault to the first complete answer."""
        ended = time.monotonic()
        for turn in range(1_000):
            if self.load(f"{name}-{turn}", 0.05)["marked"]:
                break
            if time.monotonic() - ended > RECOVERED_MAX_S:
                return float("inf")
        return time.monotonic() - ended

    def load(self, name: str, seconds: float) -> dict[str, Any]:
        """Ask at the rate, with ids of this name. Returns what benchmarks.client prints."""
        bodies = self._folder / "bodies.jsonl"
        some = authorizations(name.replace(" ", "").replace("+", ""))
        count = round(self._rate * seconds) + 1
        bodies.write_bytes(
            b"\n".join(encode(auth) for auth, _ in zip(some, range(count), strict=False))
        )
        done = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.client", "open", self._url, str(bodies)),
                *("--seconds", str(seconds), "--rate", str(self._rate)),
            ],
            capture_output=True,
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def main() -> int:
    """Measure and print. Returns 1 if any row missed its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="that each fault lasts")
    parser.add_argument("--rate", type=float, default=200.0, help="authorizations a second")
    args = parser.parse_args()
    print(HEAD, flush=True)
    missed = 0
    for row in measure(args.seconds, args.rate):
        print(line(row), flush=True)
        missed += not row.held
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
