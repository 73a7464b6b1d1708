"""One loop for every service that reads topics: poll a batch, have it handled, commit, show it.

A service writes a Handler. The loop owns the member of the group: its batches, commits, rewinds,
what a rebalance brings and takes, pauses and retries with named limits, the metrics that every
consumer has, and the end at SIGTERM.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from sluice import telemetry
from sluice.application.ports import Consumer, Message, Offsets, Partition
from sluice.errors import Corrupt, Misconfigured, SluiceError, Unavailable
from sluice.telemetry import METRICS

LAG_EVERY_S = 1.0
COMMIT_HANG_S = 40.0
"""A commit, the abort after it and the way back to the committed offsets are bounded by 22, 5 and
10 s. What is not back by then never will be."""
LOOKS = 10
"""How often the watchdog looks while a commit hangs: it ends a tenth of the time late at most."""
DOUBLINGS_MAX = 30
"""Of the pause between two tries; any pause_max_s is reached long before."""


class Done(NamedTuple):
    """What may be committed. offsets: the next of each partition. messages: how many lie before
    them since the last commit, by topic."""

    offsets: Offsets
    messages: Mapping[str, int]


NOTHING = Done({}, {})


def whole(batch: Sequence[Message]) -> Done:
    """All of a batch."""
    return Done(
        {(m.topic, m.partition): m.offset + 1 for m in batch}, Counter([m.topic for m in batch])
    )


class Handler(ABC):
    """What a service does with what it reads. Only ``handle`` has to be its own."""

    @abstractmethod
    def handle(self, batch: Sequence[Message]) -> Done:
        """Take effect, and say what may be committed now: ``whole(batch)``, less or NOTHING.

        batch: empty where nothing came within poll_s; a turn to do what is due. Raises Unavailable
        if it should come again, Corrupt and Misconfigured to end the service.
        """

    def committed(self, done: Done) -> None:  # noqa: B027 (may be left as it is)
        """What ``handle`` returned is committed: only now may others hear of it."""

    def rewound(self) -> None:  # noqa: B027 (may be left as it is)
        """Forget what is not committed: it comes again, here or elsewhere. Does no I/O."""

    def assigned(self, partitions: Sequence[Partition]) -> Offsets:
        """Partitions that come. Returns where to read on, if not at the committed offset."""
        return {}

    def resumes(self, partitions: Sequence[Partition]) -> Offsets:
        """After a failure: where to read on in what is ours, if not at the committed offset. Raises
        Unavailable."""
        return {}

    def revoked(self, partitions: Sequence[Partition], *, lost: bool) -> Done:
        """Partitions that leave, also at the end. Unless they are lost: finish what is unfinished
        of them, and say what may be committed. Lost: drop it."""
        return NOTHING

    def lacks(self) -> str:
        """What is missing of which it must be told, though its batches go well: while it is, the
        service is not ready. "" for nothing."""
        return ""

    def poison(self, message: Message, code: str) -> bool:
        """A message that broke ``handle`` when it was alone; only with ``singly_after``. True: it
        will be dealt with when it comes again. False: the service ends with the error."""
        return False


@dataclass(frozen=True, slots=True)
class Limits:
    """How a service reads, and what it does when a batch fails.

    batch_max: messages of a batch. poll_s: longest wait for the first; also how late SIGTERM may
    be noticed. pause_s, pause_max_s: before the next try; doubles. failures_max: batches given up
    in a row before the service ends, None for never. singly_after: so many, and the batch comes
    again one message at a time; any other error than Unavailable does that at once; None: never,
    and any other error ends the service. leave_at: codes of Unavailable that end it at once.
    """

    batch_max: int
    poll_s: float
    pause_s: float = 0.1
    pause_max_s: float = 5.0
    failures_max: int | None = 0
    singly_after: int | None = None
    leave_at: frozenset[str] = frozenset()


class ConsumerLoop:
    """Drives one consumer and its handler in one thread. Closes the consumer at the end.

    on_hang: called, from another thread, when a commit is not back after hang_s; should not return.
    """

    def __init__(
        self,
        consumer: Consumer,
        handler: Handler,
        limits: Limits,
        *,
        hang_s: float = COMMIT_HANG_S,
        on_hang: Callable[[], None] | None = None,
        metrics: telemetry.Metrics = METRICS,
        health: telemetry.Health = telemetry.HEALTH,
    ) -> None:
        self._consumer = consumer
        self._handler = handler
        self._limits = limits
        self._watchdog = Watchdog(hang_s, on_hang or leave_at_once)
        self._metrics = metrics
        self._health = health
        self._failures = 0
        """Batches given up in a row."""
        self._failed = 0
        """Size of the last of them."""
        self._singly = 0
        """Messages still to be taken one at a time."""
        self._behind = False
        """We have read further than what the handler still knows: rewind before the next batch."""
        self._over = False
        self._lag_at = 0.0
        self._reachable = True
        consumer.listen(handler.assigned, self._leave)

    def run(self, stop: threading.Event) -> None:
        """Work until stop is set, finish, leave the group.

        Raises what ends the service: Corrupt, Misconfigured, or Unavailable past the limits.
        What was not committed by then is dropped; a restart reads it again.
        """
        try:
            while not stop.is_set():
                pause_s = self.once()
                if pause_s:
                    stop.wait(pause_s)
            self._leave(self._consumer.assignment(), False)
        finally:
            self._over = True
            self._watchdog.close()
            self._consumer.close()

    def once(self) -> float:
        """One batch, if there is one. Returns the pause before the next, 0 if it went well.

        What fails is rolled back and comes again. Raises what ends the service.
        """
        batch: list[Message] = []
        try:
            if self._behind:
                self._rewind()
            batch = self._consumer.poll_batch(
                1 if self._singly else self._limits.batch_max, self._limits.poll_s
            )
            self._look()
            self._commit(self._handler.handle(batch))
            if batch:
                self._metrics.count("sluice_consumer_batches_total")
        except Exception as error:  # a batch may fail in any way, and must not fail forever
            no_way_back, self._behind = self._behind, True
            self._handler.rewound()
            pause_s = self._give_up(batch, error)
            self._health.beat(ready=False, why=str(error))  # the way back may take a while too
            if not no_way_back:
                self._go_back()
            if self._behind:
                self._look_behind()
            return pause_s
        if batch or not self._failed:
            self._failures = self._failed = 0
        self._singly = max(0, self._singly - len(batch))
        if self._failures:
            self._health.beat(ready=False, why=self._health.why)
        elif not self._reachable:
            self._health.beat(ready=False, why="no broker can be reached")
        else:
            lacks = self._handler.lacks()
            self._health.beat(ready=not lacks, why=lacks)
        return 0.0

    def _commit(self, done: Done) -> None:
        if not done.offsets:
            return
        with self._watchdog:
            self._consumer.commit(done.offsets)
        self._handler.committed(done)
        for topic, count in done.messages.items():
            self._metrics.count("sluice_consumer_messages_total", topic, by=count)

    def _give_up(self, batch: Sequence[Message], error: Exception) -> float:
        """Say so, and see to it that the same batch does not fail the same way forever. Returns
        the pause. Raises the error if it ends the service."""
        limits = self._limits
        retried = isinstance(error, Unavailable)
        if isinstance(error, Corrupt | Misconfigured) or not (
            retried or limits.singly_after is not None
        ):
            raise error
        code = error.code if isinstance(error, SluiceError) else "internal"
        telemetry.event(
            "batch_given_up",
            level=logging.ERROR,
            error=not isinstance(error, SluiceError),
            code=code,
            reason=str(error)[:512],
        )
        self._metrics.count("sluice_consumer_aborts_total", code)
        self._failures += 1
        self._failed = len(batch)
        too_often = limits.failures_max is not None and self._failures > limits.failures_max
        if retried and (code in limits.leave_at or too_often):
            raise error
        if retried:
            if limits.singly_after is not None and self._failures >= limits.singly_after:
                self._singly = max(self._singly, len(batch))
            doublings = min(self._failures - 1, DOUBLINGS_MAX)
            return float(min(limits.pause_s * 2**doublings, limits.pause_max_s))
        if len(batch) != 1:
            self._singly = max(self._singly, len(batch))
        elif self._handler.poison(batch[0], code):
            self._metrics.count("sluice_consumer_poison_total", code)
        else:
            raise error
        return 0.0

    def _go_back(self) -> None:
        """At once, so that no transaction stays open over the pause; if that fails, next time."""
        try:
            self._rewind()
        except Unavailable as error:
            if error.code in self._limits.leave_at:
                raise

    def _rewind(self) -> None:
        self._consumer.rewind(self._handler.resumes(self._consumer.assignment()))
        self._behind = False

    def _leave(self, partitions: Sequence[Partition], lost: bool) -> None:
        done = self._handler.revoked(partitions, lost=lost or self._over)
        if not (lost or self._over):
            self._commit(done)

    def _look(self) -> None:
        """Once in LAG_EVERY_S: how far we are behind, and whether there is a broker."""
        if time.monotonic() < self._lag_at:
            return
        self._lag_at = time.monotonic() + LAG_EVERY_S
        telemetry.show_lag(self._metrics, self._consumer.lag())
        self._reachable = self._consumer.reachable()

    def _look_behind(self) -> None:
        """While nothing is read: the lag goes on, or it would hide what waits."""
        self._reachable = self._consumer.reachable()
        if self._reachable:
            with suppress(Unavailable):
                telemetry.show_lag(self._metrics, self._consumer.uncommitted())


class Watchdog:
    """``with watchdog:`` calls on_hang, from a thread of its own, if the block takes limit_s."""

    def __init__(self, limit_s: float, on_hang: Callable[[], None]) -> None:
        self._limit_s = limit_s
        self._on_hang = on_hang
        self._due = math.inf
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        self._due = time.monotonic() + self._limit_s
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._due = math.inf

    def close(self) -> None:
        """Watch no more."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(self._limit_s / LOOKS):
            if time.monotonic() > self._due:
                self._due = math.inf
                self._on_hang()


def leave_at_once() -> None:
    """End the process without waiting for its threads; the next one cleans up at the broker."""
    telemetry.event(
        "stopped",
        level=logging.ERROR,
        code="hung",
        reason=f"a commit did not come back within {COMMIT_HANG_S:.0f} s",
    )
    logging.shutdown()
    os._exit(1)
