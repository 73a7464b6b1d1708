"""``python -m services.archiver.main``: decisions, labels and shadows' scores to parquet, each
record once."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial

from services.loop import ConsumerLoop, Done, Handler, Limits
from services.waiting import StoppedError, Waiting, for_brokers
from sluice import telemetry
from sluice.application.archive import Archiver, Rolled, behind
from sluice.application.ports import Consumer, Message, Offsets, Partition
from sluice.bootstrap import services as bootstrap
from sluice.errors import SluiceError
from sluice.faultpoints import kill_at
from sluice.settings import load

RETRY_S, RETRY_MAX_S = 0.5, 5.0
RETRIES_MAX = 60
"""About five minutes of a broker, a disk or a bucket that is away, half an hour of a bucket that
takes connections and says nothing; then it exits, and is started again."""
LIMITS = Limits(
    batch_max=2_000,
    poll_s=0.2,
    pause_s=RETRY_S,
    pause_max_s=RETRY_MAX_S,
    failures_max=RETRIES_MAX,
)
"""What fails comes again, from behind the newest file."""


def main() -> int:
    """Run until SIGTERM. Returns the exit status: 0 stopped, 1 gave up (see the log)."""
    settings, _ = load()
    try:
        stop = bootstrap.start("archiver", settings).stop
        names = bootstrap.topics(settings)
        waiting = Waiting(stop)
        for_brokers(waiting, settings, names.decisions, names.labels, names.shadow_scores)
        parts = waiting.until(partial(bootstrap.archiver, settings), lambda _: "storage")
        ConsumerLoop(parts.consumer, Archiving(parts.consumer, parts.archiver), LIMITS).run(stop)
    except StoppedError:
        pass
    except SluiceError as error:
        telemetry.event("stopped", level=logging.ERROR, code=error.code, reason=str(error))
        return 1
    telemetry.event("stopped", code="sigterm")
    return 0


class Archiving(Handler):
    """Buffers what comes, and lets commit what is in a file."""

    def __init__(self, consumer: Consumer, archiver: Archiver) -> None:
        self._consumer = consumer
        self._archiver = archiver

    def handle(self, batch: Sequence[Message]) -> Done:
        """Take in a batch, and write the files that are due."""
        rolled = self._archiver.add(batch, time.monotonic())
        return _done(rolled + self._archiver.roll(self._archiver.due(time.monotonic())))

    def committed(self, done: Done) -> None:
        """For the fault tests."""
        kill_at("archiver.after_commit")

    def rewound(self) -> None:
        """Drop what is in no file."""
        self._archiver.drop(self._archiver.held())

    def assigned(self, partitions: Sequence[Partition]) -> Offsets:
        """Read on behind the newest file. Raises Misconfigured if that leaves a hole."""
        consumer = self._consumer
        committed = consumer.committed(partitions)
        starts = self._archiver.start(committed, partitions, consumer.oldest)
        for (topic, number), start in starts.items():
            done = committed.get((topic, number), 0)
            again = max(0, done - start)
            telemetry.METRICS.count("sluice_archiver_refilled_total", topic, by=again)
            if again:
                telemetry.event(
                    "archive_refilled",
                    level=logging.WARNING,
                    topic=topic,
                    partition=number,
                    first=start,
                    behind=done,
                    reason="these were archived once, and their files are gone",
                )
        return starts

    def resumes(self, partitions: Sequence[Partition]) -> Offsets:
        """The same: a file may have been completed, and its commit have failed."""
        return self.assigned(partitions)

    def revoked(self, partitions: Sequence[Partition], *, lost: bool) -> Done:
        """Write what is buffered of them, so that the next reads on behind it."""
        if not lost:
            return _done(self._archiver.roll(partitions))
        self._archiver.drop(partitions)
        return _done([])


def _done(rolled: Sequence[Rolled]) -> Done:
    """What these files allow to be committed; shows them."""
    now_ms = time.time_ns() // 1_000_000
    metrics = telemetry.METRICS
    messages: Counter[str] = Counter()
    for file in rolled:
        topic, rows = file.partition[0], file.rows
        messages[topic] += len(rows)
        metrics.count("sluice_archiver_files_total", topic)
        metrics.count("sluice_archiver_rows_total", topic, by=len(rows))
        ages = [max(0, now_ms - row.written_ms) / 1000 for row in rows]
        metrics.observe_each("sluice_archiver_age_seconds", ages, topic)
    return Done(behind(rolled), messages)


if __name__ == "__main__":
    raise SystemExit(main())
