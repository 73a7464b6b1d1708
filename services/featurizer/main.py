"""``python -m services.featurizer.main``: reads three topics, writes states and observations."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from services.loop import NOTHING, ConsumerLoop, Done, Handler, Limits, whole
from services.waiting import StoppedError, Waiting, for_brokers
from sluice import telemetry
from sluice.application.featurize import Applied
from sluice.application.ports import (
    MISSING,
    RECORDS_GONE,
    STORE_LOST,
    STORE_RUNBOOK,
    TOPIC_REMADE,
    UNKNOWN,
    Message,
    Offsets,
    Partition,
    StateStore,
    WatermarkStore,
)
from sluice.bootstrap import services as bootstrap
from sluice.errors import Corrupt, SluiceError, Unavailable
from sluice.faultpoints import kill_at
from sluice.settings import Settings, load

POLL_S = 0.05
RETRY_S = 0.5
RETRIES_MAX = 60
"""Half a minute of a store or broker that is down; then exit, and let Kubernetes start us."""
CHECK_EVERY_S = 0.25
"""How often the store is asked whether it still holds what we wrote, idle or not."""
FIGURES_EVERY_S = 1.0
"""How often it is asked for its memory and evictions: a tenth of a millisecond of its time each."""


def main() -> int:
    """Run until SIGTERM. Returns the exit status: 0 stopped, 1 gave up (see the log)."""
    settings, _ = load()
    try:
        stop = bootstrap.start("featurizer", settings).stop
        names = bootstrap.topics(settings)
        topics = names.decisions, names.observations, names.labels
        for_brokers(Waiting(stop), settings, *topics)
        serve(settings, stop)
    except StoppedError:
        pass
    except SluiceError as error:
        telemetry.event("stopped", level=logging.ERROR, code=error.code, reason=str(error))
        return 1
    telemetry.event("stopped", code="sigterm")
    return 0


def serve(settings: Settings, stop: threading.Event) -> None:
    """Work until stop is set; while the store is lost, wait outside the group. It is lost too where
    a topic was made again, or records expired unread: its states lack them.

    Raises Unavailable if store or broker stay away, Corrupt, Misconfigured.
    """
    while wait_until_writable(settings, stop):
        parts = bootstrap.featurizer(settings)
        bootstrap.settle()
        batch_max = settings.featurizer.batch_max
        loop = ConsumerLoop(parts.consumer, Featurizing(parts), limits(batch_max))
        try:
            loop.run(stop)
        except Unavailable as error:
            if error.code != STORE_LOST:
                raise
            # It left the group, because a rebuild sets its offsets while nobody is in it.
            bootstrap.report_store(str(error))
        except Corrupt as error:
            if error.code not in (TOPIC_REMADE, RECORDS_GONE):
                raise
            parts.watermark.lose(f"{error.where}: {error.what}")
        finally:
            parts.close()


def limits(batch_max: int) -> Limits:
    """A store that was lost is left at once; one that is down is waited for."""
    return Limits(
        batch_max=batch_max,
        poll_s=POLL_S,
        pause_s=RETRY_S,
        pause_max_s=RETRY_S,
        failures_max=RETRIES_MAX,
        leave_at=frozenset({STORE_LOST}),
    )


def wait_until_writable(settings: Settings, stop: threading.Event) -> bool:
    """Wait while the store is lost, or cleared and filled by a rebuild, or holds states of another
    format than ours. False: told to stop.

    Raises Misconfigured if it refuses our password.
    """
    store, reported = bootstrap.store(settings), ""
    watermark, states = store.watermark(), store.states()
    try:
        while not stop.is_set():
            why = _why_not_writable(watermark, states)
            if not why:
                return True
            telemetry.HEALTH.beat(ready=False, why=why)
            if why != reported:
                bootstrap.report_store(why)
                reported = why
            stop.wait(RETRY_S)
        return False
    finally:
        watermark.close()
        states.close()


def _why_not_writable(watermark: WatermarkStore, states: StateStore) -> str:
    """Why we stay away from the store, "" if we do not. Raises Misconfigured."""
    try:
        mark = watermark.read()
        why = mark.why_not_written()
        if why:
            return why
        try:
            forgot = mark.why_forgetful(states.info())
        except Unavailable:  # it hides its figures
            return ""
        if forgot and mark.state != MISSING:
            watermark.lose(forgot)
    except Unavailable as error:
        return str(error)
    return forgot and f"the online store is not used: {forgot}"


class Featurizing(Handler):
    """Applies a batch, and notes it in the store before the loop commits it."""

    def __init__(self, parts: bootstrap.FeaturizerParts) -> None:
        self._parts = parts
        self._checked_at = float("-inf")
        self._figures_at = 0.0
        self._policy = bootstrap.EvictionPolicy()
        self._known: dict[Partition, int] = {}
        """What of each of our partitions is in the store, for all that we know."""
        self._applied: Applied | None = None
        self._began = 0.0

    def handle(self, batch: Sequence[Message]) -> Done:
        """Raises Unavailable: the batch will come again; with code STORE_LOST if the store forgot
        what it held."""
        done = whole(batch) if batch else NOTHING
        if time.monotonic() >= self._figures_at:
            self._figures_at = time.monotonic() + FIGURES_EVERY_S
            self._watch()
        late = time.monotonic() >= self._checked_at + CHECK_EVERY_S
        if late or done.offsets.keys() - self._known:
            self._check()
        if batch:
            self._began = time.perf_counter()
            self._applied = self._parts.featurizer.apply(batch)
            kill_at("featurizer.before_commit")
            known = {place: self._known.get(place, 0) for place in done.offsets}
            self._parts.watermark.advance(known, done.offsets)
            self._known.update(done.offsets)
            kill_at("featurizer.after_mark")
        return done

    def _watch(self) -> None:
        """Show the store's own figures; one that does not tell them stops nothing. Raises
        Unavailable with code STORE_LOST if they say that it forgot something, or may."""
        try:
            info = self._parts.states.info()
        except Unavailable as error:
            self._policy.show(UNKNOWN, str(error))
            return
        bootstrap.show_figures(info)
        self._policy.show(info.eviction_policy, "")
        watermark = self._parts.watermark
        mark = watermark.read()
        if forgot := mark.why_forgetful(info):
            if mark.state != MISSING:
                watermark.lose(forgot)
            raise Unavailable(
                f"the online store is not used: {forgot}", fix=STORE_RUNBOOK, code=STORE_LOST
            )

    def assigned(self, partitions: Sequence[Partition]) -> Offsets:
        """What the featurizer remembers of their ids may be of long ago."""
        self._parts.featurizer.forget(partitions)
        return {}

    def committed(self, done: Done) -> None:
        """Show what the batch did."""
        kill_at("featurizer.after_commit")
        assert self._applied is not None
        observe(self._applied, time.perf_counter() - self._began)
        self._applied = None

    def rewound(self) -> None:
        """What the store holds is asked again."""
        self._known.clear()

    def _check(self) -> None:
        """Raises Unavailable with code STORE_LOST if the store forgot what it held."""
        consumer, watermark = self._parts.consumer, self._parts.watermark
        mine = consumer.assignment()
        fresh = [place for place in mine if place not in self._known]
        committed = consumer.committed(fresh)
        self._known = {p: self._known.get(p, committed.get(p, 0)) for p in mine}
        ids = consumer.confirm() if fresh else {}
        first = self._checked_at == float("-inf")
        try:
            watermark.advance(self._known)
        except Unavailable as error:
            if error.code != STORE_LOST or watermark.read().state != MISSING:
                raise
            if consumer.committed(consumer.partitions()):
                watermark.lose("it was emptied")
                raise
            watermark.initialise()  # nothing was ever applied by this group: a new installation
        watermark.bind(ids)
        if first:
            bootstrap.report_store("")
        self._checked_at = time.monotonic()


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
