"""Rungs D0 to D3 on a running stream door, by really taking the part away, and back again."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.kafka.broker import Node, free_port
from sluice.adapters.feast.plan import COMPILED
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.domain.clock import SystemClock
from sluice.domain.features import catalogue
from sluice.domain.records.authorization import Channel, encode
from sluice.domain.records.decision import Decision
from sluice.testing.factories import make_authorization
from sluice.testing.release import make_release
from sluice.testing.store import declare_ready
from tests.support.deployment import World, make_world
from tests.support.kafka import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    folder = tmp_path_factory.mktemp("store")
    with EmbeddedStore(port=free_port(), directory=folder) as store:
        yield store


@pytest.fixture(scope="module")
def world(
    kafka: Node, store: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """A stream door that starts without a release."""
    folder = tmp_path_factory.mktemp("rungs")
    with make_world(kafka.bootstrap, store.url, folder) as world:
        world.release.rename(aside(world))
        declare_ready(store.url)
        world.start("decider-stream")
        yield world


def aside(world: World) -> Path:
    return world.release.with_name("aside")


class Asker:
    """Sends one authorization after the other, and reads what was decided."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._producer = EventProducer(world.bootstrap, client_id="test")
        self._count = len(world.books().decisions)

    def decide(self, **changes: object) -> Decision:
        self._count += 1
        auth = make_authorization(
            f"a-{self._count}",
            **({"event_at": SystemClock().now_us(), "device_id": "device-1"} | changes),
        )
        self._producer.produce(self._world.topics.authorizations, encode(auth), key=auth.card_token)
        self._producer.flush(30)

        def found() -> Decision | None:
            wanted = auth.authorization_id
            decisions = self._world.books().decisions
            return next((d for d in decisions if d.authorization.authorization_id == wanted), None)

        decision: Decision = wait_until(found, f"{auth.authorization_id} is decided")
        return decision


def metric(world: World, name: str) -> float:
    return world.stack.processes["decider-stream"].metric(name)


def test_each_rung_decides_and_says_what_is_missing(world: World, store: EmbeddedStore) -> None:
    ask = Asker(world)
    no_model = ask.decide(amount_minor=150_000, channel=Channel.ECOM)
    assert (no_model.rung, no_model.degraded) == ("D2", ["model"])
    assert (no_model.release, no_model.score_ppm) == (None, None)

    store.stop()
    nothing = ask.decide(amount_minor=250_000, channel=Channel.ECOM)
    assert (nothing.rung, nothing.degraded) == ("D3", ["store", "model", *catalogue.VIEWS])
    assert (nothing.outcome, nothing.reasons) == ("decline", ["AMOUNT_AND_CHANNEL"])

    aside(world).rename(world.release)
    wait_until(lambda: ask.decide().rung == "D2", "the model is back, the store is not")

    store.start()
    emptied = ask.decide()
    assert (emptied.rung, emptied.degraded) == ("D2", ["store", *catalogue.VIEWS])
    declare_ready(store.url)
    wait_until(lambda: ask.decide().rung == "D0", "all is back")
    complete = ask.decide()
    assert (complete.degraded, complete.release) == ([], "test-1")

    with socket.create_connection(("127.0.0.1", int(store.url.rpartition(":")[2]))) as connection:
        connection.sendall(pack(b"SET", COMPILED["device"].key("device-1"), b"not a state"))
        assert connection.recv(16) == b"+OK\r\n"
    one_view = ask.decide()
    assert (one_view.rung, one_view.degraded) == ("D1", ["device"])
    assert (one_view.states.device, one_view.release) == (None, "test-1")
    assert ask.decide(device_id="device-2").rung == "D0"


def test_a_wrong_release_is_refused_and_the_last_good_one_goes_on(world: World) -> None:
    ask = Asker(world)
    if not world.release.exists():
        aside(world).rename(world.release)
    wait_until(lambda: ask.decide(device_id=None).release == "test-1", "a good release serves")
    wrong = make_release(world.release.with_name("wrong"), seed=2)
    model = wrong / "model.onnx"
    model.write_bytes(model.read_bytes() + b"\0")
    before = metric(world, "sluice_decider_refused_total")
    world.release.rename(world.release.with_name("good"))
    wrong.rename(world.release)
    wait_until(
        lambda: (
            '"what":"release","code":"corrupt","reason":"model.onnx has the digest' in world.logs()
        ),
        "the release is refused",
    )
    assert metric(world, "sluice_decider_refused_total") > before
    assert ask.decide(device_id=None).release == "test-1"

    shutil.rmtree(world.release)
    make_release(world.release, seed=3)
    wait_until(lambda: ask.decide(device_id=None).release == "test-3", "a good one is taken over")


def test_a_policy_is_in_force_soon_after_it_is_saved_and_a_broken_one_never(world: World) -> None:
    ask = Asker(world)
    before = ask.decide(card_token="card-7", device_id=None)
    assert "CARD_BLOCKED" not in before.reasons
    listed = world.policy / "lists" / "blocked-cards.txt"
    listed.write_text("card-7\n")
    wait_until(
        lambda: "CARD_BLOCKED" in ask.decide(card_token="card-7", device_id=None).reasons,
        "the list is in force",
    )
    in_force = ask.decide(card_token="card-7", device_id=None)
    assert in_force.outcome == "decline"
    assert in_force.policy != before.policy

    refused = metric(world, "sluice_decider_refused_total")
    (world.policy / "policy.yaml").write_text("version: 1\nthresholds: none of these\n")
    wait_until(lambda: metric(world, "sluice_decider_refused_total") > refused, "it is refused")
    assert '"what":"policy","code":"misconfigured"' in world.logs()
    assert ask.decide(card_token="card-7", device_id=None).policy == in_force.policy
