"""An idempotent producer for records nobody waits for one by one: flush, then go on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from sluice.adapters.kafka.config import (
    DELIVERY_MAX_MS,
    QUEUE_WAIT_MAX_S,
    REQUEST_MAX_S,
    Extra,
    Header,
    code_of,
    error_counter,
    producer,
    translate,
)
from sluice.application.ports import Count, uncounted
from sluice.errors import SluiceError, Unavailable


class EventProducer:
    """Writes observations, labels, dead letters and published files.

    ``produce`` returns at once; ``flush`` says whether everything since the last flush is durable.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        client_id: str,
        linger_ms: float = 5,
        delivery_max_ms: int = DELIVERY_MAX_MS,
        extra: Extra | None = None,
        count: Count = uncounted,
    ) -> None:
        """delivery_max_ms: a record not acknowledged by then has failed; 0 tries for ever.
        count: of what goes wrong."""
        self._count = count
        self._where = bootstrap
        self._failed = 0
        self._undelivered_of = Counter[str]()
        self._first_error: tuple[KafkaError, str] | None = None
        """And its topic."""
        self._producer = Producer(
            producer(
                bootstrap,
                client_id,
                extra,
                linger_ms=linger_ms,
                message_timeout_ms=delivery_max_ms,
                # A callback a record costs more than the record; only failures call back.
                delivery_report_only_error=True,
                on_delivery=self._on_failure,
                error_cb=error_counter(count),
            )
        )

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has. Raises Unavailable, or Misconfigured if it is none."""
        try:
            found = self._producer.list_topics(topic, timeout=REQUEST_MAX_S).topics[topic]
        except KafkaException as exc:
            raise translate(exc, "ask for partitions", topic) from exc
        if found.error is not None:
            raise translate(found.error, "ask for partitions", topic)
        return len(found.partitions)

    def produce(
        self,
        topic: str,
        value: bytes,
        *,
        key: bytes | str | None = None,
        headers: Sequence[Header] = (),
        partition: int = -1,
    ) -> None:
        """Queue one record. partition: -1 lets the key choose.

        Waits up to QUEUE_WAIT_MAX_S for room in a full queue, then raises Unavailable.
        """
        deadline = 0.0
        while True:
            try:
                self._producer.produce(topic, value, key, partition, headers=list(headers) or None)
            except BufferError:
                now = time.monotonic()
                if not deadline:
                    self._count("sluice_producer_queue_full_total")
                deadline = deadline or now + QUEUE_WAIT_MAX_S
                if now > deadline:
                    raise Unavailable(
                        f"{len(self._producer)} records wait, no room for {QUEUE_WAIT_MAX_S:.0f} s",
                        where=self._where,
                        fix="is the broker up?",
                    ) from None
                self._producer.poll(0.05)
            except KafkaException as exc:
                raise translate(exc, "produce", topic) from exc
            else:
                return

    def poll(self) -> None:
        """Serve callbacks between two flushes; cheap."""
        self._producer.poll(0)

    def flush(self, timeout_s: float) -> None:
        """Wait until every record is durable. Raises Unavailable (or, for a missing topic and the
        like, Misconfigured) naming how many are not; those still queued are tried on."""
        left = self._producer.flush(timeout_s)
        failed, self._failed = self._failed, 0
        error, self._first_error = self._first_error, None
        if failed or left:
            raise self._undelivered(failed, left, error)

    def undelivered(self) -> Mapping[str, int]:
        """By topic, the records since the beginning that are not known to be durable. What is still
        queued is given up first: nothing is delivered after this."""
        self._producer.purge()
        self._producer.flush(REQUEST_MAX_S)
        return self._undelivered_of

    def _undelivered(
        self, failed: int, left: int, first: tuple[KafkaError, str] | None
    ) -> SluiceError:
        what = f"{failed + left} records were not delivered ({failed} failed, {left} still queued)"
        if first is not None:
            error, topic = first
            cause = translate(error, "deliver", topic)
            where = f"{topic}, {self._where}"
            return type(cause)(f"{what}: {cause.what}", where=where, fix=cause.fix)
        return Unavailable(what, where=self._where, fix="is the broker up?")

    def _on_failure(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._undelivered_of[message.topic()] += 1
            self._count("sluice_producer_failed_total", code_of(error))
            self._failed += 1
            self._first_error = self._first_error or (error, message.topic())
