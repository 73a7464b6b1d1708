"""What a verb says. Every text goes out through here, because any may hold a stranger's words."""

from __future__ import annotations

import click

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
