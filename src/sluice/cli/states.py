"""Make the online store's states again after it lost some: from the archive, then the topics.

Decisions go on meanwhile, at degradation level D2, and say so (`degraded` names `store`).
Featurizers leave by themselves, and must be running for the last part: what the archive does not
hold yet. Killed half-way, it can be run again.

  sluice states rebuild
  sluice states rebuild --archive /mnt/archive --processes 8
  sluice states rebuild --topic-alone
"""

from __future__ import annotations

import time

import click

from sluice.bootstrap import verbs
from sluice.bootstrap.archive_root import archive_named
from sluice.cli.parameters import archive_option, cores_option
from sluice.cli.progress import Progress
from sluice.cli.text import help_of
from sluice.settings import load


@click.group(help=help_of(__doc__))
def command() -> None:
    """One action."""


@command.command("rebuild", help="Make all states again, and wait until the store is ready.")
@archive_option
@click.option("--topic-alone", is_flag=True, help="As if there were no archive: takes longer.")
@click.option(
    "--accept-gaps",
    is_flag=True,
    help="Go on without records that neither archive nor topic holds.",
)
@cores_option("processes")
def rebuild(archive: str | None, topic_alone: bool, accept_gaps: bool, processes: int) -> int:
    """Returns 0 when the store is ready. Raises Misconfigured, Unavailable."""
    settings, _ = load()
    began = time.monotonic()
    with (
        Progress() as line,
        verbs.rebuild(
            settings,
            archive_named(settings, archive),
            topic_alone=topic_alone,
            accept_gaps=accept_gaps,
            processes=processes,
            report=line.show,
            keep=line.keep,
        ) as made,
    ):
        made.run()
        line.keep(f"ready after {time.monotonic() - began:.1f} s")
    return 0
