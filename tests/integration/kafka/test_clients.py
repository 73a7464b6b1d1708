"""What every client promises: tests of ``broker`` run on Apache Kafka and on the embedded one."""

import threading
import time

import pytest

from sluice.adapters.kafka.config import trace_headers
from sluice.adapters.kafka.consumer import GroupConsumer
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.transactions import TransactionalStream
from sluice.errors import Misconfigured
from tests.support.kafka import read_all, wait_ended, wait_until

pytestmark = pytest.mark.integration
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def fill(broker, topic: str, count: int, **more) -> None:
    producer = EventProducer(broker.bootstrap, client_id="test")
    for number in range(count):
        producer.produce(topic, b"%d" % number, key=b"key-%d" % number, **more)
    producer.flush(60)


def numbers(messages) -> list[int]:
    return sorted(int(message.value) for message in messages)


def consumer(broker, topic: str, group: str = "g", **more) -> GroupConsumer:
    return GroupConsumer(broker.bootstrap, group=group, topics=[topic], client_id="test", **more)


def take(member: GroupConsumer, count: int) -> list:
    got = []
    wait_until(
        lambda: got.extend(member.poll_batch(500, 0.1)) or len(got) >= count, f"{count} read"
    )
    return got


def test_what_was_flushed_is_read_with_key_place_and_trace(broker):
    fill(broker, broker.topics.labels, 200, headers=trace_headers(TRACE))
    member = consumer(broker, broker.topics.labels)
    got = take(member, 200)
    member.close()
    assert numbers(got) == list(range(200))
    assert all(message.key == b"key-" + message.value for message in got)
    assert {message.traceparent for message in got} == {TRACE}
    assert len({(message.partition, message.offset) for message in got}) == 200


def test_a_topic_tells_how_many_partitions_it_has(broker):
    producer = EventProducer(broker.bootstrap, client_id="test")
    count = producer.partitions(broker.topics.observations)
    for number in range(count):
        producer.produce(broker.topics.observations, b"1", partition=number)
    producer.flush(60)
    got = read_all(broker.bootstrap, broker.topics.observations)
    assert sorted(message.partition for message in got) == list(range(count))


def test_one_key_stays_in_one_partition_and_in_order(broker):
    producer = EventProducer(broker.bootstrap, client_id="test")
    for number in range(300):
        producer.produce(broker.topics.labels, b"%d" % number, key=b"card-%d" % (number % 7))
    producer.flush(60)
    for card in range(7):
        mine = [
            message
            for message in read_all(broker.bootstrap, broker.topics.labels)
            if message.key == b"card-%d" % card
        ]
        assert len({message.partition for message in mine}) == 1
        assert [int(message.value) for message in mine] == sorted(range(card, 300, 7))


def test_a_batch_does_not_wait_to_be_full(apache):
    fill(apache, apache.topics.labels, 3)
    member = consumer(apache, apache.topics.labels)
    long_wait_s = 50.0
    started = time.monotonic()
    got: list = []
    while len(got) < 3:
        got += member.poll_batch(500, long_wait_s)
    member.close()
    assert time.monotonic() - started < long_wait_s


def test_a_member_goes_on_where_its_group_committed(apache):
    fill(apache, apache.topics.labels, 100)
    member = consumer(apache, apache.topics.labels)
    got = take(member, 100)
    done = {}
    for message in got:
        if message.offset < 10:
            done[message.topic, message.partition] = max(
                message.offset + 1, done.get((message.topic, message.partition), 0)
            )
    member.commit(done)
    assert member.committed(done) == done
    member.close()
    successor = consumer(apache, apache.topics.labels)
    again = take(successor, len([message for message in got if message.offset >= 10]))
    successor.close()
    assert all(message.offset >= 10 for message in again)
    assert len(again) == len([message for message in got if message.offset >= 10])


def test_a_commit_that_nobody_waits_for_arrives_and_a_refused_one_is_told_later(apache):
    fill(apache, apache.topics.labels, 20)
    member = consumer(apache, apache.topics.labels)
    done = {(m.topic, m.partition): m.offset + 1 for m in take(member, 20)}
    member.commit_later(done)
    wait_until(lambda: member.committed(done) == done, "the commit arrives")
    member.commit_later({("no-such-topic", 0): 1})

    def reported() -> bool:
        member.poll_batch(1, 0.01)
        try:
            member.commit_later(done)
        except Misconfigured:
            return True
        return False

    wait_until(reported, "the refusal is told")
    member.close()


def test_rewinding_brings_the_uncommitted_records_again(apache):
    fill(apache, apache.topics.labels, 50)
    member = consumer(apache, apache.topics.labels)
    first = take(member, 50)
    member.rewind()
    assert numbers(take(member, 50)) == numbers(first)
    member.close()


def test_lag_is_what_is_left_and_nothing_at_the_end(apache):
    fill(apache, apache.topics.labels, 80)
    member = consumer(apache, apache.topics.labels)
    first = wait_until(lambda: member.poll_batch(1, 0.1), "a record")
    assert sum(member.lag().values()) <= 79
    take(member, 80 - len(first))
    wait_until(lambda: member.poll_batch(10, 0.1) or sum(member.lag().values()) == 0, "lag is 0")
    assert len(member.lag()) == 4
    member.close()


def test_partitions_are_handed_over_with_the_work_on_them_committed(apache):
    # Not on the mock: while its group rebalances it refuses commits, now and then.
    broker = apache
    fill(broker, broker.topics.labels, 400)
    done: dict = {}
    left = []

    def hand_over(partitions, lost):
        assert not lost
        left.extend(partitions)
        first.commit({place: done[place] for place in partitions if place in done})

    first = consumer(broker, broker.topics.labels)
    first.listen(lambda _: None, hand_over)
    seen = []

    def work(member, limit):
        batch = member.poll_batch(limit, 0.05)
        for message in batch:
            done[message.topic, message.partition] = message.offset + 1
        seen.extend(batch)
        return batch

    wait_until(lambda: work(first, 100) and len(seen) >= 200, "half is read")
    stop = threading.Event()
    taken: list = []
    second = consumer(broker, broker.topics.labels)
    second.listen(taken.extend, lambda _, __: None)
    got: list = []

    def run():
        while not stop.is_set():
            got.extend(second.poll_batch(500, 0.05))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    wait_until(lambda: (work(first, 100), taken)[1], "partitions moved")
    wait_until(lambda: (work(first, 100), len(seen) + len(got) >= 400)[1], "all is read")
    stop.set()
    thread.join()
    assert sorted(left) == sorted(taken)
    first.close()
    second.close()
    assert numbers(seen + got) == list(range(400))


def test_a_committed_transaction_shows_its_records_and_moves_the_group(broker):
    fill(broker, broker.topics.authorizations, 120)
    entrypoint = TransactionalStream(
        broker.bootstrap,
        group="entrypoint",
        topics=[broker.topics.authorizations],
        transactional_id=f"{broker.topics.authorizations}entrypoint",
        client_id="test",
    )
    moved = 0
    while moved < 120:
        batch = wait_until(lambda: entrypoint.poll_batch(50, 0.1), "authorizations")
        entrypoint.begin()
        for message in batch:
            entrypoint.produce(broker.topics.decisions, message.key, message.value)
        entrypoint.commit({(m.topic, m.partition): m.offset + 1 for m in batch})
        moved += len(batch)
    entrypoint.close()
    assert moved == 120
    wait_ended(broker.bootstrap, broker.topics.decisions)
    assert numbers(read_all(broker.bootstrap, broker.topics.decisions)) == list(range(120))
