"""Print each setting, its value and where it came from; secrets are masked."""

from __future__ import annotations

import json

import click
import msgspec

from sluice.cli.output import say, say_json
from sluice.cli.text import help_of
from sluice.settings import describe, load


@click.command(help=help_of(__doc__))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a setting.")
def command(as_json: bool) -> int:
    """Print, or raise Misconfigured."""
    rows = describe(*load())
    if as_json:
        say_json(json.dumps([msgspec.to_builtins(row) for row in rows], indent=2))
        return 0
    width = max(len(row.key) for row in rows)
    wide = max(len(row.value) for row in rows)
    for row in rows:
        say(f"{row.key:<{width}}  {row.value:<{wide}}  {row.source}")
    return 0
