import asyncio
import uuid

import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from sluice.adapters.kafka import topics as table
from sluice.adapters.kafka.decision_log import DecisionProducer
from sluice.adapters.kafka.topics import Topics
from sluice.domain.records.authorization import encode
from sluice.errors import Misconfigured, Unavailable
from sluice.testing.factories import make_arrival
from sluice.testing.records import make_decision
from tests.support.kafka import read_all, wait_until

pytestmark = pytest.mark.integration


def test_a_second_apply_changes_nothing(kafka, make_topics):
    names = make_topics(3)
    assert table.apply(kafka.bootstrap, names, partitions=3, replication=1) == []
    assert table.apply(kafka.bootstrap, names) == []
    found = {topic.name: topic for topic in table.existing(kafka.bootstrap, names)}
    assert set(found) == set(names.all())
    assert found[names.decisions].partitions == 3
    assert found[names.decisions].retention_days == 40


def test_a_dry_run_says_what_it_would_create_and_creates_nothing(kafka):
    names = Topics(f"{uuid.uuid4().hex}.")
    changes = table.apply(kafka.bootstrap, names, dry_run=True)
    assert [change.topic for change in changes] == list(names.all())
    assert table.existing(kafka.bootstrap, names) == []


def test_a_setting_changed_by_hand_is_set_back_and_reported(kafka, topics):
    entry = ConfigEntry("retention.ms", "1000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topics.decisions, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.incremental_alter_configs([resource])[resource].result(60)
    wait_until(
        lambda: min(t.retention_days for t in table.existing(kafka.bootstrap, topics)) < 0.1,
        "the broker serves the changed setting",
    )
    changes = table.apply(kafka.bootstrap, topics)
    assert [str(change) for change in changes] == [
        f"{topics.decisions}: retention.ms 1000 -> {40 * 86_400_000}"
    ]
    wait_until(lambda: table.apply(kafka.bootstrap, topics) == [], "nothing is left to change")


def test_more_partitions_are_added_and_fewer_are_refused(kafka, make_topics):
    names = make_topics(2)
    grown = table.apply(kafka.bootstrap, names, partitions=4)
    assert {change.topic for change in grown} == set(names.all())
    wait_until(
        lambda: {topic.partitions for topic in table.existing(kafka.bootstrap, names)} == {4},
        "the broker serves the added partitions",
    )
    with pytest.raises(Misconfigured, match="cannot shrink"):
        table.apply(kafka.bootstrap, names, partitions=2)


def test_a_replication_beyond_the_brokers_is_a_wrong_setting(kafka):
    with pytest.raises(Misconfigured, match="replication"):
        table.apply(kafka.bootstrap, Topics(f"{uuid.uuid4().hex}."), replication=3)


def test_no_broker_is_unavailable():
    with pytest.raises(Unavailable, match="apply the topics"):
        table.apply("127.0.0.1:1")


@pytest.mark.slow
async def test_what_is_acknowledged_on_a_fresh_topic_can_be_read(kafka):
    """Of sixty, one was a record short, where nobody waited for its leaders to serve it."""
    for _ in range(10):
        await asyncio.gather(*(_written_at_once(kafka.bootstrap) for _ in range(6)))


async def _written_at_once(bootstrap: str) -> None:
    names = Topics(f"t{uuid.uuid4().hex[:10]}.")
    await asyncio.to_thread(table.apply, bootstrap, names, partitions=4, replication=1)
    log = DecisionProducer(bootstrap, topic=names.decisions, client_id="test", append_max_ms=60_000)
    decisions = [
        (make_arrival(f"a-{n}", card_token=f"card-{n % 5}"), make_decision(f"a-{n}"))
        for n in range(30)
    ]
    await asyncio.gather(*(log.append([one]) for one in decisions))
    await log.close()
    found = await asyncio.to_thread(read_all, bootstrap, names.decisions)
    await asyncio.to_thread(table.delete, bootstrap, names)
    assert sorted(m.value for m in found) == sorted(encode(d) for _, d in decisions)
