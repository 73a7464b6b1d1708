"""Recompute served vectors from the archive and compare every bit: the consistency check, once.

Exit status: 0 all that was compared is equal, 1 some vector differs, 2 fewer could be compared than
--at-least. Decisions served from events that the archive does not hold yet are reported, not
compared: stop the traffic and let the archiver catch up first. `services.consistency.main` does
this all the time.

  sluice consistency --archive var/demo/archive --newest 100000
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from sluice.application.spread import one_by_one
from sluice.bootstrap import engines, verbs
from sluice.bootstrap.archive_root import archive_named
from sluice.cli.output import say, write
from sluice.cli.parameters import FOLDER, archive_option, engine_option
from sluice.cli.text import help_of
from sluice.settings import load

if TYPE_CHECKING:
    from sluice.application.consistency import Report

MILLION = 1_000_000
FEATURES_SHOWN = 10


@click.command(help=help_of(__doc__))
@archive_option
@click.option(
    "--sample-ppm",
    type=int,
    default=MILLION,
    metavar="N",
    help="Share of all decisions, in millionths (default: all).",
)
@click.option(
    "--newest",
    type=int,
    default=10_000,
    show_default=True,
    metavar="N",
    help="Of these the newest so many.",
)
@click.option(
    "--at-least",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Compared, or the verdict is 2.",
)
@engine_option
@click.option("--report", type=FOLDER, metavar="FILE", help="Write what was found as JSON.")
def command(
    archive: str | None,
    sample_ppm: int,
    newest: int,
    at_least: int,
    engine: str,
    report: Path | None,
) -> int:
    """Returns the verdict: 0, 1 or 2. Raises Unavailable if the report cannot be written."""
    root = archive_named(load()[0], archive)
    spread = one_by_one if engine == engines.LOCAL else engines.engine(engine, 1).spread
    found, status = verbs.consistency_gate(
        root, sample_ppm=sample_ppm, count=newest, at_least=at_least, spread=spread
    )
    if report is not None:
        write(report, msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    for line in lines(found):
        say(line)
    return status


def lines(report: Report) -> Iterator[str]:
    """A report for a terminal."""
    parity = "unknown" if report.parity is None else f"{_percent(report):.4f} %"
    entrypoints = ", ".join(
        f"{entrypoint} {n:,}" for entrypoint, n in sorted(report.entrypoints.items())
    )
    yield f"parity        {parity} of {report.compared:,} vectors ({entrypoints})"
    for name, count in (
        ("differ", report.differing),
        ("wait for the archive", report.waiting),
        ("of another catalogue", report.other_catalogue),
        ("with too many events", report.too_large),
    ):
        if count:
            yield f"              {count:,} {name}"
    for name, count in list(report.features.items())[:FEATURES_SHOWN]:
        yield f"  {count:>9,}  {name}"
    for example in report.examples:
        yield f"  sluice explain {example.authorization_id}    {example.place}"
    levels = ", ".join(f"{level} {n:,}" for level, n in report.levels.items())
    yield f"degradation levels         {levels}"
    for view, fresh in report.freshness.items():
        yield (
            f"{view:<13} behind p50 {fresh.behind_ms_p50:,.1f} ms, p99 {fresh.behind_ms_p99:,.1f} "
            f"ms, max {fresh.behind_ms_max:,.1f} ms; {fresh.behind:,} behind, {fresh.new:,} new, "
            f"{fresh.missing:,} missing"
        )
    pending = report.pending
    yield (
        f"pending       {pending.decisions:,} decisions had {pending.entries:,} entries; "
        f"{pending.mattered:,} would have had another vector without"
    )


def _percent(report: Report) -> float:
    """Rounded down: 100 means all."""
    return 1_000_000 * report.equal // report.compared / 10_000
