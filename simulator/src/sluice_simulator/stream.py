"""Send a world's traffic as it would arrive: open loop, through both entrypoints, with labels in
time.

Open loop: each authorization has its moment, whether or not earlier ones were answered. An
entrypoint that is slow gets no relief, and latency counts from that moment, not from a late send.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import selectors
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sluice.domain.records.authorization import encode
from sluice_simulator.batch import Batch
from sluice_simulator.labels import DAY_US
from sluice_simulator.rows import ROW
from sluice_simulator.seasons import day_number
from sluice_simulator.sync_client import SyncClient, SyncClientError
from sluice_simulator.world import World

CHUNK = 2048
READ_AHEAD = 128
"""Chunks made ready: a quarter of a million authorizations, 200 MB at most."""
LATE_S = 0.05
"""An authorization that leaves later than this after its moment counts as late."""
PATIENCE_S = 30.0
"""How long an authorization knocks at the sync API before it counts as an error."""
TRY_S = 5.0
FLUSH_S = 15.0
PROGRESS_S = 0.5


class Producer(Protocol):
    """The part of confluent_kafka.Producer that a stream needs."""

    def produce(self, topic: str, value: bytes, key: bytes, on_delivery: Any = ...) -> None:
        """Queue one message."""
        ...

    def poll(self, timeout: float) -> int:
        """Call the delivery reports that came."""
        ...

    def flush(self, timeout: float) -> int:
        """Wait; returns how many are still on their way."""
        ...


@dataclass
class Tally:
    """What happened so far. latencies_us: each answer of the sync API, from its moment."""

    kafka: int = 0
    http: int = 0
    labels: int = 0
    delivered: int = 0
    answered: int = 0
    retries: int = 0
    late: int = 0
    max_late_us: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    latencies_us: list[int] = field(default_factory=list)
    seconds: float = 0.0
    first_event_at: int = 0
    last_event_at: int = 0

    @property
    def sent(self) -> int:
        """Authorizations through both entrypoints."""
        return self.kafka + self.http

    def error(self, name: str, n: int = 1) -> None:
        """Count n errors of one kind."""
        self.errors[name] = self.errors.get(name, 0) + n

    def percentile_us(self, percent: float) -> int | None:
        """Of the answers' latencies; None without any."""
        if not self.latencies_us:
            return None
        return int(np.percentile(self.latencies_us, percent, method="higher"))

    def summary(self) -> dict[str, Any]:
        """The last line of a run."""
        span_s = (self.last_event_at - self.first_event_at) / 1e6
        return {
            "sent": self.sent,
            "kafka": self.kafka,
            "http": self.http,
            "labels": self.labels,
            "delivered": self.delivered,
            "answered": self.answered,
            "retries": self.retries,
            "errors": self.errors,
            "late": self.late,
            "max_late_us": self.max_late_us,
            "seconds": round(self.seconds, 3),
            "rate": round(self.sent / self.seconds, 1) if self.seconds else 0.0,
            "first_event_at": self.first_event_at,
            "last_event_at": self.last_event_at,
            "speed": round(span_s / self.seconds, 2) if self.seconds else 0.0,
            "http_p50_us": self.percentile_us(50),
            "http_p99_us": self.percentile_us(99),
            "http_p999_us": self.percentile_us(99.9),
            "http_max_us": max(self.latencies_us, default=None),
            "ok": not self.errors,
        }


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What to send, and how fast.

    rate: authorizations a second, evenly; simulated time follows. speed: instead, simulated
    seconds a second; then the rate follows the hour of the day. duration_s: seconds of sending.
    http_share: share of authorizations for the sync API, chosen by a hash of the id.
    labels_since: send labels, of authorizations from this day on, when they become known.
    """

    start: date
    duration_s: float
    rate: float | None = None
    speed: float | None = None
    http_share: float = 0.0
    labels_since: date | None = None

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.speed is None):
            raise ValueError("give a rate or a speed, not both")


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Up to CHUNK authorizations ready to leave. labels: (place before which it leaves, ...)."""

    keys: list[bytes]
    values: list[bytes]
    moments_s: list[float]
    event_us: list[int]
    at_sync_api: list[bool]
    labels: list[tuple[int, bytes, bytes]]
    truth: pa.Table


def at_sync_api(authorization_id: str, share: float) -> bool:
    """Whether an authorization goes to the sync API: the same in every run.

    >>> at_sync_api("a", 0.0), at_sync_api("a", 1.0)
    (False, True)
    """
    return zlib.crc32(authorization_id.encode()) < share * 2**32


class Streamer:
    """Sends one plan of one world. Make it, ``await run()`` it, ``stop()`` it from anywhere."""

    def __init__(
        self,
        world: World,
        producer: Producer,
        plan: StreamOptions,
        *,
        http: str | None = None,
        truth: Path | None = None,
        topic_prefix: str = "",
        progress: Callable[[Tally], None] = lambda tally: None,
    ) -> None:
        if plan.http_share and not http:
            raise ValueError("a share for the sync API needs its address")
        self._world, self._producer, self._plan = world, producer, plan
        self._authorizations = f"{topic_prefix}authorizations.v1"
        self._labels = f"{topic_prefix}labels.v1"
        self._http, self._truth, self._progress = http, truth, progress
        self._stop = threading.Event()
        self._writer: pq.ParquetWriter | None = None
        self.tally = Tally()

    def stop(self) -> None:
        """End after the authorization being sent. Safe from any thread or signal handler."""
        self._stop.set()

    async def run(self) -> Tally:
        """Send until the duration is over or stop() is called, then wait for what is in flight.

        Counts trouble instead of raising it; raises only what the generator raised.
        """
        ready: queue.Queue[_Chunk | BaseException | None] = queue.Queue(READ_AHEAD)
        maker = threading.Thread(target=self._make, args=(ready,), daemon=True)
        maker.start()
        entrypoint = SyncClient(self._http) if self._http else None
        asked: set[asyncio.Task[None]] = set()
        chunk = await asyncio.to_thread(self._first, ready, maker)
        began = time.perf_counter()
        try:
            while isinstance(chunk, _Chunk) and not self._stop.is_set():
                await self._send(chunk, began, entrypoint, asked)
                chunk = await self._next(ready)
            if isinstance(chunk, BaseException):
                raise chunk
        finally:
            self._stop.set()
            self.tally.seconds = time.perf_counter() - began
            if asked:
                await asyncio.wait(asked, timeout=FLUSH_S)
            for task in asked:
                task.cancel()
                self.tally.error("unanswered")
            if entrypoint:
                entrypoint.close()
            left = await asyncio.to_thread(self._producer.flush, FLUSH_S)
            if left:
                self.tally.error("undelivered", left)
            if self._writer:
                self._writer.close()
            self._progress(self.tally)
        return self.tally

    def _first(self, ready: queue.Queue[Any], maker: threading.Thread) -> Any:
        """The first chunk, once as much is ready as there will be, or as fits."""
        while maker.is_alive() and not ready.full():
            maker.join(0.01)
        return ready.get()

    async def _next(self, ready: queue.Queue[Any]) -> Any:
        try:
            return ready.get_nowait()
        except queue.Empty:
            return await asyncio.to_thread(ready.get)

    async def _send(
        self,
        chunk: _Chunk,
        began: float,
        entrypoint: SyncClient | None,
        asked: set[asyncio.Task[None]],
    ) -> None:
        tally, clock = self.tally, time.perf_counter
        shown = clock()
        labels = iter([*chunk.labels, (len(chunk.values) + 1, b"", b"")])
        place, label_key, label = next(labels)
        sent = 0
        for i, moment in enumerate(chunk.moments_s):
            due = began + moment
            now = clock()
            if now - shown > PROGRESS_S:
                shown = now
                tally.seconds = now - began
                self._progress(tally)
            if due > now:
                self._producer.poll(0)
                await asyncio.sleep(due - now)
            elif i % 64 == 0:
                self._producer.poll(0)
                await asyncio.sleep(0)
            if self._stop.is_set():
                break
            behind = clock() - due
            if behind > LATE_S:
                tally.late += 1
            tally.max_late_us = max(tally.max_late_us, int(behind * 1e6))
            while place <= i:
                tally.labels += 1
                self._produce(self._labels, label_key, label)
                place, label_key, label = next(labels)
            if chunk.at_sync_api[i] and entrypoint:
                tally.http += 1
                task = asyncio.create_task(self._ask(entrypoint, chunk.values[i], due))
                asked.add(task)
                task.add_done_callback(asked.discard)
            else:
                tally.kafka += 1
                self._produce(self._authorizations, chunk.keys[i], chunk.values[i])
            sent = i + 1
        if sent:
            tally.first_event_at = tally.first_event_at or chunk.event_us[0]
            tally.last_event_at = chunk.event_us[sent - 1]
            self._write_truth(chunk.truth.slice(0, sent))

    def _produce(self, topic: str, key: bytes, value: bytes) -> None:
        waiting = True
        while waiting:
            try:
                self._producer.produce(topic, value=value, key=key, on_delivery=self._delivered)
                waiting = False
            except BufferError:
                # The local queue is full: the broker is slower than the plan. Falls late.
                self._producer.poll(0.01)

    def _delivered(self, error: Any, message: Any) -> None:
        if error is None:
            self.tally.delivered += 1
        else:
            self.tally.error(f"kafka {error.name() if hasattr(error, 'name') else error}")

    async def _ask(self, entrypoint: SyncClient, body: bytes, due: float) -> None:
        """Knock until answered: again after 503, 429 and broken connections, with the same id."""
        pause = 0.05
        while True:
            try:
                answer = await entrypoint.post(body, TRY_S)
            except SyncClientError:
                trouble = "http unreachable"
            else:
                if answer.status == 200:
                    self.tally.answered += 1
                    self.tally.latencies_us.append(int((time.perf_counter() - due) * 1e6))
                    return
                trouble = f"http {answer.status}"
                if answer.status not in (429, 503):
                    self.tally.error(trouble)
                    return
                pause = max(_seconds(answer.header("retry-after")), pause)
            if time.perf_counter() - due + pause > PATIENCE_S:
                self.tally.error(trouble)
                return
            self.tally.retries += 1
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _write_truth(self, table: pa.Table) -> None:
        if self._truth is None:
            return
        if self._writer is None:
            self._truth.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._truth, table.schema, compression="zstd")
        self._writer.write_table(table)

    def _make(self, ready: queue.Queue[_Chunk | BaseException | None]) -> None:
        """Runs in its own thread, so that no day's making holds up the sending."""
        end: BaseException | None = None
        try:
            for chunk in self._chunks():
                if not self._offer(ready, chunk):
                    return
        except Exception as exc:
            end = exc
        self._offer(ready, end)

    def _offer(self, ready: queue.Queue[Any], item: object) -> bool:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.2)
                return True
        with contextlib.suppress(queue.Full):
            ready.put_nowait(None)
        return False

    def _chunks(self) -> Iterator[_Chunk]:
        """All that the plan will send, in order."""
        plan, world = self._plan, self._world
        first = day_number(plan.start)
        since = None if plan.labels_since is None else day_number(plan.labels_since)
        unreported = np.zeros(0, ROW) if since is None else world.reported(first, since).rows
        limit = None if plan.rate is None else round(plan.rate * plan.duration_s)
        sent, day = 0, first
        while limit is None or sent < limit:
            rows = world.day(day).rows
            if since is not None and day >= since:
                unreported = np.concatenate([unreported, rows[rows["way"] > 0]])
            for at in range(0, len(rows), CHUNK):
                part = rows[at : at + CHUNK]
                moments = self._moments(part["event_us"], sent, first)
                keep = int(np.searchsorted(moments, plan.duration_s, side="left"))
                if limit is not None:
                    keep = min(limit - sent, len(moments))
                if keep:
                    reported = unreported["known_us"] <= part["event_us"][keep - 1]
                    labels = Batch(world, unreported[reported]).label_structs()
                    unreported = unreported[~reported]
                    yield self._chunk(Batch(world, part[:keep]), moments[:keep], labels)
                    sent += keep
                if keep < len(part):
                    return
            day += 1

    def _moments(self, event_us: np.ndarray, sent: int, first: int) -> np.ndarray:
        """(n,) seconds after the start at which each authorization is due."""
        if self._plan.rate is not None:
            return (sent + np.arange(len(event_us))) / self._plan.rate
        assert self._plan.speed is not None
        return (event_us - first * DAY_US) / 1e6 / self._plan.speed

    def _chunk(self, part: Batch, moments: np.ndarray, labels: list[Any]) -> _Chunk:
        auths = part.structs()
        places = np.searchsorted(part.rows["event_us"], [label.known_at for label in labels])
        share = self._plan.http_share
        return _Chunk(
            keys=[a.card_token.encode() for a in auths],
            values=[encode(a) for a in auths],
            moments_s=moments.tolist(),
            event_us=part.rows["event_us"].tolist(),
            at_sync_api=[at_sync_api(a.authorization_id, share) for a in auths],
            labels=[
                (int(place), label.authorization_id.encode(), encode(label))
                for place, label in zip(places, labels, strict=True)
            ],
            truth=part.truth(),
        )


def run(streamer: Streamer) -> Tally:
    """Run a streamer in a loop of its own, whose timers are exact to microseconds.

    epoll wakes on whole milliseconds, which would be charged to the entrypoint as latency.
    """
    with asyncio.Runner(
        loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
    ) as runner:
        return runner.run(streamer.run())


def summary_line(tally: Tally) -> str:
    """The summary as one line of JSON."""
    return msgspec.json.encode(tally.summary()).decode()


def _seconds(header: str | None) -> float:
    try:
        return min(max(float(header or 0), 0.0), 5.0)
    except ValueError:
        return 0.0
