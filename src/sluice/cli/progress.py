"""How far a verb is, on stderr: one line that changes on a terminal, few lines in a log file."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from sluice.shown import shown

if TYPE_CHECKING:
    from rich.progress import Progress as Line
    from rich.progress import TaskID

QUIET_S = 5.0
"""A log file gets at most one line in so many seconds, and those that are to stay."""
TERMINAL_PER_S = 10


class Progress:
    """Shows the latest text while the block runs; what stays is printed.

    On a terminal a line with a spinner, a bar where the end is known, and the cursor given back
    whatever happens. Elsewhere plain lines.
    """

    def __init__(self) -> None:
        self._shown = -QUIET_S
        self._line: Line | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            # Loaded for people only: 60 ms.
            from rich.console import Console  # noqa: PLC0415
            from rich.progress import BarColumn, SpinnerColumn, TextColumn  # noqa: PLC0415
            from rich.progress import Progress as Line  # noqa: PLC0415

            self._line = Line(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                console=Console(stderr=True, highlight=False),
                refresh_per_second=TERMINAL_PER_S,
                transient=True,
                redirect_stdout=False,  # results may go to a file meanwhile
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._line is not None:
            self._line.stop()

    def show(self, text: str, done: int | None = None, of: int | None = None) -> None:
        """Where it is now. done, of: for a bar, where the end is known."""
        text = shown(text)
        if self._line is None:
            if time.monotonic() - self._shown >= QUIET_S:
                self._shown = time.monotonic()
                print(text, file=sys.stderr, flush=True)
            return
        if self._task is None:
            self._task = self._line.add_task(text, total=of)
            self._line.start()
        self._line.update(self._task, description=text, completed=done, total=of)

    def keep(self, text: str) -> None:
        """A line that stays."""
        text = shown(text)
        if self._line is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._line.console.print(text, markup=False, soft_wrap=True)
