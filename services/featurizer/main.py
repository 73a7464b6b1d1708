"""``python -m services.featurizer.main``: reads three topics, writes states and observations."""

from __future__ import annotations

import logging
import time
from collections import Counter

from sluice import bootstrap, telemetry
from sluice.adapters.kafka.config import Partition
from sluice.adapters.kafka.consumer import GroupConsumer, Message
from sluice.application.featurize import Applied
from sluice.errors import SluiceError, Unavailable
from sluice.faultpoints import kill_at
from sluice.settings import load

POLL_S = 0.05
LAG_EVERY_S = 1.0
RETRY_S = 0.5
RETRIES_MAX = 60
"""Half a minute of a store or broker that is down; then exit, and let Kubernetes start us."""


def main() -> int:
    """Run until SIGTERM. Returns the exit status: 0 stopped, 1 gave up (see the log)."""
    settings, _ = load()
    stop = bootstrap.start("featurizer", settings)
    parts = bootstrap.featurizer(settings)
    loop = Loop(parts, settings.featurizer.batch_max)
    failures = 0
    bootstrap.settle()
    try:
        while not stop.is_set():
            try:
                if failures:
                    parts.consumer.rewind()
                loop.once()
                failures = 0
            except Unavailable as error:
                failures += 1
                telemetry.event(
                    "batch_given_up", level=logging.ERROR, code=error.code, reason=str(error)
                )
                telemetry.METRICS.count("sluice_consumer_aborts_total", error.code)
                if failures > RETRIES_MAX:
                    return 1
                stop.wait(RETRY_S)
    except SluiceError as error:
        telemetry.event("stopped", level=logging.ERROR, code=error.code, reason=str(error))
        return 1
    finally:
        parts.close()
    telemetry.event("stopped", code="sigterm")
    return 0


class Loop:
    """Poll, apply, commit."""

    def __init__(self, parts: bootstrap.FeaturizerParts, batch_max: int) -> None:
        self._parts = parts
        self._batch_max = batch_max
        self._lag_at = 0.0

    def once(self) -> None:
        """One batch. Raises Unavailable: nothing was committed, the batch will come again."""
        consumer = self._parts.consumer
        batch = consumer.poll_batch(self._batch_max, POLL_S)
        if batch:
            began = time.perf_counter()
            applied = self._parts.featurizer.apply(batch)
            kill_at("featurizer.before_commit")
            commit(consumer, batch)
            kill_at("featurizer.after_commit")
            observe(applied, time.perf_counter() - began)
        if time.monotonic() >= self._lag_at:
            self._lag_at = time.monotonic() + LAG_EVERY_S
            for (topic, partition), lag in consumer.lag().items():
                telemetry.METRICS.set("sluice_consumer_lag_messages", lag, topic, str(partition))


def commit(consumer: GroupConsumer, batch: list[Message]) -> None:
    """Commit the offsets behind a batch."""
    ends: dict[Partition, int] = {}
    for message in batch:
        ends[message.topic, message.partition] = message.offset + 1
    consumer.commit(ends)
    for topic, count in Counter(m.topic for m in batch).items():
        telemetry.METRICS.count("sluice_consumer_messages_total", topic, by=count)


def observe(applied: Applied, seconds: float) -> None:
    """Show what a batch did."""
    metrics = telemetry.METRICS
    for (stem, result), count in applied.results.items():
        metrics.count("sluice_featurizer_events_total", stem, result, by=count)
    metrics.count_each("sluice_featurizer_states_written_total", applied.written)
    metrics.count_each("sluice_featurizer_conflicts_total", applied.conflicts)
    now_us = time.time_ns() // 1000
    ages = [max(now_us - at, 0) / 1e6 for at in applied.decided_at]
    if ages:
        metrics.observe_each("sluice_featurizer_age_seconds", ages, "decisions")
    metrics.observe("sluice_featurizer_stage_duration_seconds", seconds, "batch")


if __name__ == "__main__":
    raise SystemExit(main())
