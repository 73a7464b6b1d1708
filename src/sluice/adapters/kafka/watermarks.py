"""What a broker says that its partitions hold, read by kafka-python.

Whoever checks the log's writer asks through code that the writer does not share: everything else
here reads with librdkafka.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError

from sluice.errors import Unavailable

REQUEST_MAX_MS = 10_000
BOOTSTRAP_MAX_MS = 4_000
SPEAKS = (2, 3)
"""The broker version that is spoken to, which every later one still answers. A newer one's first
request has an answer from the demo's embedded broker that kafka-python cannot read."""

_OPTIONS = {
    "security.protocol": "security_protocol",
    "sasl.mechanism": "sasl_mechanism",
    "sasl.username": "sasl_plain_username",
    "sasl.password": "sasl_plain_password",
    "ssl.ca.location": "ssl_cafile",
    "ssl.certificate.location": "ssl_certfile",
    "ssl.key.location": "ssl_keyfile",
    "ssl.key.password": "ssl_password",
}
"""librdkafka's names of options, and kafka-python's."""


def read_watermarks(
    bootstrap: str, extra: Mapping[str, str], topics: Sequence[str]
) -> dict[tuple[str, int], tuple[int, int]]:
    """(topic, partition) to its first offset, and the one behind its last committed one.

    A partition that never held a record is left out. extra: librdkafka's options. Raises
    Unavailable.
    """
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap.split(","),
            request_timeout_ms=REQUEST_MAX_MS,
            bootstrap_timeout_ms=BOOTSTRAP_MAX_MS,
            api_version=SPEAKS,
            **{_OPTIONS[key]: value for key, value in extra.items()},
        )
        with admin:
            parts = [
                TopicPartition(topic["name"], part["partition_index"])
                for topic in admin.describe_topics(list(topics))
                for part in topic["partitions"]
            ]
            first, until = (
                admin.list_partition_offsets(dict.fromkeys(parts, end), "read_committed")
                for end in (OffsetSpec.EARLIEST, OffsetSpec.LATEST)
            )
    except KafkaError as exc:
        raise Unavailable(
            f"the brokers do not tell their watermarks: {exc}", where=bootstrap
        ) from exc
    return {
        (p.topic, p.partition): (first[p].offset, until[p].offset) for p in parts if until[p].offset
    }
