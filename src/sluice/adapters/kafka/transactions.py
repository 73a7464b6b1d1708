"""Transactions: records, and the offsets they were made from, all visible together or none.

The stream processor reads a batch of ``authorizations.v1`` and commits ``decisions.v1``,
``dead-letters.v1`` and its offsets at once (KIP-98, KIP-447), whenever the process dies.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from sluice.adapters.kafka.config import (
    QUEUE_WAIT_MAX_S,
    SESSION_MAX_MS,
    TRANSACTION_MAX_MS,
    TRANSACTION_RETRY_MS,
    Extra,
    Header,
    code_of,
    error_counter,
    producer,
    trace_headers,
    translate,
)
from sluice.adapters.kafka.consumer import GroupConsumer
from sluice.application.ports import (
    NO_OFFSETS,
    Count,
    Message,
    Offsets,
    OnAssign,
    OnRevoke,
    Partition,
    ProducerRecord,
    uncounted,
)
from sluice.errors import Corrupt, Rejected, SluiceError, Unavailable
from sluice.faultpoints import kill_at

COMMIT_MAX_S = TRANSACTION_MAX_MS / 1000 + 2.0
"""By then each record is acknowledged or given up (librdkafka looks once a second), so that a
commit knows its outcome: while one is under way, librdkafka takes no abort."""
OFFSETS_MAX_S = 5.0
"""Of that, for the offsets. librdkafka (2.16.0, its issues 5456 and 5511) may stay for good where
it waits for the group's coordinator, whatever timeout it got: once that broker is no longer one
of the cluster, nothing wakes it."""
BACK_MAX_S = 1.0
"""Longer than its timeout a step may take; then the client is given up, its thread left behind."""
ABORT_MAX_S = 5.0
"""For an abort. Another client does the same by its start."""
PAUSE_S = 0.05
"""Between two tries of a step, and of a record that finds the queue full."""
INIT_MAX_S = 30.0
"""Waits for a predecessor's open transaction to be aborted."""
RENEW_MAX_S = 10.0
"""The same for a client that is made anew, before the next try."""

Record = tuple[bytes | str | None, bytes, list[Header]]
"""Key, value and headers."""


class TransactionalProducer:
    """Writes records that become visible together.

    transactional_id: one per replica, stable over its restarts, so that a new process ends what
    the old one left open. A second live process with the same id fences the first: Corrupt.
    count: of what goes wrong.

    A broker that stalls for longer than a transaction may take ends it, or leaves us without an
    answer. Then the client is given up, and ``renew`` makes another, as a new process would.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        transactional_id: str,
        client_id: str,
        extra: Extra | None = None,
        count: Count = uncounted,
    ) -> None:
        self._count = count
        self.transactional_id = transactional_id
        self.open = False
        self.generation = 0
        """Of the client: another, and what became of the last transaction is the broker's to
        say."""
        self._given_up_on = False
        self._began_at = 0.0
        self._properties = producer(
            bootstrap,
            client_id,
            extra,
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_MAX_MS,
            retry_backoff_ms=TRANSACTION_RETRY_MS,
            # The commit flushes, so waiting for more records only delays the first ones.
            linger_ms=5,
            delivery_report_only_error=True,
            error_cb=error_counter(count),
            # By default librdkafka (2.16.0, its issue 5511) forgets its brokers when all are
            # down, and then waits for good on the one it remembers as the group's coordinator.
            metadata_recovery_strategy="none",
        )
        self._producer = self._made(INIT_MAX_S)

    def _made(self, wait_s: float) -> Any:
        made = Producer(self._properties)
        try:
            made.init_transactions(wait_s)
        except KafkaException as exc:
            raise translate(exc, "start transactions", self.transactional_id) from exc
        return made

    def renew(self) -> None:
        """Make another client if this one was given up: that ends what it left open, one way or
        the other. Raises Unavailable: try again."""
        if self._given_up_on:
            self._producer = self._made(RENEW_MAX_S)
            self._given_up_on = False

    def _give_up_on_it(self) -> None:
        self.open = False
        self._given_up_on = True
        self.generation += 1
        self._count("sluice_producer_renewed_total")

    def begin(self) -> None:
        """Open a transaction. Raises Corrupt if another process took our id, Unavailable if a
        client given up cannot be replaced yet."""
        self.renew()
        self._began_at = time.monotonic()
        try:
            self._producer.begin_transaction()
        except KafkaException as exc:
            raise translate(exc, "begin a transaction", self.transactional_id) from exc
        self.open = True

    def produce(
        self, topic: str, key: bytes | str | None, value: bytes, headers: Sequence[Header] = ()
    ) -> None:
        """Queue one record of the open transaction. A failure surfaces at the commit."""
        self.produce_each(topic, [(key, value, [*headers])])

    def produce_each(self, topic: str, records: Iterable[Record]) -> None:
        """Queue records of the open transaction. A failure surfaces at the commit."""
        produce = self._producer.produce
        try:
            for record in records:
                key, value, headers = record
                try:
                    produce(topic, value, key, headers=headers)
                except BufferError:
                    self._produce_late(topic, record)
        except KafkaException as exc:
            raise self._given_up(exc, "produce") from exc

    def _produce_late(self, topic: str, record: Record) -> None:
        """Queue one record once there is room. Raises KafkaException."""
        self._count("sluice_producer_queue_full_total")
        key, value, headers = record
        deadline = time.monotonic() + QUEUE_WAIT_MAX_S
        while True:
            self._producer.poll(PAUSE_S)
            try:
                self._producer.produce(topic, value, key, headers=headers)
            except BufferError:
                if time.monotonic() > deadline:
                    raise Unavailable("the producer's queue stays full", where=topic) from None
            else:
                return

    def commit(self, offsets: Sequence[TopicPartition] = (), group: Any = None) -> None:
        """Make the records, and the next offsets of a group, visible together.

        group: consumer_group_metadata() of the member that read them. Raises Unavailable after an
        abort: nothing became visible. Raises Corrupt if fenced: exit.
        """
        deadline = time.monotonic() + COMMIT_MAX_S
        kill_at("stream.before_offsets")
        if offsets:
            self._add(list(offsets), group)
        kill_at("stream.before_commit")
        self._retry(self._producer.commit_transaction, "commit the transaction", deadline)
        self.open = False

    def _add(self, offsets: list[TopicPartition], group: Any) -> None:
        add = self._producer.send_offsets_to_transaction
        try:
            self._retry(
                lambda left: _bounded(lambda: add(offsets, group, left), left + BACK_MAX_S),
                "add offsets to the transaction",
                time.monotonic() + OFFSETS_MAX_S,
            )
        except TimeoutError:
            self._give_up_on_it()
            raise Unavailable(
                f"no answer to the offsets of the transaction within {OFFSETS_MAX_S:.0f} s",
                where=self.transactional_id,
                fix="is the broker up that coordinates the group?",
            ) from None

    def abort(self) -> None:
        """Drop the open transaction; harmless if none is open.

        Where the broker does not answer, the client is given up. Raises Corrupt if fenced.
        """
        if not self.open:
            return
        try:
            self._persist(self._producer.abort_transaction, time.monotonic() + ABORT_MAX_S)
        except KafkaException as exc:
            error = translate(exc, "abort the transaction", self.transactional_id)
            if isinstance(error, Corrupt) and not self._ended(exc, error):
                self.open = False
                raise error from exc
            # Still open: until it is aborted, librdkafka begins no other.
            self._give_up_on_it()
        self.open = False

    def _ended(self, exc: KafkaException, error: Corrupt) -> bool:
        """True if the broker has ended the transaction itself, and nobody took our id.

        It took too long: we are fenced, as a process with our id, which the broker does not tell
        from that, fences a young one too. Or what was asked of it before contradicts what is asked
        now: the answer to a commit was lost, and an abort comes too late.
        """
        outlasted = time.monotonic() - self._began_at >= TRANSACTION_MAX_MS / 1000
        return (error.code == "fenced" and outlasted) or (
            exc.args[0].code() == KafkaError.INVALID_TXN_STATE
        )

    def _retry(self, step: Callable[[float], None], what: str, deadline: float) -> None:
        try:
            self._persist(step, deadline)
        except KafkaException as exc:
            raise self._given_up(exc, what) from exc

    def _persist(self, step: Callable[[float], None], deadline: float) -> None:
        """Take a step again while that may help. Raises KafkaException."""
        while True:
            left = deadline - time.monotonic()
            try:
                step(max(0.1, left))
            except KafkaException as exc:
                error = exc.args[0]
                # _CONFLICT: a commit under way allows no abort, however often we ask.
                if left < 0 or not error.retriable() or error.code() == KafkaError._CONFLICT:
                    raise
                self._count("sluice_producer_retries_total", code_of(error))
                with suppress(KafkaException):  # a fatal one, which the next step will raise
                    self._producer.poll(PAUSE_S)
            else:
                return

    def _given_up(self, exc: KafkaException, what: str) -> SluiceError:
        error = translate(exc, what, self.transactional_id)
        if isinstance(error, Corrupt) and self._ended(exc, error):
            self._give_up_on_it()
            return Unavailable(
                f"could not {what}: the broker has ended the transaction itself",
                where=self.transactional_id,
                fix="nothing, if it stalled or was killed: the batch comes again",
            )
        if isinstance(error, Corrupt) or exc.args[0].fatal():
            self.open = False  # a fatal producer can neither commit nor abort
        else:
            self.abort()
        return error


def _bounded(step: Callable[[], None], limit_s: float) -> None:
    """Take a step that may not come back, in a thread. Raises TimeoutError, and what it raises."""
    raised: list[Exception] = []

    def take() -> None:
        try:
            step()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=take, name="bounded", daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        raise TimeoutError
    if raised:
        raise raised[0]


class TransactionalStream:
    """A group member on ``authorizations.v1`` with a transactional producer."""

    def __init__(
        self,
        bootstrap: str,
        *,
        group: str,
        topics: Sequence[str],
        transactional_id: str,
        client_id: str,
        session_ms: int = SESSION_MAX_MS,
        extra: Extra | None = None,
        count: Count = uncounted,
    ) -> None:
        self._metadata: Any = None
        self._count = count
        self._producer = TransactionalProducer(
            bootstrap,
            transactional_id=transactional_id,
            client_id=client_id,
            extra=extra,
            count=count,
        )
        self._consumer = GroupConsumer(
            bootstrap,
            group=group,
            topics=topics,
            client_id=client_id,
            session_ms=session_ms,
            extra=extra,
            count=count,
        )

    def listen(self, on_assign: OnAssign, on_revoke: OnRevoke) -> None:
        """See the port."""
        self._consumer.listen(on_assign, on_revoke)

    def poll_batch(self, limit: int, wait_s: float) -> list[Message]:
        """Up to limit authorizations; waits at most wait_s for the first. Raises Unavailable."""
        batch = self._consumer.poll_batch(limit, wait_s)
        if not batch:
            return batch
        # Taken with the batch, not at the commit: if the group moves on in between, the commit
        # is refused. A member thrown out gets a new id; its metadata would be accepted unchecked.
        self._metadata = self._consumer.raw.consumer_group_metadata()
        if self._consumer.raw.memberid() != self._consumer.member:
            self._count("sluice_consumer_aborts_total", "rebalanced")
            self._consumer.rewind()
            return []
        return batch

    def begin(self) -> None:
        """Open a transaction. Raises Corrupt if another process took our id."""
        self._producer.begin()

    def produce(
        self, topic: str, key: bytes | str | None, value: bytes, traceparent: str | None = None
    ) -> None:
        """Queue one record of the open transaction. A failure surfaces at the commit."""
        self.produce_each(topic, [(key, value, traceparent)])

    def produce_each(self, topic: str, records: Iterable[ProducerRecord]) -> None:
        """Queue records of the open transaction. A failure surfaces at the commit."""
        with self._rewinding():
            self._producer.produce_each(
                topic, ((key, value, trace_headers(trace)) for key, value, trace in records)
            )

    def commit(self, offsets: Offsets) -> None:
        """Make the records and the next offsets to read visible together.

        Raises Unavailable after an abort: nothing became visible, the consumer stands at the
        committed offsets again and the same authorizations will come. code "rebalanced": they may
        come to another replica. Raises Corrupt if fenced: exit.
        """
        with self._rewinding():
            self._producer.commit(self._consumer.places(offsets), self._metadata)
        self._consumer.committed_elsewhere(offsets)
        kill_at("stream.after_commit")

    @property
    def generation(self) -> int:
        """See the port."""
        return self._producer.generation

    def abort(self) -> None:
        """Drop the open transaction and go back to the committed offsets; harmless if none is open.

        Raises Unavailable if the broker does not answer.
        """
        if self._producer.open:
            self.rewind()

    def rewind(self, starts: Offsets = NO_OFFSETS) -> None:
        """Drop the open transaction, if there is one, and go back to the committed offsets, or to
        those of starts: what was read since comes again. Raises Unavailable."""
        self._producer.abort()
        # Before offsets are asked for: they wait for what the old client left open.
        self._producer.renew()
        self._consumer.rewind(starts)

    def oldest(self, partition: Partition) -> int:
        """As :meth:`GroupConsumer.oldest`."""
        return self._consumer.oldest(partition)

    def confirm(self) -> dict[str, str]:
        """As :meth:`GroupConsumer.confirm`."""
        return self._consumer.confirm()

    def committed(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """As :meth:`GroupConsumer.committed`."""
        return self._consumer.committed(partitions)

    def partitions(self) -> list[Partition]:
        """As :meth:`GroupConsumer.partitions`."""
        return self._consumer.partitions()

    def lag(self) -> dict[Partition, int]:
        """As :meth:`GroupConsumer.lag`."""
        return self._consumer.lag()

    def uncommitted(self) -> dict[Partition, int]:
        """As :meth:`GroupConsumer.uncommitted`."""
        return self._consumer.uncommitted()

    def reachable(self) -> bool:
        """As :meth:`GroupConsumer.reachable`."""
        return self._consumer.reachable()

    def assignment(self) -> list[Partition]:
        """The partitions that are ours now."""
        return self._consumer.assignment()

    def close(self) -> None:
        """Abort what is open and leave the group."""
        with suppress(SluiceError):
            self.abort()
        self._consumer.close()

    @contextmanager
    def _rewinding(self) -> Iterator[None]:
        """What the producer gave up, and so aborted, comes again."""
        generation = self.generation
        try:
            yield
        except (Unavailable, Rejected):
            # With a client that was given up it is not aborted yet: the owner rewinds in its turn.
            if not self._producer.open and self.generation == generation:
                self._consumer.rewind()
            raise
