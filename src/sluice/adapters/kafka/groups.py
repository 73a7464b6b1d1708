"""A consumer group from outside: who is in it, and where it reads on."""

from __future__ import annotations

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from sluice.adapters.kafka.config import REQUEST_MAX_S, Extra, client, translate
from sluice.application.ports import Offsets


class Group:
    """One group, by name."""

    def __init__(self, bootstrap: str, name: str, *, extra: Extra | None = None) -> None:
        self.name = name
        self._admin = AdminClient(client(bootstrap, "sluice-groups", extra))

    def members(self) -> list[str]:
        """Client ids of the members; none if the group does not exist. Raises Unavailable."""
        try:
            asked = self._admin.describe_consumer_groups([self.name], request_timeout=REQUEST_MAX_S)
            return sorted(member.client_id for member in asked[self.name].result().members)
        except KafkaException as exc:
            raise translate(exc, "ask who is in the group", self.name) from exc

    def reset(self, offsets: Offsets) -> None:
        """Let the group read on from these offsets. Raises Unavailable if anyone is in it."""
        places = [TopicPartition(topic, number, at) for (topic, number), at in offsets.items()]
        asked = ConsumerGroupTopicPartitions(self.name, places)
        try:
            done = self._admin.alter_consumer_group_offsets([asked], request_timeout=REQUEST_MAX_S)[
                self.name
            ].result()
        except KafkaException as exc:
            raise translate(exc, "set the group's offsets", self.name) from exc
        for place in done.topic_partitions:
            if place.error is not None:
                where = f"{place.topic}/{place.partition}"
                raise translate(place.error, "set the group's offsets", where)
