"""A broker that says nothing for longer than a transaction and a session may last, under traffic at
both entrypoints: no process ends, and nothing is lost or doubled."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from local.kafka.broker import Node
from sluice.adapters.kafka.config import TRANSACTION_MAX_MS
from sluice.adapters.redis.embedded import EmbeddedStore
from tests.support.deployment import make_deployment
from tests.support.kafka import wait_until
from tests.support.traffic import Caller, StreamTraffic

pytestmark = [pytest.mark.fault, pytest.mark.slow]

STALL_S = TRANSACTION_MAX_MS / 1000 + 3.0
IN_PROGRESS_S = 60
"""Longer than the stall, and than a busy machine takes to read on after it."""


def test_every_process_goes_on_by_itself_after_a_stall(kafka: Node, tmp_path: Path) -> None:
    patient = {"SLUICE_STORE_IN_PROGRESS_TTL_S": str(IN_PROGRESS_S)}
    with (
        EmbeddedStore() as store,
        make_deployment(kafka.bootstrap, store.url, tmp_path, environment=patient) as deployment,
    ):
        deployment.start("decider-stream", "decider-sync", "featurizer", "archiver")
        stream = StreamTraffic(deployment.bootstrap, deployment.topics.authorizations, "s")
        caller = Caller(deployment.stack.port, "c")
        with stream, caller:
            wait_until(
                lambda: len(deployment.ledger().decisions) > 100 and len(caller.heard) > 20,
                "traffic runs",
            )
            kafka.pause()
            time.sleep(STALL_S)
            kafka.resume()
            heard = len(caller.heard)
            wait_until(lambda: len(caller.heard) > heard + 20, "the sync API answers")
        assert caller.refused, "the stall was none"
        assert all(process.alive() for process in deployment.stack.processes.values())
        ledger = deployment.recount(caller.heard)
        assert sum(d.entrypoint == "stream" for d in ledger.decisions) == stream.sent
