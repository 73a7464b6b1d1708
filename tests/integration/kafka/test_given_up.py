"""A decision that could not be made durable: from the decider's 503 to the log's verdict."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from local.kafka.broker import Node
from sluice.adapters.kafka.decision_log import DecisionProducer
from sluice.adapters.tiles.folder import LogFolder
from sluice.application.decide import Decided, DecisionPipeline, Result, Unrecorded
from sluice.application.keep_log import KeepsLog
from sluice.application.log_records import LogRecords
from sluice.application.once import Once
from sluice.application.ports import Message
from sluice.cli import main
from sluice.domain.records.authorization import EventTimeBounds
from sluice.domain.records.log_record import Provenance
from sluice.testing.counting import Counted
from sluice.testing.factories import NOON_US, make_arrival
from sluice.testing.keystore import MemoryKeystore
from sluice.testing.log import ORIGIN, at_once, log_at
from sluice.testing.policy import make_policy
from sluice.testing.scorer import FakeScorer
from sluice.testing.store import FakeClock, FakeStore
from tests.integration.kafka.conftest import Broker
from tests.support.kafka import read_all

pytestmark = [pytest.mark.integration, pytest.mark.fault]
DECISIONS = "decisions.v1"


@dataclass
class InForce:
    value: Any

    def current(self) -> Any:
        return self.value


def logged(folder: Path, messages: list[Message]) -> Path:
    """The log of these decisions."""
    log = log_at(folder / "log")
    keeps = KeepsLog(
        log,
        LogRecords(log=ORIGIN, keystore=MemoryKeystore()),
        LogFolder(folder / "resume"),
        FakeClock(NOON_US),
        at_once,
        decisions=DECISIONS,
        earlier=lambda _, __, ___: [],
        provenance=Provenance(build=None, image=None, config=None, trace=None),
    )
    keeps.open()
    keeps.starts([(DECISIONS, n) for n in range(4)], lambda _: 0, {DECISIONS: "one"})
    keeps.take(messages)
    keeps.stop({}, "sigterm")
    keeps.close()
    return folder / "log"


async def test_numbers_that_a_decider_gave_up_are_accounted_for(
    kafka: Node, apache: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = FakeClock(NOON_US)
    counted = Counted()
    producer = DecisionProducer(
        apache.bootstrap,
        topic=apache.topics.decisions,
        client_id="test",
        append_max_ms=300,
        count=counted,
    )
    pipeline = DecisionPipeline(
        entrypoint="sync", emitter="decider-0/1", ids=Once(FakeStore(clock), clock),
        scorer=InForce(FakeScorer()), policy=InForce(make_policy()), log=producer, clock=clock,
        bounds=EventTimeBounds(),
    )  # fmt: skip
    made = unrecorded = 0

    async def decide() -> Result:
        nonlocal made, unrecorded
        made += 1
        (result,) = await pipeline.decide([make_arrival(f"a-{made}", card_token=f"card-{made}")])
        unrecorded += isinstance(result, Unrecorded)
        return result

    async def until_known_what_became_of_each() -> None:
        """librdkafka has given it up, or a broker has it after all."""
        async with asyncio.timeout(180):
            while unrecorded > sum(
                times
                for name, times in counted.items()
                if name.startswith(("sluice_producer_failed_", "sluice_producer_appends_durable_l"))
            ):
                await asyncio.sleep(0.1)

    async def until_one_is_durable() -> None:
        async with asyncio.timeout(180):
            while not isinstance(await decide(), Decided):
                await asyncio.sleep(0.1)

    await until_one_is_durable()
    kafka.kill()
    try:
        assert isinstance(await decide(), Unrecorded)
        assert isinstance(await decide(), Unrecorded)
        await until_known_what_became_of_each()
    finally:
        kafka.start()
    await until_one_is_durable()
    await until_known_what_became_of_each()
    await until_one_is_durable()
    await until_one_is_durable()
    await producer.close()

    found = [
        Message(m.value, m.key, DECISIONS, m.partition, m.offset, None)
        for m in read_all(apache.bootstrap, apache.topics.decisions)
    ]
    argv = ["--key", str(log_at(tmp_path / "any").key), "--accounting", "--offline", "--json"]

    def verified(name: str, messages: list[Message]) -> tuple[int, list[dict[str, Any]]]:
        status = main(["log", "verify", str(logged(tmp_path / name, messages)), *argv])
        return status, json.loads(capsys.readouterr().out)["missing"]

    assert verified("all", found) == (0, [])
    assert any(b'"given_up":[[' in m.value for m in found)
    silent = [
        Message(_without(m.value), m.key, m.topic, m.partition, m.offset, None) for m in found
    ]
    status, missing = verified("silent", silent)
    assert status == 2
    assert {one["emitter"] for one in missing} == {"decider-0/1"}


def _without(value: bytes) -> bytes:
    """As if it had not told what was given up."""
    head, _, _ = value.rpartition(b'"given_up":')
    return head + b'"given_up":[]}'
