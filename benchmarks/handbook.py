"""Publish a whole table through a real Kafka, decide it, and prove that nothing is missing.

  benchmarks/.venv/bin/python -m benchmarks.handbook FILE [--mapping handbook] [--rows N]

FILE is the Fraud Detection Handbook's table (or any that the mapping fits). Starts Kafka, Valkey
and the services by itself, and leaves benchmarks/results/handbook.json: decisions counted against
rows, and states and vectors of a sample recomputed from the archive, compared bit for bit.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.report import machine, result, row, save
from local.kafka.broker import JarNode
from local.stack import Stack, free_port
from sluice.adapters.kafka.topics import Topics, apply
from sluice.adapters.parquet.archive import Archive
from sluice.adapters.parquet.event_history import ENTITY_COLUMNS, ArchiveEventHistory, Bucket
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.application.replay import Replay
from sluice.bootstrap import store_at
from sluice.domain.features import catalogue
from sluice.domain.records.decision import Decision
from sluice.domain.records.entity import EntityKind

RESULTS = Path("benchmarks/results")
SAMPLE = 10_000
PARTITIONS = 4
QUIET_S = 5.0
"""Queues empty for so long count as drained."""
DRAIN_MAX_S = 1200.0
YEARS_S = 20 * 366 * 86_400


def main() -> int:
    """Returns 0 if every sum agrees and every compared bit is equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--mapping", default="handbook")
    parser.add_argument("--rows", type=int, help="only the first")
    args = parser.parse_args()
    rows = min(args.rows or sys.maxsize, pq.ParquetFile(args.file).metadata.num_rows)
    with tempfile.TemporaryDirectory(prefix="sluice-handbook-") as name:
        folder = Path(name)
        node = JarNode(folder / "kafka", free_port(), detached=False)
        node.start()
        try:
            apply(node.bootstrap, Topics(), partitions=PARTITIONS)
            with (
                EmbeddedStore(directory=folder / "store") as store,
                Stack(node.bootstrap, store.url, folder, _environment()) as stack,
            ):
                return _run(args, rows, stack, store.url, folder)
        finally:
            node.stop()


def _environment() -> dict[str, str]:
    return {
        "SLUICE_DECIDER_MAX_EVENT_AGE_S": str(YEARS_S),
        "SLUICE_DECIDER_BATCH_MAX": "1000",
        "SLUICE_SERVICE_LOG_LEVEL": "WARNING",
    }


def _run(args: argparse.Namespace, rows: int, stack: Stack, store_url: str, folder: Path) -> int:
    about = machine()
    for service in ("featurizer", "archiver", "decider-stream"):
        stack.start(service)
    stack.wait_all()
    began = time.monotonic()
    command = [
        str(Path(sys.executable).parent / "sluice"), "publish", str(args.file),
        "--mapping", args.mapping, "--bootstrap", stack.bootstrap,
    ]  # fmt: skip
    if args.rows:
        command += ["--limit", str(args.rows)]
    publisher = subprocess.Popen(command, stdout=(folder / "publish.log").open("w"))
    decided = _until_drained(stack, rows, publisher, began)
    seconds = time.monotonic() - began
    codes = stack.stop_all()
    print(f"{decided:,} decisions in {seconds:.0f} s, {decided / seconds:,.0f}/s; stopped {codes}")
    archive = Archive(folder / "archive")
    checks = {**_count(archive, rows), **_recompute(folder / "archive", store_url)}
    checks["services that did not stop cleanly"] = sum(code != 0 for code in codes.values())
    rows_out = [
        row("authorizations published", "rows", rows),
        row("end to end, all services on this machine", "decisions/s", decided / seconds),
        *(row(name, "count", value) for name, value in checks.items()),
    ]
    again = f"benchmarks/.venv/bin/python -m benchmarks.handbook {args.file.name}"
    save(RESULTS, result("handbook", again, about, rows_out, []))
    wrong = {name: n for name, n in checks.items() if n and name not in _TOLD}
    print("ok" if not wrong else f"FAILED: {wrong}")
    return 1 if wrong else 0


def _until_drained(
    stack: Stack, rows: int, publisher: subprocess.Popen[bytes], began: float
) -> int:
    """Wait until all rows are decided and no queue holds anything."""
    quiet_since = None
    shown = 0.0
    while time.monotonic() - began < DRAIN_MAX_S:
        time.sleep(0.5)
        processes = stack.processes
        decided = int(processes["decider-stream"].metric("sluice_decider_decisions_total"))
        dead = int(processes["decider-stream"].metric("sluice_dead_letters_total"))
        lag = sum(p.metric("sluice_consumer_lag_messages") for p in processes.values())
        if time.monotonic() - shown > 5:
            shown = time.monotonic()
            print(
                f"  {shown - began:5.0f} s  {decided:,} of {rows:,}, queues {lag:,.0f}", flush=True
            )
        busy = publisher.poll() is None or decided + dead < rows or lag > 0
        if busy:
            quiet_since = None
        elif quiet_since is None:
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since > QUIET_S:
            return decided
    raise SystemExit(f"not drained after {DRAIN_MAX_S:.0f} s")


def _count(archive: Archive, rows: int) -> dict[str, int]:
    """Rows without a decision, ids with two, holes in the emitter's sequence."""
    table = archive.read(
        "decisions", ["authorization_id", "emitter", "sequence", "degradation_level"]
    )
    ids = Counter(table["authorization_id"].to_pylist())
    sequences = np.sort(table["sequence"].to_numpy())
    levels = Counter(table["degradation_level"].to_pylist())
    print(f"archive: {len(table):,} decisions, degradation levels {dict(levels)}")
    return {
        "decisions missing": rows - len(ids),
        "decided twice": len(table) - len(ids),
        "holes in the emitter's sequence": int((sequences != np.arange(len(sequences))).sum()),
        "degraded decisions": len(table) - levels["D0"],
    }


def _recompute(root: Path, store_url: str) -> dict[str, int]:
    """Vectors of a sample of decisions, and all states of a sample of entities."""
    archive = Archive(root)
    table = archive.read("decisions", ENTITY_COLUMNS)
    replay = Replay(ArchiveEventHistory(root).read(Bucket(0, 1)))
    sample = _sample(archive, len(table))
    again = replay.features(sample)
    served = np.array([d.features for d in sample], np.int64)
    unequal = int((again != served).any(axis=1).sum())
    worst = Counter(
        {catalogue.NAMES[i]: int(n) for i, n in enumerate((again != served).sum(axis=0)) if n}
    )
    pending = sum(bool(d.pending) for d in sample)
    print(f"vectors: {len(sample):,} compared, {unequal} differ; {pending:,} had pending entries")
    if worst:
        print(f"  worst features: {worst.most_common(5)}")
    store = store_at(store_url).states()
    compared = differing = 0
    for view, kind in enumerate(catalogue.VIEWS):
        keys = sorted(pc.unique(table[ENTITY_COLUMNS[view]]).drop_null().to_pylist())
        keys = random.Random(7).sample(keys, min(len(keys), SAMPLE))
        stored = store.read([(_entity(kind), key) for key in keys])
        made = replay.states(kind, keys, [None] * len(keys))
        compared += len(keys)
        differing += sum(a != b for a, b in zip(stored, made, strict=True))
    store.close()
    print(f"states: {compared:,} compared, {differing} differ")
    return {
        "compared vectors": len(sample),
        "vectors not bit-equal": unequal,
        "compared states": compared,
        "states not bit-equal": differing,
    }


_TOLD = {"compared vectors", "compared states", "degraded decisions"}
"""Figures that are no faults: a store slower than its budget degrades decisions and says so."""


def _entity(kind: str) -> EntityKind:
    return kind  # type: ignore[return-value]


def _sample(archive: Archive, n: int) -> Sequence[Decision]:
    """SAMPLE decisions, evenly from the whole archive, decoded from their own bytes."""
    decoder = msgspec.json.Decoder(Decision)
    wanted = set(random.Random(7).sample(range(n), min(n, SAMPLE)))
    chosen = []
    at = 0
    for table in archive.tables("decisions", ["record"]):
        mine = [i for i in range(at, at + len(table)) if i in wanted]
        chosen += [decoder.decode(table["record"][i - at].as_py()) for i in mine]
        at += len(table)
    return chosen


if __name__ == "__main__":
    raise SystemExit(main())
