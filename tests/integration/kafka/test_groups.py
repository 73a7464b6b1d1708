"""Ends of topics and offsets of groups, as a rebuild reads and sets them."""

from __future__ import annotations

import time

import pytest

from sluice.adapters.kafka.consumer import GroupConsumer
from sluice.adapters.kafka.groups import Group
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.reader import TAIL, TopicReader
from sluice.adapters.kafka.transactions import TransactionalProducer
from sluice.errors import SluiceError
from tests.support.kafka import read_all, wait_until

pytestmark = pytest.mark.integration


def test_a_topics_end_is_behind_its_last_record_not_behind_markers(apache):
    topic = apache.topics.decisions
    reader = TopicReader(apache.bootstrap)
    assert set(reader.ends(topic).values()) == {0}
    writer = TransactionalProducer(
        apache.bootstrap, transactional_id=f"{topic}-t", client_id="test"
    )
    writer.begin()
    for number in range(3):
        writer.produce(topic, b"one-card", b"%d" % number)
    writer.commit()
    # What was taken back leaves its records and a watermark behind, which nobody sees.
    everything = TopicReader(apache.bootstrap, committed=False)
    writer.begin()
    for _ in range(2 * TAIL):
        writer.produce(topic, b"one-card", b"taken back")
    wait_until(
        lambda: max(end for _, end in everything.spans(topic).values()) > 2 * TAIL, "it is sent"
    )
    writer.abort()
    everything.close()
    wait_until(
        lambda: max(end for _, end in reader.spans(topic).values()) > 2 * TAIL, "it is aborted"
    )
    assert sorted(reader.ends(topic).values()) == [0, 0, 0, 3]
    reader.close()


def test_a_groups_offsets_are_set_only_while_nobody_is_in_it(apache):
    topic = apache.topics.labels
    producer = EventProducer(apache.bootstrap, client_id="test")
    for number in range(10):
        producer.produce(topic, b"%d" % number, key=b"one")
    producer.flush(60)
    group = Group(apache.bootstrap, f"{topic}-g")
    assert group.members() == []
    member = GroupConsumer(apache.bootstrap, group=group.name, topics=[topic], client_id="test-1")
    got = []
    wait_until(lambda: got.extend(member.poll_batch(100, 0.1)) or len(got) == 10, "all read")
    assert sorted(member.partitions()) == [(topic, number) for number in range(4)]
    assert group.members() == ["test-1"]
    place = (topic, got[0].partition)
    with pytest.raises(SluiceError, match="set the group's offsets"):
        group.reset({place: 7})
    member.close()
    wait_until(lambda: not group.members(), "it has left")
    group.reset({place: 7})
    again = GroupConsumer(apache.bootstrap, group=group.name, topics=[topic], client_id="test-2")
    got.clear()
    wait_until(lambda: got.extend(again.poll_batch(100, 0.1)) or len(got) == 3, "three read")
    again.close()
    assert [m.value for m in got] == [b"7", b"8", b"9"]


@pytest.mark.parametrize("after_s", [0, 0.01, 0.03, 0.1, 0.3])
def test_a_member_that_leaves_while_it_joins_asks_nothing_any_more(apache, after_s):
    """Its partitions may come while it closes; what it asked then was answered by nobody."""
    topic = apache.topics.labels
    member = GroupConsumer(apache.bootstrap, group=f"{topic}-j", topics=[topic], client_id="test-1")
    assert member.poll_batch(1, 0) == []
    time.sleep(after_s)  # librdkafka's own threads join meanwhile
    began = time.monotonic()
    member.close()
    assert time.monotonic() - began < 5


def test_a_reader_takes_the_newest_of_each_partition_and_what_lies_between_two_offsets(apache):
    topic = apache.topics.decisions
    producer = EventProducer(apache.bootstrap, client_id="test")
    for number in range(40):
        producer.produce(topic, b"%d" % number, key=b"%d" % (number % 7))
    producer.flush(60)
    whole: dict[int, list[int]] = {}
    for message in read_all(apache.bootstrap, topic):
        whole.setdefault(message.partition, []).append(message.offset)
    reader = TopicReader(apache.bootstrap)
    try:
        newest: dict[int, list[int]] = {}
        for message in reader.tail(topic, 4 * 3):
            newest.setdefault(message.partition, []).append(message.offset)
        assert newest == {partition: offsets[-3:] for partition, offsets in whole.items()}
        later_ms = round(time.time() * 1000) + 3_600_000
        assert list(reader.tail(topic, 100, later_ms)) == []
        assert len(list(reader.tail(topic, 10_000, 1))) == 40
        partition = max(whole, key=lambda p: len(whole[p]))
        ends = len(whole[partition])
        between = [m.offset for m in reader.between(topic, partition, 2, ends - 1)]
        assert between == whole[partition][2:-1]
        assert list(reader.between(topic, partition, 5, 5)) == []
        assert [m.offset for m in reader.between(topic, partition, -3, 10_000)] == whole[partition]
    finally:
        reader.close()
