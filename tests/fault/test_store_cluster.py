"""A master of a clustered store dies under traffic: no decision is missing, none is made twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from local.kafka.broker import Node
from sluice.adapters.redis.watermark import RedisWatermark
from sluice.application.ports import CATCHING_UP, READY, Watermark
from sluice.errors import Unavailable
from tests.support.deployment import Deployment, make_deployment
from tests.support.kafka import wait_until
from tests.support.store_cluster import NODE_TIMEOUT_MS, StoreCluster
from tests.support.traffic import Caller, StreamTraffic

pytestmark = [pytest.mark.fault, pytest.mark.slow]
STREAMED, CALLED = 440, 60
"""A second: to the topic, and to the sync API."""
CALM = 100
"""As many decisions in a row with all their views: it is well again."""
WELL_MAX_S = 60.0


@pytest.fixture
def cluster() -> Iterator[StoreCluster]:
    with StoreCluster() as running:
        yield running


@pytest.fixture
def deployment(kafka: Node, cluster: StoreCluster, tmp_path: Path) -> Iterator[Deployment]:
    with make_deployment(kafka.bootstrap, cluster.url, tmp_path / "world") as deployment:
        deployment.start("decider-stream", "decider-sync", "featurizer")
        yield deployment


def mark(cluster: StoreCluster) -> Watermark:
    with closing(RedisWatermark(cluster.url)) as watermark:
        return watermark.read()


def now_us() -> int:
    return time.time_ns() // 1000


def test_a_master_killed_under_traffic_costs_no_decision_and_makes_none_twice(
    deployment: Deployment, cluster: StoreCluster
) -> None:
    topic = deployment.topics.authorizations
    traffic = StreamTraffic(deployment.bootstrap, topic, "s", rate=STREAMED)
    caller = Caller(deployment.stack.port, "c", rate=CALLED)

    def well_since(moment_us: int) -> bool:
        """The newest of both entrypoints are whole, and were decided after it."""
        found = [d for d in deployment.ledger().decisions if d.decided_at > moment_us]
        streamed = [d for d in found if d.origin is not None][-CALM:]
        called = [d for d in found if d.origin is None][-CALM // 10 :]
        return (len(streamed), len(called)) == (CALM, CALM // 10) and all(
            d.degradation_level == "D0" for d in streamed + called
        )

    with traffic, caller:
        wait_until(
            lambda: traffic.sent > 2 * STREAMED and len(caller.heard) > CALLED, "traffic runs"
        )
        wait_until(lambda: well_since(0), "all views are there")
        cluster.masters[0].kill()
        killed_us = now_us()
        rebuilt, deadline = False, time.monotonic() + WELL_MAX_S
        while not well_since(now_us() - 2_000_000) or now_us() < killed_us + 2_000_000:
            assert time.monotonic() < deadline, deployment.logs()
            with suppress(Unavailable):  # nobody has taken over yet
                if mark(cluster).state in (READY, CATCHING_UP):
                    continue
                # The replica lacked a write: handled as a store that lost some.
                done = deployment.stack.verb("states", "rebuild")
                assert done.returncode == 0, done.stderr
                rebuilt = True

    ledger = deployment.recount(caller.heard)
    late = sorted(
        d.decided_at - killed_us
        for d in ledger.decisions
        if d.decided_at > killed_us and d.degradation_level != "D0"
    )
    sent = traffic.sent + len(caller.heard)
    missing, twice = sent - len(ledger.decisions), len(ledger.decided_twice())
    assert late, "nothing lay on the master that died: the test shows nothing"
    print(
        f"{sent} sent at {STREAMED + CALLED}/s, {missing} missing, {twice} twice; "
        f"node timeout {NODE_TIMEOUT_MS} ms: noticed after {late[0] / 1e6:.3f} s, "
        f"{len(late)} decided without some views, "
        f"the last after {late[-1] / 1e6:.1f} s{', by a rebuild' if rebuilt else ''}; "
        f"the sync API refused {caller.refused}"
    )
    assert (missing, twice) == (0, 0)
