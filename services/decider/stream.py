"""The stream processor: micro-batches of ``authorizations.v1``, each one transaction of Kafka.

Decisions, dead letters and the offsets read become visible together or not at all, so that every
offset ends as exactly one of the two. Nothing else leaves this process before the commit: neither
an answer to remember, nor a metric, nor a log line.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from opentelemetry.trace import Span, SpanKind

from services.loop import NOTHING, Done, Handler, Limits, whole
from sluice import telemetry
from sluice.application.decide import (
    Busy,
    Decided,
    Replayed,
    Result,
    Unidentified,
    Unrecorded,
)
from sluice.application.once import LookedUp, Once
from sluice.application.ports import (
    Arrival,
    Became,
    Message,
    Offsets,
    Partition,
    Transactions,
)
from sluice.domain.clock import Clock
from sluice.domain.records.authorization import encode
from sluice.domain.records.dead_letter import DUPLICATE, dead_letter_of
from sluice.domain.records.decision import Decision, Origin
from sluice.errors import Rejected, SluiceError, Unavailable
from sluice.telemetry import METRICS

BATCH_MAX = 500
POLL_S = 0.1
BUSY_EVERY_S = 0.05
"""An id that another arrival is deciding is asked again so often."""
BUSY_MAX_S = 2.0
"""Inside one transaction it is asked for so long; then the batch is given up and comes again. The
idempotency record itself ends after in_progress_ttl_s."""
RETRY_S = 0.1
"""Pause after a batch was given up; doubles."""
RETRY_MAX_S = 5.0
"""The longest such pause."""
ABORTS_MAX = 5
"""Batches given up in a row before the entrypoint goes on one message at a time."""

BROKE = "it broke the decider"
_REPLAYED = Rejected("this authorization was decided before", code=DUPLICATE)
_CONFLICT = Rejected("this id was decided before with other content", code="conflict")


def limits(batch_max: int = BATCH_MAX, poll_s: float = POLL_S) -> Limits:
    """It never gives up: each message ends as a decision or a dead letter, in its turn."""
    return Limits(
        batch_max=batch_max,
        poll_s=poll_s,
        pause_s=RETRY_S,
        pause_max_s=RETRY_MAX_S,
        failures_max=None,
        singly_after=ABORTS_MAX,
    )


class DecisionPipeline(Protocol):
    """What we need of :class:`sluice.application.decide.DecisionPipeline`."""

    sequence: int
    emitter: str

    def arrive(
        self, raw: bytes, *, origin: Origin | None = None, traceparent: str | None = None
    ) -> Arrival:
        """Parse and check. Raises Rejected."""
        ...

    async def decide(
        self, batch: Sequence[Arrival], *, deadline_us: int | None = None
    ) -> list[Result]:
        """One result an arrival, in order."""
        ...


class TransactionLog:
    """The port DecisionLog inside the open transaction: durable when the entrypoint commits."""

    def __init__(self, kafka: Transactions, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic

    async def append(self, decisions: Sequence[tuple[Arrival, Decision]], became: Became) -> None:
        """Queue each decision under its card's token; the commit tells the rest. Raises
        Unavailable."""
        self._kafka.produce_each(
            self._topic,
            (
                (arrival.auth.card_token, encode(decision), arrival.traceparent)
                for arrival, decision in decisions
            ),
        )


class AfterCommit:
    """The port Ids whose answers are remembered only once their records are committed.

    An answer remembered before an abort would make the redelivered authorization a duplicate of a
    decision that nobody can read.
    """

    def __init__(self, ids: Once) -> None:
        self._ids = ids
        self._answers: list[tuple[Arrival, bytes]] = []
        self._open: list[Arrival] = []
        """Looked up in the open transaction."""

    async def look_up(self, batch: Sequence[Arrival], *, late: bool) -> LookedUp:
        """See the port."""
        self._open += batch
        return await self._ids.look_up(batch, late=late)

    def remember(self, answers: Sequence[tuple[Arrival, bytes]]) -> None:
        """Keep them for the commit."""
        self._answers.extend(answers)

    def release(self, arrivals: Sequence[Arrival]) -> None:
        """See the port."""
        self._ids.release(arrivals)

    def hold(self, arrivals: Sequence[Arrival]) -> None:
        """The end of the transaction tells what became of them."""

    def committed(self) -> None:
        """Remember what was decided."""
        self._ids.remember(self._answers)
        self._answers, self._open = [], []

    def aborted(self) -> None:
        """Forget it. The idempotency records stay: a redelivery from the same place takes them up
        again."""
        self._ids.abandon(self._open)
        self._answers, self._open = [], []

    def unknown(self) -> None:
        """The broker did not say what became of it: whoever repeats one of these waits until the
        store knows."""
        self._ids.hold(self._open)
        self._answers, self._open = [], []


@dataclass(slots=True)
class _Outcome:
    """What became of the batch in the open transaction."""

    batch: Sequence[Message]
    began: float
    decided: list[Decided] = field(default_factory=list)
    trace_ids: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    """Ended with the commit; a batch that is rewound leaves none, and gets others."""
    refused: Counter[str] = field(default_factory=Counter)
    lines: list[tuple[Message, str, str]] = field(default_factory=list)
    """Message, code and trace id of each that was refused."""
    unread: list[tuple[Message, Exception]] = field(default_factory=list)
    """Those that broke us while they were read, and how."""


class StreamProcessor(Handler):
    """Decides a batch inside a transaction, which the loop commits.

    ids: those that the decider was built with. events: the event loop in which decider and store
    live; it runs in another thread than ours. recall: has what others decided, or what
    became of a commit without an answer, read from the log. lacks: without which it decides by
    rules, "" if nothing. sampler: of the log's lines.
    """

    def __init__(
        self,
        kafka: Transactions,
        decider: DecisionPipeline,
        ids: AfterCommit,
        *,
        dead_letters: str,
        clock: Clock,
        events: asyncio.AbstractEventLoop,
        recall: Callable[[], None] = lambda: None,
        lacks: Callable[[], str] = lambda: "",
        metrics: telemetry.Metrics = METRICS,
        sampler: telemetry.Sampler | None = None,
        service: str = "decider",
    ) -> None:
        self._kafka = kafka
        self._decider = decider
        self._ids = ids
        self._dead_letters = dead_letters
        self._clock = clock
        self._events = events
        self._recall = recall
        self._lacks = lacks
        self._emitter = decider.emitter
        self._generation = kafka.generation
        self._metrics = metrics
        self._sampler = sampler or telemetry.Sampler()
        self._service = service
        self._poison: dict[Origin, str] = {}
        """Messages that broke us when they were alone, with the code: dead letters when they
        come again."""
        self._sequence = decider.sequence
        """Of the next decision, as of the last commit."""
        self._outcome: _Outcome | None = None

    def handle(self, batch: Sequence[Message]) -> Done:
        """Decide a batch in a transaction of its own. On any exception nothing is visible."""
        if not batch:
            return NOTHING
        work = self._transact(batch)
        self._outcome = asyncio.run_coroutine_threadsafe(work, self._events).result()
        return whole(batch)

    def lacks(self) -> str:
        """A release: it decides by rules, and a rollout of more pods like it must stop here."""
        return self._lacks()

    def assigned(self, partitions: Sequence[Partition]) -> Offsets:
        """Their ids may have been decided elsewhere."""
        if partitions:
            self._recall()
        return {}

    def committed(self, done: Done) -> None:
        """Now the store may answer for these ids, and metrics and log may name them."""
        assert self._outcome is not None
        self._events.call_soon_threadsafe(self._ids.committed)
        self._sequence = self._decider.sequence
        self._poison.clear()
        for span in self._outcome.spans:
            span.end()
        self._report(self._outcome)
        self._outcome = None

    def rewound(self) -> None:
        """Take the records' numbers and answers back. Where nobody knows whether they were
        recorded, their numbers are not used again: we go on as another process would."""
        unknown = self._kafka.generation != self._generation
        if unknown:
            self._generation = self._kafka.generation
            self._decider.emitter = f"{self._emitter}+{self._generation}"
            self._sequence = 0
        self._decider.sequence = self._sequence
        self._events.call_soon_threadsafe(self._ids.unknown if unknown else self._ids.aborted)
        if self._outcome is not None:  # its commit failed, for all that we heard
            self._recall()
        self._outcome = None

    def poison(self, message: Message, code: str) -> bool:
        """It becomes a dead letter."""
        self._poison[_place(message)] = code
        return True

    async def _transact(self, batch: Sequence[Message]) -> _Outcome:
        outcome = _Outcome(batch, time.perf_counter())
        self._kafka.begin()
        arrivals: list[Arrival] = []
        places: list[Message] = []

        def refuse(message: Message, error: SluiceError, traceparent: str | None) -> None:
            self._send_dead_letter(message, error, traceparent)
            outcome.refused[error.code] += 1
            outcome.lines.append((message, error.code, telemetry.trace_id_of(traceparent)))

        for message in batch:
            trace: telemetry.Joined | None = None
            try:
                trace = telemetry.join_trace(message.traceparent, SpanKind.CONSUMER)
                arrivals.append(self._read(message, trace and trace.traceparent))
                places.append(message)
            except Rejected as error:
                refuse(message, error, trace and trace.traceparent)
            except (SluiceError, MemoryError):  # not this message's doing
                raise
            except Exception as error:  # a bug of ours stops at the message that shows it
                refuse(message, Rejected(BROKE, code="internal"), trace and trace.traceparent)
                outcome.unread.append((message, error))
            if trace is not None:
                outcome.spans.append(trace.span)
        for arrival, message, result in zip(
            arrivals, places, await self._decide(arrivals), strict=True
        ):
            if isinstance(result, Decided):
                outcome.decided.append(result)
                outcome.trace_ids.append(telemetry.trace_id_of(arrival.traceparent))
            elif isinstance(result, Unrecorded):
                raise Unavailable(result.why)
            elif isinstance(result, Unidentified):
                # It waits in Kafka, and with it what is behind it, until the store answers.
                raise Unavailable("nobody knows whether this id was decided", code="unidentified")
            else:
                again = _REPLAYED if isinstance(result, Replayed) else _CONFLICT
                refuse(message, again, arrival.traceparent)
        return outcome

    def _read(self, message: Message, traceparent: str | None) -> Arrival:
        """Raises Rejected."""
        origin = _place(message)
        if self._poison and origin in self._poison:
            raise Rejected(BROKE, code=self._poison[origin])
        return self._decider.arrive(message.value, origin=origin, traceparent=traceparent)

    async def _decide(self, arrivals: list[Arrival]) -> list[Result]:
        """Decide all, waiting for ids that another arrival holds. Raises Unavailable past the
        bound. Two of one id in the batch are no such case: the decision pipeline pairs them
        itself."""
        if not arrivals:
            return []
        results = await self._decider.decide(arrivals)
        deadline = time.monotonic() + BUSY_MAX_S
        while busy := [i for i, result in enumerate(results) if isinstance(result, Busy)]:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{len(busy)} authorizations are in progress elsewhere", code="busy"
                )
            await asyncio.sleep(BUSY_EVERY_S)
            again = await self._decider.decide([arrivals[i] for i in busy])
            for i, result in zip(busy, again, strict=True):
                results[i] = result
        return results

    def _send_dead_letter(
        self, message: Message, error: SluiceError, traceparent: str | None
    ) -> None:
        dead_letter = dead_letter_of(
            message.value,
            _place(message),
            error,
            service=self._service,
            now_us=self._clock.now_us(),
        )
        self._kafka.produce(
            self._dead_letters,
            f"{message.topic}/{message.partition}",
            encode(dead_letter),
            traceparent,
        )

    # ------------------------------------------------------------ metrics and log

    def _report(self, outcome: _Outcome) -> None:
        seconds = time.perf_counter() - outcome.began
        metrics, decided = self._metrics, outcome.decided
        metrics.count_each("sluice_dead_letters_total", outcome.refused, self._service)
        for message, error in outcome.unread:
            metrics.count("sluice_consumer_poison_total", "internal")
            telemetry.event(
                "message_not_read",
                level=logging.ERROR,
                origin=str(_place(message)),
                kind=type(error).__name__,
                at=place_of(error),
            )
        codes = outcome.refused + Counter(decided=len(decided))
        metrics.count_each("sluice_decider_requests_total", codes, "stream")
        now_us = self._clock.now_us()
        ages = [(now_us - d.decision.received_at) / 1_000_000 for d in decided]
        metrics.observe("sluice_decider_batch_rows", len(outcome.batch), "stream")
        if decided:
            decisions = [d.decision for d in decided]
            telemetry.observe_decisions(metrics, "stream", decisions, ages)
        usual = self._sampler.usual
        shares = self._sampler.shares(
            [
                d.decision.authorization.authorization_id if usual("decided", d.decision) else None
                for d in decided
            ]
        )
        telemetry.count_lines(
            metrics, "stream", [*shares, *(telemetry.ALL_PPM for _ in outcome.lines)]
        )
        telemetry.write_lines(
            [
                telemetry.decided_line(
                    one.decision,
                    service=self._service,
                    at_us=now_us,
                    duration_us=int(age * 1_000_000),
                    sample_ppm=share,
                    trace_id=trace_id,
                )
                for one, trace_id, age, share in zip(
                    decided, outcome.trace_ids, ages, shares, strict=True
                )
                if share
            ]
            + [
                telemetry.Line(
                    at_us=now_us,
                    event="authorization",
                    service=self._service,
                    entrypoint="stream",
                    code=code,
                    sample_ppm=telemetry.ALL_PPM,
                    origin=str(_place(message)),
                    trace_id=trace_id,
                    duration_us=int(seconds * 1_000_000),
                )
                for message, code, trace_id in outcome.lines
            ]
        )


def place_of(error: Exception) -> str:
    """Where an exception was raised. Its text may repeat what a stranger wrote: it is left out."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _place(message: Message) -> Origin:
    return Origin(message.topic, message.partition, message.offset)
