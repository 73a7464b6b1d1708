"""Build a training set: features as they were served or backfilled, labels as they were known.

  sluice dataset build --from DATE --to DATE \\
    --label-delay 7d --out DIR
  sluice dataset build --from DATE --to DATE --label-delay 7d \\
    --validation 7d --calibration 7d --tests 4 --out DIR

Splits by time: train, --validation, --calibration, a gap of the label delay, and --tests of --test
each up to --to; no test with --test 0d. A label counts only if it was known by its split's as_of:
for what a model is made from the first moment of the first test, for a test its end plus the delay.
Cards of which a fraud was known when a day of a test began are left out of that day. What would
leak is refused. The features come from the archive: live decisions, and what sluice backfill wrote.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

import click

from sluice.application.build_dataset import build
from sluice.application.dataset import Order, one_for_each_test
from sluice.application.dataset_manifest import MANIFEST, Manifest
from sluice.bootstrap import engines, verbs
from sluice.bootstrap.archive_root import archive_named, place
from sluice.bootstrap.copies import making
from sluice.cli.output import say
from sluice.cli.parameters import FOLDER, archive_option, cores_option, engine_option
from sluice.cli.progress import Progress
from sluice.cli.text import help_of
from sluice.domain.clock import SECOND_US, from_datetime, to_datetime
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
@click.option("--from", "first", type=day, required=True, metavar="DATE", help="First day, UTC.")
@click.option("--to", "until", type=day, required=True, metavar="DATE", help="Day after the last.")
@click.option(
    "--label-delay",
    type=span,
    required=True,
    metavar="D",
    help="How long labels are waited for: 7d, 36h.",
)
@click.option(
    "--hold-labels",
    is_flag=True,
    help="Hold every label back for the --label-delay, in features too, which are made anew.",
)
@click.option(
    "--train", type=span, metavar="D", help="Length of train (default: all from --from on)."
)
@click.option("--validation", type=span, default="0d", metavar="D", help="Behind train.")
@click.option("--calibration", type=span, default="0d", metavar="D", help="Behind validation.")
@click.option("--recent", is_flag=True, help="Also the rows of the gap, of which nothing is known.")
@click.option(
    "--test", type=span, default="7d", metavar="D", help="Length of each test (default: 7d)."
)
@click.option(
    "--tests", type=click.IntRange(min=1), default=1, metavar="N", help="How many (default: 1)."
)
@click.option(
    "--per-test",
    is_flag=True,
    help="A set for each test, trained up to a --label-delay before it: DIR/<its first day>.",
)
@click.option(
    "--look-back",
    type=span,
    default="14d",
    metavar="D",
    help="Frauds so long before a test leave their cards out of it (default: 14d).",
)
@click.option(
    "--mature-after",
    type=span,
    metavar="D",
    help="Age from which a row without a label never gets one (default: by which 95 % have one).",
)
@click.option(
    "--keep-genuine",
    type=float,
    default=1.0,
    metavar="SHARE",
    help="Of train's rows without fraud (default: 1).",
)
@click.option("--seed", type=click.IntRange(min=0), default=1, metavar="N", help="Default: 1.")
@click.option(
    "--service",
    default="",
    metavar="S",
    help="Feature service: a release's id (default: every feature that something bounds).",
)
@click.option(
    "--accept-unbounded",
    multiple=True,
    metavar="FEATURE",
    help="Let a feature through whose look-back nothing bounds; may be given again.",
)
@click.option(
    "--out", required=True, metavar="DIR", help="A new folder, or a URL like s3://bucket/sets/42."
)
@click.option(
    "--repo",
    type=FOLDER,
    default=Path("feature_repo"),
    show_default=True,
    metavar="DIR",
    help="Feast's feature repository.",
)
@archive_option
@engine_option
@cores_option("processes")
def build_(
    first: int,
    until: int,
    label_delay: int,
    hold_labels: bool,
    train: int | None,
    validation: int,
    calibration: int,
    recent: bool,
    test: int,
    tests: int,
    per_test: bool,
    look_back: int,
    mature_after: int | None,
    keep_genuine: float,
    seed: int,
    service: str,
    accept_unbounded: tuple[str, ...],
    out: str,
    repo: Path,
    archive: str | None,
    engine: str,
    processes: int,
) -> int:
    """Build, print what was built. Raises what would leak; then nothing is left behind."""
    settings, _ = load()
    order = Order(
        first_us=first,
        until_us=until,
        label_delay_s=label_delay,
        test_s=test,
        tests=tests,
        train_s=train,
        validation_s=validation,
        calibration_s=calibration,
        recent=recent,
        service=service,
        hold_labels=hold_labels,
        look_back_s=look_back,
        mature_after_s=mature_after,
        keep_genuine=keep_genuine,
        seed=seed,
        accepted=accept_unbounded,
    )
    orders = one_for_each_test(order) if per_test else [order]
    root, place_of_all = archive_named(settings, archive), place(settings, out)
    spread = engines.engine(engine, processes).spread
    with verbs.training_logs(root, repo, orders, spread, processes) as logs:
        for one, log in zip(orders, logs, strict=True):
            began = time.monotonic()
            there = place_of_all / _first_day_of_test(one) if per_test else place_of_all
            with making(there, partial(say, err=True)) as folder, Progress() as line:
                manifest = build(
                    log,
                    one,
                    folder,
                    lambda at: line.show(
                        f"{at.done} of {at.of} partitions, {at.rows:,} rows", at.done, at.of
                    ),
                )
            _print(manifest)
            say(f"{there / MANIFEST} in {time.monotonic() - began:.1f} s")
    return 0


def _first_day_of_test(order: Order) -> str:
    return f"{to_datetime(order.until_us - order.test_s * SECOND_US):%Y-%m-%d}"


def _print(manifest: Manifest) -> None:
    width = max(len(split.name) for split in manifest.splits)
    for split in manifest.splits:
        say(
            f"{split.name:<{width}} {split.rows:>10,} rows, {split.frauds:,} frauds "
            f"({split.fraud_ppm / 10_000:.3f} %), labels as known at {split.as_of}"
            + (f", {split.not_yet:,} too young to tell" if split.not_yet else "")
            + (f", {split.left_out_compromised:,} left out" if split.left_out_compromised else "")
            + (f", {split.left_out_sampling:,} not sampled" if split.left_out_sampling else "")
        )
    log = manifest.log
    say(
        f"{len(manifest.features)} features; {log.unused:,} rows in no split; "
        f"{log.labels_after_as_of:,} labels came too late, {log.labels_astray:,} found no row; "
        f"{log.degraded:,} rows served degraded, {log.holes:,} holes in the log"
    )
