"""What a verb says. Every text goes out through here, because any may hold a stranger's words."""

from __future__ import annotations

from pathlib import Path

import click

from sluice.errors import Unavailable
from sluice.shown import ascii_json, shown, shown_lines


def say(line: str, *, err: bool = False) -> None:
    """One line, on stdout or stderr; what would not be seen as it is, is written out."""
    click.echo(shown(line), err=err)


def say_lines(text: str, *, err: bool = False) -> None:
    """A text that has lines of ours, as some errors do."""
    click.echo(shown_lines(text), err=err)


def say_json(text: str) -> None:
    """JSON for a program, which may print it: ASCII alone."""
    click.echo(ascii_json(text))


def say_document(document: bytes) -> None:
    """For a program or a file, byte by byte: what it holds was checked or is encoded."""
    click.echo(document, nl=False)


def write(path: Path, document: bytes) -> None:
    """To a file that the caller named; its folder is made. Raises Unavailable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(document)
    except OSError as exc:
        raise Unavailable(f"cannot be written: {exc.strerror}", where=str(path)) from exc
