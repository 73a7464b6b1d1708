"""Rungs D0 to D3 on a running stream processor, by really taking the part away, and back again."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from local.kafka.broker import Node, free_port
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.layout import COMPILED
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.bootstrap.services import store_at
from sluice.domain.clock import SystemClock
from sluice.domain.features import catalogue
from sluice.domain.records.authorization import Channel, encode
from sluice.domain.records.decision import Decision
from sluice.testing.factories import make_authorization
from sluice.testing.release import make_release
from sluice.testing.store import declare_ready
from tests.support.deployment import Deployment, make_deployment
from tests.support.kafka import wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    folder = tmp_path_factory.mktemp("store")
    with EmbeddedStore(port=free_port(), directory=folder) as store:
        yield store


@pytest.fixture(scope="module")
def deployment(
    kafka: Node, store: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """A stream processor that starts without a release."""
    folder = tmp_path_factory.mktemp("degradation levels")
    alone = {"SLUICE_DECIDER_RELEASE_WAIT_S": "0"}
    with make_deployment(kafka.bootstrap, store.url, folder, environment=alone) as deployment:
        deployment.release.rename(aside(deployment))
        declare_ready(store_at(store.url))
        deployment.start("decider-stream")
        yield deployment


def aside(deployment: Deployment) -> Path:
    return deployment.release.with_name("aside")


class Asker:
    """Sends one authorization after the other, and reads what was decided."""

    def __init__(self, deployment: Deployment) -> None:
        self._world = deployment
        self._producer = EventProducer(deployment.bootstrap, client_id="test")
        self._count = len(deployment.ledger().decisions)

    def decide(self, **changes: object) -> Decision:
        self._count += 1
        auth = make_authorization(
            f"a-{self._count}",
            **({"event_at": SystemClock().now_us(), "device_id": "device-1"} | changes),
        )
        self._producer.produce(self._world.topics.authorizations, encode(auth), key=auth.card_token)
        self._producer.flush(60)

        def found() -> Decision | None:
            wanted = auth.authorization_id
            decisions = self._world.ledger().decisions
            return next((d for d in decisions if d.authorization.authorization_id == wanted), None)

        decision: Decision = wait_until(found, f"{auth.authorization_id} is decided")
        return decision


def metric(deployment: Deployment, name: str) -> float:
    return deployment.stack.processes["decider-stream"].metric(name)


def readiness(deployment: Deployment) -> tuple[int, str]:
    """Status and reason, as the kubelet's probe hears them."""
    port = deployment.stack.processes["decider-stream"].admin_port
    answer = httpx.get(f"http://127.0.0.1:{port}/v2/health/ready")
    return answer.status_code, answer.json().get("why", "")


def test_each_degradation_level_decides_and_says_what_is_missing(
    deployment: Deployment, store: EmbeddedStore
) -> None:
    ask = Asker(deployment)
    no_model = ask.decide(amount_minor=150_000, channel=Channel.ECOM)
    assert (no_model.degradation_level, no_model.degraded) == ("D2", ["model"])
    assert (no_model.release, no_model.score_ppm) == (None, None)
    status, why = readiness(deployment)
    assert (status, why[:19]) == (503, "no release decides:")

    store.stop()
    nothing = ask.decide(amount_minor=250_000, channel=Channel.ECOM)
    assert (nothing.degradation_level, nothing.degraded) == (
        "D3",
        ["store", "idempotency", "model", *catalogue.VIEWS],
    )
    assert (nothing.outcome, nothing.reasons) == ("decline", ["AMOUNT_AND_CHANNEL"])

    aside(deployment).rename(deployment.release)
    wait_until(
        lambda: ask.decide().degradation_level == "D2", "the model is back, the store is not"
    )

    store.start()
    wait_until(lambda: "idempotency" not in ask.decide().degraded, "it is connected again")
    emptied = ask.decide()
    assert (emptied.degradation_level, emptied.degraded) == ("D2", ["store", *catalogue.VIEWS])
    declare_ready(store_at(store.url))
    wait_until(lambda: ask.decide().degradation_level == "D0", "all is back")
    complete = ask.decide()
    assert (complete.degraded, complete.release) == ([], "test-1")
    assert readiness(deployment) == (200, "")

    with socket.create_connection(("127.0.0.1", int(store.url.rpartition(":")[2]))) as connection:
        connection.sendall(pack(b"SET", COMPILED["device"].key("device-1"), b"not a state"))
        assert connection.recv(16) == b"+OK\r\n"
    one_view = ask.decide()
    assert (one_view.degradation_level, one_view.degraded) == ("D1", ["device"])
    assert (one_view.states.device, one_view.release) == (None, "test-1")
    assert ask.decide(device_id="device-2").degradation_level == "D0"


def test_a_wrong_release_is_refused_and_the_last_good_one_goes_on(deployment: Deployment) -> None:
    ask = Asker(deployment)
    if not deployment.release.exists():
        aside(deployment).rename(deployment.release)
    wait_until(lambda: ask.decide(device_id=None).release == "test-1", "a good release serves")
    wrong = make_release(deployment.release.with_name("wrong"), seed=2)
    model = wrong / "model.onnx"
    model.write_bytes(model.read_bytes() + b"\0")
    before = metric(deployment, "sluice_decider_refused_total")
    deployment.release.rename(deployment.release.with_name("good"))
    wrong.rename(deployment.release)
    wait_until(
        lambda: (
            '"what":"release","code":"corrupt","reason":"model.onnx has the digest'
            in deployment.logs()
        ),
        "the release is refused",
    )
    assert metric(deployment, "sluice_decider_refused_total") > before
    assert ask.decide(device_id=None).release == "test-1"

    shutil.rmtree(deployment.release)
    make_release(deployment.release, seed=3)
    wait_until(lambda: ask.decide(device_id=None).release == "test-3", "a good one is taken over")


def test_a_policy_is_in_force_soon_after_it_is_saved_and_a_broken_one_never(
    deployment: Deployment,
) -> None:
    ask = Asker(deployment)
    before = ask.decide(card_token="card-7", device_id=None)
    assert "CARD_BLOCKED" not in before.reasons
    listed = deployment.policy / "lists" / "blocked-cards.txt"
    listed.write_text("card-7\n")
    wait_until(
        lambda: "CARD_BLOCKED" in ask.decide(card_token="card-7", device_id=None).reasons,
        "the list is in force",
    )
    active = ask.decide(card_token="card-7", device_id=None)
    assert active.outcome == "decline"
    assert active.policy != before.policy

    refused = metric(deployment, "sluice_decider_refused_total")
    (deployment.policy / "policy.yaml").write_text("version: 1\nthresholds: none of these\n")
    wait_until(
        lambda: metric(deployment, "sluice_decider_refused_total") > refused, "it is refused"
    )
    assert '"what":"policy","code":"misconfigured"' in deployment.logs()
    assert ask.decide(card_token="card-7", device_id=None).policy == active.policy


def test_whatever_is_put_where_the_policy_lies_the_next_good_one_is_taken_up(
    deployment: Deployment,
) -> None:
    ask = Asker(deployment)
    policy, listed = deployment.policy / "policy.yaml", deployment.policy / "lists"
    good = (ROOT / "policies/default/policy.yaml").read_text()
    hostile = {
        "bad date": lambda: policy.write_text(f"{good}\nmeasured_on: 2026-13-45\n"),
        "deep": lambda: policy.write_text("[" * 900_000),
        "number": lambda: policy.write_text(good.replace("version: 1", "version: !!int ''")),
        "fifo": lambda: os.mkfifo(listed / "blocked-devices.txt"),
    }
    for name, put in hostile.items():
        refused = metric(deployment, "sluice_decider_refused_total")
        (listed / "blocked-devices.txt").unlink()
        put()
        wait_until(
            lambda: metric(deployment, "sluice_decider_refused_total") > refused,  # noqa: B023
            f"{name} is refused",
        )
        (listed / "blocked-devices.txt").unlink(missing_ok=True)
        (listed / "blocked-devices.txt").write_text(f"device-{name}\n".replace(" ", "-"))
        policy.write_text(good)
        device = f"device-{name}".replace(" ", "-")
        wait_until(
            lambda: ask.decide(device_id=device).outcome == "decline",  # noqa: B023
            f"after {name} a good one is in force",
        )
    process = deployment.stack.processes["decider-stream"]
    assert process.alive()
    assert process.metric("sluice_task_completed_timestamp_seconds") > time.time() - 60
