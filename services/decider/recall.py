"""What was answered before this process began, from the tail of ``decisions.v1``.

Read in a thread of its own, beside the first decisions: nobody waits for it. Until it is done a
repeat of an id is known by the store alone, as it always was by every replica but one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice

from sluice import telemetry
from sluice.application import recorded
from sluice.application.once import Answered, Once
from sluice.application.ports import Message
from sluice.telemetry import METRICS

TAIL_MAX = 20_000
"""Records of all partitions together, 40 MB: half a second of one core."""
READ_MAX_S = 10.0
"""A slow broker's tail is left where it is after so long."""
PIECE = 200
"""Answers handed to the event loop at once: a fifth of a millisecond."""


class Recall:
    """Fills a memory from the log. tail: opens the newest records, in order within a partition.

    events: the event loop in which the memory lives.
    """

    def __init__(
        self,
        once: Once,
        tail: Callable[[], Iterator[Message]],
        events: asyncio.AbstractEventLoop,
        metrics: telemetry.Metrics = METRICS,
    ) -> None:
        self._once = once
        self._tail = tail
        self._events = events
        self._metrics = metrics
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Read the tail, unless that is going on already. From any thread, and more than once."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._read, name="recall", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop, and wait for the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _answered(self, message: Message) -> Answered | None:
        """What a record answered; None, counted, for one that cannot be read."""
        try:
            return recorded.answered(recorded.read(message.value))
        except Exception:  # its neighbours are remembered all the same
            self._metrics.count("sluice_decider_recall_failures_total")
            return None

    def _read(self) -> None:
        began, count = time.monotonic(), 0
        try:
            messages = self._tail()
            while not self._stop.is_set() and time.monotonic() - began < READ_MAX_S:
                piece = list(islice(messages, PIECE))
                if not piece:
                    break
                answers = [known for message in piece if (known := self._answered(message))]
                try:
                    self._events.call_soon_threadsafe(self._once.learn, answers)
                except RuntimeError:  # it ended without waiting for us
                    return
                count += len(answers)
        except Exception as error:  # the store knows them too
            telemetry.event("recall_failed", level=logging.WARNING, reason=str(error)[:512])
            self._metrics.count("sluice_decider_recall_failures_total")
        self._metrics.count("sluice_decider_recalled_total", by=count)
        telemetry.event("recalled", answers=count, ms=round((time.monotonic() - began) * 1000))
