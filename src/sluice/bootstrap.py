"""The only place where adapters meet use cases. Each service asks for its parts here."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass

from sluice import telemetry
from sluice.adapters.kafka.consumer import GroupConsumer
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.redis.states import RedisStateStore
from sluice.application.featurize import Featurizer
from sluice.errors import Misconfigured
from sluice.settings import Settings

FLUSH_MAX_S = 30.0


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

    def produce(self, key: str, value: bytes) -> None:
        """Queue one."""
        self._producer.produce(self._topic, value, key=key)

    def flush(self) -> None:
        """Wait until all are durable."""
        self._producer.flush(FLUSH_MAX_S)


@dataclass(frozen=True, slots=True)
class FeaturizerParts:
    """What the featurizer's loop drives."""

    consumer: GroupConsumer
    featurizer: Featurizer
    store: RedisStateStore

    def close(self) -> None:
        """Leave the group, then the store."""
        self.consumer.close()
        self.store.close()


def featurizer(settings: Settings) -> FeaturizerParts:
    """Consumer of three topics, states store and observations."""
    names = topics(settings)
    client_id = f"featurizer-{settings.service.name()}"
    extra = settings.kafka.extra()
    store = RedisStateStore(settings.store.url, answer_ttl_s=settings.store.answer_ttl_s)
    producer = EventProducer(settings.kafka.bootstrap, client_id=client_id, extra=extra)
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
        ),
        store,
    )


__all__ = ["FeaturizerParts", "Misconfigured", "featurizer", "start", "topics"]
