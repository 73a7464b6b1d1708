"""The sync API while the network to its store is bad: every caller is answered, by a decision of
its own or a refusal, and decisions are complete again when the network is good."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from local import metrics_page
from local.kafka.broker import Node
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.domain.records.authorization import encode
from tests.support import faulty_network
from tests.support.deployment import Deployment, make_deployment
from tests.support.faulty_network import FaultyNetwork, Toxic
from tests.support.kafka import wait_until
from tests.support.traffic import CALL_MAX_S, authorizations, call

pytestmark = [pytest.mark.fault, pytest.mark.slow]

FAULTS: dict[str, Toxic] = {
    "late": faulty_network.latency(100),
    "later": faulty_network.latency(500),
    "jitter": faulty_network.latency(50, jitter_ms=50),
    "reset": faulty_network.reset_peer(20),
    "half open": faulty_network.half_open(),
    "black hole": faulty_network.timeout(),
    "drip": faulty_network.slicer(1, delay_ms=2),
    "truncation": faulty_network.limit_data(500),
    "stall": faulty_network.hold(),
    "refused": faulty_network.refused(),
}
LASTS_S = 1.5
BUDGET_MS = 50


class Acquirer:
    """Asks one after the other, each once, and checks that the answer is its own."""

    def __init__(self, port: int) -> None:
        self.heard: dict[str, bytes] = {}
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CALL_MAX_S)
        self._some = authorizations("n")

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def ask(self) -> str:
        """Returns the degradation level, or the code of the refusal."""
        auth = next(self._some)
        status, body = call(self._connection, encode(auth))
        assert status in (200, 503), (status, body)
        answer: dict[str, Any] = json.loads(body)
        if status == 503:
            return str(answer["code"])
        assert answer["authorization_id"] == auth.authorization_id
        self.heard[auth.authorization_id] = body
        level: str = answer["degradation_level"]
        return level


def shown(deployment: Deployment, name: str) -> dict[str, float]:
    """A counter of the sync API by its one label."""
    text = deployment.stack.processes["decider-sync"].metrics()
    return {
        next(iter(sample.labels.values())): sample.value
        for sample in metrics_page.samples(text, name)
    }


def test_every_caller_is_answered_and_all_is_complete_again_afterwards(
    kafka: Node, tmp_path: Path
) -> None:
    with (
        EmbeddedStore() as store,
        make_deployment(
            kafka.bootstrap,
            store.url,
            tmp_path,
            environment={"SLUICE_STORE_BUDGET_MS": str(BUDGET_MS)},
        ) as deployment,
    ):
        deployment.start("featurizer")
        host, _, port = store.url.removeprefix("redis://").partition("/")[0].rpartition(":")
        with FaultyNetwork((host, int(port))) as network:
            deployment.stack.store_url = f"redis://{network.host_port}"
            deployment.start("decider-sync")
            acquirer = Acquirer(deployment.stack.port)
            wait_until(lambda: acquirer.ask() == "D0", "decisions are complete")
            for name, toxic in FAULTS.items():
                levels: Counter[str] = Counter()
                until = time.monotonic() + LASTS_S
                with network.being(toxic):
                    while time.monotonic() < until:
                        levels[acquirer.ask()] += 1
                assert levels.keys() - {"D0"}, f"{name}: the fault was none"
                wait_until(lambda: acquirer.ask() == "D0", f"{name}: complete again")
            failures = shown(deployment, "sluice_store_failures_total")
            lost = shown(deployment, "sluice_store_connections_lost_total")
            assert all(failures[why] > 0 for why in ("timeout", "down", "lost"))
            assert all(lost[why] > 0 for why in ("hang", "closed"))
            deployment.recount(acquirer.heard)
            acquirer.close()
