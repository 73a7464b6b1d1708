"""``sluice VERB``: one module a verb, imported only when it is used.

A verb module has a docstring (its help), ``add_arguments(parser)`` and ``run(args) -> int``.
Other packages add verbs through the entry point group ``sluice.verbs``.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import sys
from typing import NoReturn

from sluice import __version__
from sluice.errors import Misconfigured, SluiceError

VERBS: dict[str, str] = {
    "config": "sluice.cli.config",
    "dataset": "sluice.cli.dataset",
    "contracts": "sluice.cli.contracts",
    "topics": "sluice.cli.topics",
    "dead-letters": "sluice.cli.dead_letters",
    "publish": "sluice.cli.publish",
    "backfill": "sluice.cli.backfill",
    "states": "sluice.cli.states",
    "explain": "sluice.cli.explain",
    "features": "sluice.cli.features",
    "consistency": "sluice.cli.consistency",
    "release": "sluice.cli.release",
    "reference": "sluice.cli.reference",
}

EXIT_USAGE = 64
"""sysexits.h EX_USAGE."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


def verbs() -> dict[str, str]:
    """Name of each verb and the module that holds it."""
    plugins = importlib.metadata.entry_points(group="sluice.verbs")
    return VERBS | {plugin.name: plugin.value for plugin in plugins}


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Returns its exit status; 64 for wrong usage, 78 for wrong configuration."""
    argv = sys.argv[1:] if argv is None else argv
    known = verbs()
    parser = _Parser(prog="sluice", description="Decides card authorizations, and proves it.")
    parser.add_argument("--version", action="version", version=f"sluice {__version__}")
    parser.add_argument(
        "verb", choices=sorted(known), metavar="VERB", help=", ".join(sorted(known))
    )
    if not argv or argv[0].startswith("-"):
        parser.parse_args(argv or ["--help"])
    verb = parser.parse_args(argv[:1]).verb
    module = importlib.import_module(known[verb])
    sub = _Parser(
        prog=f"sluice {verb}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(sub)
    args = sub.parse_args(argv[1:])
    try:
        return int(module.run(args) or 0)
    except Misconfigured as error:
        print(f"sluice {verb}: {error}", file=sys.stderr)
        return 78  # sysexits.h EX_CONFIG
    except SluiceError as error:
        print(f"sluice {verb}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
