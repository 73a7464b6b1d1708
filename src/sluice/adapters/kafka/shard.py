"""Reads a fixed share of the partitions: what the one writer of a log reads is not dealt out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, KafkaError, TopicPartition

from sluice.adapters.kafka.config import METADATA_EVERY_MS, Extra
from sluice.adapters.kafka.consumer import GroupConsumer
from sluice.application.ports import Count, Offsets, Partition, uncounted

LOOK_EVERY_S = METADATA_EVERY_MS / 1000
"""How late a new partition is read."""


class ShardConsumer(GroupConsumer):
    """Reads the partitions of each topic whose number leaves ``shard`` when divided by ``shards``.

    It is in no group, and commits under a group's name all the same, so that whoever watches lag
    sees it. Records that expired before they were read are Corrupt, as for every owner who must
    tell of them.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        group: str,
        topics: Sequence[str],
        client_id: str,
        shard: int,
        shards: int,
        extra: Extra | None = None,
        count: Count = uncounted,
    ) -> None:
        self._shard, self._shards = shard, shards
        self._look_at = 0.0
        self._ends: dict[Partition, int] = {}
        super().__init__(
            bootstrap,
            group=group,
            topics=topics,
            client_id=client_id,
            passes_over=False,
            extra=extra,
            count=count,
        )

    def _join(self) -> None:
        """There is none to be joined: partitions are taken at the first poll."""

    def poll_batch(self, limit: int, wait_s: float) -> list[Any]:
        """See the port."""
        if time.monotonic() >= self._look_at:
            self._take()
            self._look_at = time.monotonic() + LOOK_EVERY_S
        return super().poll_batch(limit, wait_s)

    def ends(self) -> Offsets:
        """By partition, the offset up to which there was nothing more to read when its end was last
        met: what lies between it and the last record is the broker's own, or of aborted
        transactions."""
        return self._ends

    def rewind(self, starts: Offsets = {}) -> None:  # noqa: B006 (never changed)
        """See the port."""
        self._ends.clear()
        super().rewind(starts)

    def _take(self) -> None:
        have = set(self.assignment())
        new = [
            TopicPartition(topic, number, OFFSET_BEGINNING)
            for topic, number in self.partitions()
            if number % self._shards == self._shard and (topic, number) not in have
        ]
        if new:
            self._assigned(self._consumer, new)

    def _take_note(self, error: KafkaError, message: Any) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            self._ends[message.topic(), message.partition()] = message.offset()
        super()._take_note(error, message)
