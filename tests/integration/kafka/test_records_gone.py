"""Records that expired unread: passed over and counted, or told, as the owner chose."""

from __future__ import annotations

from collections import Counter

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from sluice.adapters.kafka.consumer import GroupConsumer
from sluice.adapters.kafka.producer import EventProducer
from sluice.application.ports import RECORDS_GONE
from sluice.errors import Corrupt
from tests.integration.kafka.conftest import Broker
from tests.support.kafka import wait_until

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
    producer.flush(30)
    first = member()
    wait_until(lambda: first.poll_batch(1, 0.1), "the group reads")
    first.commit({(topic, 0): 1})
    first.close()
    admin = AdminClient({"bootstrap.servers": apache.bootstrap})
    for future in admin.delete_records([TopicPartition(topic, 0, 5)]).values():
        future.result(20)

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
