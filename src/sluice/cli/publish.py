"""Publish a CSV or parquet file of past authorizations to authorizations.v1.

  sluice publish history.csv --mapping bank.yaml --bootstrap HOST:PORT

With --from it goes on where `sluice backfill --until` ended: rows at or after that time, and the
labels known since then, also those of earlier rows.

A row that cannot be read is reported with its line, becomes a dead letter, and the rest goes on.
docs/how-to/publish-your-history.md shows how to write a mapping.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sluice.adapters.files.mapping import Mapper, load_labels, load_mapping
from sluice.adapters.files.tables import BATCH_ROWS, Table
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.topics import Topics
from sluice.application.publish import FIRST_ERRORS, BadRow, Publisher, Report
from sluice.cli.instant import instant
from sluice.cli.progress import Progress
from sluice.cli.signals import on_stop
from sluice.domain.clock import SystemClock
from sluice.settings import load

PROGRESS_S = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", type=Path, help=".csv, .csv.gz or .parquet")
    parser.add_argument("--mapping", required=True, help="YAML file, or the name of a bundled one")
    parser.add_argument("--labels", help="YAML file or name: also send labels to labels.v1")
    parser.add_argument("--bootstrap", help="HOST:PORT (default: kafka.bootstrap of the settings)")
    parser.add_argument("--rate", type=_positive, help="at most so many rows a second")
    parser.add_argument("--limit", type=_whole, help="at most so many rows")
    parser.add_argument("--from-line", type=_whole, default=1, help="start there (to resume)")
    parser.add_argument(
        "--from", dest="since", type=instant, metavar="TIME", help="only events at or after it"
    )
    parser.add_argument(
        "--allow-bad", type=_whole, default=0, metavar="N", help="exit 0 with up to N bad rows"
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 with more bad rows than allowed, a failing broker, or an interruption."""
    kafka = load()[0].kafka
    mapping = load_mapping(args.mapping)
    labels = load_labels(args.labels) if args.labels else None
    table = Table(args.file, mapping.delimiter)
    mapper = Mapper(mapping, labels, table.columns, args.file.name)
    began, asked = time.monotonic(), threading.Event()
    publisher = Publisher(
        file=args.file.name,
        producer=EventProducer(
            args.bootstrap or kafka.bootstrap, client_id="sluice-publish", extra=kafka.extra()
        ),
        topics=Topics(kafka.topic_prefix),
        clock=SystemClock(),
        bad_row=_reporter(),
        progress=_progress(began),
        pace=_pace(args.rate, began) if args.rate else None,
        stopping=asked.is_set,
    )
    batches = table.batches(
        mapper.wanted,
        from_line=args.from_line,
        limit=args.limit,
        # A slow stream goes second by second, so that it stops when told.
        size=BATCH_ROWS if args.rate is None else min(BATCH_ROWS, max(1, int(args.rate))),
    )
    with on_stop(asked.set):
        report = publisher.publish(mapper.apply(rows).since(args.since) for rows in batches)
    return _end(report, time.monotonic() - began, args.allow_bad)


def _end(report: Report, seconds: float, allowed: int) -> int:
    print(
        f"{report.rows:,} rows, {report.published:,} published, {report.labels:,} labels, "
        f"{report.dead:,} dead, {seconds:.1f} s, {report.rows / max(seconds, 1e-9):,.0f} rows/s"
    )
    if report.failure is not None or report.stopped:
        why = report.failure or "stopped"
        print(f"sluice publish: {why}", file=sys.stderr)
        print(f"go on with --from-line {report.resume_at}", file=sys.stderr)
        return 1
    return 1 if report.dead > allowed else 0


def _reporter() -> Callable[[BadRow], None]:
    reported = itertools.count(1)

    def report(row: BadRow) -> None:
        number = next(reported)
        if number <= FIRST_ERRORS:
            print(f"{row.error.where}: {row.error.what}", file=sys.stderr)
        elif number == FIRST_ERRORS + 1:
            print("more bad rows follow; dead-letters.v1 has them all", file=sys.stderr)

    return report


def _progress(began: float) -> Callable[[Report], None]:
    line, shown = Progress(), began

    def progress(report: Report) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= PROGRESS_S:
            shown = now
            rate = report.rows / (now - began)
            line.show(f"{report.rows:,} rows, {rate:,.0f}/s, {report.dead:,} dead")

    return progress


def _pace(rate: float, began: float) -> Callable[[int], None]:
    def pace(rows: int) -> None:
        ahead = rows / rate - (time.monotonic() - began)
        if ahead > 0:
            time.sleep(ahead)

    return pace


def _positive(text: str) -> float:
    if (number := float(text)) <= 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return number


def _whole(text: str) -> int:
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number
