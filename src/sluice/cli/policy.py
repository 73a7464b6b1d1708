"""Look at policy packs, and sign that one may decide.

sluice policy show DIR               # its id, and its activation
sluice policy activate DIR --key FILE --who NAME --why TEXT
sluice policy approve DIR --key FILE # one more signature

rollback (an older one, on purpose), force (without the dry run) and reset (the breaker's trips are
over) are activations too, with the same options (docs/reference/activation.md).
"""

from __future__ import annotations

from pathlib import Path

import click

from sluice.bootstrap import verbs
from sluice.cli.acts import add_acts
from sluice.cli.parameters import FOLDER
from sluice.cli.text import help_of
from sluice.domain.clock import to_datetime


@click.group(help=help_of(__doc__))
def command() -> None:
    """Six actions."""


@command.command("show", help="Print a pack's id and its activation; no signature is checked.")
@click.argument("folder", type=FOLDER, metavar="DIR")
def show(folder: Path) -> int:
    """Returns 0. Raises Misconfigured."""
    name, activation, approvals = verbs.show_policy(folder)
    click.echo(name)
    if activation is None:
        click.echo("  no activation")
        return 0
    click.echo(f"  {activation.act:<9} {to_datetime(activation.epoch):%Y-%m-%d %H:%M:%S} UTC")
    click.echo(f"  of        {activation.id}")
    click.echo(f"  who       {activation.who}")
    click.echo(f"  why       {activation.why}")
    click.echo(f"  approved  by {', '.join(approvals) or 'nobody'}; not checked")
    return 0


add_acts(command, "policy")
