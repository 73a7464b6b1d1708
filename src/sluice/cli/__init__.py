"""``sluice VERB``: one module a verb, imported only when it is used.

A verb's module has a docstring, which is its help, and ``command``, a click command or group that
returns an exit status. It parses, calls, and prints: its parts come from `sluice.bootstrap.verbs`.
Other packages add verbs through the entry point group ``sluice.verbs``: a name and a module.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import click
from click.shell_completion import CompletionItem

from sluice import BUILD, __version__
from sluice.cli.output import say_lines
from sluice.errors import Misconfigured, SluiceError

VERBS: dict[str, str] = {
    "config": "sluice.cli.config",
    "dataset": "sluice.cli.dataset",
    "contracts": "sluice.cli.contracts",
    "topics": "sluice.cli.topics",
    "dead-letters": "sluice.cli.dead_letters",
    "publish": "sluice.cli.publish",
    "labels": "sluice.cli.labels",
    "log": "sluice.cli.log",
    "archive": "sluice.cli.archive",
    "backfill": "sluice.cli.backfill",
    "states": "sluice.cli.states",
    "explain": "sluice.cli.explain",
    "smoke-test": "sluice.cli.smoke_test",
    "features": "sluice.cli.features",
    "consistency": "sluice.cli.consistency",
    "replay": "sluice.cli.replay",
    "impact": "sluice.cli.impact",
    "report": "sluice.cli.report",
    "judge": "sluice.cli.judge",
    "gate": "sluice.cli.gate",
    "drift": "sluice.cli.drift",
    "release": "sluice.cli.release",
    "policy": "sluice.cli.policy",
    "rollout": "sluice.cli.rollout",
    "retention": "sluice.cli.retention",
    "size": "sluice.cli.size",
    "reference": "sluice.cli.reference",
}
DEVELOPERS = frozenset({"contracts", "reference"})
"""Verbs that write files of this repository; shown apart from the others."""
EXTRAS = {
    "confluent_kafka": "kafka",
    "feast": "feast",
    "hiredis": "redis",
    "kafka": "accounting",
    "onnxruntime": "onnx",
    "pyarrow": "archive",
}
"""Which extra of ours brings a package."""
ELSEWHERE = {"register": "models", "train": "models"}
"""Verbs of packages with an environment of their own: the folder of a checkout that holds it."""

EXIT_USAGE = 64
"""EX_USAGE of sysexits.h."""
EXIT_CONFIG = 78
"""EX_CONFIG of sysexits.h."""
EXIT_INTERRUPTED = 130
"""128 and the number of SIGINT."""


def verbs() -> dict[str, str]:
    """Name of each verb and the module that holds it."""
    plugins = importlib.metadata.entry_points(group="sluice.verbs")
    return VERBS | {plugin.name: plugin.value for plugin in plugins}


def docstring(module: str) -> str:
    """A module's docstring, read without importing it; "" without one."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text()), clean=False) or ""


def summary(module: str) -> str:
    """The first paragraph of a module's docstring, on one line."""
    return " ".join(docstring(module).partition("\n\n")[0].split())


class Verbs(click.Group):
    """The group of all verbs. Its own help and completion import none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every name, in order of the alphabet."""
        return sorted(verbs())

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a verb."""
        module = verbs().get(name)
        if module is None:
            return _elsewhere(name) if name in ELSEWHERE else None
        return importlib.import_module(module).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs by their docstrings, those for developers last."""
        self._section(formatter, "Verbs", verbs().keys() - DEVELOPERS)
        self._section(formatter, "For developers of Sluice", DEVELOPERS)

    @staticmethod
    def _section(formatter: click.HelpFormatter, title: str, names: Iterable[str]) -> None:
        known = verbs()
        with formatter.section(title):
            formatter.write_dl([(name, summary(known[name])) for name in sorted(names)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Verbs and options that begin so."""
        found = [
            CompletionItem(name, help=summary(module))
            for name, module in sorted(verbs().items())
            if name.startswith(incomplete) and name not in DEVELOPERS
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; errors of ours become a line and an exit status."""
        try:
            status = super().invoke(ctx)
            sys.stdout.flush()
        except SluiceError as error:
            return _failed(ctx, error)
        except ModuleNotFoundError as missing:
            extra = EXTRAS.get((missing.name or "").partition(".")[0])
            if extra is None:
                raise
            fix = f"install sluice[{extra}]; in a checkout: make setup"
            return _failed(ctx, Misconfigured(f"{missing.name} is not installed", fix=fix))
        except BrokenPipeError:
            # Nobody reads on. What is still in the buffer must go somewhere when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return status


def _elsewhere(name: str) -> click.Command:
    """What stands for a verb of an environment that this one is not, whatever it is given."""

    def say_where() -> None:
        folder = ELSEWHERE[name]
        raise Misconfigured(
            f"this verb is of sluice-{folder}, which is not installed here",
            fix=f"install it; in a checkout: make {folder}/.venv/.done, "
            f"then {folder}/.venv/bin/sluice {name}",
        )

    return click.Command(
        name,
        callback=say_where,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


def _failed(ctx: click.Context, error: SluiceError) -> int:
    say_lines(f"sluice {ctx.invoked_subcommand}: {error}", err=True)
    return EXIT_CONFIG if isinstance(error, Misconfigured) else 1


@click.command(cls=Verbs, help="Decides card authorizations, and proves it.")
@click.version_option(__version__, message=f"sluice {BUILD.removeprefix('sluice-')}")
def sluice() -> None:
    """The group itself does nothing."""


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Returns its exit status; 64 for wrong usage, 78 for wrong configuration."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        status = sluice.main(argv or ["--help"], prog_name="sluice", standalone_mode=False)
    except click.Abort:
        return EXIT_INTERRUPTED
    except click.UsageError as error:
        error.show()
        return EXIT_USAGE
    except click.ClickException as error:
        error.show()
        return 1
    return cast(int, status) or 0
