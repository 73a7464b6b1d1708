"""Run past authorizations through the kernel: into the archive, and into the online store.

Live traffic then goes on from there without a seam. The archive gets every row with the features
that it had then, under the place that state versions name; the store gets the states. Labels known
after the end (--until, or the last authorization) are left out: they come with the stream. An
entity that has another state already keeps it, and is counted. The same backfill may run again;
an archive that holds another history refuses it. With --no-store only the archive is written, with
all labels: what training needs, and no more.

  sluice simulate history --out var/history --days 30 --start 2026-10-01
  sluice backfill var/history/authorizations.parquet \\
    --labels var/history/labels.parquet
  sluice backfill bank.csv --mapping bank.yaml --until 2026-10-16T00:00:00Z
  sluice backfill bank.csv --mapping bank.yaml --labels bank-labels.yaml \\
    --archive var/bank --no-store
"""

from __future__ import annotations

import time
from pathlib import Path

import click

from sluice.bootstrap import engines, verbs
from sluice.bootstrap.archive_root import archive_named
from sluice.cli.bad_rows import BadRows
from sluice.cli.output import say
from sluice.cli.parameters import (
    FOLDER,
    archive_option,
    bad_share_option,
    cores_option,
    engine_option,
    instant,
    token_key_option,
)
from sluice.cli.progress import Progress
from sluice.cli.text import help_of
from sluice.settings import load


@click.command(help=help_of(__doc__))
@click.argument(
    "history", type=FOLDER, help="parquet with the fields of an authorization, or see --mapping"
)
@click.option(
    "--mapping", metavar="NAME", help="YAML file or name, as for publish: a firm's own columns."
)
@click.option(
    "--labels",
    metavar="FILE",
    help="Parquet with the fields of a label; with --mapping a YAML file or name.",
)
@click.option(
    "--label-file",
    type=FOLDER,
    metavar="FILE",
    help="Labels in a file of their own, by authorization_id; --labels maps its columns.",
)
@token_key_option
@click.option("--from", "since", type=instant, metavar="TIME", help="Only events at or after it.")
@click.option("--until", type=instant, metavar="TIME", help="Only events before it.")
@click.option(
    "--allow-bad",
    type=int,
    default=0,
    metavar="N",
    help="Go on with up to N bad rows (default: 0).",
)
@bad_share_option
@click.option(
    "--no-store",
    is_flag=True,
    help="Write the archive alone, with the labels known after the end too.",
)
@archive_option
@engine_option
@cores_option("threads")
def command(
    history: Path,
    mapping: str | None,
    labels: str | None,
    label_file: Path | None,
    token_key: Path | None,
    since: int | None,
    until: int | None,
    allow_bad: int,
    bad_share: float,
    no_store: bool,
    archive: str | None,
    engine: str,
    threads: int,
) -> int:
    """Returns 0, or 1 with more bad rows than allowed or if some entity had another state."""
    settings, _ = load()
    on = engines.engine(engine, threads)
    fx, root = verbs.rates(settings), archive_named(settings, archive)
    verbs.check_archive(root)
    if not no_store:
        verbs.check_store(settings)
    began = time.perf_counter()
    bad_rows = BadRows("more bad rows follow")
    files = verbs.PastFiles(history, mapping, labels, label_file, token_key, bad_share)
    past, unknown = on.read_past(settings, files, bad_rows)
    bad_rows.summarise()
    if past.bad > allow_bad:
        say(f"{past.bad:,} bad rows, nothing was done: see --allow-bad", err=True)
        return 1
    left_out = f", {past.left_out:,} left out" if past.left_out else ""
    if unknown:
        left_out += f", {unknown:,} labels of no authorization"
    past = past.between(since, until, later_labels=no_store)
    authorizations, reported = past.counts
    say(
        f"{authorizations:,} authorizations and {reported:,} labels read in "
        f"{time.perf_counter() - began:.1f} s, {past.bad:,} bad rows{left_out}"
    )
    began = time.perf_counter()
    with Progress() as line:
        archived = on.archive_past(
            past,
            fx,
            root,
            keep_states=not no_store,
            progress=lambda done, rows: line.show(f"{done:,} of {rows:,} rows", done, rows),
        )
        seconds = time.perf_counter() - began
        line.keep(
            f"{archived.rows:,} rows in {seconds:.1f} s, "
            f"{archived.rows / max(seconds, 1e-9):,.0f} rows/s; "
            f"{archived.files:,} new files in {root}"
        )
    if no_store:
        return 0
    began = time.perf_counter()
    stored, others = verbs.store_past(settings, archived.states)
    say(f"{stored:,} states stored in {time.perf_counter() - began:.1f} s")
    if others:
        say(f"{others:,} entities had another state and keep it: flush the store to start anew")
    return 1 if others else 0
