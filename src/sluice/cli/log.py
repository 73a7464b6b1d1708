"""The compliance log: who may be forgotten, who may not yet, and the keys that decide it.

sluice log erase --tenant T --card - --who ann --case GDPR-17
sluice log hold --tenant T --card - --who ann --case C-2026-5
sluice log unhold --tenant T --card - --who ann --case C-2026-5
sluice log grant ID --who bob --case FRAUD-3 --key KEY --out GRANT
sluice log open LOG ID --grant GRANT
sluice log keys show
"""

from __future__ import annotations

import click

from sluice.cli.log_keys import COMMANDS
from sluice.cli.text import help_of


@click.group(help=help_of(__doc__))
def command() -> None:
    """Several actions."""


for one in COMMANDS:
    command.add_command(one)
