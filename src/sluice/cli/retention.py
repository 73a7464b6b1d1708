"""Delete old runs of the learning loop: training sets, trainings, reports. Releases are kept.

Of each DAG the newest --keep-runs stay, however old they are. Only folders named as the DAGs name
them are looked at, WORK/DAG/20261126T020000. Run again after a failure it ends what it began.

  sluice retention --work var/loop/runs --keep-days 90 --dry-run
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from sluice.application.retention import delete, old_runs
from sluice.bootstrap.keystore import tell
from sluice.cli.output import say
from sluice.cli.parameters import FOLDER, by_options
from sluice.cli.text import help_of
from sluice.domain.clock import SystemClock, to_datetime
from sluice.settings import load

MB = 1_000_000


@click.command(help=help_of(__doc__))
@click.option("--work", type=FOLDER, required=True, metavar="DIR", help="Folder of all runs.")
@click.option(
    "--keep-days",
    type=click.IntRange(min=1),
    required=True,
    metavar="N",
    help="Runs that began longer ago are deleted.",
)
@click.option(
    "--keep-runs",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    metavar="N",
    help="Of each DAG that stay anyway.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be deleted.")
@by_options(required=False)
def command(
    work: Path, keep_days: int, keep_runs: int, dry_run: bool, who: str | None, case: str | None
) -> int:
    """Returns 0. Raises Misconfigured, Unavailable, Rejected."""
    now = to_datetime(SystemClock().now_us())
    runs = old_runs(work, now=now, keep=timedelta(days=keep_days), keep_runs=keep_runs)
    for run in runs:
        say(f"{run.began:%Y-%m-%d %H:%M}  {run.size_bytes / MB:>10,.1f} MB  {run.folder}")
    if not dry_run:
        if who or case:
            told = [str(run.folder.relative_to(work)) for run in runs]
            tell(load()[0], "retention", "runs", told, who=who, case=case)
        delete(runs, work)
    freed = sum(run.size_bytes for run in runs) / MB
    say(f"{len(runs)} runs, {freed:,.1f} MB {'would be ' * dry_run}deleted", err=True)
    return 0
