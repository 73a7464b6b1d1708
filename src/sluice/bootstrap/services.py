"""Services' parts: each service asks for its own here, and gets adapters and use cases joined."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sluice import settings as settings_of
from sluice import telemetry
from sluice.adapters.kafka.consumer import GroupConsumer
from sluice.adapters.kafka.decision_log import DecisionProducer
from sluice.adapters.kafka.observations import ObservationProducer
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.kafka.transactions import TransactionalStream
from sluice.adapters.onnx.release import ReleaseDirectory, read_trust
from sluice.adapters.policyfiles.files import PolicyFiles
from sluice.adapters.redis import address as redis_address
from sluice.adapters.redis.store import RedisStore
from sluice.application.active import ActiveConfiguration
from sluice.application.archive import Archiver
from sluice.application.consistency import ConsistencyCheck
from sluice.application.decide import DecisionPipeline
from sluice.application.featurize import Featurizer
from sluice.application.ports import (
    NOEVICTION,
    STORE_RUNBOOK,
    Consumer,
    DecisionLog,
    OnlineConnection,
    OnlineStore,
    StateStore,
    Store,
    StoreInfo,
    Transactions,
    WatermarkStore,
)
from sluice.application.watch_store import StoreWatch
from sluice.domain.clock import SECOND_US, SystemClock
from sluice.domain.features import catalogue
from sluice.domain.records.authorization import EventTimeBounds
from sluice.domain.records.decision import Entrypoint
from sluice.errors import Misconfigured, SluiceError, Unavailable
from sluice.settings import Settings

COLLECT_EVERY = 50_000
"""New containers until the collector looks for cycles. A batch of 500 makes some 10,000, all alive
until it ends: Python's 700 would walk them 15 times, a tenth of the stream processor's time."""


def start(service: str, settings: Settings) -> threading.Event:
    """Logging, metrics port, and an event that SIGTERM and SIGINT set."""
    telemetry.configure_logging(service, level=settings.service.log_level)
    if settings.service.metrics_port:
        telemetry.start_metrics_server(settings.service.metrics_port)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    telemetry.event("started", replica=settings.service.name())
    return stop


def unsettled() -> None:
    """Stop looking for garbage until ``settle``: imports and start make none, and looking takes a
    fifth of their time."""
    gc.disable()


def settle(every: int = COLLECT_EVERY) -> None:
    """Keep the garbage collector off what lives forever: a full pass over it takes 0.1 s.

    every: new containers until it looks at what came since.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(every)
    gc.enable()


def topics(settings: Settings) -> Topics:
    """Names of the topics."""
    return Topics(settings.kafka.topic_prefix)


def group(service: str, settings: Settings) -> str:
    """Name of a service's consumer group."""
    return f"{settings.kafka.topic_prefix}sluice-{service}"


def emitter(settings: Settings) -> str:
    """Name of this process among all that ever decided: replica and start."""
    return f"{settings.service.name()}/{time.time_ns() // 1_000_000}-{os.getpid()}"


STORES: dict[str, Callable[[settings_of.Store], Store]] = dict.fromkeys(
    redis_address.SCHEMES,
    lambda given: RedisStore(
        given.url,
        SystemClock(),
        budget_s=given.budget_ms / 1000,
        batch_budget_s=given.batch_budget_ms / 1000,
        in_progress_ttl_s=given.in_progress_ttl_s,
        answer_ttl_s=given.answer_ttl_s,
        count=telemetry.METRICS.count,
    ),
)
"""The adapter of each scheme of ``store.url``. Another online store is a module that keeps the
port Store (``tests/contract/test_store_contract.py``), and an entry here."""


def store(settings: Settings) -> Store:
    """The online store, chosen by its URL. Connects to nothing. Raises Misconfigured."""
    scheme, found, _ = settings.store.url.partition("://")
    if not found or scheme not in STORES:
        raise Misconfigured(
            "no online store is known by the scheme of this URL",  # which may hold a password
            where="store.url",
            fix=f"one of {', '.join(STORES)}, then ://",
        )
    return STORES[scheme](settings.store)


def store_at(url: str) -> Store:
    """The same by its URL alone, with the default budgets: for tools, tests and benchmarks."""
    return store(Settings(store=settings_of.Store(url=url)))


@dataclass(frozen=True, slots=True)
class FeaturizerParts:
    """What the featurizer's handler drives. The loop closes the consumer."""

    consumer: Consumer
    featurizer: Featurizer
    states: StateStore
    watermark: WatermarkStore

    def close(self) -> None:
        """Leave the store."""
        self.states.close()
        self.watermark.close()


def featurizer(settings: Settings) -> FeaturizerParts:
    """Consumer of three topics, states store and observations."""
    names = topics(settings)
    client_id = f"featurizer-{settings.service.name()}"
    extra = settings.kafka.extra()
    online = store(settings)
    states = online.states()
    producer = EventProducer(
        settings.kafka.bootstrap,
        client_id=client_id,
        # A batch makes one record a partition, and waits for them.
        linger_ms=0,
        # If one were given up and the next arrived, states would take the first for seen.
        delivery_max_ms=0,
        extra=extra,
        count=telemetry.METRICS.count,
    )
    stems = {
        names.decisions: "decisions",
        names.observations: "observations",
        names.labels: "labels",
    }
    return FeaturizerParts(
        GroupConsumer(
            settings.kafka.bootstrap,
            group=group("featurizer", settings),
            topics=list(stems),
            client_id=client_id,
            wait_for_commits=False,  # states skip what they have seen, the store knows how far
            extra=extra,
            count=telemetry.METRICS.count,
        ),
        Featurizer(
            store=states,
            observations=ObservationProducer(producer, names.observations),
            topics=stems,
            stage=lambda name, seconds: telemetry.METRICS.observe(
                "sluice_featurizer_stage_duration_seconds", seconds, name
            ),
            answers_since=lambda: SystemClock().now_us() - settings.store.answer_ttl_s * SECOND_US,
        ),
        states,
        online.watermark(),
    )


@dataclass(frozen=True, slots=True)
class ArchiverParts:
    """What the archiver's handler drives. The loop closes the consumer."""

    consumer: Consumer
    archiver: Archiver


def archiver(settings: Settings) -> ArchiverParts:
    """Consumer of decisions and labels, and the archive's files."""
    from sluice.adapters.parquet.archive import ParquetFiles  # noqa: PLC0415 - an extra

    names = topics(settings)
    folders = {names.decisions: "decisions", names.labels: "labels"}
    return ArchiverParts(
        GroupConsumer(
            settings.kafka.bootstrap,
            group=group("archiver", settings),
            topics=list(folders),
            client_id=f"archiver-{settings.service.name()}",
            extra=settings.kafka.extra(),
            count=telemetry.METRICS.count,
        ),
        Archiver(
            ParquetFiles(Path(settings.archiver.root), folders), roll_s=settings.archiver.roll_s
        ),
    )


def consistency_check(settings: Settings) -> ConsistencyCheck:
    """The consistency check over the archive."""
    from sluice.adapters.parquet.samples import ArchiveSampleSource  # noqa: PLC0415 - an extra

    return ConsistencyCheck(
        ArchiveSampleSource(Path(settings.archiver.root)),
        SystemClock(),
        sample_ppm=settings.consistency.sample_ppm,
        settle_s=settings.consistency.settle_s,
        lookback_s=settings.consistency.lookback_s,
    )


def report_store(why: str) -> None:
    """Show whether the store's states are used; why not, "" if they are."""
    telemetry.METRICS.set("sluice_store_ready", 0 if why else 1)
    if why:
        telemetry.event("store_not_used", level=logging.ERROR, reason=why, fix=STORE_RUNBOOK)
    else:
        telemetry.event("store_used")


def show_figures(info: StoreInfo) -> None:
    """The store's own figures as gauges."""
    metrics = telemetry.METRICS
    metrics.set("sluice_store_used_memory_bytes", info.used_memory_bytes)
    metrics.set("sluice_store_max_memory_bytes", info.max_memory_bytes)
    metrics.set("sluice_store_evicted_keys", info.evicted_keys)


class EvictionPolicy:
    """Shows the store's eviction policy, and says so when it is another one."""

    def __init__(self) -> None:
        self._last = NOEVICTION

    def show(self, policy: str, why: str) -> None:
        """policy: UNKNOWN where the store does not tell; then why."""
        telemetry.METRICS.info("sluice_store_eviction_policy_info", policy)
        if policy != self._last:
            self._last = policy
            telemetry.event(
                "eviction_policy",
                level=logging.INFO if policy == NOEVICTION else logging.WARNING,
                policy=policy,
                reason=why,
                fix="docs/reference/online-store.md, section When it is down",
            )


def store_watch(settings: Settings, online: OnlineConnection) -> StoreWatch:
    """A decider's look at whether its store may have forgotten something."""
    asked = store(settings)
    return StoreWatch(
        asked.states(),
        asked.watermark(),
        show=show_figures,
        policy=EvictionPolicy().show,
        distrust=online.distrust,
    )


def policies(settings: Settings) -> PolicyFiles:
    """The policy pack. Raises Misconfigured if it is wrong."""
    return PolicyFiles(Path(settings.decider.policy_dir), catalogue.FEATURES)


def active_configuration(settings: Settings) -> ActiveConfiguration:
    """Release and policy, followed on disk. Raises Misconfigured if the policy is wrong; without a
    release that holds, decisions go without a model until one comes."""
    decider = settings.decider

    def activated(what: str, name: str) -> None:
        telemetry.event("activated", what=what, id=name)
        telemetry.METRICS.info(f"sluice_decider_{what}_info", name)

    def refused(what: str, error: SluiceError) -> None:
        telemetry.event(
            "refused", level=logging.ERROR, what=what, code=error.code, reason=str(error)[:2000]
        )
        telemetry.METRICS.count("sluice_decider_refused_total", what, error.code)

    def refusing(what: str, now: bool) -> None:
        telemetry.METRICS.set("sluice_decider_refusing", now, what)

    pack = policies(settings)
    return ActiveConfiguration(
        ReleaseDirectory(
            Path(decider.release_dir),
            read_trust(Path(decider.trust_dir)),
            catalogue.FEATURES,
            pack.current().fx.reference,
            telemetry.METRICS.count,
        ),
        pack,
        activated=activated,
        refused=refused,
        refusing=refusing,
    )


def online_store(settings: Settings, *, batches: bool) -> OnlineConnection:
    """The decider's side of the store. batches: with the stream processor's budget."""
    return store(settings).online(batches=batches, on_trust=report_store)


def decider(
    settings: Settings,
    entrypoint: Entrypoint,
    store: OnlineStore,
    log: DecisionLog,
    active: ActiveConfiguration,
    turned_away: Callable[[], Unavailable | None] = lambda: None,
) -> DecisionPipeline:
    """The decision pipeline behind one entrypoint. turned_away: why it is not ready, if the store
    will not have us."""
    return DecisionPipeline(
        entrypoint=entrypoint,
        emitter=emitter(settings),
        store=store,
        scorer=active.releases,
        policy=active.policies,
        log=log,
        clock=SystemClock(),
        bounds=EventTimeBounds(
            max_age_us=settings.decider.max_event_age_s * SECOND_US,
            max_ahead_us=settings.decider.max_event_ahead_s * SECOND_US,
        ),
        stage=lambda name, seconds: telemetry.METRICS.observe(
            "sluice_decider_stage_duration_seconds", seconds, name
        ),
        turned_away=turned_away,
    )


def sampler(settings: Settings) -> telemetry.Sampler:
    """Which lines of authorizations an entrypoint writes."""
    service = settings.service
    return telemetry.Sampler(service.log_sample_ppm, service.log_lines_per_s)


def decision_producer(settings: Settings) -> DecisionProducer:
    """``decisions.v1`` for the sync API."""
    return DecisionProducer(
        settings.kafka.bootstrap,
        topic=topics(settings).decisions,
        client_id=f"decider-{settings.service.name()}",
        append_max_ms=settings.decider.record_budget_ms,
        extra=settings.kafka.extra(),
        count=telemetry.METRICS.count,
    )


def transactional_stream(settings: Settings) -> Transactions:
    """``authorizations.v1`` in, transactions out, for the stream processor."""
    name = f"decider-{settings.service.name()}"
    return TransactionalStream(
        settings.kafka.bootstrap,
        group=group("decider", settings),
        topics=[topics(settings).authorizations],
        transactional_id=f"{settings.kafka.topic_prefix}{name}",
        client_id=name,
        extra=settings.kafka.extra(),
        count=telemetry.METRICS.count,
    )
