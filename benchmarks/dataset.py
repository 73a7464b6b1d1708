"""Training sets of the Handbook's whole table, through a backfill: time, memory, same bytes again.

  benchmarks/.venv/bin/python -m benchmarks.dataset handbook-transactions.parquet

Backfills the table into an archive of its own, applies a copy of feature_repo/ to a registry of its
own, then builds one set of all rows twice, and the week that the Handbook itself reports. Takes
some five minutes and 4 GB. Time is all processes', memory the sum of what each ever held at most.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.report import Row, machine, result, row, save, table
from sluice.adapters.redis.embedded import EmbeddedStore

ROOT = Path(__file__).parents[1]
SERVICE = (ROOT / "models" / "releases" / "current").resolve().name
WHOLE = ("--from", "2018-04-01", "--to", "2018-10-01", "--test", "7d")
BOOK = ("--from", "2018-07-25", "--to", "2018-08-15", "--test", "7d")
BOOKS_FIGURES = {"train": (67_240, 598), "test-1": (58_264, 385)}
"""Rows and frauds that the Fraud Detection Handbook prints for its baseline."""
POLL_S = 0.05


class Used(NamedTuple):
    """What a command and its children took."""

    wall_s: float
    cpu_s: float
    memory_gb: float


def main() -> int:
    """Run it. Returns 1 if a rebuild differed or the book's figures were not met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dataset", description=__doc__)
    parser.add_argument("file", type=Path, help="the Handbook's transactions as parquet")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    about = machine()
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as made, EmbeddedStore() as store:
        work = Path(made)
        env = os.environ | {
            "SLUICE_STORE_URL": store.url,
            "SLUICE_ARCHIVER_ROOT": str(work / "archive"),
            "SLUICE_FEAST_STORE": store.host_port,
            "SLUICE_FEAST_REGISTRY": f"sqlite:///{work}/registry.db",
            "FEAST_USAGE": "False",
        }
        repo = _applied(work, env)
        filled = watched(
            [*SLUICE, "backfill", str(args.file), "--mapping", "handbook", "--labels",
             "handbook-labels", "--no-store"], env,
        )  # fmt: skip
        print(f"backfill: {filled}", flush=True)
        rows, wrong = _measure(work, repo, env)
    command = "benchmarks/.venv/bin/python -m benchmarks.dataset FILE"
    notes = [f"Handbook, features of {SERVICE}, Feast's file store, a process a core"]
    found = result("dataset", command, about, rows, notes)
    print(table(found))
    print(save(args.out, found))
    return 1 if wrong else 0


def _measure(work: Path, repo: Path, env: dict[str, str]) -> tuple[list[Row], int]:
    """The rows, and how many answers were wrong."""
    used = watched(_build(repo, WHOLE, work / "one"), env)
    watched(_build(repo, WHOLE, work / "two"), env)
    watched(_build(repo, BOOK, work / "book"), env)
    splits = json.loads((work / "one" / "manifest.json").read_text())
    rows = sum(s["rows"] + s["left_out_compromised"] for s in splits["splits"])
    rows += splits["log"]["unused"]
    one, two = (_files(work / name) for name in ("one", "two"))
    differing = sum(one.get(name) != two.get(name) for name in one.keys() | two.keys())
    book = json.loads((work / "book" / "manifest.json").read_text())
    off = sum((s["rows"], s["frauds"]) != BOOKS_FIGURES[s["name"]] for s in book["splits"])
    return [
        row("rows of the log", "rows", rows, target="1,754,155"),
        row("build: wall time", "s", used.wall_s, target="<= 120 on 2 cores"),
        row("build: processor time", "s", used.cpu_s),
        row("build: peak memory of all processes", "GB", used.memory_gb, target="<= 4"),
        row("files that differ when rebuilt", "files", differing, target="0"),
        row("splits unlike the Handbook's week", "splits", off, target="0"),
    ], differing + off


SLUICE = [str(Path(sys.executable).with_name("sluice"))]


def _build(repo: Path, span: tuple[str, ...], out: Path) -> list[str]:
    return [*SLUICE, "dataset", "build", "--service", SERVICE, *span, "--label-delay", "7d",
            "--repo", str(repo), "--out", str(out)]  # fmt: skip


def _applied(work: Path, env: dict[str, str]) -> Path:
    """A copy of the feature repository, applied; env names its configuration from now on."""
    repo = work / "feature_repo"
    shutil.copytree(ROOT / "feature_repo", repo, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "models" / "releases", work / "models" / "releases", symlinks=True)
    env["FEAST_FS_YAML_FILE_PATH"] = str(repo / "env.yaml")
    subprocess.run(
        [sys.executable, "-m", "feast.cli.cli", "-f", "env.yaml", "apply"],
        cwd=repo, env=env, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return repo


def watched(command: list[str], env: dict[str, str]) -> Used:
    """Run a command to its end, watching it and its children. Raises if it fails."""
    before = os.times()
    began = time.perf_counter()
    peaks: dict[int, int] = {}
    spent: dict[int, int] = {}
    process = subprocess.Popen(command, env=env, cwd=ROOT)
    while process.poll() is None:
        for pid in _family(process.pid):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended
            if peak := re.search(r"VmHWM:\s+(\d+)", status):
                peaks[pid] = int(peak[1])
            spent[pid] = int(fields[11]) + int(fields[12])
        time.sleep(POLL_S)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:3])} failed")
    after = os.times()
    # A JVM that ends after its parent is waited for by nobody; one that ends between two looks is
    # not seen.
    waited_s = sum(after[2:4]) - sum(before[2:4])
    cpu_s = max(waited_s, sum(spent.values()) / os.sysconf("SC_CLK_TCK"))
    return Used(time.perf_counter() - began, cpu_s, sum(peaks.values()) / 1e6)


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for one in found:
        try:
            tasks = list(Path(f"/proc/{one}/task").iterdir())
            found += [int(c) for t in tasks for c in (t / "children").read_text().split()]
        except OSError:
            continue
    return found


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


if __name__ == "__main__":
    raise SystemExit(main())
