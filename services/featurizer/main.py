"""``python -m services.featurizer.main``: reads three topics, writes states and observations."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter

from sluice import bootstrap, telemetry
from sluice.adapters.kafka.config import Partition
from sluice.adapters.kafka.consumer import GroupConsumer, Message
from sluice.adapters.redis.marker import Marker
from sluice.application.featurize import Applied
from sluice.application.ports import MISSING, STORE_LOST
from sluice.errors import SluiceError, Unavailable
from sluice.faultpoints import kill_at
from sluice.settings import Settings, load

POLL_S = 0.05
LAG_EVERY_S = 1.0
RETRY_S = 0.5
RETRIES_MAX = 60
"""Half a minute of a store or broker that is down; then exit, and let Kubernetes start us."""
CHECK_EVERY_S = 0.25
"""How often the store is asked whether it still holds what we wrote, idle or not."""


def main() -> int:
    """Run until SIGTERM. Returns the exit status: 0 stopped, 1 gave up (see the log)."""
    settings, _ = load()
    stop = bootstrap.start("featurizer", settings)
    while wait_until_writable(settings, stop):
        parts = bootstrap.featurizer(settings)
        bootstrap.settle()
        try:
            work(Loop(parts, settings.featurizer.batch_max), stop)
        except SluiceError as error:
            if error.code != STORE_LOST:
                telemetry.event("stopped", level=logging.ERROR, code=error.code, reason=str(error))
                return 1
            # Leave the group, because a rebuild sets its offsets while nobody is in it.
            bootstrap.tell_store(str(error))
        finally:
            parts.close()
    telemetry.event("stopped", code="sigterm")
    return 0


def work(loop: Loop, stop: threading.Event) -> None:
    """Batch after batch. Raises Unavailable if the store was lost, or too often in a row."""
    failures = 0
    while not stop.is_set():
        try:
            if failures:
                loop.rewind()
            loop.once()
            failures = 0
        except Unavailable as error:
            failures += 1
            telemetry.event(
                "batch_given_up", level=logging.ERROR, code=error.code, reason=str(error)
            )
            telemetry.METRICS.count("sluice_consumer_aborts_total", error.code)
            if error.code == STORE_LOST or failures > RETRIES_MAX:
                raise
            stop.wait(RETRY_S)


def wait_until_writable(settings: Settings, stop: threading.Event) -> bool:
    """Wait while the store is lost, or cleared and filled by a rebuild, or holds states of another
    format than ours. False: told to stop."""
    store = bootstrap.state_store(settings)
    marker, told = Marker(store.connection), ""
    try:
        while not stop.is_set():
            with contextlib.suppress(Unavailable):
                why = marker.read().why_not_written()
                if not why:
                    return True
                if why != told:
                    bootstrap.tell_store(why)
                    told = why
            stop.wait(RETRY_S)
        return False
    finally:
        store.close()


class Loop:
    """Poll, apply, note in the store, commit."""

    def __init__(self, parts: bootstrap.FeaturizerParts, batch_max: int) -> None:
        self._parts = parts
        self._batch_max = batch_max
        self._lag_at = 0.0
        self._checked_at = float("-inf")
        self._known: dict[Partition, int] = {}
        """What of each of our partitions is in the store, for all that we know."""

    def once(self) -> None:
        """One batch. Raises Unavailable: nothing was committed, the batch will come again."""
        consumer = self._parts.consumer
        batch = consumer.poll_batch(self._batch_max, POLL_S)
        ends = {(m.topic, m.partition): m.offset + 1 for m in batch}
        if ends.keys() - self._known or time.monotonic() >= self._checked_at + CHECK_EVERY_S:
            self._check()
        if batch:
            began = time.perf_counter()
            applied = self._parts.featurizer.apply(batch)
            kill_at("featurizer.before_commit")
            self._parts.marker.advance({p: self._known.get(p, 0) for p in ends}, ends)
            self._known.update(ends)
            kill_at("featurizer.after_mark")
            commit(consumer, batch, ends)
            kill_at("featurizer.after_commit")
            observe(applied, time.perf_counter() - began)
        if time.monotonic() >= self._lag_at:
            self._lag_at = time.monotonic() + LAG_EVERY_S
            for (topic, partition), lag in consumer.lag().items():
                telemetry.METRICS.set("sluice_consumer_lag_messages", lag, topic, str(partition))

    def rewind(self) -> None:
        """Go back to what is committed. Raises Unavailable."""
        self._known.clear()
        self._parts.consumer.rewind()

    def _check(self) -> None:
        """Raises Unavailable with code STORE_LOST if the store forgot what it held."""
        consumer, marker = self._parts.consumer, self._parts.marker
        mine = consumer.assignment()
        fresh = [place for place in mine if place not in self._known]
        committed = consumer.committed(fresh)
        self._known = {p: self._known.get(p, committed.get(p, 0)) for p in mine}
        first = self._checked_at == float("-inf")
        try:
            marker.advance(self._known)
        except Unavailable as error:
            if error.code != STORE_LOST or marker.read().state != MISSING:
                raise
            if consumer.committed(consumer.partitions()):
                marker.lose()
                raise
            marker.initialise()  # nothing was ever applied by this group: a new installation
        if first:
            bootstrap.tell_store("")
        self._checked_at = time.monotonic()


def commit(consumer: GroupConsumer, batch: list[Message], ends: dict[Partition, int]) -> None:
    """Commit the offsets behind a batch, without waiting: what comes again is skipped."""
    consumer.commit_later(ends)
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
