"""Locust on the cluster that the kubeconfig leads to: ``make bench-cluster``.

  make bench-cluster ARGS="--namespace fraud --release sluice --image sluice-loader:dev"

Needs kubectl, the chart installed with ``access.mode: none`` and without TLS, and the loader's
image where the nodes find it. It sends some hundred thousand authorizations of a tenant of its own,
which stay in the topics: never to a deployment that decides for somebody. Leaves cluster.json,
cluster.html and the loader's log.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.cluster import job
from benchmarks.cluster.ramp import add_arguments, given
from benchmarks.cluster.story import STREAM, ClusterResult, drawn, heard, rows, wrong
from benchmarks.cluster.watch import Watch, kubectl
from benchmarks.report import machine, result, save, table

POLL_S = 2.0
START_MAX_S = 300
LINES = 15


def main() -> int:
    """Returns 0 if nothing is missing and nothing was decided twice."""
    args = _arguments()
    ramp = given(args)
    run = f"{int(time.time())}"
    found = _stream(args.namespace, args.release)
    environment = _environment(found)
    host = args.host or (
        "http://" + found["metadata"]["name"].removesuffix("-stream") + "." + args.namespace
    )
    load = job.Load(
        run=run,
        namespace=args.namespace,
        release=args.release,
        image=args.image,
        host=host,
        bootstrap=args.bootstrap or environment.get("SLUICE_KAFKA_BOOTSTRAP", ""),
        topic_prefix=environment.get("SLUICE_KAFKA_TOPIC_PREFIX", ""),
        kafka_secret=args.kafka_secret,
        workers=args.workers,
        arguments=(
            f"--tenant=bench-{run}",
            f"--seed={run}",
            f"--burst={args.burst}",
            f"--settle-s={args.settle_s:g}",
            *ramp.arguments(),
        ),
    )
    about = machine() | {"cluster": _cluster()}
    print(f"{load.name}: {args.workers} workers, {host}, at most {args.rate:g} requests/s, "
          f"{ramp.seconds:g} s; then {args.burst:,} records", flush=True)  # fmt: skip
    kubectl("apply", "-f", "-", stdin=json.dumps(job.objects(load)).encode())
    try:
        with Watch(args.namespace, args.release) as watch:
            failed = _until_over(load, ramp.seconds + args.stream_max_s)
        pods = _pods(load)
        first = next(p for p in pods if _index(p) == 0)["metadata"]["name"]
        log = kubectl("logs", "-n", args.namespace, first, "--tail=-1")
    finally:
        kubectl("delete", "-n", args.namespace, "service,networkpolicy", load.name, "--wait=false")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "cluster.log").write_bytes(log)
    series = heard(log, watch.samples)
    bad = wrong(series, failed)
    if not series.seconds:
        tail = log.decode(errors="replace").splitlines()[-LINES:]
        print("FAILED:", *bad, *tail, sep="\n  ")
        return 1
    made = result("cluster", _command(), about, list(rows(series, ramp)), _notes(args))
    whole = ClusterResult(
        **{name: getattr(made, name) for name in made.__struct_fields__}, series=series
    )
    save(args.out, whole)
    (args.out / "cluster.html").write_text(drawn(whole, ramp))
    print(table(made))
    print("ok" if not bad else "FAILED:\n  " + "\n  ".join(bad))
    print(f"{args.out / 'cluster.html'}")
    return 1 if bad else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--namespace", default="sluice")
    parser.add_argument("--release", default="sluice", help="of Helm")
    parser.add_argument("--image", default="sluice-loader:dev", help="of the loader")
    parser.add_argument("--host", default="", help="URL of the sync API (default: the Service's)")
    parser.add_argument("--bootstrap", default="", help="brokers (default: the stream processor's)")
    parser.add_argument(
        "--kafka-secret", default="", help="Secret of SLUICE_KAFKA_* for the loader"
    )
    parser.add_argument("--workers", type=int, default=2, help="of Locust, a core each")
    add_arguments(parser)
    parser.add_argument(
        "--burst", type=int, default=100_000, help="records for the stream; 0: none"
    )
    parser.add_argument("--settle-s", type=float, default=420, help="after the lag is gone")
    parser.add_argument("--stream-max-s", type=float, default=1800, help="longest for all of that")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


def _command() -> str:
    given = " ".join(sys.argv[1:])
    return "make bench-cluster" + (f' ARGS="{given}"' if given else "")


def _notes(args: argparse.Namespace) -> list[str]:
    return [
        f"Locust: {args.workers} workers, users of 5 requests/s each, a new connection every 25; "
        "latency is a caller's, retries included",
        "percentiles of single seconds: at 400 requests/s p99.9 is the slowest one",
    ]


def _stream(namespace: str, release: str) -> dict[str, Any]:
    selector = f"app.kubernetes.io/instance={release},app.kubernetes.io/component={STREAM}"
    found = json.loads(
        kubectl("get", "statefulsets", "-n", namespace, "-l", selector, "-o", "json")
    )["items"]
    if not found:
        sys.exit(
            f"no release {release} of the chart in namespace {namespace}: --release, --namespace"
        )
    one: dict[str, Any] = found[0]
    return one


def _environment(workload: dict[str, Any]) -> dict[str, str]:
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    return {e["name"]: e["value"] for e in container["env"] if "value" in e}


def _cluster() -> dict[str, Any]:
    version = json.loads(kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
    nodes = json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
    return {
        "kubernetes": version,
        "nodes": len(nodes),
        "cores": sorted(node["status"]["capacity"]["cpu"] for node in nodes),
    }


def _pods(load: job.Load) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        kubectl("get", "pods", "-n", load.namespace, "-l", f"sluice/load={load.run}", "-o", "json")
    )["items"]
    return found


def _index(pod: dict[str, Any]) -> int:
    return int(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"])


def _until_over(load: job.Load, at_most_s: float) -> list[str]:
    """Names of the loader's pods that failed."""
    deadline = time.monotonic() + START_MAX_S + at_most_s
    while True:
        pods = _pods(load)
        phases = {pod["metadata"]["name"]: pod["status"].get("phase") for pod in pods}
        failed = [name for name, phase in phases.items() if phase == "Failed"]
        if failed or (phases and all(phase == "Succeeded" for phase in phases.values())):
            return failed
        if time.monotonic() > deadline:
            sys.exit(f"{load.name} is not over after {START_MAX_S + at_most_s:g} s: {phases}")
        time.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(main())
