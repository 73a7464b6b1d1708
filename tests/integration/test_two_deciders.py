"""Two sync APIs, two processes, one card within milliseconds: the second sees the first."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.kafka.broker import Node
from services import warm
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.bootstrap.services import store_at
from sluice.domain.clock import SystemClock
from sluice.domain.features import catalogue
from sluice.domain.records.authorization import encode
from sluice.domain.records.decision import Decision
from sluice.testing.factories import make_authorization
from sluice.testing.store import declare_ready
from tests.support.deployment import Deployment, make_deployment

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PAIRS = 40
APART_S = 0.005
COUNT = catalogue.INDEX["card_count_1m"]


@pytest.fixture
def deployment(kafka: Node, tmp_path: Path) -> Iterator[Deployment]:
    """Two entrypoints and no featurizer: no state ever holds what was decided."""
    warm.main()
    with (
        EmbeddedStore() as store,
        make_deployment(
            kafka.bootstrap,
            store.url,
            tmp_path,
            environment={"SLUICE_DECIDER_RECORD_BUDGET_MS": "10000"},
        ) as deployment,
    ):
        declare_ready(store_at(store.url))
        entrypoints = [deployment.stack.start("decider-sync", replica=name) for name in ("1", "2")]
        for entrypoint in entrypoints:
            deployment.stack.wait_ready(entrypoint)
        yield deployment


def send(connection: http.client.HTTPConnection, name: str, card: str, event_at: int) -> None:
    auth = make_authorization(name, event_at=event_at, card_token=card)
    headers = {"content-type": "application/json", "x-deadline-ms": "1000"}
    connection.request("POST", "/v1/authorizations", encode(auth), headers)


def test_two_authorizations_of_a_card_5_ms_apart_at_two_processes_see_each_other(
    deployment: Deployment,
) -> None:
    entrypoints = [
        http.client.HTTPConnection("127.0.0.1", process.port, timeout=60)
        for process in deployment.stack.processes.values()
    ]
    pace = threading.Event()
    for n in range(PAIRS):
        first, second = entrypoints if n % 2 else entrypoints[::-1]
        # Of one moment, so that whichever comes second must count the other: a busy machine may
        # let the later one overtake.
        now_us = SystemClock().now_us()
        send(first, f"first-{n}", f"card-{n}", now_us)
        pace.wait(APART_S)  # not for the answer
        send(second, f"second-{n}", f"card-{n}", now_us)
        for entrypoint in entrypoints:
            answer = entrypoint.getresponse()
            assert (answer.status, b'"degradation_level":"D0"' in answer.read()) == (200, True)
    for entrypoint in entrypoints:
        entrypoint.close()

    limits = [
        Path(f"/proc/{process.popen.pid}/limits").read_text()
        for process in deployment.stack.processes.values()
    ]
    assert all(f"Max data size             {4096 << 20}" in text for text in limits), limits

    decided = {d.authorization.authorization_id: d for d in deployment.ledger().decisions}
    for n in range(PAIRS):
        pair = decided[f"first-{n}"], decided[f"second-{n}"]
        assert pair[0].emitter != pair[1].emitter
        assert {d.states.card == [] for d in pair} == {True}
        counts = sorted(d.features[COUNT] for d in pair)
        assert counts in ([1, 2], [2, 2]), pair
        assert counts == sorted(1 + sees(a, b) for a, b in (pair, pair[::-1]))


def sees(one: Decision, other: Decision) -> bool:
    return [p.authorization_id for p in one.pending] == [other.authorization.authorization_id]
