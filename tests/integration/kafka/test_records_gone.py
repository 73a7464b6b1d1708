"""Records that expired unread: passed over and counted, or told, as the owner chose."""

from __future__ import annotations

import os
from collections import Counter, deque

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from sluice.adapters.kafka.consumer import GroupConsumer
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.reader import TopicReader
from sluice.application.ports import RECORDS_GONE
from sluice.errors import Corrupt, Unavailable
from tests.integration.kafka.conftest import Broker
from tests.support.kafka import remake, wait_until

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("passes_over", [True, False])
def test_what_expired_unread_is_passed_over_only_where_the_owner_says_so(
    apache: Broker, passes_over: bool
) -> None:
    topic, counted = apache.topics.labels, Counter[str]()

    def count(metric: str, *labels: str, by: float = 1) -> None:
        counted[metric] += int(by)

    def member() -> GroupConsumer:
        return GroupConsumer(
            apache.bootstrap,
            group=topic,
            topics=[topic],
            client_id="test",
            passes_over=passes_over,
            count=count,
        )

    producer = EventProducer(apache.bootstrap, client_id="test")
    for number in range(9):
        producer.produce(topic, b"%d" % number, partition=0)
    producer.flush(60)
    first = member()
    wait_until(lambda: first.poll_batch(1, 0.1), "the group reads")
    first.commit({(topic, 0): 1})
    first.close()
    admin = AdminClient({"bootstrap.servers": apache.bootstrap})
    for future in admin.delete_records([TopicPartition(topic, 0, 5)]).values():
        future.result(60)

    second = member()
    if passes_over:
        got = wait_until(lambda: second.poll_batch(1, 0.1), "it goes on")
        assert [message.offset for message in got] == [5]
    else:
        with pytest.raises(Corrupt, match="no longer holds") as caught:
            wait_until(lambda: second.poll_batch(1, 0.1), "it says so")
        assert caught.value.code == RECORDS_GONE
    assert counted["sluice_consumer_records_gone_total"] == 1
    second.close()


def test_where_an_owner_begins_may_not_expire_before_it_was_read_either(apache: Broker) -> None:
    """An auditor: it knows its place from its log, and has neither read nor committed here."""
    topic = apache.topics.labels
    producer = EventProducer(apache.bootstrap, client_id="test")
    for number in range(9):
        producer.produce(topic, b"%d" % number, partition=0)
    producer.flush(60)
    member = GroupConsumer(
        apache.bootstrap, group=topic, topics=[topic], client_id="test", passes_over=False
    )
    member.listen(lambda _: {(topic, 0): 2}, lambda _, __: None)
    admin = AdminClient({"bootstrap.servers": apache.bootstrap})
    for future in admin.delete_records([TopicPartition(topic, 0, 5)]).values():
        future.result(60)
    with pytest.raises(Corrupt) as caught:
        wait_until(lambda: member.poll_batch(1, 0.1), "it says so")
    assert caught.value.code == RECORDS_GONE
    member.close()


@pytest.mark.slow
def test_a_topic_made_again_under_a_reader_ends_it(apache: Broker) -> None:
    """As under the recall of a decider that begins: what it prefetched comes, then it says so."""
    topic, count = apache.topics.labels, 300
    producer = EventProducer(apache.bootstrap, client_id="test")
    for _ in range(count):  # more than a reader takes and fetches ahead in its first 0.2 s
        producer.produce(topic, os.urandom(900_000), partition=0)
    producer.flush(60)
    reader = TopicReader(apache.bootstrap)
    came = reader.tail(topic, 4 * count)  # of four partitions
    next(came)
    remake(apache.bootstrap, topic, partitions=4)
    with pytest.raises(Unavailable, match="gave nothing for"):
        deque(came, maxlen=0)
    reader.close()
