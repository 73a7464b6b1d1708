"""A store that comes back empty: decisions go on and say so, states are made again from the log."""

from __future__ import annotations

import http.client
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from local.kafka.broker import Node, free_port
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.parquet.archive import Archive
from sluice.adapters.redis.blocking import BlockingConnection
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.adapters.redis.marker import Marker
from sluice.application.ports import CATCHING_UP, LOST, REBUILDING, Mark
from sluice.domain.clock import SECOND_US
from sluice.domain.features import catalogue
from sluice.domain.records.authorization import encode
from sluice.domain.records.decision import Decision, answer
from sluice.testing.factories import make_label
from tests.support.deployment import World, make_world
from tests.support.kafka import wait_until
from tests.support.recount import Books
from tests.support.traffic import Caller, StreamTraffic, call

pytestmark = [pytest.mark.fault, pytest.mark.slow]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """At one port, with nothing on disk."""
    with EmbeddedStore(port=free_port(), directory=tmp_path / "store") as store:
        yield store


@pytest.fixture
def world(kafka: Node, store: EmbeddedStore, tmp_path: Path) -> Iterator[World]:
    rolled = {"SLUICE_ARCHIVER_ROLL_S": "1"}
    with make_world(kafka.bootstrap, store.url, tmp_path / "world", environment=rolled) as world:
        world.start("decider-stream", "featurizer")
        yield world


def stream(world: World, name: str, count: int) -> None:
    """Send so many, and wait until they are decided."""
    before = len(world.books().decisions)
    traffic = StreamTraffic(world.bootstrap, world.topics.authorizations, name, rate=400)
    with traffic:
        wait_until(lambda: traffic.sent >= count, "traffic was sent")
    wait_until(lambda: len(world.books().decisions) == before + traffic.sent, "all is decided")


def label_some(world: World, books: Books) -> None:
    producer = EventProducer(world.bootstrap, client_id="test")
    for decision in books.decisions[::10]:
        label = make_label(decision.authorization, known_at=decision.decided_at)
        producer.produce(world.topics.labels, encode(label), key=label.authorization_id)
    producer.flush(30)


def rungs(world: World, name: str) -> Counter[str]:
    return Counter(
        d.rung
        for d in world.books().decisions
        if d.authorization.authorization_id.startswith(f"{name}-")
    )


def rebuild(world: World, *options: str, kill_at: str = "") -> CompletedProcess[str]:
    return world.stack.verb("states", "rebuild", *options, kill_at=kill_at)


def command(store: EmbeddedStore, *words: bytes) -> object:
    connection = BlockingConnection(store.url, timeout_s=5)
    (answer,) = connection.call(pack(*words), 1)
    connection.close()
    return answer


def mark(store: EmbeddedStore) -> Mark:
    connection = BlockingConnection(store.url, timeout_s=5)
    found = Marker(connection).read()
    connection.close()
    return found


def decided_after(world: World, moment_us: int) -> list[Decision]:
    return [d for d in world.books().decisions if d.decided_at > moment_us]


def now_us() -> int:
    return time.time_ns() // 1000


def test_without_the_store_decisions_go_on_at_a_lower_rung_and_recover(
    world: World, store: EmbeddedStore
) -> None:
    stream(world, "before", 200)
    assert set(rungs(world, "before")) == {"D0"}
    known = world.settle()

    store.stop()
    stream(world, "without", 100)
    without = [d for d in world.books().decisions if d.sequence >= len(known.decisions)]
    assert {d.rung for d in without} == {"D2"}
    assert {tuple(d.degraded) for d in without} == {("store", *catalogue.VIEWS)}

    # Ids decided before are known by the store alone: a repeat that comes now is decided again.
    again = known.authorizations[0]
    producer = EventProducer(world.bootstrap, client_id="test")
    producer.produce(world.topics.authorizations, again.value, key=again.key)
    producer.flush(30)
    wait_until(lambda: len(world.books().decided_twice()) == 1, "the repeat was decided")

    store.start()
    stream(world, "emptied", 20)
    assert set(rungs(world, "emptied")) == {"D2"}
    wait_until(lambda: mark(store).state == LOST, "the featurizer has told that states are lost")
    done = rebuild(world)
    assert done.returncode == 0, done.stderr
    stream(world, "after", 20)
    assert set(rungs(world, "after")) == {"D0"}
    assert world.settle().wrong_states(store.url) == []


def test_a_flush_under_traffic_is_noticed_at_once_and_rebuilt_while_decisions_go_on(
    world: World, store: EmbeddedStore
) -> None:
    world.start("decider-sync", "archiver")
    traffic = StreamTraffic(world.bootstrap, world.topics.authorizations, "s")
    caller = Caller(world.stack.port, "c")
    with traffic, caller:
        wait_until(
            lambda: traffic.sent > 300 and len(caller.heard) > 50 and archived(world) > 100,
            "traffic runs, and part of it is archived",
        )
        label_some(world, world.books())
        asked_again = [make_again(d) for d in world.books().decisions[:40:4]]

        command(store, b"FLUSHALL")
        flushed = now_us()
        wait_until(lambda: len(decided_after(world, flushed + SECOND_US)) > 100, "decisions go on")
        wait_until(
            lambda: mark(store).state == LOST, "the featurizer has told that states are lost"
        )
        lost = decided_after(world, flushed)
        # Noticed within a second is the promise; a batch that was under way may have been served.
        assert {d.rung for d in lost if d.decided_at > flushed + SECOND_US} == {"D2"}
        assert {"store" in d.degraded for d in lost if d.rung == "D2"} == {True}
        served = [d for d in lost if d.rung == "D0"]
        assert all(d.received_at < flushed for d in served), served
        assert metric(world, "decider-sync", "sluice_store_ready") == 0
        assert metric(world, "featurizer", "sluice_store_ready") == 0

        done = rebuild(world)
        assert done.returncode == 0, done.stderr
        rebuilt = now_us()
        wait_until(lambda: len(decided_after(world, rebuilt)) > 100, "decisions go on")
        assert {d.rung for d in decided_after(world, rebuilt)} == {"D0"}
        assert metric(world, "decider-sync", "sluice_store_ready") == 1

    books = world.settle(heard=caller.heard)
    assert books.wrong_states(store.url) == []
    assert books.unbalanced() == {}
    # Answers by id came back too: whoever asks again is not decided again.
    connection = http.client.HTTPConnection("127.0.0.1", world.stack.port, timeout=10)
    for raw, said in asked_again:
        assert call(connection, raw) == (200, said)
    connection.close()
    assert len(world.books().decisions) == len(books.decisions)


def test_a_store_that_went_back_in_time_is_noticed_and_rebuilt(
    world: World, store: EmbeddedStore
) -> None:
    """As when a replica takes over that had not received the last writes."""
    stream(world, "before", 100)
    world.settle()
    assert command(store, b"SAVE") == b"OK"
    older = mark(store)
    stream(world, "later", 100)
    world.settle()
    assert mark(store).applied != older.applied

    store.stop()
    store.start()
    back = now_us()
    stream(world, "back", 20)
    assert {d.rung for d in decided_after(world, back + SECOND_US)} <= {"D2"}
    wait_until(lambda: mark(store).state == LOST, "the featurizer has told that states are lost")
    stream(world, "lost", 20)
    assert set(rungs(world, "lost")) == {"D2"}
    assert rebuild(world).returncode == 0
    stream(world, "after", 20)
    assert set(rungs(world, "after")) == {"D0"}
    assert world.settle().wrong_states(store.url) == []


def test_a_rebuild_killed_anywhere_is_run_again_from_archive_or_topic(
    world: World, store: EmbeddedStore
) -> None:
    world.start("archiver")
    stream(world, "archived", 200)
    label_some(world, world.books())
    wait_until(lambda: archived(world) >= 100, "part of it is archived")
    assert world.stack.stop("archiver") == 0
    stream(world, "not-archived", 100)
    books = world.settle()
    assert books.wrong_states(store.url) == []

    command(store, b"FLUSHALL")
    for point in ("rebuild.filled", "rebuild.reset", "rebuild.catching_up"):
        assert rebuild(world, kill_at=point).returncode == -signal.SIGKILL
        assert mark(store).state in {REBUILDING, CATCHING_UP}
        stream(world, f"killed-at-{point}", 10)
        assert set(rungs(world, f"killed-at-{point}")) == {"D2"}
    assert rebuild(world).returncode == 0
    assert world.settle().wrong_states(store.url) == []

    # A store that lost nothing may be rebuilt too, and the topic alone is enough.
    alone = rebuild(world, "--topic-alone")
    assert (alone.returncode, "topics alone" in alone.stderr) == (0, True), alone.stderr
    assert world.settle().wrong_states(store.url) == []
    stream(world, "after", 20)
    assert set(rungs(world, "after")) == {"D0"}


def archived(world: World) -> int:
    folder = world.stack.folder / "archive"
    return Archive(folder).read(columns=["offset"]).num_rows if folder.exists() else 0


def make_again(decision: Decision) -> tuple[bytes, bytes]:
    """What its sender sends again, and what it must hear."""
    return encode(decision.authorization), encode(answer(decision))


def metric(world: World, process: str, name: str) -> float:
    return world.stack.processes[process].metric(name)
