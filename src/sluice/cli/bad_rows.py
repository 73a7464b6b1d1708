"""Rows of a file that cannot be read, on stderr: the first ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from sluice.cli.output import say

if TYPE_CHECKING:
    from sluice.application.publish import BadRow

FIRST = 20
"""Reported one by one; of more a file has too many to read them here."""


def reporter(more: str) -> Callable[[BadRow], None]:
    """Prints the first bad rows, then once what to do about more."""
    numbers = itertools.count(1)

    def report(row: BadRow) -> None:
        number = next(numbers)
        if number <= FIRST:
            say(f"{row.error.where}: {row.error.what}", err=True)
        elif number == FIRST + 1:
            say(more, err=True)

    return report
