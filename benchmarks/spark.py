"""The Handbook's table on one machine and on Spark: files compared, time, shuffle, spill.

  make spark/.venv/.done
  spark/.venv/bin/python -m benchmarks.spark handbook-transactions.parquet

Both make a backfill of the table in four files, and from its archive a training set. Spark is what
its own configuration names, else two cores of this machine with --memory for its JVM; of shuffle
and spill its event log tells. Takes 4 GB of disk.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.dataset import SLUICE, Used, watched
from benchmarks.report import Row, machine, result, row, save, table

PARTS = 4
CORES = 2
SPAN = ("--from", "2018-05-08", "--to", "2018-09-05", "--label-delay", "7d", "--test", "7d")
ENGINES = ("local", "spark")


def main() -> int:
    """Run it. Returns 1 if a file differed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spark", description=__doc__)
    parser.add_argument("file", type=Path, help="the Handbook's transactions as parquet")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--work", type=Path, help="folder for what is made; left there")
    parser.add_argument("--memory", default="2g", help="of the JVM")
    args = parser.parse_args()
    about = machine()
    work = args.work or Path(tempfile.mkdtemp(prefix="sluice-bench-"))
    try:
        rows, differing = _measure(args.file, work, args.memory)
    finally:
        if not args.work:
            shutil.rmtree(work)
    notes = [f"Spark: local[{CORES}], {args.memory} for its JVM; one machine: {CORES} threads"]
    command = "spark/.venv/bin/python -m benchmarks.spark FILE"
    found = result("spark", command, about, rows, notes)
    print(table(found))
    print(save(args.out, found))
    return 1 if differing else 0


def _measure(file: Path, work: Path, memory: str) -> tuple[list[Row], int]:
    whole = pq.read_table(file)
    n = len(whole)
    (work / "parts").mkdir(parents=True)
    for k in range(PARTS):
        a, b = k * n // PARTS, (k + 1) * n // PARTS
        pq.write_table(whole.slice(a, b - a), work / "parts" / f"part-{k}.parquet")
    del whole
    rows, bad = [], 0
    orders = {
        "backfill": ["backfill", str(work / "parts"), "--mapping", "handbook", "--labels",
                     "handbook-labels", "--no-store", "--archive", "{}"],
        "dataset": ["dataset", "build", *SPAN, "--archive", str(work / "backfill-local"),
                    "--out", "{}"],
    }  # fmt: skip
    at_once = {"backfill": "--threads", "dataset": "--processes"}
    for verb, order in orders.items():
        made = {}
        for engine in ENGINES:
            out = work / f"{verb}-{engine}"
            more = [at_once[verb], str(CORES)] if engine == "local" else []
            events = work / f"events-{verb}"
            events.mkdir(exist_ok=True)
            env = os.environ | _spark(work, events, memory)
            command = [part.format(out) for part in order]
            used = watched([*SLUICE, *command, "--engine", engine, *more], env)
            print(f"{verb}, {engine}: {used}", flush=True)
            made[engine] = _digests(out)
            rows += _used(f"{verb}, {engine}", n, used)
            if engine == "spark":
                rows += _events(f"{verb}, {engine}", n, events)
        own, other = (made[engine] for engine in ENGINES)
        differing = sum(own.get(name) != other.get(name) for name in own.keys() | other.keys())
        bad += differing
        rows += [
            row(f"{verb}: files", "files", len(own)),
            row(f"{verb}: files that differ", "files", differing, target="0"),
        ]
    return rows, bad


def _spark(work: Path, events: Path, memory: str) -> dict[str, str]:
    conf = {
        "spark.local.dir": str(work),
        "spark.eventLog.enabled": "true",
        "spark.eventLog.compress": "false",
        "spark.eventLog.rolling.enabled": "false",
        "spark.eventLog.dir": f"file:{events.absolute()}",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    said = " ".join(f"--conf {key}={value}" for key, value in conf.items())
    order = f"--master local[{CORES}] --driver-memory {memory} {said} pyspark-shell"
    return {"PYSPARK_SUBMIT_ARGS": os.environ.get("PYSPARK_SUBMIT_ARGS", order)}


def _used(name: str, n: int, used: Used) -> list[Row]:
    return [
        row(f"{name}: wall time", "s", used.wall_s),
        row(f"{name}: processor time", "s", used.cpu_s),
        row(f"{name}: a core", "rows/s", n / used.cpu_s),
        row(f"{name}: peak memory of all processes", "GB", used.memory_gb),
    ]


def _events(name: str, n: int, folder: Path) -> list[Row]:
    """Of Spark's event log. None where its configuration writes it elsewhere."""
    sums: Counter[str] = Counter()
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        for line in path.read_text().splitlines():
            event = json.loads(line)
            if event["Event"] == "SparkListenerTaskEnd" and (m := event.get("Task Metrics")):
                sums["tasks"] += 1
                sums["shuffled"] += m["Shuffle Write Metrics"]["Shuffle Bytes Written"]
                sums["spilled"] += m["Disk Bytes Spilled"]
                sums["jvm_ns"] += m["Executor CPU Time"]
    if not sums:
        return []
    return [
        row(f"{name}: tasks", "tasks", sums["tasks"]),
        row(f"{name}: processor time of the JVM's tasks", "s", sums["jvm_ns"] / 1e9),
        row(f"{name}: shuffled", "bytes a row", sums["shuffled"] / n),
        row(f"{name}: spilled to disk", "bytes a row", sums["spilled"] / n),
    ]


def _digests(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).digest()
        for p in folder.rglob("*")
        if p.is_file()
    }


if __name__ == "__main__":
    raise SystemExit(main())
