"""Build a training set: features as they were served or backfilled, labels as they were known.

  sluice dataset build --service S --from DATE --to DATE \\
    --label-delay 7d --out DIR

Splits by time: train, a gap of the label delay, and the last --test of the time; no test with
--test 0d. A label counts only if it was known by the end of its split plus the label delay
(as_of): for train that is the first moment of the test, for the last split --to plus the delay.
Cards of which a fraud was known when a day of the test began are left out of that day. What would
leak is refused. The features come from the archive: live decisions, and what sluice backfill wrote.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, date, datetime
from pathlib import Path

import click

from sluice.application.build_dataset import MANIFEST, Order, build
from sluice.application.dataset import Manifest
from sluice.bootstrap import verbs
from sluice.cli.output import say
from sluice.cli.parameters import FOLDER, cores_option
from sluice.cli.progress import Progress
from sluice.cli.text import help_of
from sluice.domain.clock import from_datetime
from sluice.settings import load

_SPAN = re.compile(r"(\d{1,5})([dh])")
_UNITS_S = {"d": 86_400, "h": 3_600}


def day(text: str) -> int:
    """Microseconds UTC at which a day begins.

    >>> day("1970-01-02")
    86400000000
    """
    return from_datetime(datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC))


def span(text: str) -> int:
    """Seconds of a length of time.

    >>> span("7d")
    604800
    """
    found = _SPAN.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no length of time: 7d, 36h")
    return int(found[1]) * _UNITS_S[found[2]]


@click.group(help=help_of(__doc__))
def command() -> None:
    """One action."""


@command.command("build", help="Write a training set to a new folder.")
@click.option("--service", required=True, metavar="S", help="Feature service: a release's id.")
@click.option("--from", "first", type=day, required=True, metavar="DATE", help="First day, UTC.")
@click.option("--to", "until", type=day, required=True, metavar="DATE", help="Day after the last.")
@click.option(
    "--label-delay",
    type=span,
    required=True,
    metavar="D",
    help="How long labels are waited for: 7d, 36h.",
)
@click.option("--test", type=span, default="7d", metavar="D", help="The last of it (default: 7d).")
@click.option(
    "--accept-unbounded",
    multiple=True,
    metavar="FEATURE",
    help="Let a feature through whose look-back nothing bounds; may be given again.",
)
@click.option("--out", type=FOLDER, required=True, metavar="DIR", help="A new folder.")
@click.option(
    "--repo",
    type=FOLDER,
    default=Path("feature_repo"),
    show_default=True,
    metavar="DIR",
    help="Feast's feature repository.",
)
@cores_option("processes")
def build_(
    service: str,
    first: int,
    until: int,
    label_delay: int,
    test: int,
    accept_unbounded: tuple[str, ...],
    out: Path,
    repo: Path,
    processes: int,
) -> int:
    """Build, print what was built. Raises what would leak; then nothing is left behind."""
    settings, _ = load()
    began = time.monotonic()
    order = Order(service, first, until, label_delay, test, accept_unbounded)
    log = verbs.training_log(verbs.archive_root(settings, None), repo, order, processes)
    with Progress() as line:
        manifest = build(
            log,
            order,
            out,
            lambda at: line.show(
                f"{at.done} of {at.of} partitions, {at.rows:,} rows", at.done, at.of
            ),
        )
    _print(manifest)
    say(f"{out / MANIFEST} in {time.monotonic() - began:.1f} s")
    return 0


def _print(manifest: Manifest) -> None:
    for split in manifest.splits:
        say(
            f"{split.name:<5} {split.rows:>10,} rows, {split.frauds:,} frauds "
            f"({split.fraud_ppm / 10_000:.3f} %), labels as known at {split.as_of}"
            + (f", {split.left_out_compromised:,} left out" if split.left_out_compromised else "")
        )
    log = manifest.log
    say(
        f"{len(manifest.features)} features; {log.gap:,} rows in the gap; "
        f"{log.labels_after_as_of:,} labels came too late, {log.labels_astray:,} found no row; "
        f"{log.degraded:,} rows served degraded, {log.holes:,} holes in the log"
    )
