"""Run a parquet history through the kernel and load the online store with the states it leaves.

Live traffic then goes on from there. Labels known after the last authorization are left out:
they come with the stream. An entity that has a state already keeps it, and is counted.

  sluice simulate history --out var/history --cards 10000 --days 30 --start 2026-10-01
  sluice backfill var/history/authorizations.parquet --labels var/history/labels.parquet
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from sluice import bootstrap
from sluice.adapters.files.history import read_history, read_labels
from sluice.adapters.redis.marker import Marker
from sluice.application.backfill import backfill
from sluice.settings import load

WRITE_MAX = 5_000
"""States a round: bounds memory, and lets progress be seen."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("history", type=Path, help="parquet with the fields of an authorization")
    parser.add_argument("--labels", type=Path, help="parquet with the fields of a label")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="default: one a core"
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 if some entity had a state already."""
    settings, _ = load()
    began = time.perf_counter()
    history = read_history(args.history)
    labels = read_labels(args.labels) if args.labels else None
    if labels is not None and len(history.event_at):
        labels = labels.known_by(int(history.event_at[-1]))
    fx = bootstrap.policies(settings).current().fx
    done = backfill(history, fx, labels, threads=args.threads, keep_states=True)
    rows = len(history.event_at)
    seconds = time.perf_counter() - began
    print(f"{rows:,} authorizations in {seconds:.1f} s, {rows / seconds:,.0f} rows/s")
    store = bootstrap.state_store(settings)
    began = time.perf_counter()
    kept = 0
    for at in range(0, len(done.states), WRITE_MAX):
        some = done.states[at : at + WRITE_MAX]
        kept += len(some) - sum(store.write(some))
    Marker(store.connection).initialise()
    store.close()
    seconds = time.perf_counter() - began
    print(f"{len(done.states) - kept:,} states stored in {seconds:.1f} s")
    if kept:
        print(f"{kept:,} entities had a state already and keep it: flush the store to start anew")
    return 1 if kept else 0
