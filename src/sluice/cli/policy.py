"""Look at policy packs, and sign that one may decide.

sluice policy show DIR               # its id, and its activation
sluice policy verify DIR --trust KEYS --approvals 2
sluice policy activate DIR --key FILE --who NAME --why TEXT
sluice policy approve DIR --key FILE # one more signature

rollback (an older one, on purpose), force (without the dry run) and reset (the breaker's trips are
over) are activations too, with the same options (docs/reference/activation.md).
"""

from __future__ import annotations

from pathlib import Path

import click

from sluice.bootstrap import verbs
from sluice.cli.acts import activation_line, add_acts
from sluice.cli.output import say
from sluice.cli.parameters import FOLDER
from sluice.cli.text import help_of
from sluice.domain.clock import to_datetime

DEFAULT_TRUST = Path("policies/trust")


@click.group(help=help_of(__doc__))
def command() -> None:
    """Seven actions."""


@command.command("show", help="Print a pack's id and its activation; no signature is checked.")
@click.argument("folder", type=FOLDER, metavar="DIR")
def show(folder: Path) -> int:
    """Returns 0. Raises Misconfigured."""
    name, activation, approvals = verbs.show_policy(folder)
    say(name)
    if activation is None:
        say("  no activation")
        return 0
    say(f"  {activation.act:<9} {to_datetime(activation.epoch):%Y-%m-%d %H:%M:%S} UTC")
    say(f"  of        {activation.id}")
    say(f"  who       {activation.who}")
    say(f"  why       {activation.why}")
    say(f"  approved  by {', '.join(approvals) or 'nobody'}; not checked")
    return 0


@command.command("verify", help="Check a pack and its activation; exit 1 if it may not decide.")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option(
    "--trust",
    type=FOLDER,
    default=DEFAULT_TRUST,
    show_default=True,
    metavar="KEYS",
    help="A file of public keys, or a folder of *.pub.",
)
@click.option(
    "--approvals",
    type=click.IntRange(0, 16),
    default=1,
    show_default=True,
    help="Different keys that must have signed.",
)
def verify(folder: Path, trust: Path, approvals: int) -> int:
    """Returns 0. Raises Corrupt, Misconfigured."""
    say(activation_line(verbs.verify_activation("policy", folder, trust, approvals=approvals)))
    return 0


add_acts(command, "policy")
