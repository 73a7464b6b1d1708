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
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from sluice import telemetry
from sluice.adapters.kafka.consumer import GroupConsumer
from sluice.adapters.kafka.decision_log import DecisionProducer
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.kafka.transactions import TransactionalStream
from sluice.adapters.onnx.release import ReleaseDirectory, read_trust
from sluice.adapters.policyfiles.files import PolicyFiles
from sluice.adapters.redis.online import RedisOnlineStore
from sluice.adapters.redis.states import RedisStateStore
from sluice.adapters.redis.watermark import RUNBOOK, StoreWatermark
from sluice.application.decide import DecisionPipeline
from sluice.application.featurize import Featurizer
from sluice.application.ports import DecisionLog, OnlineStore
from sluice.domain.clock import SECOND_US, SystemClock
from sluice.domain.features import catalogue
from sluice.domain.records.authorization import EventTimeBounds
from sluice.domain.records.decision import Entrypoint
from sluice.errors import SluiceError
from sluice.settings import Settings

T = TypeVar("T")

FLUSH_MAX_S = 30.0
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


def settle() -> None:
    """Keep the garbage collector off what lives forever: a full pass over it takes 0.1 s."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY)


def topics(settings: Settings) -> Topics:
    """Names of the topics."""
    return Topics(settings.kafka.topic_prefix)


def group(service: str, settings: Settings) -> str:
    """Name of a service's consumer group."""
    return f"{settings.kafka.topic_prefix}sluice-{service}"


def emitter(settings: Settings) -> str:
    """Name of this process among all that ever decided: replica and start."""
    return f"{settings.service.name()}/{time.time_ns() // 1_000_000}-{os.getpid()}"


class Observations:
    """``observations.v1`` as the featurizer's port."""

    def __init__(self, producer: EventProducer, topic: str) -> None:
        self._producer = producer
        self._topic = topic

    @cached_property
    def partitions(self) -> int:
        """Asked once: to follow a topic that grows, start anew when all is read."""
        return self._producer.partitions(self._topic)

    def produce(self, partition: int, value: bytes) -> None:
        """Queue one."""
        self._producer.produce(self._topic, value, partition=partition)

    def flush(self) -> None:
        """Wait until all are durable."""
        self._producer.flush(FLUSH_MAX_S)


@dataclass(frozen=True, slots=True)
class FeaturizerParts:
    """What the featurizer's loop drives."""

    consumer: GroupConsumer
    featurizer: Featurizer
    store: RedisStateStore
    watermark: StoreWatermark

    def close(self) -> None:
        """Leave the group, then the store."""
        self.consumer.close()
        self.store.close()


def state_store(settings: Settings) -> RedisStateStore:
    """The featurizer's side of the store."""
    return RedisStateStore(settings.store.url, answer_ttl_s=settings.store.answer_ttl_s)


def featurizer(settings: Settings) -> FeaturizerParts:
    """Consumer of three topics, states store and observations."""
    names = topics(settings)
    client_id = f"featurizer-{settings.service.name()}"
    extra = settings.kafka.extra()
    store = state_store(settings)
    producer = EventProducer(
        settings.kafka.bootstrap,
        client_id=client_id,
        # A batch makes one record a partition, and waits for them.
        linger_ms=0,
        # If one were given up and the next arrived, states would take the first for seen.
        delivery_max_ms=0,
        extra=extra,
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
            extra=extra,
        ),
        Featurizer(
            store=store,
            observations=Observations(producer, names.observations),
            topics=stems,
            stage=lambda name, seconds: telemetry.METRICS.observe(
                "sluice_featurizer_stage_duration_seconds", seconds, name
            ),
            answers_since=lambda: SystemClock().now_us() - settings.store.answer_ttl_s * SECOND_US,
        ),
        store,
        StoreWatermark(store.connection),
    )


def report_store(why: str) -> None:
    """Show whether the store's states are used; why not, "" if they are."""
    telemetry.METRICS.set("sluice_store_ready", 0 if why else 1)
    if why:
        telemetry.event("store_not_used", level=logging.ERROR, reason=why, fix=RUNBOOK)
    else:
        telemetry.event("store_used")


def policies(settings: Settings) -> PolicyFiles:
    """The policy pack. Raises Misconfigured if it is wrong."""
    return PolicyFiles(Path(settings.decider.policy_dir), catalogue.FEATURES)


class ActiveConfiguration:
    """The release and the policy that decide now, followed on disk."""

    def __init__(self, settings: Settings) -> None:
        decider = settings.decider
        self.policies = policies(settings)
        self.releases = ReleaseDirectory(
            Path(decider.release_dir),
            read_trust(Path(decider.trust_dir)),
            catalogue.DIGEST,
            catalogue.FEATURES,
        )
        telemetry.METRICS.info("sluice_decider_policy_info", self.policies.current().id)
        self.poll()

    def poll(self) -> None:
        """Take over what changed; what is wrong is refused, told, and changes nothing."""
        self._follow("release", self.releases.poll, lambda scorer: scorer.release)
        self._follow("policy", self.policies.poll, lambda policy: policy.id)

    @staticmethod
    def _follow(what: str, poll: Callable[[], T | None], name: Callable[[T], str]) -> None:
        try:
            fresh = poll()
        except SluiceError as error:
            telemetry.event(
                "refused", level=logging.ERROR, what=what, code=error.code, reason=str(error)
            )
            telemetry.METRICS.count("sluice_decider_refused_total", what, error.code)
            return
        if fresh is not None:
            telemetry.event("activated", what=what, id=name(fresh))
            telemetry.METRICS.info(f"sluice_decider_{what}_info", name(fresh))


def online_store(settings: Settings, *, batches: bool) -> RedisOnlineStore:
    """The decider's side of the store. batches: with the stream processor's budget."""
    store = settings.store
    return RedisOnlineStore(
        store.url,
        SystemClock(),
        budget_s=(store.batch_budget_ms if batches else store.budget_ms) / 1000,
        in_progress_ttl_s=store.in_progress_ttl_s,
        answer_ttl_s=store.answer_ttl_s,
        on_trust=report_store,
    )


def decider(
    settings: Settings,
    entrypoint: Entrypoint,
    store: OnlineStore,
    log: DecisionLog,
    active: ActiveConfiguration,
) -> DecisionPipeline:
    """The decision pipeline behind one entrypoint."""
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
    )


def decision_producer(settings: Settings) -> DecisionProducer:
    """``decisions.v1`` for the sync API."""
    return DecisionProducer(
        settings.kafka.bootstrap,
        topic=topics(settings).decisions,
        client_id=f"decider-{settings.service.name()}",
        append_max_ms=settings.decider.record_budget_ms,
        extra=settings.kafka.extra(),
    )


def transactional_stream(settings: Settings) -> TransactionalStream:
    """``authorizations.v1`` in, transactions out, for the stream processor."""
    name = f"decider-{settings.service.name()}"
    return TransactionalStream(
        settings.kafka.bootstrap,
        group=group("decider", settings),
        topics=[topics(settings).authorizations],
        transactional_id=f"{settings.kafka.topic_prefix}{name}",
        client_id=name,
        extra=settings.kafka.extra(),
    )
