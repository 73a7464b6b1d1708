"""Rows of a file that cannot be read, on stderr: the first ones, then how many for each reason."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sluice.cli.output import say

if TYPE_CHECKING:
    from sluice.application.publish import BadRow

FIRST = 20
"""Reported one by one; of more a file has too many to read them here."""
REASONS_MAX = 50
"""Counted apart; a reason may name a label's value, of which a file has as many as it likes."""
OTHERS = "other reasons"


class BadRows:
    """Told of each bad row, it prints the first ones; and how often each reason came, at last.

    more: printed once, where there are more than can be read.
    """

    def __init__(self, more: str) -> None:
        self._more, self._reasons = more, Counter[str]()

    def __call__(self, row: BadRow) -> None:
        """Another bad row."""
        reason = row.error.what
        known = reason in self._reasons or len(self._reasons) < REASONS_MAX
        self._reasons[reason if known else OTHERS] += 1
        number = self._reasons.total()
        if number <= FIRST:
            say(f"{row.error.where}: {reason}", err=True)
        elif number == FIRST + 1:
            say(self._more, err=True)

    def summarise(self) -> None:
        """Print the reasons with their numbers of rows, unless each row was told already."""
        if self._reasons.total() > min(FIRST, len(self._reasons)):
            for reason, rows in self._reasons.most_common():
                say(f"{rows:,} x {reason}", err=True)
