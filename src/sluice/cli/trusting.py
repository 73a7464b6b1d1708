"""Whose signatures a verb believes: the options, and the keys that they name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from sluice.audit.errors import Malformed
from sluice.audit.notes import LOG, WITNESS, Key
from sluice.bootstrap import log as parts
from sluice.errors import SluiceError

if TYPE_CHECKING:
    from sluice.application.read_log import Order


def trusting(command: Callable[..., Any]) -> Callable[..., Any]:
    """--key, --witness and --require-witness: keys, witnesses and required of the verb."""
    for option in (
        click.option(
            "--require-witness", "required", type=click.IntRange(min=0), default=0, metavar="N",
            help="So many of them must have cosigned.",
        ),
        click.option(
            "--witness", "witnesses", multiple=True, metavar="KEY",
            help="A witness's, or a file of such; may be given again.",
        ),
        click.option(
            "--key", "keys", multiple=True, required=True, metavar="KEY",
            help="The log's verifier key, or a file of such; again for further logs.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def keys_of(given: Sequence[str], kind: int, option: str) -> list[Key]:
    """Keys of one kind. Raises BadParameter."""
    try:
        found = parts.read_keys(given)
    except (Malformed, SluiceError) as exc:
        raise click.BadParameter(str(exc), param_hint=option) from exc
    if any(key.kind != kind for key in found):
        raise click.BadParameter(
            "this is a witness's key" if kind == LOG else "this is no witness's key",
            param_hint=option,
        )
    return found


def order_of(witnesses: Sequence[str], required: int) -> Callable[[Key], Order]:
    """What is asked of the log of a key. Raises BadParameter, UsageError."""
    from sluice.application.read_log import Order  # noqa: PLC0415 - of some verbs

    seen_by = keys_of(witnesses, WITNESS, "--witness")
    if required > len(seen_by):
        raise click.UsageError(f"{required} witnesses are required, {len(seen_by)} are given")
    return lambda key: Order(key, seen_by, required)
