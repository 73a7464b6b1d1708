"""Print each setting, its value and where it came from; secrets are masked."""

from __future__ import annotations

import argparse
import json

import msgspec

from sluice.settings import describe, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="one JSON object a setting")


def run(args: argparse.Namespace) -> int:
    """Print, or raise Misconfigured."""
    rows = describe(*load())
    if args.json:
        print(json.dumps([msgspec.to_builtins(row) for row in rows], indent=2))
        return 0
    width = max(len(row.key) for row in rows)
    wide = max(len(row.value) for row in rows)
    for row in rows:
        print(f"{row.key:<{width}}  {row.value:<{wide}}  {row.source}")
    return 0
