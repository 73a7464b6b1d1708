"""Arrivals into micro-batches: what comes while others are being decided is decided together.

A batch costs several hundred microseconds however few rows it has: a round trip to the store, a
run of the model, a request to the broker. So there is a gate. While nothing is being decided it is
open, and what came in one turn of the event loop goes through together; while a batch is being
decided it is shut, and newcomers collect until that one ends. Nobody waits for company, and nobody
waits long: behind a broker or a store that hangs, the next batch begins when the patience of its
first arrival ends. See docs/decisions/0012.

While the limit is reached, what has too little left of its deadline when its batch begins is
refused before the store is asked: it would be decided without the model. See docs/decisions/0026.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from services.decider.admission import LEFT
from services.decider.problems import unforeseen
from sluice import telemetry
from sluice.application.decide import Decided, Result, deadline_after
from sluice.application.ports import Arrival
from sluice.domain.clock import Clock
from sluice.errors import SluiceError, Unavailable

BATCH_MAX = 128
"""Authorizations decided together: more would hold the event loop for over 10 ms."""
PATIENCE = 0.1
"""Of its deadline: how long an authorization stands before the gate at most."""


class Late(Unavailable):
    """It could no longer be decided in time."""

    code = "overloaded"


Done = Callable[[Result | SluiceError], None]
"""Called once an arrival: with its result, or with why there is none. It should not raise."""


class Pipeline(Protocol):
    """What this needs of :class:`sluice.application.decide.DecisionPipeline`."""

    async def decide(
        self, batch: Sequence[Arrival], *, deadline_us: int | None = None
    ) -> list[Result]:
        """One result an arrival, in order."""
        ...


class _Row(NamedTuple):
    arrival: Arrival
    done: Done
    due_us: int


def _unheard(_now_us: int, _age_us: int) -> None:
    """Nobody limits anything."""


class Batches:
    """Of one event loop. An arrival stands with others of the same deadline, in order.

    aged: told the time and the age of the oldest of each batch, from receipt to its decision.
    loaded: whether what comes too late is refused. Otherwise it is decided, apart from others.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        clock: Clock,
        aged: Callable[[int, int], None] = _unheard,
        loaded: Callable[[], bool] = lambda: False,
    ) -> None:
        self.sizes: list[int] = []
        """Rows of the batches begun; whoever reads it empties it."""
        self._pipeline = pipeline
        self._clock = clock
        self._aged = aged
        self._loaded = loaded
        self._waiting: dict[int, list[_Row]] = {}
        """By deadline in milliseconds."""
        self._patience: dict[int, asyncio.TimerHandle] = {}
        """What opens the gate for the rows of a deadline, however shut it is."""
        self._opening = False
        """The gate opens at the end of this turn."""
        self._running: set[asyncio.Task[None]] = set()

    def add(self, arrival: Arrival, deadline_ms: int, done: Done, waited_us: int = 0) -> None:
        """Have it decided, and ``done`` told.

        deadline_ms: from ``arrival.received_at``, less waited_us: how long it waited before.
        """
        rows = self._waiting.setdefault(deadline_ms, [])
        due_us = deadline_after(arrival.received_at, deadline_ms) - waited_us
        rows.append(_Row(arrival, done, due_us))
        if self._opening or len(rows) > 1:
            return
        loop = asyncio.get_running_loop()
        if not self._running:
            self._opening = True
            loop.call_soon(self._open)
        else:
            self._patience[deadline_ms] = loop.call_later(
                deadline_ms * PATIENCE / 1000, self._begin, deadline_ms
            )

    def _open(self) -> None:
        self._opening = False
        for deadline_ms in list(self._waiting):
            self._begin(deadline_ms)

    def _begin(self, deadline_ms: int) -> None:
        """Begin deciding all rows of one deadline."""
        rows = self._waiting.pop(deadline_ms, [])
        patience = self._patience.pop(deadline_ms, None)
        if patience is not None:
            patience.cancel()
        # A batch has the deadline of its earliest: what is late must not make others so.
        soonest = self._clock.now_us() + int(deadline_after(0, deadline_ms) * LEFT)
        parts = [[row for row in rows if row.due_us > soonest]]
        if len(parts[0]) < len(rows):
            late = [row for row in rows if row.due_us <= soonest]
            if self._loaded():
                for row in late:
                    _tell(row, Late("its deadline is too near"))
            else:
                parts.append(late)
        for part in parts:
            for start in range(0, len(part), BATCH_MAX):
                batch = part[start : start + BATCH_MAX]
                task = asyncio.create_task(self._decide(batch, deadline_ms))
                self._running.add(task)
                task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._waiting and not self._running:
            self._open()

    async def _decide(self, rows: list[_Row], deadline_ms: int) -> None:
        self.sizes.append(len(rows))
        due_us = min(row.due_us for row in rows)
        outcomes: Sequence[Result | SluiceError]
        try:
            outcomes = await self._pipeline.decide(
                [row.arrival for row in rows], deadline_us=due_us
            )
        except Exception as error:  # whatever it is, no caller may wait forever
            telemetry.event("batch_failed", level=logging.ERROR, error=True, rows=len(rows))
            outcomes = [unforeseen(error)] * len(rows)
        for outcome in outcomes:
            if isinstance(outcome, Decided):
                decided_at = outcome.decision.decided_at
                self._aged(decided_at, decided_at - due_us + deadline_after(0, deadline_ms))
                break
        for row, outcome in zip(rows, outcomes, strict=True):
            _tell(row, outcome)

    async def close(self) -> None:
        """Return when all that was added is decided."""
        while self._running or self._waiting:
            self._open()
            await asyncio.wait(self._running)


def _tell(row: _Row, outcome: Result | SluiceError) -> None:
    try:
        row.done(outcome)
    except Exception:  # one caller's trouble is not its neighbours'
        telemetry.event("answer_failed", level=logging.ERROR, error=True)
        telemetry.METRICS.count("sluice_decider_answers_failed_total")
