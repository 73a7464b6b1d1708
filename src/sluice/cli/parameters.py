"""What several verbs take."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click

from sluice.bootstrap import copies
from sluice.bootstrap.engines import ENGINES, LOCAL
from sluice.cli.output import say
from sluice.domain.clock import from_datetime
from sluice.settings import load

FOLDER = click.Path(path_type=Path)
"""A path that need not be there yet: what is missing is told by who reads it."""
CORES = os.cpu_count() or 1


class _Copied(click.Path):
    """A folder, or a URL whose copy here is one until the verb ends. enter: makes the copy."""

    def __init__(self, enter: Callable[..., AbstractContextManager[Path]]) -> None:
        super().__init__(path_type=Path)
        self._enter = enter

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Raises what the storage says."""
        if ctx is None or ctx.resilient_parsing or "://" not in str(value):
            return Path(value)
        return ctx.with_resource(self._enter(load()[0], value, partial(say, err=True)))


COPY = _Copied(copies.reading)
"""Of what is read."""
CHANGED = _Copied(copies.changing)
"""Of what is changed, and put back if the verb does not fail."""

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def instant(text: str) -> int:
    """Microseconds UTC of an ISO 8601 time; one without a zone is UTC.

    >>> instant("1970-01-02")
    86400000000
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise click.BadParameter(f"{text} is no time: write 2026-10-16T00:00:00Z") from exc
    return from_datetime(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def bootstrap_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--bootstrap, which goes over the settings."""
    says = "Brokers (default: kafka.bootstrap of the settings)."
    return click.option("--bootstrap", metavar="HOST:PORT", help=says)(command)


def by_options(*, required: bool) -> Decorator:
    """--who and --case, of what becomes a record of the log."""
    both = "" if required else " With both, the log is told: it needs the keystore."

    def given(command: Callable[..., Any]) -> Callable[..., Any]:
        says = f"Request, order or ticket that it is done for: an id, no sentence.{both}"
        command = click.option("--case", required=required, metavar="ID", help=says)(command)
        says = "Who answers for it."
        return click.option("--who", required=required, metavar="LOGIN", help=says)(command)

    return given


def archive_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--archive, which goes over the settings."""
    says = "Folder, or a URL like s3://bucket/prefix (default: archiver.root of the settings)."
    return click.option("--archive", metavar="DIR", help=says)(command)


def token_key_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--token-key, of a mapping that makes tokens."""
    says = "Of the tokens, where the mapping hashes: docs/reference/mapping.md."
    return click.option("--token-key", type=FOLDER, metavar="FILE", help=says)(command)


def bad_share_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--bad-share, of 0 to 1 as the verbs take it."""
    return click.option(
        "--bad-share",
        type=click.FloatRange(min=0, max=100),
        callback=lambda _context, _option, percent: percent / 100,
        default=10.0,
        metavar="PERCENT",
        help="Stop where more of some thousand rows are bad (default: 10).",
    )(command)


def cores_option(name: str) -> Decorator:
    """--processes or --threads."""
    return click.option(
        f"--{name}", type=click.IntRange(min=1), default=CORES, metavar="N",
        help="At once (default: one a core).",
    )  # fmt: skip


def engine_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--engine, of batch work."""
    says = "local: this machine. spark: docs/how-to/run-on-spark.md (default: local)."
    return click.option("--engine", type=click.Choice(ENGINES), default=LOCAL, help=says)(command)
