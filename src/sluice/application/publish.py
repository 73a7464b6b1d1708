"""Publish a file of past authorizations: each row becomes a message, or a dead letter.

Rows carry their own ids, so publishing a row again is harmless: it gets the same decision.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Protocol, TypeVar

import msgspec

from sluice.domain.clock import Clock
from sluice.domain.records.authorization import encode
from sluice.domain.records.dead_letter import dead_letter_of
from sluice.domain.records.decision import Origin
from sluice.domain.records.label import Label
from sluice.errors import Rejected, SluiceError
from sluice.shown import shown

DURABLE_EVERY = 65_536
"""Rows between two waits for the broker: what is sent again after a failure, at most."""
FLUSH_MAX_S = 60.0
PACE_EVERY = 64
"""Rows between two looks at the clock, where a rate is asked for."""


BAD_SHARE_MAX = 0.1
"""Of a larger share of bad rows the mapping is at fault, not the rows: what follows is as bad."""
BAD_SHARE_ROWS = 1_000
"""Rows of which the share is taken. Fewer say nothing."""


class Producer(Protocol):
    """Queues records; a flush says whether all of them are durable."""

    def produce(self, topic: str, value: bytes, *, key: bytes | str | None = None) -> None:
        """Raises Unavailable where there is no room for long."""
        ...

    def flush(self, timeout_s: float) -> None:
        """Raises Unavailable where something is not durable."""
        ...

    def undelivered(self) -> Mapping[str, int]:
        """By topic, the records that are not known to be durable. What is still queued is given
        up: nothing is delivered after this."""
        ...


class Topics(Protocol):
    """Where the records go."""

    authorizations: str
    labels: str
    dead_letters: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no authorization. raw: its bytes in the file, of which a digest is kept. file:
    of a folder, which of its files; else empty."""

    line: int
    raw: bytes
    error: Rejected
    file: str = ""


@dataclass(frozen=True, slots=True)
class Mapped:
    """Some rows of a file, in its order: (n,) of each, already encoded; and the bad ones.

    first, last: lines covered, good and bad. labels: of these rows, in any order. left_out: how
    many rows of the file are no authorizations, as its mapping says.
    """

    first: int
    last: int
    keys: list[str]
    values: list[bytes]
    event_at: list[int]
    labels: list[Label] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    left_out: int = 0

    @property
    def good(self) -> int:
        """Rows that became messages."""
        return len(self.values)

    def since(self, moment_us: int | None) -> Mapped:
        """Authorizations at or after a moment, and labels known since then: what a backfill until
        that moment left out."""
        if moment_us is None:
            return self
        keep = [at >= moment_us for at in self.event_at]
        return replace(
            self,
            keys=list(compress(self.keys, keep)),
            values=list(compress(self.values, keep)),
            event_at=list(compress(self.event_at, keep)),
            labels=[label for label in self.labels if label.known_at >= moment_us],
        )


class Batch(Protocol):
    """Some rows of a file, of which some are bad."""

    @property
    def good(self) -> int:
        """How many are not."""
        ...

    @property
    def bad(self) -> Sequence[BadRow]:
        """Those that are."""
        ...


B = TypeVar("B", bound=Batch)


def watched(batches: Iterable[B], share: float = BAD_SHARE_MAX) -> Iterator[B]:
    """The same batches, until too many of their rows are bad.

    share: of each BAD_SHARE_ROWS rows or a little more, 0 to 1; 1 lets all through. Raises Rejected
    (too_many_bad_rows), naming the first of them, before the batch in which it is passed.
    """
    rows, bad = 0, list[BadRow]()
    for batch in batches:
        rows += batch.good + len(batch.bad)
        bad += batch.bad
        if rows >= BAD_SHARE_ROWS:
            if len(bad) > share * rows:
                first = bad[0].error
                raise Rejected(
                    f"{len(bad):,} of {rows:,} rows are bad, over {share:.0%}; the first: "
                    f"{first.what}",
                    where=first.where,
                    fix=first.fix or "the mapping, or --bad-share if the file is like that",
                    code="too_many_bad_rows",
                )
            rows, bad = 0, []
        yield batch


def pace(rate: float) -> Callable[[int], None]:
    """For Publisher.pace: from now on at most so many rows a second."""
    began = time.monotonic()

    def wait(rows: int) -> None:
        ahead = rows / rate - (time.monotonic() - began)
        if ahead > 0:
            time.sleep(ahead)

    return wait


Waiting = tuple[int, str, bytes, int]
"""A label that is not due yet: known_at, authorization id, its record, the line it comes with."""


@dataclass
class Report:
    """Counts so far. rows: read. published, labels: delivered, as the broker reported. resume_at:
    the first line that is not known to be durable."""

    rows: int = 0
    published: int = 0
    labels: int = 0
    dead: int = 0
    left_out: int = 0
    resume_at: int = 0
    failure: SluiceError | None = None
    stopped: bool = False


@dataclass(frozen=True)
class Publisher:
    """One file on its way. pace: told how many rows are out, waits if that is too many."""

    file: str
    producer: Producer
    topics: Topics
    clock: Clock
    bad_row: Callable[[BadRow], None] = lambda row: None
    progress: Callable[[Report], None] = lambda report: None
    pace: Callable[[int], None] | None = None
    stopping: Callable[[], bool] = lambda: False

    def publish(self, batches: Iterable[Mapped]) -> Report:
        """Send all batches. Labels leave when the time of the events passes their known_at, those
        still waiting at the end leave then. A failing broker or a file that cannot be read on ends
        it: see Report.failure; what was read before is sent."""
        report, sent = Report(), Report()
        waiting: list[Waiting] = []
        unsure = 0
        now_us = last = 0
        left = iter(batches)
        try:
            while (batch := self._next(left, report)) is not None:
                report.resume_at = report.resume_at or batch.first
                for label in batch.labels:
                    due = (label.known_at, label.authorization_id, encode(label), batch.first)
                    heapq.heappush(waiting, due)
                now_us = self._send(batch, waiting, now_us, sent)
                for row in batch.bad:
                    self._send_dead_letter(row)
                report.dead += len(batch.bad)
                report.left_out += batch.left_out
                report.rows += len(batch.values) + len(batch.bad) + batch.left_out
                last = batch.last
                unsure += batch.last - batch.first + 1
                if unsure >= DURABLE_EVERY:
                    self._durable(sent, report)
                    report.resume_at, unsure = last + 1, 0
                self.progress(report)
                if self.stopping():
                    report.stopped = True
                    break
            while waiting:
                self._report(waiting, sent)
            self._durable(sent, report)
            report.resume_at = last + 1
        except SluiceError as error:
            report.failure = error
            # A label comes from its row: those that are not delivered come again with it.
            lines = [sent.resume_at, *(line for *_, line in waiting)]
            report.resume_at = min([line for line in lines if line] + [report.resume_at])
            lost = self.producer.undelivered()
            report.published = sent.published - lost.get(self.topics.authorizations, 0)
            report.labels = sent.labels - lost.get(self.topics.labels, 0)
        return report

    @staticmethod
    def _next(batches: Iterator[Mapped], report: Report) -> Mapped | None:
        """None at the end, also where the file cannot be read on: then report says so."""
        try:
            return next(batches, None)
        except SluiceError as error:
            report.failure = error
            return None

    def _durable(self, sent: Report, report: Report) -> None:
        """Wait until all that was sent is delivered, and count it then."""
        self.producer.flush(FLUSH_MAX_S)
        report.published, report.labels, sent.resume_at = sent.published, sent.labels, 0

    def _send(self, batch: Mapped, waiting: list[Waiting], now_us: int, sent: Report) -> int:
        """Send the good rows. Returns the latest event time so far."""
        produce, topic = self.producer.produce, self.topics.authorizations
        for i, (key, value, event_at) in enumerate(
            zip(batch.keys, batch.values, batch.event_at, strict=True)
        ):
            if self.pace and i % PACE_EVERY == 0:
                self.pace(sent.published)
            if event_at > now_us:
                now_us = event_at
                while waiting and waiting[0][0] <= now_us:
                    self._report(waiting, sent)
            produce(topic, value, key=key)
            sent.published += 1
        return now_us

    def _report(self, waiting: list[Waiting], sent: Report) -> None:
        """Send the label that is due first. sent.resume_at: the first line whose label has left
        since the last flush."""
        _, authorization_id, label, line = heapq.heappop(waiting)
        sent.resume_at = min(sent.resume_at or line, line)
        self.producer.produce(self.topics.labels, label, key=authorization_id)
        sent.labels += 1

    def _send_dead_letter(self, row: BadRow) -> None:
        origin = Origin(f"file:{shown(row.file or self.file)}", 0, row.line)
        dead_letter = dead_letter_of(
            row.raw, origin, row.error, service="publish", now_us=self.clock.now_us()
        )
        key = f"{origin.topic}/{origin.partition}"
        self.producer.produce(self.topics.dead_letters, msgspec.json.encode(dead_letter), key=key)
        self.bad_row(row)
