"""The stream processor: micro-batches of ``authorizations.v1``, each one transaction of Kafka.

Decisions, dead letters and the offsets read become visible together or not at all, so that every
offset ends as exactly one of the two. Nothing else leaves this process before the commit: neither
an answer to remember, nor a metric, nor a log line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from sluice import telemetry
from sluice.adapters.kafka.config import Header, Partition, ProducerRecord, trace_headers
from sluice.adapters.kafka.consumer import Message
from sluice.application.decide import Busy, Decided, Replayed, Result, Unrecorded
from sluice.application.ports import Arrival, Lookup, OnlineStore
from sluice.domain.clock import Clock
from sluice.domain.records.authorization import encode
from sluice.domain.records.dead_letter import DUPLICATE, dead_letter_of
from sluice.domain.records.decision import Decision, Origin
from sluice.errors import Corrupt, Misconfigured, Rejected, SluiceError, Unavailable
from sluice.telemetry import METRICS

BATCH_MAX = 500
POLL_S = 0.1
"""Waits so long for a first message; also how late SIGTERM may be noticed."""
BUSY_EVERY_S, BUSY_MAX_S = 0.05, 2.0
"""An id that another arrival is deciding is asked again so often, and inside one transaction so
long; then the batch is given up and comes again. The idempotency record itself ends after
in_progress_ttl_s."""
RETRY_S, RETRY_MAX_S = 0.1, 5.0
"""Pause after a batch was given up; doubles."""
ABORTS_MAX = 5
"""Batches given up in a row before the entrypoint goes on one message at a time."""
LAG_EVERY_S = 1.0
COMMIT_HANG_S = 36.0
"""A commit, the abort after it and the way back to the committed offsets are bounded by 12, 12 and
10 s. What is not back by then never will be: where the group's coordinator was replaced by another
broker, librdkafka may stay in send_offsets_to_transaction for good (its issue 5511)."""

_REPLAYED = Rejected("this authorization was decided before", code=DUPLICATE)
_CONFLICT = Rejected("this id was decided before with other content", code="conflict")


class Transactions(Protocol):
    """What we need of :class:`sluice.adapters.kafka.transactions.TransactionalStream`."""

    def poll_batch(self, limit: int, wait_s: float) -> list[Message]:
        """Up to limit messages, in order within a partition."""
        ...

    def begin(self) -> None:
        """Open a transaction."""
        ...

    def produce(
        self, topic: str, key: bytes | str | None, value: bytes, headers: Sequence[Header] = ()
    ) -> None:
        """Queue one record of it."""
        ...

    def produce_each(self, topic: str, records: Iterable[ProducerRecord]) -> None:
        """Queue many."""
        ...

    def commit(self, offsets: dict[Partition, int]) -> None:
        """Make all visible, or raise Unavailable with nothing visible and the offsets rewound."""
        ...

    def abort(self) -> None:
        """Drop what is open; harmless if nothing is open."""
        ...

    def rewind(self) -> None:
        """Go back to the committed offsets."""
        ...

    def lag(self) -> dict[Partition, int]:
        """Messages behind, per partition."""
        ...

    def close(self) -> None:
        """Leave the group."""
        ...


class DecisionPipeline(Protocol):
    """What we need of :class:`sluice.application.decide.DecisionPipeline`."""

    sequence: int

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

    async def append(self, decisions: Sequence[tuple[Arrival, Decision]]) -> None:
        """Queue each decision under its card's token. Raises Unavailable."""
        self._kafka.produce_each(
            self._topic,
            (
                (arrival.auth.card_token, encode(decision), trace_headers(arrival.traceparent))
                for arrival, decision in decisions
            ),
        )


class AfterCommit:
    """The port OnlineStore whose answers are remembered only once their records are committed.

    An answer remembered before an abort would make the redelivered authorization a duplicate of a
    decision that nobody can read.
    """

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self._answers: list[tuple[Arrival, bytes]] = []

    async def observe(self, batch: Sequence[Arrival]) -> list[Lookup]:
        """See the port."""
        return await self._store.observe(batch)

    def remember(self, answers: Sequence[tuple[Arrival, bytes]]) -> None:
        """Keep them for the commit."""
        self._answers.extend(answers)

    def release(self, arrivals: Sequence[Arrival]) -> None:
        """See the port."""
        self._store.release(arrivals)

    def committed(self) -> None:
        """Remember what was decided."""
        self._store.remember(self._answers)
        self._answers = []

    def aborted(self) -> None:
        """Forget it. The idempotency records stay: a redelivery from the same place takes them up
        again."""
        self._answers = []


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


class StreamProcessor:
    """Reads, decides, commits. One loop, one batch at a time.

    store: the one that the decider was built with. batch_max: messages of a transaction. on_hang:
    called when a commit is not back after hang_s; should not return. sampler: of the log's lines.
    """

    def __init__(
        self,
        kafka: Transactions,
        decider: DecisionPipeline,
        store: AfterCommit,
        *,
        dead_letters: str,
        clock: Clock,
        batch_max: int = BATCH_MAX,
        poll_s: float = POLL_S,
        hang_s: float = COMMIT_HANG_S,
        on_hang: Callable[[], None] = leave_at_once,
        metrics: telemetry.Metrics = METRICS,
        sampler: telemetry.Sampler | None = None,
        service: str = "decider",
    ) -> None:
        self._kafka = kafka
        self._decider = decider
        self._store = store
        self._dead_letters = dead_letters
        self._clock = clock
        self._batch_max = batch_max
        self._poll_s = poll_s
        self._hang_s = hang_s
        self._on_hang = on_hang
        self._metrics = metrics
        self._sampler = sampler or telemetry.Sampler()
        self._service = service
        self._aborts = 0
        self._singly = 0
        """Messages still to be taken one at a time, after a batch failed as a whole."""
        self._poison: dict[Origin, str] = {}
        """Messages that broke us when they were alone, with the code; buried when they come."""
        self._pause_s = 0.0
        self._lag_at = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Work until stop is set, finish the batch, leave the group.

        Raises Corrupt (another process took our transactional id) and Misconfigured: exit.
        """
        try:
            while not stop.is_set():
                await self.once()
                pause, self._pause_s = self._pause_s, 0.0
                if pause:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), pause)
        finally:
            await asyncio.to_thread(self._kafka.close)

    async def once(self) -> None:
        """One batch, if there is one. What fails is rolled back and will come again."""
        limit = 1 if self._singly else self._batch_max
        sequence = self._decider.sequence
        batch: list[Message] = []
        try:
            # What is already here needs no thread to wait for it.
            batch = self._kafka.poll_batch(limit, 0) or await asyncio.to_thread(
                self._kafka.poll_batch, limit, self._poll_s
            )
            self._report_lag()
            if batch:
                await self._transact(batch)
        except Exception as error:  # a batch may fail in any way, and must not fail forever
            self._decider.sequence = sequence
            self._store.aborted()
            if isinstance(error, Corrupt | Misconfigured):
                raise
            await asyncio.to_thread(self._kafka.abort)
            await asyncio.to_thread(self._kafka.rewind)  # also what no transaction had begun for
            self._give_up(batch, error)
        else:
            if batch:
                self._aborts = 0
                self._singly = max(0, self._singly - len(batch))

    def _give_up(self, batch: list[Message], error: Exception) -> None:
        """Say so, and see to it that the same batch does not fail the same way forever."""
        code = error.code if isinstance(error, SluiceError) else "internal"
        unexpected = not isinstance(error, SluiceError)
        telemetry.event(
            "batch_given_up", level=40, error=unexpected, code=code, reason=str(error)[:512]
        )
        self._metrics.count("sluice_consumer_aborts_total", code)
        self._aborts += 1
        if isinstance(error, Unavailable):
            self._pause_s = min(RETRY_S * 2 ** (self._aborts - 1), RETRY_MAX_S)
            if self._aborts >= ABORTS_MAX:
                self._singly = max(self._singly, len(batch))
        elif len(batch) == 1:
            self._poison[_place(batch[0])] = code
            self._metrics.count("sluice_consumer_poison_total", code)
        else:
            self._singly = max(self._singly, len(batch))

    async def _transact(self, batch: list[Message]) -> None:
        """Decide a batch and commit it. On any exception nothing is visible."""
        began = time.perf_counter()
        self._kafka.begin()
        arrivals: list[Arrival] = []
        places: list[Message] = []
        refused: Counter[str] = Counter()
        lines: list[tuple[Message, str]] = []

        def refuse(message: Message, error: SluiceError) -> None:
            self._send_dead_letter(message, error)
            refused[error.code] += 1
            lines.append((message, error.code))

        traces = telemetry.continue_traces([message.traceparent for message in batch])
        for message, trace in zip(batch, traces, strict=True):
            origin = _place(message)
            if self._poison and origin in self._poison:
                refuse(message, Rejected("it broke the decider", code=self._poison[origin]))
                continue
            try:
                arrivals.append(
                    self._decider.arrive(message.value, origin=origin, traceparent=trace)
                )
                places.append(message)
            except Rejected as error:
                refuse(message, error)
        decided: list[Decided] = []
        trace_ids: list[str] = []
        for arrival, message, result in zip(
            arrivals, places, await self._decide(arrivals), strict=True
        ):
            if isinstance(result, Decided):
                decided.append(result)
                trace_ids.append((arrival.traceparent or "")[3:35])
            elif isinstance(result, Unrecorded):
                raise Unavailable(result.why)
            else:
                refuse(message, _REPLAYED if isinstance(result, Replayed) else _CONFLICT)
        offsets = {(m.topic, m.partition): m.offset + 1 for m in batch}
        await self._commit(offsets)
        self._store.committed()
        self._poison.clear()
        self._report(batch, decided, trace_ids, refused, lines, time.perf_counter() - began)

    async def _commit(self, offsets: dict[Partition, int]) -> None:
        commit = asyncio.ensure_future(asyncio.to_thread(self._kafka.commit, offsets))
        done, _ = await asyncio.wait([commit], timeout=self._hang_s)
        if not done:
            self._on_hang()
        await commit

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

    def _send_dead_letter(self, message: Message, error: SluiceError) -> None:
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
            trace_headers(message.traceparent),
        )

    # ------------------------------------------------------------ metrics and log

    def _report(
        self,
        batch: list[Message],
        decided: list[Decided],
        trace_ids: list[str],
        refused: Counter[str],
        lines: list[tuple[Message, str]],
        seconds: float,
    ) -> None:
        metrics = self._metrics
        for topic, count in Counter([m.topic for m in batch]).items():
            metrics.count("sluice_consumer_messages_total", topic, by=count)
        metrics.count_each("sluice_dead_letters_total", refused, self._service)
        codes = refused + Counter(decided=len(decided))
        metrics.count_each("sluice_decider_requests_total", codes, "stream")
        now_us = self._clock.now_us()
        ages = [(now_us - d.decision.received_at) / 1_000_000 for d in decided]
        metrics.observe("sluice_decider_batch_rows", len(batch), "stream")
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
        telemetry.count_lines(metrics, "stream", [*shares, *(telemetry.ALL_PPM for _ in lines)])
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
                for one, trace_id, age, share in zip(decided, trace_ids, ages, shares, strict=True)
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
                    duration_us=int(seconds * 1_000_000),
                )
                for message, code in lines
            ]
        )

    def _report_lag(self) -> None:
        if time.monotonic() < self._lag_at:
            return
        self._lag_at = time.monotonic() + LAG_EVERY_S
        telemetry.show_lag(self._metrics, self._kafka.lag())


def _place(message: Message) -> Origin:
    return Origin(message.topic, message.partition, message.offset)
