"""Work that is due again and again beside a service's own: it never ends without the service.

A thread, not a task of the event loop: what it does may take long and must hold up nobody, and at
the end of the process nobody waits for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sluice import telemetry
from sluice.errors import SluiceError
from sluice.telemetry import METRICS

REASON_MAX = 512
"""Characters of a failure's text in the log."""


def show_due(task: str, every_s: float, metrics: telemetry.Metrics = METRICS) -> None:
    """Show that it is due from now on, so that one that never ends is late (SluiceTaskStands)."""
    metrics.set("sluice_task_every_seconds", every_s, task)
    show_completed(task, metrics)


def show_completed(task: str, metrics: telemetry.Metrics = METRICS) -> None:
    """Show that it came to its end now."""
    metrics.set("sluice_task_completed_timestamp_seconds", time.time(), task)


class Repeated:
    """Does ``work`` every so often until it is stopped, whatever it raises.

    task: its name in metrics and log. every_s: from the end of one to the beginning of the next.
    What it raises is logged and counted.
    """

    def __init__(
        self,
        task: str,
        every_s: float,
        work: Callable[[], None],
        *,
        metrics: telemetry.Metrics = METRICS,
    ) -> None:
        self._task = task
        self._every_s = every_s
        self._work = work
        self._metrics = metrics
        self._stopped = threading.Event()

    def start(self) -> Repeated:
        """Begin, in a thread of its own; the first time after every_s. Returns itself."""
        show_due(self._task, self._every_s, self._metrics)
        threading.Thread(target=self._run, name=self._task, daemon=True).start()
        return self

    def stop(self) -> None:
        """Begin no other. Does not wait for one that is under way."""
        self._stopped.set()

    def once(self) -> None:
        """Do it now. Raises nothing."""
        try:
            self._work()
        except Exception as error:  # in whatever way it fails, the next one is due
            code = error.code if isinstance(error, SluiceError) else "internal"
            self._metrics.count("sluice_task_failures_total", self._task, code)
            telemetry.event(
                "task_failed",
                level=logging.ERROR,
                error=not isinstance(error, SluiceError),
                task=self._task,
                code=code,
                reason=str(error)[:REASON_MAX],
            )
        else:
            show_completed(self._task, self._metrics)

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            self.once()
