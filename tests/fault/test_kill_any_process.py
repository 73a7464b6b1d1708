"""kill -9 of each process while traffic runs at both doors; it comes back, and we recount."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from services.kafka.broker import Node
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.testing.kafka import wait_until
from sluice.testing.recount import Books
from sluice.testing.traffic import Caller, StreamTraffic
from sluice.testing.world import World, make_world

pytestmark = [pytest.mark.fault, pytest.mark.slow]

SERVICES = ("decider-stream", "decider-sync", "featurizer")


@pytest.fixture(scope="module")
def store() -> Iterator[EmbeddedStore]:
    with EmbeddedStore() as store:
        yield store


@pytest.fixture(scope="module")
def _world(
    kafka: Node, store: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("kill")
    with make_world(kafka.bootstrap, store.url, folder) as world:
        yield world


@pytest.fixture
def world(_world: World) -> World:
    """One world for the module; each test leaves it running, and recounts all from the start."""
    _world.start(*(n for n in SERVICES if n not in _world.stack.processes))
    return _world


def recount(world: World, store: EmbeddedStore, heard: dict[str, bytes]) -> Books:
    """What must hold whatever died."""
    sync = sum(d.door == "sync" for d in world.books().decisions)
    books = world.settle(sync=max(sync, len(heard)))
    assert books.unbalanced() == {}
    assert books.decided_twice() == []
    answers = books.answers()
    assert {key: answers[key] for key in heard} == heard
    assert books.wrong_states(store.url) == []
    return books


@pytest.mark.parametrize("victim", SERVICES)
def test_a_killed_process_loses_nothing_and_doubles_nothing(
    world: World, store: EmbeddedStore, victim: str
) -> None:
    stream = StreamTraffic(world.bootstrap, world.topics.authorizations, f"s-{victim}", repeats=25)
    caller, other = (Caller(world.stack.port, f"c{n}-{victim}") for n in (1, 2))
    before = Counter(d.door for d in world.books().decisions)

    def decided(door: str) -> int:
        return Counter(d.door for d in world.books().decisions)[door] - before[door]

    with stream, caller, other:
        wait_until(lambda: decided("stream") > 50 and decided("sync") > 20, "traffic runs")
        world.stack.kill(victim)
        at_kill = stream.sent
        wait_until(lambda: stream.sent > at_kill + 100, "traffic goes on without it")
        world.start(victim)
        heard = len(caller.heard)
        wait_until(lambda: len(caller.heard) > heard + 20, "the sync door answers")
    if victim == "decider-sync":
        assert caller.refused > 0
    books = recount(world, store, caller.heard | other.heard)
    assert decided("stream") == stream.sent
    assert books.holes() == {}
    assert {letter.code for letter in books.letters} == {"duplicate"}
