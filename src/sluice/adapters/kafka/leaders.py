"""Whether each partition's leader serves it, which metadata says a moment too early.

A broker that becomes the leader between two batches of a producer refuses the first and takes the
second: it has never heard of the producer, and so accepts any sequence number. librdkafka (2.16)
then believes that the first was written too: an acknowledged record is lost. So nobody writes to a
new partition before its leader has answered a question about it.
"""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from sluice.adapters.kafka.config import LEADERLESS, heals

_NOT_YET = LEADERLESS | {KafkaError.UNKNOWN_TOPIC_OR_PART}
"""Also what a broker says that has not heard yet of a topic that another one names it leader of."""


def unserved(
    admin: AdminClient, partitions: Iterable[tuple[str, int]], timeout_s: float
) -> list[str]:
    """Those, as topic/partition, whose leader does not answer. Raises KafkaException for another
    reason than that."""
    asked = {TopicPartition(topic, number): OffsetSpec.latest() for topic, number in partitions}
    answers = admin.list_offsets(asked, request_timeout=timeout_s) if asked else {}
    found: list[str] = []
    for place, answer in answers.items():
        try:
            answer.result()
        except KafkaException as exc:
            error = exc.args[0]
            if error.code() not in _NOT_YET and not heals(error):
                raise
            found.append(f"{place.topic}/{place.partition}")
    return sorted(found)
