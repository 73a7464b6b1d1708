"""Run past authorizations through the kernel: into the archive, and into the online store.

Live traffic then goes on from there without a seam. The archive gets every row with the features
that it had then, under the place that state versions name; the store gets the states. Labels known
after the end (--until, or the last authorization) are left out: they come with the stream. An
entity that has another state already keeps it, and is counted. The same backfill may run again;
an archive that holds another history refuses it.

  sluice simulate history --out var/history --cards 10000 --days 30 --start 2026-10-01
  sluice backfill var/history/authorizations.parquet --labels var/history/labels.parquet
  sluice backfill bank.csv --mapping bank.yaml --until 2026-10-16T00:00:00Z
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sluice import bootstrap
from sluice.adapters.files.history import labels_from, unsorted_history
from sluice.adapters.files.past import Past, map_past, read_past
from sluice.adapters.parquet.history import HistoryFiles, fingerprint
from sluice.application.backfill import Backfill
from sluice.application.ports import StateStore, StateUpdate
from sluice.application.publish import FIRST_ERRORS, BadRow
from sluice.cli.instant import instant
from sluice.cli.progress import Progress
from sluice.domain.policy.fx import Fx
from sluice.settings import load

WRITE_MAX = 5_000
"""States a round: bounds memory, and lets progress be seen."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "history", type=Path, help="parquet with the fields of an authorization, or see --mapping"
    )
    parser.add_argument("--mapping", help="YAML file or name, as for publish: a firm's own columns")
    parser.add_argument(
        "--labels", help="parquet with the fields of a label; with --mapping a YAML file or name"
    )
    parser.add_argument(
        "--from", dest="since", type=instant, metavar="TIME", help="only events at or after it"
    )
    parser.add_argument("--until", type=instant, metavar="TIME", help="only events before it")
    parser.add_argument(
        "--allow-bad", type=int, default=0, metavar="N", help="go on with up to N bad rows"
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="default: one a core"
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 with more bad rows than allowed or if some entity had another state."""
    settings, _ = load()
    began = time.perf_counter()
    if args.mapping:
        past = map_past(args.history, args.mapping, args.labels, _reporter())
    else:
        past = read_past(args.history, Path(args.labels) if args.labels else None)
    if past.bad > args.allow_bad:
        print(f"{past.bad:,} bad rows, nothing was done: see --allow-bad", file=sys.stderr)
        return 1
    past = past.between(args.since, args.until)
    print(
        f"{len(past.authorizations):,} authorizations and {len(past.labels):,} labels read in "
        f"{time.perf_counter() - began:.1f} s, {past.bad:,} bad rows"
    )
    fx = bootstrap.policies(settings).current().fx
    states = archive(past, fx, Path(settings.archiver.root), threads=args.threads)
    online = bootstrap.store(settings)
    store, watermark = online.states(), online.watermark()
    try:
        watermark.adopt()
        others = store_states(states, store)
        watermark.initialise()
    finally:
        store.close()
        watermark.close()
    if others:
        print(f"{others:,} entities had another state and keep it: flush the store to start anew")
    return 1 if others else 0


def archive(past: Past, fx: Fx, root: Path, *, threads: int = 1) -> list[StateUpdate]:
    """Write the feature log of a past, and return the states that it leaves.

    Raises Misconfigured if the archive holds another history, Rejected, Unavailable.
    """
    began, made = time.perf_counter(), 0
    table, progress = past.authorizations, Progress()
    history = Backfill(
        unsorted_history(table), fx, labels_from(past.labels), threads=threads, keep_states=True
    )
    files = HistoryFiles(
        root, fingerprint(table, past.labels, history.amounts, fx.reference), threads=threads
    )
    for first, features in history.pieces():
        some = slice(first, first + len(features))
        rows = table.slice(first, len(features))
        made += files.write_history(first, rows, history.amounts[some], fx.reference, features)
        progress.show(f"{some.stop:,} of {len(table):,} rows")
    made += files.write_labels(past.labels)
    seconds = time.perf_counter() - began
    rate = len(table) / max(seconds, 1e-9)
    progress.show(
        f"{len(table):,} rows in {seconds:.1f} s, {rate:,.0f} rows/s; {made:,} new files in {root}",
        last=True,
    )
    return history.states()


def store_states(states: Sequence[StateUpdate], store: StateStore) -> int:
    """Store them where no state is. Returns how many entities keep another one."""
    began, stored, others = time.perf_counter(), 0, 0
    for at in range(0, len(states), WRITE_MAX):
        some = states[at : at + WRITE_MAX]
        taken = store.write(some)
        stored += sum(taken)
        there = [update for update, ok in zip(some, taken, strict=True) if not ok]
        held = store.read([(update.entity, update.key) for update in there])
        others += sum(a.state != b for a, b in zip(there, held, strict=True))
    print(f"{stored:,} states stored in {time.perf_counter() - began:.1f} s")
    return others


def _reporter() -> Callable[[BadRow], None]:
    reported = itertools.count(1)

    def report(row: BadRow) -> None:
        if next(reported) <= FIRST_ERRORS:
            print(f"{row.error.where}: {row.error.what}", file=sys.stderr)

    return report
