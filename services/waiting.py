"""A part that is not up yet is waited for, where everybody can see it.

A service that ended because Kafka is not there would be started again later and later. So it stays,
answers its admin port, says that it is not ready and why, and begins as soon as it can. What only a
person mends ends it as ever.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeVar

from sluice import telemetry
from sluice.application.ports import NO_TOPIC
from sluice.bootstrap import services as bootstrap
from sluice.errors import Misconfigured, Unavailable
from sluice.settings import Settings
from sluice.telemetry import METRICS

Part = Literal["broker", "topics", "store", "release", "keys", "keystore", "storage"]
"""What a service may wait for at its start; the label of sluice_start_waiting."""
RETRY_S = 0.25
"""From one look to the next."""
LOOK_S = 0.1
"""How late SIGTERM may be noticed meanwhile."""
STORE_WAIT_S = 30.0
"""How long a decider waits for the store at its start. After a cold start of everything a store is
there by then; in an outage of the store a new replica begins all the same, and decides without."""
REASON_MAX = 512
"""Characters of the reason in the log."""

T = TypeVar("T")


class StoppedError(Exception):
    """The process was told to end before it began."""


class Waiting:
    """Waits for one part after the other, until stop is set."""

    def __init__(
        self,
        stop: threading.Event,
        *,
        health: telemetry.Health = telemetry.HEALTH,
        metrics: telemetry.Metrics = METRICS,
        clock: Callable[[], float] = time.monotonic,
        retry_s: float = RETRY_S,
    ) -> None:
        self._stop = stop
        self._health = health
        self._metrics = metrics
        self._clock = clock
        self._retry_s = retry_s
        self._said = ""

    def until(
        self,
        come: Callable[[], T],
        part: Callable[[Unavailable], Part],
        *,
        at_most_s: float = float("inf"),
    ) -> T:
        """Return what ``come`` returns; as long as it raises Unavailable, ask again.

        come: runs in a thread of its own, and is left alone when stop is set. part: what an error
        says is missing. The reason stands in the answer to readiness; in the log once, and again
        when it is another one. Raises the last Unavailable after at_most_s, any other error at
        once, and StoppedError.
        """
        ends = self._clock() + at_most_s
        waited: Part | None = None
        began = self._clock()
        try:
            while True:
                try:
                    found = self._apart(come)
                except Unavailable as error:
                    missing = part(error)
                    if waited not in (None, missing):
                        self._metrics.set("sluice_start_waiting", 0, waited)
                    waited = missing
                    self._say(missing, error)
                    if self._clock() >= ends:
                        raise
                else:
                    if waited is not None:
                        seconds = round(self._clock() - began, 1)
                        telemetry.event("came", part=waited, waited_s=seconds)
                    return found
                self._stop.wait(min(self._retry_s, max(0.0, ends - self._clock())))
        finally:
            if waited is not None:
                self._metrics.set("sluice_start_waiting", 0, waited)
                self._said = ""
                self._health.beat(ready=False, why="it starts")

    def _say(self, part: Part, error: Unavailable) -> None:
        self._metrics.set("sluice_start_waiting", 1, part)
        why = f"it waits for the {part}: {error}"
        self._health.beat(ready=False, why=why)
        if why != self._said:
            self._said = why
            telemetry.event(
                "waiting", level=logging.WARNING, part=part, reason=str(error)[:REASON_MAX]
            )

    def _apart(self, come: Callable[[], T]) -> T:
        """Its result or error, unless we are told to end before it has one."""
        answers: queue.SimpleQueue[tuple[bool, T | BaseException]] = queue.SimpleQueue()

        def run() -> None:
            try:
                answers.put((True, come()))
            except BaseException as error:
                answers.put((False, error))

        if not self._stop.is_set():
            threading.Thread(target=run, name="waiting", daemon=True).start()
        while not self._stop.is_set():
            try:
                good, answer = answers.get(timeout=LOOK_S)
            except queue.Empty:
                continue
            if good:
                return answer  # type: ignore[return-value]
            raise answer  # type: ignore[misc]
        raise StoppedError


def for_brokers(waiting: Waiting, settings: Settings, *topics: str) -> None:
    """Return when the brokers answer and have these topics. Raises Misconfigured if they do not
    take us, and StoppedError."""
    brokers = bootstrap.brokers(settings)
    waiting.until(
        lambda: brokers.ask(topics),
        lambda error: "topics" if error.code == NO_TOPIC else "broker",
    )


def for_store(waiting: Waiting, settings: Settings) -> None:
    """Return when the store answers, and all the same after STORE_WAIT_S: a decider goes on without
    it, as if it went away later. Raises Misconfigured, StoppedError."""
    try:
        waiting.until(
            partial(bootstrap.store_answers, settings), lambda _: "store", at_most_s=STORE_WAIT_S
        )
    except Unavailable as error:
        telemetry.event(
            "begins_without", level=logging.ERROR, part="store", reason=str(error)[:REASON_MAX]
        )


def for_release(waiting: Waiting, settings: Settings, *, needed: bool) -> None:
    """Return when a release lies there, however it is. After decider.release_wait_s: raises
    Misconfigured if it is needed, else returns. Raises Misconfigured for a wrong policy too, and
    StoppedError."""
    seconds = settings.decider.release_wait_s
    try:
        bootstrap.release_there(settings)
    except Unavailable:
        bootstrap.policy_holds(settings)  # of that mistake nobody should hear only afterwards
    try:
        waiting.until(
            partial(bootstrap.release_there, settings), lambda _: "release", at_most_s=seconds
        )
    except Unavailable as error:
        if needed:
            raise Misconfigured(
                f"no release came within {seconds} s: {error.what}",
                where=error.where,
                fix=error.fix,
            ) from error
        telemetry.event(
            "begins_without", level=logging.ERROR, part="release", reason=str(error)[:REASON_MAX]
        )
