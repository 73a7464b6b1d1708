"""``make bench``: measure everything, write benchmarks/results/*.json, print a table.

Starts Kafka and Valkey by itself on free ports with temporary data. Takes about ten minutes.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    access,
    backfill,
    beside,
    feature_read,
    featurizer,
    freshness,
    start,
    stream_processor,
    sync_api,
)
from benchmarks.report import Row, machine, result, save, table
from benchmarks.testbed import FULL, QUICK, Testbed

ALL = (
    "sync_api",
    "access",
    "beside",
    "stream_processor",
    "featurizer",
    "freshness",
    "feature_read",
    "backfill",
    "start",
)


def main() -> int:
    """Run what was asked for. An exception, with its reason, if one could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument(
        "--only", nargs="+", choices=ALL, default=ALL, metavar="NAME", help=", ".join(ALL)
    )
    parser.add_argument(
        "--handbook", type=Path, help="parquet of the Handbook's table: backfill it too"
    )
    parser.add_argument("--quick", action="store_true", help="little of everything, for trying out")
    args = parser.parse_args()
    os.environ.setdefault("FEAST_USAGE", "False")
    args.out.mkdir(parents=True, exist_ok=True)
    measures: dict[str, Callable[[Testbed, Path], tuple[list[Row], list[str]]]] = {
        "sync_api": sync_api.measure,
        "access": access.measure,
        "beside": beside.measure,
        "stream_processor": stream_processor.measure,
        "featurizer": featurizer.measure,
        "freshness": freshness.measure,
        "feature_read": feature_read.measure,
        "backfill": functools.partial(backfill.measure, handbook=args.handbook),
        "start": start.measure,
    }
    with Testbed(QUICK if args.quick else FULL) as testbed:
        for name in args.only:
            about = machine()
            began = time.perf_counter()
            rows, notes = measures[name](testbed, args.out)
            command = f"benchmarks/.venv/bin/python -m benchmarks.run --only {name}"
            command += " --handbook FILE" if name == "backfill" and args.handbook else ""
            command += " --quick" if args.quick else ""
            found = result(name, command, about, rows, notes)
            save(args.out, found)
            print(table(found), flush=True)
            print(f"  ({time.perf_counter() - began:.0f} s)", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
