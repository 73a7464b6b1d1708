"""One line of progress on stderr."""

from __future__ import annotations

import sys
import time

QUIET_S = 5.0
"""How often a log file gets a line; a terminal's line is rewritten each time."""


class Progress:
    """Shows the latest text: in place on a terminal, else as a line every few seconds."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = 0.0

    def show(self, text: str, *, last: bool = False) -> None:
        """last: always shown, and the line is ended."""
        if self._terminal:
            print(f"\r\x1b[K{text}", end="\n" if last else "", file=sys.stderr, flush=True)
        elif last or time.monotonic() - self._shown >= QUIET_S:
            self._shown = time.monotonic()
            print(text, file=sys.stderr, flush=True)
