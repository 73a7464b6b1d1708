"""A member of a group: the fakes and the adapters on a real Kafka keep the same promises."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from local.kafka.broker import Node
from sluice.adapters.kafka.consumer import GroupConsumer
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.kafka.transactions import TransactionalStream
from sluice.application.ports import TOPIC_REMADE, Consumer, Message, Partition, Transactions
from sluice.errors import Corrupt, Rejected
from sluice.testing.consumer import FakeConsumer, FakeGroup
from sluice.testing.transactions import FakeTransactions
from tests.support.kafka import read_all, remake

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
WAIT_S = 180.0


class Harness:
    """A topic of two partitions to read from, one to write to, and a group."""

    def __init__(self, names: Topics) -> None:
        self.names = names
        self.a, self.b = (names.authorizations, 0), (names.authorizations, 1)
        self.members: list[Consumer] = []

    def add(self, place: Partition, *numbers: int) -> None:
        """Append these messages to a partition."""
        raise NotImplementedError

    def member(self) -> Consumer:
        """Another member of the group."""
        raise NotImplementedError

    def stream(self) -> Transactions:
        """Another member of the group, with transactions."""
        raise NotImplementedError

    def written(self) -> list[tuple[bytes, str | None]]:
        """Value and trace of what committed readers see in the topic written to."""
        raise NotImplementedError

    def remake(self, topic: str) -> None:
        """Delete a topic, and make it again."""
        raise NotImplementedError

    def refuse(self, stream: Transactions) -> None:
        """Produce what the broker does not take."""
        raise NotImplementedError

    def fence(self, stream: Transactions) -> None:
        """Another process takes this one's transactional id."""
        raise NotImplementedError


class FakeHarness(Harness):
    def __init__(self) -> None:
        super().__init__(Topics())
        self.group = FakeGroup(self.a, self.b)
        self.last: FakeTransactions | None = None

    def add(self, place: Partition, *numbers: int) -> None:
        for number in numbers:
            topic, partition = place
            self.group.add(topic, b"%d" % number, partition=partition, traceparent=TRACE)

    def member(self) -> Consumer:
        self.members.append(FakeConsumer(self.group))
        return self.members[-1]

    def stream(self) -> Transactions:
        self.last = FakeTransactions(self.group)
        self.members.append(self.last)
        return self.last

    def written(self) -> list[tuple[bytes, str | None]]:
        assert self.last is not None
        return [(value, trace) for _, _, value, trace in self.last.committed_records]

    def remake(self, topic: str) -> None:
        self.group.remake(topic)

    def refuse(self, stream: Any) -> None:
        stream.fail["produce"] = [Rejected("too large", code="too_large")]
        stream.produce(self.names.decisions, b"k", b"x")

    def fence(self, stream: Any) -> None:
        stream.fail["commit"] = [Corrupt("fenced", code="fenced")]


class KafkaHarness(Harness):
    def __init__(self, node: Node, names: Topics) -> None:
        super().__init__(names)
        self.node = node
        self.producer = EventProducer(node.bootstrap, client_id="test")

    def add(self, place: Partition, *numbers: int) -> None:
        topic, partition = place
        for number in numbers:
            headers = [("traceparent", TRACE.encode())]
            self.producer.produce(topic, b"%d" % number, partition=partition, headers=headers)
        self.producer.flush(60)

    def member(self) -> Consumer:
        made = GroupConsumer(
            self.node.bootstrap,
            group=f"{self.names.authorizations}-group",
            topics=[self.names.authorizations],
            client_id="test",
        )
        self.members.append(made)
        return made

    def stream(self) -> Transactions:
        made = TransactionalStream(
            self.node.bootstrap,
            group=f"{self.names.authorizations}-group",
            topics=[self.names.authorizations],
            transactional_id=f"{self.names.authorizations}-id",
            client_id="test",
        )
        self.members.append(made)
        return made

    def written(self) -> list[tuple[bytes, str | None]]:
        found = read_all(self.node.bootstrap, self.names.decisions)
        return [(message.value, message.traceparent) for message in found]

    def remake(self, topic: str) -> None:
        remake(self.node.bootstrap, topic, partitions=2)

    def refuse(self, stream: Transactions) -> None:
        stream.produce(self.names.decisions, b"k", bytes(2_000_000))

    def fence(self, stream: Transactions) -> None:
        self.stream()


@pytest.fixture(params=["fake", pytest.param("kafka", marks=pytest.mark.integration)])
def harness(request: pytest.FixtureRequest) -> Any:
    if request.param == "fake":
        made: Harness = FakeHarness()
    else:
        make_topics: Callable[[int], Topics] = request.getfixturevalue("make_topics")
        made = KafkaHarness(request.getfixturevalue("kafka"), make_topics(2))
    yield made
    for member in made.members:
        with suppress(Corrupt, RuntimeError):  # fenced, or closed by the test
            member.close()


def read(member: Consumer, count: int, limit: int = 100) -> list[Message]:
    """Poll until so many messages came."""
    got: list[Message] = []
    deadline = time.monotonic() + WAIT_S
    while len(got) < count:
        assert time.monotonic() < deadline, f"{len(got)} of {count}"
        got += member.poll_batch(min(limit, count - len(got)), 0.1)
    return got


def numbers(batch: list[Message], place: Partition) -> list[int]:
    return [int(m.value) for m in batch if (m.topic, m.partition) == place]


def shows(harness: Harness, expected: list[tuple[bytes, str | None]]) -> bool:
    """True once readers see these: a commit's markers are written a moment after it."""
    deadline = time.monotonic() + WAIT_S
    while sorted(harness.written()) != expected:
        assert time.monotonic() < deadline, harness.written()
        time.sleep(0.05)
    return True


def behind(batch: list[Message]) -> dict[Partition, int]:
    return {(m.topic, m.partition): m.offset + 1 for m in batch}


# ---------------------------------------------------------------- every consumer


@pytest.fixture(params=["member", "stream"])
def member(request: pytest.FixtureRequest, harness: Harness) -> Consumer:
    """Both kinds of member."""
    made: Consumer = getattr(harness, request.param)()
    return made


def test_messages_come_in_the_order_of_their_partition_with_place_and_trace(harness, member):
    harness.add(harness.a, 1, 2, 3)
    harness.add(harness.b, 4, 5)
    got = read(member, 5, limit=2)
    assert (numbers(got, harness.a), numbers(got, harness.b)) == ([1, 2, 3], [4, 5])
    assert sorted(m.offset for m in got) == [0, 0, 1, 1, 2]
    assert {m.traceparent for m in got} == {TRACE}


def test_a_rewind_brings_back_what_was_never_committed(harness, member):
    harness.add(harness.a, 1, 2, 3)
    read(member, 2)
    member.rewind()
    assert numbers(read(member, 3), harness.a) == [1, 2, 3]
    assert member.committed([harness.a]) == {}


def test_what_is_ours_and_what_there_is(harness, member):
    harness.add(harness.a, 1)
    harness.add(harness.b, 2)
    read(member, 2)
    assert sorted(member.assignment()) == sorted(member.partitions()) == [harness.a, harness.b]


def test_lag_counts_what_is_not_read_and_is_0_at_the_end(harness, member):
    harness.add(harness.a, *range(9))
    read(member, 4)
    assert 0 < member.lag()[harness.a] <= 5
    read(member, 5)
    deadline = time.monotonic() + WAIT_S
    while any(member.lag().values()) or len(member.lag()) < 2:
        assert time.monotonic() < deadline, member.lag()
        assert member.poll_batch(10, 0.1) == []


def test_uncommitted_counts_what_came_since_though_nothing_is_polled(harness, member):
    harness.add(harness.a, *range(5))
    read(member, 5)
    assert member.uncommitted() == {harness.a: 5, harness.b: 0}
    harness.add(harness.a, *range(4))
    harness.add(harness.b, 1)
    assert member.uncommitted() == {harness.a: 9, harness.b: 1}


def test_partitions_are_told_of_when_they_come_and_may_start_elsewhere(harness, member):
    harness.add(harness.a, 1, 2, 3)
    harness.add(harness.b, 4)
    came: list[Partition] = []

    def assigned(partitions: list[Partition]) -> dict[Partition, int]:
        came.extend(partitions)
        return {harness.a: 2}

    member.listen(assigned, lambda _, __: None)
    got = read(member, 2)
    assert (numbers(got, harness.a), numbers(got, harness.b)) == ([3], [4])
    assert sorted(came) == [harness.a, harness.b]


def test_closing_tells_of_what_we_hold_and_the_next_reads_on_behind_what_is_committed_there(
    harness,
):
    harness.add(harness.a, 1, 2, 3)
    first = harness.member()
    left: list[tuple[Partition, bool]] = []

    def revoked(partitions: list[Partition], lost: bool) -> None:
        left.extend((place, lost) for place in partitions)
        first.commit({harness.a: 2})

    first.listen(lambda _: None, revoked)
    read(first, 3)
    first.close()
    assert sorted(left) == [(harness.a, False), (harness.b, False)]
    assert numbers(read(harness.member(), 1), harness.a) == [3]


def test_a_rewind_goes_to_what_is_committed(harness):
    member = harness.member()
    harness.add(harness.a, *range(6))
    read(member, 6)
    member.commit({harness.a: 4})
    assert member.committed([harness.a, harness.b]) == {harness.a: 4}
    member.rewind()
    assert numbers(read(member, 2), harness.a) == [4, 5]


def test_a_rewind_may_go_elsewhere(harness, member):
    harness.add(harness.a, *range(4))
    harness.add(harness.b, 7)
    read(member, 5)
    member.rewind({harness.a: 2})
    got = read(member, 3)
    assert (numbers(got, harness.a), numbers(got, harness.b)) == ([2, 3], [7])
    assert member.oldest(harness.a) == 0


def test_a_topic_made_again_is_said_and_the_next_reads_it_from_its_beginning(harness):
    """Whatever the first committed in between: its offset is of the topic that is gone."""
    harness.add(harness.a, 1, 2, 3)
    first = harness.member()
    batch = read(first, 3)
    (before,) = first.confirm().values()
    harness.remake(harness.names.authorizations)
    harness.add(harness.a, 4, 5, 6, 7)
    first.commit(behind(batch))
    with pytest.raises(Corrupt) as caught:
        first.confirm()
    assert caught.value.code == TOPIC_REMADE
    with pytest.raises(Corrupt, match="made again"):
        read(first, 1_000)
    with suppress(Corrupt):
        first.close()
    second = harness.member()
    assert numbers(read(second, 4), harness.a) == [4, 5, 6, 7]
    assert [*second.confirm().values()] != [before]


def test_what_goes_wrong_when_partitions_come_is_raised_and_they_are_ours_all_the_same(
    harness, member
):
    harness.add(harness.a, 1, 2)
    broken = [ZeroDivisionError("a bug")]

    def assigned(_partitions: list[Partition]) -> dict[Partition, int]:
        if broken:
            raise broken.pop()
        return {}

    member.listen(assigned, lambda _, __: None)
    with pytest.raises(ZeroDivisionError):
        read(member, 2)
    assert sorted(member.assignment()) == [harness.a, harness.b]
    assert numbers(read(member, 2), harness.a) == [1, 2]


# ---------------------------------------------------------------- with transactions


def test_records_and_offsets_become_visible_together(harness):
    stream = harness.stream()
    harness.add(harness.a, 1, 2)
    batch = read(stream, 2)
    stream.begin()
    stream.produce(harness.names.decisions, "card", b"one", TRACE)
    stream.produce_each(harness.names.decisions, [(b"card", b"two", None), (None, b"three", TRACE)])
    assert harness.written() == []
    stream.commit(behind(batch))
    assert shows(harness, [(b"one", TRACE), (b"three", TRACE), (b"two", None)])
    assert stream.committed([harness.a, harness.b]) == {harness.a: 2}
    stream.rewind()
    harness.add(harness.a, 3)
    assert numbers(read(stream, 1), harness.a) == [3]


def test_a_rewind_drops_what_is_open_and_another_may_begin(harness):
    stream = harness.stream()
    harness.add(harness.a, 1, 2)
    read(stream, 2)
    stream.begin()
    stream.produce(harness.names.decisions, "card", b"dropped")
    stream.rewind()
    batch = read(stream, 2)
    assert numbers(batch, harness.a) == [1, 2]
    stream.begin()
    stream.produce(harness.names.decisions, "card", b"kept")
    stream.commit(behind(batch))
    assert shows(harness, [(b"kept", None)])


def test_a_record_that_is_refused_takes_the_transaction_with_it_and_the_batch_comes_again(harness):
    stream = harness.stream()
    harness.add(harness.a, 1, 2)
    read(stream, 2)
    stream.begin()
    stream.produce(harness.names.decisions, "card", b"dropped")
    with pytest.raises(Rejected) as caught:
        harness.refuse(stream)
    assert caught.value.code == "too_large"
    batch = read(stream, 2)
    stream.begin()
    stream.commit(behind(batch))
    assert harness.written() == []
    assert stream.committed([harness.a]) == {harness.a: 2}


def test_a_fenced_stream_stops_and_leaves_nothing(harness):
    stream = harness.stream()
    harness.add(harness.a, 1)
    batch = read(stream, 1)
    stream.begin()
    stream.produce(harness.names.decisions, "card", b"dropped")
    harness.fence(stream)
    with pytest.raises(Corrupt) as caught:
        stream.commit(behind(batch))
    assert caught.value.code == "fenced"
    assert harness.written() == []
    assert stream.committed([harness.a]) == {}


def test_closing_drops_what_is_open(harness):
    stream = harness.stream()
    harness.add(harness.a, 1)
    read(stream, 1)
    stream.begin()
    stream.produce(harness.names.decisions, "card", b"dropped")
    stream.close()
    assert harness.written() == []
    assert numbers(read(harness.member(), 1), harness.a) == [1]
