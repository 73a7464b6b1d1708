"""``python -m services.auditor.main``: every decision, label and step into the compliance log."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from services.loop import NOTHING, ConsumerLoop, Done, Handler, Limits
from services.repeat import Repeated
from services.waiting import StoppedError, Waiting, for_brokers
from sluice import telemetry
from sluice.application.keep_log import KeepsLog
from sluice.application.ports import Message, Offsets, Partition
from sluice.bootstrap import auditor as bootstrap
from sluice.bootstrap import beside_log, services
from sluice.domain.clock import SECOND_US
from sluice.errors import SluiceError
from sluice.faultpoints import kill_at
from sluice.settings import load

BATCH_MAX = 256
POLL_S = 0.05
"""A batch is at most so many records, or what came within 50 ms: both bound how long a record waits
until it is durable."""
RETRY_S, RETRY_MAX_S = 0.5, 5.0
BEAT_EVERY_S = 0.5
LIMITS = Limits(
    batch_max=BATCH_MAX,
    poll_s=POLL_S,
    pause_s=RETRY_S,
    pause_max_s=RETRY_MAX_S,
    failures_max=None,
)
"""It never gives up while its disk or its brokers are away: nothing is lost meanwhile, it is not
ready, and somebody is paged."""


class Auditing(Handler):
    """Appends what comes, and lets commit what a checkpoint shows.

    oldest, ids, ends: of the consumer (:class:`sluice.adapters.kafka.shard.ShardConsumer`).
    """

    def __init__(
        self,
        keeps: KeepsLog,
        *,
        oldest: Callable[[Partition], int],
        ids: Callable[[], Mapping[str, str]],
        ends: Callable[[], Offsets],
        metrics: telemetry.Metrics = telemetry.METRICS,
    ) -> None:
        self._keeps = keeps
        self._oldest, self._ids, self._ends = oldest, ids, ends
        self._metrics = metrics
        self._taken: Counter[str] = Counter()

    def handle(self, batch: Sequence[Message]) -> Done:
        """Make a batch durable, and do what is due."""
        began = time.monotonic()
        self._keeps.take(batch)
        if batch:
            now_ms = time.time_ns() // 1_000_000
            self._taken.update(message.topic for message in batch)
            self._metrics.observe("sluice_auditor_append_seconds", time.monotonic() - began)
            ages = [max(0, now_ms - message.written_ms) / 1000 for message in batch]
            self._metrics.observe_each("sluice_auditor_age_seconds", ages)
        return self._done(self._keeps.tick(self._ends))

    def committed(self, done: Done) -> None:
        """For the fault tests."""
        kill_at("auditor.after_commit")

    def assigned(self, partitions: Sequence[Partition]) -> Offsets:
        """Read on behind what the log tells of."""
        if not self._keeps.opened:
            self._keeps.open()
        return self._keeps.starts(partitions, self._oldest, self._ids())

    def resumes(self, partitions: Sequence[Partition]) -> Offsets:
        """The same, after what is on the disk was read again."""
        return self.assigned(partitions)

    def revoked(self, partitions: Sequence[Partition], *, lost: bool) -> Done:
        """At the end only: say so in the log, with a last checkpoint."""
        if lost or not self._keeps.opened:
            return NOTHING
        return self._done(self._keeps.stop(self._ends(), "sigterm"))

    def _done(self, offsets: Offsets) -> Done:
        keeps = self._keeps
        self._metrics.set("sluice_auditor_size", keeps.size)
        self._metrics.set("sluice_auditor_signed_size", keeps.signed_size)
        if not offsets:
            return NOTHING
        self._metrics.set(
            "sluice_auditor_checkpoint_timestamp_seconds", keeps.signed_at / SECOND_US
        )
        self._metrics.observe("sluice_auditor_checkpoint_seconds", keeps.checkpoint_s)
        taken, self._taken = self._taken, Counter()
        return Done(offsets, taken)


def main() -> int:
    """Run until SIGTERM. Returns the exit status: 0 stopped, 1 gave up (see the log)."""
    settings, _ = load()
    try:
        stop = services.start("auditor", settings, log=bootstrap.origin(settings)).stop
        waiting = Waiting(stop)
        for_brokers(
            waiting,
            settings,
            *bootstrap.sources(settings),
            services.topics(settings).checkpoints,
        )
        waiting.until(partial(bootstrap.prepare_keys, settings), lambda _: "keystore")
        parts = bootstrap.auditor(settings)
        consumer = parts.consumer
        handler = Auditing(
            parts.keeps, oldest=consumer.oldest, ids=consumer.confirm, ends=consumer.ends
        )
        beside = [
            Repeated("heartbeat", BEAT_EVERY_S, parts.keeps.beat),
            *(Repeated(*task) for task in beside_log.tasks(settings, bootstrap.origin(settings))),
        ]
        telemetry.event("writes", verifier=str(parts.key))
        services.settle()
        try:
            for task in beside:
                task.start()
            ConsumerLoop(consumer, handler, LIMITS).run(stop)
        finally:
            for task in beside:
                task.stop()
            parts.close()
    except StoppedError:
        pass
    except SluiceError as error:
        telemetry.event("stopped", level=logging.ERROR, code=error.code, reason=str(error))
        return 1
    telemetry.event("stopped", code="sigterm")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
