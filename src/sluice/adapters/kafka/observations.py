"""``observations.v1`` as the featurizer writes it."""

from __future__ import annotations

from functools import cached_property

from sluice.adapters.kafka.producer import EventProducer

FLUSH_MAX_S = 30.0


class ObservationProducer:
    """The port ObservationLog of :mod:`sluice.application.featurize`."""

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
        """Wait until all are durable. Raises Unavailable after FLUSH_MAX_S."""
        self._producer.flush(FLUSH_MAX_S)
