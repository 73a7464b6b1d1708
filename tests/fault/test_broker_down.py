"""kill -9 of the broker while traffic runs at both doors; it comes back with its data."""

from __future__ import annotations

from pathlib import Path

import pytest

from local.kafka.broker import Node
from sluice.adapters.redis.embedded import EmbeddedStore
from tests.support.deployment import make_world
from tests.support.kafka import wait_until
from tests.support.traffic import Caller, StreamTraffic

pytestmark = [pytest.mark.fault, pytest.mark.slow]

CLAIM_S = 45
"""Longer than the outage: what may have been recorded waits for the featurizer. A killed node is
back after 10 s, when its old session with itself has ended."""


def test_a_killed_broker_loses_nothing_and_doubles_nothing(kafka: Node, tmp_path: Path) -> None:
    patient = {"SLUICE_STORE_CLAIM_TTL_S": str(CLAIM_S)}
    with (
        EmbeddedStore() as store,
        make_world(kafka.bootstrap, store.url, tmp_path, environment=patient) as world,
        # A stream door that cannot even abort its transaction exits, and is started again.
        world.supervised(),
    ):
        world.start("decider-stream", "decider-sync", "featurizer")
        stream = StreamTraffic(world.bootstrap, world.topics.authorizations, "s", repeats=25)
        caller, other = (Caller(world.stack.port, name) for name in ("c1", "c2"))
        with stream, caller, other:
            wait_until(
                lambda: len(world.books().decisions) > 100 and len(caller.heard) > 20,
                "traffic runs",
            )
            kafka.kill()
            wait_until(lambda: caller.refused and other.refused, "the sync door says 503")
            kafka.start()
            heard = len(caller.heard)
            wait_until(lambda: len(caller.heard) > heard + 20, "the sync door answers")
        books = world.recount(caller.heard | other.heard)
        assert sum(d.door == "stream" for d in books.decisions) == stream.sent
        # A number whose record failed is not used again: a hole that the 503 explains.
        missing = sum(len(numbers) for numbers in books.holes().values())
        assert missing <= caller.refused + other.refused
