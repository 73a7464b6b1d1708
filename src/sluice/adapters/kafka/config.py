"""What all clients share: limits with their reasons, and librdkafka's errors as ours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from sluice.application.ports import Count
from sluice.errors import Corrupt, Misconfigured, Rejected, SluiceError, Unavailable
from sluice.traceparent import new_traceparent

RECONNECT_MAX_MS = 400
"""A broker that is back is found again within half a second; librdkafka's own default is ten."""
CONNECT_MAX_MS = 3_000
"""A connection not made by then, TLS and SASL included, is tried anew. Of packets that are lost the
kernel sends the first again after 1, 3 and 7 s: librdkafka's 30 s would outlast an outage by 8."""
RESPONSE_MAX_MS = 10_000
"""A request unanswered for so long ends its connection, which may lead nowhere by now. Of a commit
that is tried three times this makes 30 s, less than the loop waits for one (60 s by default)."""
METADATA_EVERY_MS = 10_000
"""How late a new partition is read from and written to: librdkafka's own 5 minutes would leave what
other writers put there unread for so long."""
REQUEST_MAX_S = 10.0
"""One administrative question: metadata, watermarks, committed offsets."""
DELIVERY_MAX_MS = 30_000
"""A record not acknowledged by then is reported as failed. Outlasts a broker's restart."""
TOPIC_WAIT_MS = 5_000
"""A topic still unknown after this does not exist; brokers learn of a new one within a second."""
QUEUE_MAX_MESSAGES = 100_000
QUEUE_MAX_KBYTES = 65_536
"""Records and bytes waiting in one producer: 64 MiB, a few seconds of traffic."""
QUEUE_WAIT_MAX_S = 30.0
"""How long ``produce`` waits for room in a full queue before it gives up."""
SESSION_MAX_MS = 20_000
"""A member silent for so long is dead, and its partitions move. Longer than a group may be without
its coordinator: a killed broker is waited for for 9 s by default, and for 4 more where it was the
controller too. A member that gave up sooner would join as a new one, and the group would wait for
the old one as well. The setting ``kafka.session_s``."""
HEARTBEAT_MS = 2_000
POLL_INTERVAL_MAX_MS = 60_000
"""A member that does not poll for so long is stuck. Bounds the handling of one batch."""
FETCH_WAIT_MS = 50
"""How long a broker holds an empty fetch. Real brokers answer at once when a record comes; the
embedded one does not, and adds this to its latency."""
PREFETCH_MAX_KBYTES = 16_384
"""Bytes fetched ahead of the application, per client."""
FETCH_AGAIN_MS = 50
"""How long a full prefetch rests before it is looked at again. 16 MB are 8,000 decisions, half a
second of work: with librdkafka's default of 1,000 a service that catches up runs dry."""
TRANSACTION_MAX_MS = 20_000
"""A transaction open for so long is aborted by the broker: until then, readers of committed
records wait behind a dead entrypoint. Its records are given up after as long, so that it outlasts
the 9 to 13 s for which partitions of a killed broker have no leader."""
TRANSACTION_RETRY_MS = 10
"""The next transaction is refused (CONCURRENT_TRANSACTIONS) while the broker still writes the
markers of the last, a few milliseconds. With librdkafka's default of 100, begin to commit of 500
records had p90 105-127 ms on one node, with 10 it has 30-46: 10,000 and 25,000 records/s."""
MESSAGE_MAX_BYTES = 1_048_576
"""One record. A decision is about 2 kB; its 64 pending entries may add 10."""
TRACEPARENT = "traceparent"
"""W3C Trace Context, level 1: the header's name in Kafka as in HTTP."""

Header = tuple[str, bytes]
Extra = Mapping[str, str | int | bool]
"""librdkafka properties from outside: security, mostly. They win over ours."""

log = logging.getLogger("sluice.kafka")

_FENCED = {
    KafkaError._FENCED,
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.FENCED_INSTANCE_ID,
}
CREDENTIALS = "the credentials: kafka.sasl_mechanism, kafka.sasl_username, kafka.sasl_password"
CERTIFICATES = "the certificates: kafka.ca_file, kafka.cert_file, kafka.key_file"
REFUSED = "docs/runbooks/refused-credentials.md#a-broker-refuses-a-service"
_WRONG = {
    KafkaError._INVALID_ARG: "name and value of the property",
    KafkaError._AUTHENTICATION: CREDENTIALS,
    KafkaError._SSL: CERTIFICATES,
    KafkaError.SASL_AUTHENTICATION_FAILED: CREDENTIALS,
    KafkaError.TOPIC_AUTHORIZATION_FAILED: f"the ACLs of this user on the topic: {REFUSED}",
    KafkaError.GROUP_AUTHORIZATION_FAILED: f"the ACLs of this user on the group: {REFUSED}",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: f"the ACLs of this user on the cluster: {REFUSED}",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: (
        f"the ACLs of this user on transactional ids: {REFUSED}"
    ),
    KafkaError.UNKNOWN_TOPIC_OR_PART: "sluice topics apply",
    KafkaError._UNKNOWN_TOPIC: "sluice topics apply",
    KafkaError._UNKNOWN_PARTITION: "sluice topics apply",
    KafkaError.INVALID_REPLICATION_FACTOR: "a replication of at most the number of brokers",
    KafkaError.POLICY_VIOLATION: "the broker's policy on topics",
}
REBALANCED = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._ASSIGNMENT_LOST,
}

LEADERLESS = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError._UNKNOWN_PARTITION,
}
"""What a partition that exists answers while nobody leads it: made a moment ago, or of a broker
that was away for so long that its controller gave it up."""
_HEALS = REBALANCED | {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError._WAIT_COORD,
    KafkaError._RESOLVE,
    KafkaError._MAX_POLL_EXCEEDED,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.UNSTABLE_OFFSET_COMMIT,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.THROTTLING_QUOTA_EXCEEDED,
}
"""What a consumer's client tries again by itself: the protocol's retriable errors that it may meet,
without a topic that does not exist, and the client's own."""


def heals(error: KafkaError) -> bool:
    """True if a consumer need do nothing about an error but go on.

    Not its ``retriable()``: librdkafka sets that for its transactions alone, and what a consumer
    hears of says False, whatever it is.

    >>> moved = KafkaError(KafkaError.NOT_COORDINATOR)
    >>> moved.retriable(), heals(moved)
    (False, True)
    """
    return error.code() in _HEALS


ERROR_CODES = frozenset(
    {
        *("_TRANSPORT", "_ALL_BROKERS_DOWN", "_MAX_POLL_EXCEEDED", "_TIMED_OUT", "_MSG_TIMED_OUT"),
        *("_SSL", "_AUTHENTICATION"),
        *("_ASSIGNMENT_LOST", "ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID", "REBALANCE_IN_PROGRESS"),
        *("REQUEST_TIMED_OUT", "NOT_LEADER_FOR_PARTITION", "LEADER_NOT_AVAILABLE"),
        *("NOT_ENOUGH_REPLICAS", "NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE"),
        *("COORDINATOR_LOAD_IN_PROGRESS", "CONCURRENT_TRANSACTIONS", "MSG_SIZE_TOO_LARGE"),
        *("TOPIC_AUTHORIZATION_FAILED", "GROUP_AUTHORIZATION_FAILED"),
        *("TRANSACTIONAL_ID_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED"),
        "SASL_AUTHENTICATION_FAILED",
    }
)
"""librdkafka's names of the errors that are counted by name."""


def code_of(error: KafkaError) -> str:
    """The word by which an error is counted.

    >>> code_of(KafkaError(KafkaError._TRANSPORT))
    '_TRANSPORT'
    """
    name: str = error.name()
    return name if name in ERROR_CODES else "other"


def error_counter(count: Count) -> Callable[[KafkaError], None]:
    """For a client's error_cb: what librdkafka heals by itself and tells nobody else."""
    return lambda error: count("sluice_kafka_errors_total", code_of(error))


def client(bootstrap: str, client_id: str, extra: Extra | None, **own: Any) -> dict[str, Any]:
    """A client's properties: the shared ones, its own, then the extra ones on top."""
    return {
        "bootstrap.servers": bootstrap,
        "client.id": client_id,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": RECONNECT_MAX_MS,
        "socket.connection.setup.timeout.ms": CONNECT_MAX_MS,
        "socket.timeout.ms": RESPONSE_MAX_MS,
        "socket.keepalive.enable": True,
        "topic.metadata.refresh.interval.ms": METADATA_EVERY_MS,
        "socket.nagle.disable": True,
        "logger": log,
        **{
            name if callable(value) else name.replace("_", "."): value
            for name, value in own.items()
        },
        **(extra or {}),
    }


def producer(bootstrap: str, client_id: str, extra: Extra | None, **own: Any) -> dict[str, Any]:
    """Properties of every producer: idempotent, so a retry neither doubles nor reorders."""
    return client(
        bootstrap,
        client_id,
        extra,
        **{
            "enable_idempotence": True,
            "acks": "all",
            "queue_buffering_max_messages": QUEUE_MAX_MESSAGES,
            "queue_buffering_max_kbytes": QUEUE_MAX_KBYTES,
            "message_max_bytes": MESSAGE_MAX_BYTES,
            "topic_metadata_propagation_max_ms": TOPIC_WAIT_MS,
            # zstd leaves a fifth of a decision's bytes, lz4 a third, at a fifth of the CPU.
            "compression_type": "lz4",
            # Java's hash, so that every client puts one card into one partition.
            "partitioner": "murmur2_random",
            **own,
        },
    )


def translate(error: KafkaException | KafkaError, what: str, where: str) -> SluiceError:
    """librdkafka's error as one of ours, by the reaction it asks for.

    what: what was being done, "commit the transaction". Returns Corrupt (code fenced),
    Misconfigured, Rejected (too_large) or Unavailable (rebalanced, unavailable).
    """
    kafka = error.args[0] if isinstance(error, KafkaException) else error
    if not isinstance(kafka, KafkaError):
        return Unavailable(f"could not {what}: {error}", where=where)
    text = f"could not {what}: {kafka.name()}, {kafka.str()}"
    code = kafka.code()
    if code in _FENCED or (kafka.fatal() and "fenced" in kafka.str().lower()):
        return Corrupt(
            f"{text}; another process uses the same transactional or instance id",
            where=where,
            fix="one id a replica: the pod's own name",
            code="fenced",
        )
    if kafka.fatal():
        return Corrupt(text, where=where, fix="restart the process", code="fatal")
    if code in _WRONG:
        return Misconfigured(text, where=where, fix=_WRONG[code])
    if code == KafkaError.MSG_SIZE_TOO_LARGE:
        return Rejected(
            text, where=where, fix=f"at most {MESSAGE_MAX_BYTES} bytes a record", code="too_large"
        )
    if code in REBALANCED:
        return Unavailable(text, where=where, code="rebalanced")
    return Unavailable(text, where=where, fix="is the broker up?")


def trace_headers(traceparent: str | None) -> list[Header]:
    """Headers that carry the trace on, none without one."""
    return [(TRACEPARENT, traceparent.encode())] if traceparent else []


def traceparent_of(headers: Sequence[tuple[str, bytes | None]] | None) -> str | None:
    """The trace context among a record's headers; None without one. More than one are none: a new
    trace begins."""
    found = [value for name, value in headers or () if name == TRACEPARENT]
    if len(found) > 1:
        return new_traceparent()
    return found[0].decode("ascii", "replace") if len(found) == 1 and found[0] else None
