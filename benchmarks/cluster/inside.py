"""What the pod itself costs: CPU a decision in it, and of the same image outside, in turn; and how
long a new pod takes from its process's start until it is ready.

  .venv/bin/python -m benchmarks.cluster.inside

The cluster is that of `make test-cluster`, started here and ended again (root, Go). Outside is
runc on this machine: the same image, settings, release, broker and store, without a Kubernetes.
Both processes are kept to one core, the client to the others. Leaves inside.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.processes import MEASURED, cpu_s, wait_until
from benchmarks.report import Row, better, machine, result, row, save, table
from benchmarks.sync_api import CONNECTIONS, Server, load
from local.kafka.broker import free_port
from sluice.domain.records.authorization import encode
from tests.cluster import images, node, session
from tests.cluster.chart import Installed, installed, merged, sync_process, values
from tests.cluster.outside import Outside, outside
from tests.image.container import running
from tests.support.decider import wait_ready
from tests.support.traffic import authorizations

BODIES = 600_000
"""An authorization is sent once; the rest is left."""
START_MAX_S = 120.0
DECIDED = '"degradation_level"'
ALONE = {
    "sync": {"autoscaling": {"minReplicas": 1, "maxReplicas": 1}},
    "stream": {"replicas": 0},
    "consistency": {"enabled": False},
}
"""Nothing beside the pod but what keeps its features."""


def main() -> int:
    """Measure and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, in turn")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    if reason := node.why_not():
        sys.exit(reason)
    with tempfile.TemporaryDirectory(prefix="sluice-inside-") as name, session.cluster() as cluster:
        folder = Path(name)
        folder.chmod(0o755)  # a pod's user is another
        kube = session.kubectl(cluster)
        with (
            outside(folder / "beside") as beside,
            installed(kube, beside, "cost", merged(values(beside), ALONE)) as pod,
            _outside(pod, beside, folder) as alone,
        ):
            rows, notes = _measure(_of_pod(pod, folder), alone, args.rounds, args.seconds, folder)
            rows += _starts(pod, args.rounds)
    made = result("inside", "python -m benchmarks.cluster.inside", machine(), rows, notes)
    save(args.out, made)
    print(table(made))
    return 0


def _of_pod(pod: Installed, folder: Path) -> Server:
    (one,) = pod.sync_pods()
    process = sync_process(one["metadata"]["uid"])
    url = f"http://{one['status']['podIP']}:8080/v1/authorizations"
    return Server(process.pid, url, folder / "bodies", DECIDED)


@contextmanager
def _outside(pod: Installed, beside: Outside, folder: Path) -> Iterator[Server]:
    """The same container by runc alone."""
    config, trust, scratch = (folder / part for part in ("config", "trust", "scratch"))
    for made in (config, trust, scratch):
        made.mkdir()
    given = pod.kube.get(pod.namespace, "configmap", "sluice-config")["data"]
    for name, text in given.items():
        (config / name).write_text(text)
    for name, text in beside.trust.items():
        (trust / name).write_text(text)
    port = free_port()
    environment = {
        "SLUICE_CONFIG": "/etc/sluice/config/sluice.yaml",
        "SLUICE_KAFKA_BOOTSTRAP": beside.for_pods,
        "SLUICE_STORE_URL": beside.store_for_pods,
        "SLUICE_DECIDER_HOST": "127.0.0.1",
        "SLUICE_DECIDER_PORT": str(port),
        "SLUICE_SERVICE_ADMIN_PORT": "0",
    }
    binds = {
        "/etc/sluice/config": config,
        "/etc/sluice/trust": trust,
        "/mnt/models": beside.releases / "v1",
    }
    with running(images.BUILT, environment, binds, scratch) as container:
        wait_ready(port, container.alive, container.log)
        url = f"http://127.0.0.1:{port}/v1/authorizations"
        yield Server(container.pid, url, folder / "bodies", DECIDED)


def _measure(
    inside: Server, alone: Server, rounds: int, seconds: float, folder: Path
) -> tuple[list[Row], list[str]]:
    found: dict[str, list[dict[str, Any]]] = {"inside": [], "alone": []}
    half = BODIES // 2
    for name, server, seed in (("inside", inside, 1), ("alone", alone, 2)):
        server.bodies = folder / f"{name}.jsonl"
        some = islice(authorizations(name, seed, cards=5000), half)
        server.bodies.write_bytes(b"\n".join(map(encode, some)))
        for thread in Path(f"/proc/{server.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), MEASURED)
        load(server, "closed", 2.0, connections=CONNECTIONS)
    for _ in range(rounds):
        found["alone"].append(load(alone, "closed", seconds, connections=CONNECTIONS))
        found["inside"].append(load(inside, "closed", seconds, connections=CONNECTIONS))
    a, b = ([run["cpu_us"] for run in found[name]] for name in ("inside", "alone"))
    ratio = statistics.median(x / y for x, y in zip(a, b, strict=True))
    spread = {name: f"{min(each):.0f} to {max(each):.0f} µs" for name, each in (("a", a), ("b", b))}
    return [
        better(
            f"CPU per decision in the pod, {CONNECTIONS} connections; outside as baseline", "µs",
            statistics.median(a), statistics.median(b),
        ),
        row("the pod against the same outside, median of pairs", "", ratio, target="<= 1.10"),
    ], [
        f"{rounds} runs of {seconds:g} s of each in turn; both processes on core {MEASURED}",
        f"spread: in the pod {spread['a']}, outside {spread['b']}",
    ]  # fmt: skip


def _starts(pod: Installed, rounds: int) -> list[Row]:
    """Of a pod that takes the place of one that is deleted, by the clocks of this machine."""
    seconds, busy = [], []
    for _ in range(rounds):
        (old,) = pod.sync_pods()
        name = old["metadata"]["name"]
        pod.kube("--namespace", pod.namespace, "delete", "pod", name, "--wait=false")
        wait_until(lambda: bool(_addresses(pod)), "the next pod has an address", START_MAX_S)
        ((uid, address),) = _addresses(pod).items()
        wait_until(lambda at=address: _ready(at), "it is ready", START_MAX_S)  # type: ignore[misc]
        now, process = time.time(), sync_process(uid)
        seconds.append(now - process.create_time())
        busy.append(cpu_s(process.pid))
    return [
        row("sync API in a pod: start to ready", "s", statistics.median(seconds), target="<= 5"),
        row("sync API in a pod: CPU from start to ready", "s", statistics.median(busy)),
    ]


def _addresses(pod: Installed) -> dict[str, str]:
    return {
        one["metadata"]["uid"]: one["status"]["podIP"]
        for one in pod.sync_pods()
        if "podIP" in one["status"]
    }


def _ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}:8080/v2/health/ready", timeout=1):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
