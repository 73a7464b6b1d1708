"""Compile a feature service into the contract between it and whoever reads the store.

  sluice features compile --service S [--repository DIR] [--out FILE]

Reads Feast's registry, which `feast apply` wrote, and checks that this build reads the same keys,
hash fields, types and defaults; else exit 78 with the difference. Needs Feast.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sluice.bootstrap import verbs
from sluice.cli.output import write
from sluice.cli.parameters import FOLDER
from sluice.cli.text import help_of

DEFAULT_REPOSITORY = Path("feature_repo")


@click.group(help=help_of(__doc__))
def command() -> None:
    """One action."""


@command.command("compile", help="Print a service's plan, or write it to a file.")
@click.option("--service", required=True, metavar="S", help="A release's id, or catalogue.")
@click.option(
    "--repository",
    type=FOLDER,
    default=DEFAULT_REPOSITORY,
    show_default=True,
    metavar="DIR",
    help="With feature_store.yaml, or the file that FEAST_FS_YAML_FILE_PATH names.",
)
@click.option("--out", type=FOLDER, metavar="FILE", help="Write there instead.")
def compile_(service: str, repository: Path, out: Path | None) -> int:
    """Print or write the plan."""
    document = verbs.compile_service(repository, service).document()
    if out is None:
        sys.stdout.write(document.decode())
    else:
        write(out, document)
    return 0
