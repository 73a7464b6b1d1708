"""The acts that releases and policies share: each signs that what is in a folder may decide."""

from __future__ import annotations

from pathlib import Path

import click

from sluice.bootstrap import verbs
from sluice.cli.output import say
from sluice.cli.parameters import CHANGED, FOLDER
from sluice.domain.activation import Act, Checked, What
from sluice.domain.clock import to_datetime

_ACTS: dict[Act, str] = {
    "activate": "Sign that what is in DIR may decide from now on.",
    "rollback": "The same of an older one, on purpose.",
    "force": "The same, without the dry run.",
    "reset": "The same: the breaker's trips are over; without the dry run.",
}


def activation_line(by: Checked | None) -> str:
    """What to print of an activation that was checked."""
    if by is None:
        return "no activation"
    act = by.activation
    when = f"{to_datetime(act.epoch):%Y-%m-%d %H:%M:%S} UTC"
    return (
        f"{act.act} of {when} by {act.who} ({act.why}), approved by {', '.join(sorted(by.signers))}"
    )


def add_acts(group: click.Group, what: What) -> None:
    """Give a group of verbs activate, rollback, force, reset and approve."""
    for kind, says in _ACTS.items():
        group.add_command(_act(what, kind, says))
    group.add_command(_approve(what))


_folder = click.argument("folder", type=CHANGED, metavar="DIR")
_key = click.option("--key", type=FOLDER, required=True, metavar="FILE", help="As keygen wrote it.")


def _act(what: What, kind: Act, says: str) -> click.Command:
    @click.command(kind, help=says)
    @_folder
    @_key
    @click.option("--who", required=True, metavar="NAME", help="Who answers for it.")
    @click.option("--why", required=True, metavar="TEXT", help="For the log and the record.")
    def command(folder: Path, key: Path, who: str, why: str) -> int:
        done = verbs.act_on(what, folder, key, kind=kind, who=who, why=why)
        say(f"{done.id}: {done.act} signed, epoch {done.epoch}", err=True)
        return 0

    return command


def _approve(what: What) -> click.Command:
    @click.command("approve", help="Add your signature to the activation in DIR.")
    @_folder
    @_key
    def command(folder: Path, key: Path) -> int:
        done, approvals = verbs.approve(what, folder, key)
        say(f"{done.id}: {done.act} by {done.who} ({done.why}) has {approvals} approvals", err=True)
        return 0

    return command
