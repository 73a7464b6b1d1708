"""kill -9 of the broker while traffic runs at both entrypoints; it comes back with its data."""

from __future__ import annotations

from pathlib import Path

import pytest

from local.kafka.broker import Node
from sluice.adapters.redis.embedded import EmbeddedStore
from tests.support.deployment import make_deployment
from tests.support.kafka import wait_until
from tests.support.traffic import Caller, StreamTraffic

pytestmark = [pytest.mark.fault, pytest.mark.slow]

CLAIM_S = 45
"""Longer than the outage: what may have been recorded waits for the featurizer. A killed node is
back after 10 s, when its old session with itself has ended."""


def test_a_killed_broker_loses_nothing_and_doubles_nothing(kafka: Node, tmp_path: Path) -> None:
    patient = {"SLUICE_STORE_IN_PROGRESS_TTL_S": str(CLAIM_S)}
    with (
        EmbeddedStore() as store,
        make_deployment(kafka.bootstrap, store.url, tmp_path, environment=patient) as deployment,
        # A stream processor that cannot even abort its transaction exits, and is started again.
        deployment.supervised(),
    ):
        deployment.start("decider-stream", "decider-sync", "featurizer")
        stream = StreamTraffic(
            deployment.bootstrap, deployment.topics.authorizations, "s", replays=25
        )
        caller, other = (Caller(deployment.stack.port, name) for name in ("c1", "c2"))
        with stream, caller, other:
            wait_until(
                lambda: len(deployment.ledger().decisions) > 100 and len(caller.heard) > 20,
                "traffic runs",
            )
            kafka.kill()
            wait_until(lambda: caller.refused and other.refused, "the sync API says 503")
            kafka.start()
            heard = len(caller.heard)
            wait_until(lambda: len(caller.heard) > heard + 20, "the sync API answers")
        ledger = deployment.recount(caller.heard | other.heard)
        assert sum(d.entrypoint == "stream" for d in ledger.decisions) == stream.sent
        # A number whose record failed is not used again: a hole that the 503 explains.
        missing = sum(len(numbers) for numbers in ledger.holes().values())
        assert missing <= (caller.refused + other.refused).total()
