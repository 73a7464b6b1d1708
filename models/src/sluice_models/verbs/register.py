"""Put a release into MLflow's registry, under an alias that it takes from whichever had it.

  sluice register models/releases/NAME --alias challenger
  sluice register models/releases/NAME --alias champion --tracking URL

The registered model is called sluice, and its versions are releases. Deciders do not read it: what
decides is said by the link, or by the signed activation (docs/reference/activation.md).
"""

from __future__ import annotations

from pathlib import Path

import click
from sluice.cli.output import say
from sluice.cli.parameters import COPY
from sluice.cli.text import help_of

from sluice_models.verbs.options import tracking_option


@click.command(help=help_of(__doc__))
@click.argument("folder", type=COPY, metavar="DIR")
@click.option(
    "--alias", type=click.Choice(["champion", "challenger"]), required=True, help="Its part."
)
@tracking_option
def command(folder: Path, alias: str, tracking: str) -> int:
    """Register, and say under which number."""
    from sluice.application.sign_release import read_manifest  # noqa: PLC0415 - loads numba

    from sluice_models.tracking import Tracking  # noqa: PLC0415 - MLflow takes a second

    release = read_manifest(folder.resolve()).id
    version = Tracking(tracking).register(release, folder.resolve(), alias)
    say(f"{release} is version {version} of sluice, and its {alias}")
    return 0
