"""Put small files of the archive together: compact.

Of days that are over the files of a partition become one, and those that it was made from are
deleted by a run --keep-h later. Readers see each row once meanwhile;
it may be killed and run again.

  sluice archive compact --archive s3://bank-archive/prod/eu
"""

from __future__ import annotations

import click

from sluice.bootstrap import verbs
from sluice.bootstrap.archive_root import place
from sluice.cli.output import say
from sluice.cli.parameters import archive_option
from sluice.cli.text import help_of
from sluice.settings import load

HOUR_S = 3600


@click.group(help=help_of(__doc__))
def command() -> None:
    """The group."""


@command.command(help="Put the files of each day and partition together.")
@archive_option
@click.option(
    "--keep-h",
    type=click.IntRange(min=0),
    default=24,
    show_default=True,
    metavar="N",
    help="Hours that the small files stay: longer than any reader takes.",
)
def compact(archive: str | None, keep_h: int) -> int:
    """Returns 0. Raises Misconfigured, Unavailable, Corrupt."""
    settings, _ = load()
    root = place(settings, archive or settings.archiver.root)  # it asks again by itself
    did = verbs.compact_archive(root, keep_h * HOUR_S, say)
    say(
        f"{did.of:,} files put together to {did.made:,}, {did.deleted:,} of earlier runs deleted",
        err=True,
    )
    return 0
