"""Make the topics as they must be, list them as they are, or say who needs what of them.

sluice topics apply --bootstrap localhost:9092 --partitions 12
sluice topics list
sluice topics acls --bootstrap broker:9093 | bash   # as an administrator
"""

from __future__ import annotations

from functools import partial

import click

from sluice.bootstrap import verbs
from sluice.bootstrap.keystore import tell
from sluice.cli.output import say
from sluice.cli.parameters import bootstrap_option, by_options
from sluice.cli.text import help_of
from sluice.settings import load


@click.group(help=help_of(__doc__))
def command() -> None:
    """Three actions."""


@command.command("apply", help="Make the topics as they must be; safe to repeat.")
@bootstrap_option
@click.option("--partitions", type=int, metavar="N", help="Of each topic (where new: 12).")
@click.option(
    "--replication",
    type=int,
    metavar="N",
    help="Copies of new topics (default: brokers, 3 at most).",
)
@click.option("--dry-run", is_flag=True, help="Say what would change.")
@by_options(required=False)
def apply(
    bootstrap: str | None,
    partitions: int | None,
    replication: int | None,
    dry_run: bool,
    who: str | None,
    case: str | None,
) -> int:
    """Returns 0. Raises Misconfigured, or Unavailable without a broker; Rejected."""
    settings = load()[0]
    changed = partial(
        verbs.apply_topics, settings, bootstrap, partitions=partitions, replication=replication
    )
    if not dry_run and (who or case):
        planned = [str(one) for one in changed(dry_run=True)]
        tell(settings, "apply_topics", "topics", planned, who=who, case=case)
    changes = changed(dry_run=dry_run)
    for change in changes:
        say(f"would change {change}" if dry_run else str(change))
    if not changes:
        say("nothing to change")
    return 0


@command.command("list", help="List the topics as the broker has them.")
@bootstrap_option
def show(bootstrap: str | None) -> int:
    """Returns 0. Raises Unavailable without a broker."""
    for topic in verbs.existing_topics(load()[0], bootstrap):
        kept = "for ever" if topic.retention_days is None else f"{topic.retention_days:g} days"
        say(
            f"{topic.name:<24} {topic.partitions:>4} partitions x {topic.replication}"
            f"  {topic.cleanup}, {kept}"
        )
    return 0


@command.command("acls", help="Print the commands that give each service its rights; asks nobody.")
@bootstrap_option
def acls(bootstrap: str | None) -> int:
    """Returns 0."""
    settings = load()[0]
    for line in verbs.acl_commands(settings, bootstrap):
        say(line)
    return 0
