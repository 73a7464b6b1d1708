"""Publish a CSV or parquet file of past authorizations to authorizations.v1.

  sluice publish history.csv --mapping bank.yaml --bootstrap HOST:PORT

With --from it goes on where `sluice backfill --until` ended: rows at or after that time, and the
labels known since then, also those of earlier rows.

A row that cannot be read is reported with its line, becomes a dead letter, and the rest goes on.
docs/how-to/publish-your-history.md shows how to write a mapping.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sluice.bootstrap import verbs
from sluice.cli.bad_rows import BadRows
from sluice.cli.output import say
from sluice.cli.parameters import (
    FOLDER,
    bad_share_option,
    bootstrap_option,
    instant,
    token_key_option,
)
from sluice.cli.progress import Progress
from sluice.cli.signals import on_stop
from sluice.cli.text import help_of
from sluice.settings import load

if TYPE_CHECKING:
    from sluice.application.publish import Report

WHOLE = click.IntRange(min=0)


@click.command(help=help_of(__doc__))
@click.argument("file", type=FOLDER, help="CSV or parquet, packed or not, or a folder of them")
@click.option(
    "--mapping", required=True, metavar="NAME", help="YAML file, or the name of a bundled one."
)
@click.option("--labels", metavar="NAME", help="YAML file or name: also send labels to labels.v1.")
@token_key_option
@bootstrap_option
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="At most so many rows a second.",
)
@click.option("--limit", type=WHOLE, metavar="N", help="At most so many rows.")
@click.option(
    "--from-line", type=WHOLE, default=1, metavar="N", help="Start there, to resume (default: 1)."
)
@click.option("--from", "since", type=instant, metavar="TIME", help="Only events at or after it.")
@click.option(
    "--allow-bad",
    type=WHOLE,
    default=0,
    metavar="N",
    help="Exit 0 with up to N bad rows (default: 0).",
)
@bad_share_option
def command(
    file: Path,
    mapping: str,
    labels: str | None,
    token_key: Path | None,
    bootstrap: str | None,
    rate: float | None,
    limit: int | None,
    from_line: int,
    since: int | None,
    allow_bad: int,
    bad_share: float,
) -> int:
    """Returns 0, or 1 with more bad rows than allowed, a failing broker, or an interruption."""
    began, asked = time.monotonic(), threading.Event()
    bad_rows = BadRows("more bad rows follow; dead-letters.v1 has them all")
    with Progress() as line:

        def progress(report: Report) -> None:
            rate = report.rows / (time.monotonic() - began)
            line.show(f"{report.rows:,} rows, {rate:,.0f}/s, {report.dead:,} dead")

        publish = verbs.publication(
            load()[0],
            bootstrap,
            file=file,
            mapping=mapping,
            labels=labels,
            token_key=token_key,
            from_line=from_line,
            limit=limit,
            since=since,
            rate=rate,
            bad_share=bad_share,
            bad_row=bad_rows,
            progress=progress,
            stopping=asked.is_set,
        )
        with on_stop(asked.set):
            report = publish()
    bad_rows.summarise()
    seconds = time.monotonic() - began
    left_out = f"{report.left_out:,} left out, " if report.left_out else ""
    say(
        f"{report.rows:,} rows, {report.published:,} published, {report.labels:,} labels, "
        f"{report.dead:,} dead, {left_out}{seconds:.1f} s, "
        f"{report.rows / max(seconds, 1e-9):,.0f} rows/s"
    )
    if report.failure is not None or report.stopped:
        say(f"sluice publish: {report.failure or 'stopped'}", err=True)
        at = max(report.resume_at, from_line)
        say(f"lines before {at} are through; go on with --from-line {at}", err=True)
        return 1
    return 1 if report.dead > allow_bad else 0
