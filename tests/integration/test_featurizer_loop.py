"""The featurizer's loop over a real store: what it takes for a loss, and what it does not."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import prometheus_client
import pytest

from services.featurizer import main as featurizer
from services.featurizer.main import Featurizing
from services.loop import ConsumerLoop, Limits
from sluice import telemetry
from sluice.adapters.redis import watermark
from sluice.adapters.redis.blocking import BlockingConnection
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.application.featurize import Applied
from sluice.application.ports import LOST, MISSING, READY, STORE_LOST, Message, Partition
from sluice.bootstrap.services import FeaturizerParts, store_at
from sluice.domain.features.stateformat import TABLES, note
from sluice.errors import Unavailable
from sluice.settings import Settings, Store
from sluice.testing.consumer import FakeConsumer, FakeGroup

pytestmark = pytest.mark.integration

A, B = ("decisions.v1", 0), ("decisions.v1", 1)


class NoReader:
    """Nothing was decided before."""

    def close(self) -> None: ...


class Counting:
    """In the featurizer's place: counts what it was given."""

    def __init__(self) -> None:
        self.applied = 0

    def apply(self, batch: list[Message]) -> Applied:
        self.applied += len(batch)
        return Applied(Counter(), Counter(), Counter(), [])

    def forget(self, partitions: list[Partition]) -> None: ...


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedStore]:
    with EmbeddedStore() as running:
        yield running


def command(store: EmbeddedStore, *words: bytes) -> None:
    connection = BlockingConnection(store.url, timeout_s=5)
    connection.call(pack(*words), 1)
    connection.close()


@pytest.fixture
def store(server: EmbeddedStore) -> Iterator[EmbeddedStore]:
    command(server, b"FLUSHALL")
    yield server
    while Member.connected:
        Member.connected.pop().close()


@pytest.fixture
def group() -> FakeGroup:
    return FakeGroup(A, B)


class Member:
    """A featurizer's loop with its parts, one member of the group. tries: batches that may fail."""

    connected: ClassVar[list[Any]] = []

    def __init__(
        self, store: EmbeddedStore, group: FakeGroup, *mine: Partition, tries: int = 0
    ) -> None:
        self.group = group
        self.consumer = FakeConsumer(group, *mine)
        self.featurizer = Counting()
        self.watermark = store_at(store.url).watermark()
        states = store_at(store.url).states()
        self.connected += [states, self.watermark]
        parts: Any = (self.consumer, self.featurizer, states, self.watermark, NoReader())
        limits = Limits(
            batch_max=100, poll_s=0, failures_max=tries, leave_at=frozenset({STORE_LOST})
        )
        self.loop = ConsumerLoop(self.consumer, Featurizing(FeaturizerParts(*parts)), limits)

    def handle(self, place: Partition, count: int) -> None:
        for _ in range(count):
            self.group.add(place[0], partition=place[1])
        self.loop.once()


def lost(member: Member, place: Partition, count: int) -> bool:
    with pytest.raises(Unavailable) as caught:
        member.handle(place, count)
    return caught.value.code == STORE_LOST and member.watermark.read().state == LOST


def broker_down(member: Member) -> None:
    member.consumer.fail["commit"] = [Unavailable("the broker is down")]


def test_the_first_featurizer_of_an_installation_declares_the_store_ready(store, group):
    member = Member(store, group, A)
    member.loop.once()
    assert member.watermark.read().state == READY
    member.handle(A, 10)
    assert member.watermark.read().applied == {A: 10}
    assert group.offsets == {A: 10}


def test_an_empty_store_is_lost_if_anyone_of_the_group_had_committed(store, group):
    group.offsets = {B: 5}  # a partition of another member
    member = Member(store, group, A)
    assert lost(member, A, 10)
    assert member.featurizer.applied == 0


def test_a_restart_goes_on_and_a_store_ahead_of_kafka_lost_nothing(store, group):
    first = Member(store, group, A)
    broker_down(first)
    with pytest.raises(Unavailable, match="broker"):
        first.handle(A, 10)  # in the store, not committed
    second = Member(store, group, A)
    second.handle(A, 2)
    assert second.featurizer.applied == 12
    assert second.watermark.read().applied == group.offsets == {A: 12}


def test_a_store_behind_the_group_is_lost_before_anything_is_written_to_it(store, group):
    Member(store, group, A).handle(A, 10)
    command(store, b"HSET", watermark.KEY, b"decisions.v1/0", b"7")
    member = Member(store, group, A)
    assert lost(member, A, 5)
    assert (member.featurizer.applied, group.offsets) == (0, {A: 10})


def test_a_partition_that_comes_later_is_compared_before_its_first_batch(store, group):
    member, other = Member(store, group, A), Member(store, group, B)
    member.handle(A, 10)
    other.handle(B, 10)
    command(store, b"HSET", watermark.KEY, b"decisions.v1/1", b"7")
    member.consumer.give(B)
    assert lost(member, B, 5)
    assert member.featurizer.applied == 10


def test_what_was_written_and_forgotten_before_the_commit_comes_again_and_is_no_loss(store, group):
    member = Member(store, group, A, tries=1)
    member.handle(A, 10)
    broker_down(member)
    member.handle(A, 5)
    assert group.offsets == {A: 10}
    command(store, b"HSET", watermark.KEY, b"decisions.v1/0", b"10")
    member.loop.once()
    assert member.featurizer.applied == 20
    assert member.watermark.read().applied == group.offsets == {A: 15}


def test_a_flush_between_two_batches_stops_the_second(store, group):
    member = Member(store, group, A)
    member.handle(A, 10)
    command(store, b"FLUSHALL")
    with pytest.raises(Unavailable) as caught:
        member.handle(A, 5)
    assert caught.value.code == STORE_LOST
    assert group.offsets == {A: 10}


def test_the_store_s_own_figures_are_shown_and_one_that_hides_them_stops_nothing(
    store, group, monkeypatch, caplog
):
    registry = prometheus_client.CollectorRegistry()
    monkeypatch.setattr(telemetry, "METRICS", telemetry.Metrics(registry))
    monkeypatch.setattr(featurizer, "FIGURES_EVERY_S", 0.0)
    policy, value = "sluice_store_eviction_policy_info", registry.get_sample_value
    member = Member(store, group, A)
    with caplog.at_level("INFO", "sluice"):
        member.loop.once()
        assert value("sluice_store_used_memory_bytes") > 100_000
        assert value("sluice_store_max_memory_bytes") == 0
        assert value("sluice_store_evicted_keys") == 0
        assert value(policy, {"policy": "noeviction"}) == 1
        assert "eviction_policy" not in caplog.text
        command(store, b"ACL", b"SETUSER", b"default", b"-info")
        try:
            member.handle(A, 10)
            member.handle(A, 10)
        finally:
            command(store, b"ACL", b"SETUSER", b"default", b"+info")
    assert group.offsets == {A: 20}
    assert value(policy, {"policy": "unknown"}) == 1
    assert value(policy, {"policy": "noeviction"}) is None
    assert [record.message for record in caplog.records].count("eviction_policy") == 1, "said once"


def test_a_store_of_another_format_is_left_to_those_whose_it_is(store, group):
    Member(store, group, A).handle(A, 10)
    newer = note({**TABLES, "country": {**TABLES["country"], "QQ": 251}})
    command(store, b"HSET", watermark.KEY, b"format", newer.encode())
    member = Member(store, group, A)
    with pytest.raises(Unavailable, match="country has 251 entries, ours has 250") as caught:
        member.handle(A, 5)
    assert caught.value.code == STORE_LOST  # so it leaves the group, and waits
    assert (member.featurizer.applied, group.offsets) == (0, {A: 10})
    assert member.watermark.read().state == READY
    assert "ours has 250" in member.watermark.read().why_not_written()


def test_a_store_that_evicts_is_marked_lost_and_says_why(store, group, monkeypatch):
    monkeypatch.setattr(featurizer, "FIGURES_EVERY_S", 0.0)
    member = Member(store, group, A)
    member.handle(A, 10)
    try:
        evict(store)
        with pytest.raises(Unavailable, match=r"it evicted [0-9]+ keys") as caught:
            member.handle(A, 5)
    finally:
        command(store, b"CONFIG", b"SET", b"maxmemory-policy", b"noeviction")
    assert caught.value.code == STORE_LOST
    assert (member.featurizer.applied, group.offsets) == (10, {A: 10})
    mark = member.watermark.read()
    assert mark.state == LOST
    assert mark.why.startswith("it evicted ")
    assert mark.why in mark.why_not_written()


def test_a_policy_by_which_the_store_may_evict_loses_it_before_it_does(store, group, monkeypatch):
    monkeypatch.setattr(featurizer, "FIGURES_EVERY_S", 0.0)
    member = Member(store, group, A)
    member.handle(A, 10)
    command(store, b"CONFIG", b"SET", b"maxmemory-policy", b"volatile-lru")
    try:
        with pytest.raises(Unavailable, match="maxmemory-policy is volatile-lru"):
            member.handle(A, 5)
    finally:
        command(store, b"CONFIG", b"SET", b"maxmemory-policy", b"noeviction")
    assert member.watermark.read().state == LOST


def test_a_new_store_that_may_evict_is_not_declared_until_it_may_not(store, group, monkeypatch):
    member = Member(store, group, A)
    settings = Settings(store=Store(url=store.url))
    reported, stop = [], threading.Event()

    def wait(seconds: float) -> bool:
        reported.append(prometheus_client.REGISTRY.get_sample_value("sluice_store_ready"))
        command(store, b"CONFIG", b"SET", b"maxmemory-policy", b"noeviction")
        return False

    command(store, b"CONFIG", b"SET", b"maxmemory-policy", b"allkeys-lru")
    try:
        with pytest.raises(Unavailable, match="maxmemory-policy is allkeys-lru"):
            member.loop.once()
        assert member.watermark.read().state == MISSING
        stop.wait = wait  # type: ignore[method-assign]
        assert featurizer.wait_until_writable(settings, stop)
    finally:
        command(store, b"CONFIG", b"SET", b"maxmemory-policy", b"noeviction")
    assert reported == [0]
    member = Member(store, group, A)
    member.handle(A, 3)
    assert member.watermark.read().state == READY


def test_a_store_that_evicted_while_no_featurizer_ran_is_marked_lost_at_the_start(store, group):
    Member(store, group, A).handle(A, 10)
    evict(store)
    stop = threading.Event()
    stop.wait = lambda _s: stop.set() or True  # type: ignore[method-assign]
    assert not featurizer.wait_until_writable(Settings(store=Store(url=store.url)), stop)
    mark = store_at(store.url).watermark()
    assert mark.read().state == LOST
    mark.close()


def evict(store: EmbeddedStore) -> None:
    """Fill the server until it has evicted what need not stay, and give it room again."""
    command(store, b"CONFIG", b"SET", b"maxmemory-policy", b"volatile-lru")
    command(store, b"CONFIG", b"SET", b"maxmemory", b"8mb")
    for number in range(200):
        command(store, b"SET", b"sluice:idempotency:x:%d" % number, bytes(100_000), b"EX", b"600")
    command(store, b"CONFIG", b"SET", b"maxmemory", b"0")
    command(store, b"CONFIG", b"SET", b"maxmemory-policy", b"noeviction")
