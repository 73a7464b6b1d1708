"""Compile a feature service into the contract between it and whoever reads the store.

sluice features compile --service S [--repository DIR] [--out FILE]

Reads Feast's registry, which `feast apply` wrote, and checks that this build reads the same keys,
hash fields, types and defaults; else exit 78 with the difference. Needs Feast.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sluice.errors import Misconfigured

DEFAULT_REPOSITORY = Path("feature_repo")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The one sub-verb."""
    verbs = parser.add_subparsers(dest="what", required=True, metavar="compile")
    compiling = verbs.add_parser("compile", help="print a service's plan")
    compiling.add_argument(
        "--service", required=True, metavar="S", help="a release's id, or catalogue"
    )
    compiling.add_argument(
        "--repository",
        type=Path,
        default=DEFAULT_REPOSITORY,
        metavar="DIR",
        help="with feature_store.yaml, or the file that FEAST_FS_YAML_FILE_PATH names "
        "(default: %(default)s)",
    )
    compiling.add_argument("--out", type=Path, metavar="FILE", help="write there instead")


def run(args: argparse.Namespace) -> int:
    """Print or write the plan."""
    try:
        from sluice.adapters.feast.registry import compile_service  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as exc:
        raise Misconfigured(
            f"Feast cannot be imported: {exc}",
            fix="install sluice[feast]; in a checkout: make setup",
        ) from exc
    document = compile_service(args.repository, args.service).document()
    if args.out is None:
        sys.stdout.write(document.decode())
    else:
        args.out.write_bytes(document)
    return 0
