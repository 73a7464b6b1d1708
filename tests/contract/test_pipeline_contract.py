"""The decision pipeline: the fake behind the entrypoints in tests and the real one over an empty
store answer the same arrivals with results and records of the same shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from sluice.application.decide import Conflict, Decided, DecisionPipeline, Replayed, Result
from sluice.application.once import Once
from sluice.application.ports import Arrival
from sluice.domain.features import catalogue
from sluice.domain.records.authorization import EventTimeBounds, encode
from sluice.domain.records.decision import Decision, Entrypoint, Origin, answer
from sluice.errors import Rejected, Unavailable
from sluice.testing.deciding import COLUMNS, FakePipeline
from sluice.testing.factories import NOON_US, make_authorization
from sluice.testing.policy import make_policy
from sluice.testing.scorer import FakeScorer
from sluice.testing.store import FakeClock, FakeStore

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SMALL, LARGE = 1_000, 2_000_000


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value

    def current(self) -> Any:
        return self.value


class Log:
    async def append(self, decisions: Any, became: Any) -> None: ...


class Harness:
    """A pipeline, and what makes its model fail."""

    pipeline: Any
    columns: int
    fail: Callable[[], None]

    def __init__(self) -> None:
        self.clock = FakeClock(NOON_US)

    def arrive(self, name: str = "a-1", **changes: Any) -> Arrival:
        given = {"event_at": self.clock.now_us(), "amount_minor": SMALL} | changes
        return self.pipeline.arrive(encode(make_authorization(name, **given)))

    async def decide(self, *batch: Arrival, **more: Any) -> list[Result]:
        return await self.pipeline.decide(batch, **more)


class Fake(Harness):
    def __init__(self, entrypoint: Entrypoint) -> None:
        super().__init__()
        self.pipeline = FakePipeline(self.clock, entrypoint=entrypoint)
        self.columns = len(COLUMNS)

    def fail(self) -> None:
        self.pipeline.healthy = False


class Real(Harness):
    def __init__(self, entrypoint: Entrypoint) -> None:
        super().__init__()
        self.scorer = Holder(FakeScorer())
        self.pipeline = DecisionPipeline(
            entrypoint=entrypoint,
            emitter="real",
            ids=Once(FakeStore(self.clock), self.clock),
            scorer=self.scorer,
            policy=Holder(make_policy()),
            log=Log(),
            clock=self.clock,
            bounds=EventTimeBounds(),
        )
        self.columns = catalogue.N

    def fail(self) -> None:
        self.scorer.value.down = True


KINDS = {"fake": Fake, "real": Real}


@pytest.fixture(params=KINDS)
def harness(request: pytest.FixtureRequest) -> Harness:
    return KINDS[request.param]("sync")


@pytest.mark.parametrize("device", [None, "device-1"])
def test_both_make_the_same_arrival_of_the_same_message(device):
    origin = Origin("authorizations.v1", 3, 7)
    made = []
    for kind in KINDS.values():
        raw = encode(make_authorization("a-1", device_id=device))
        harness = kind("stream")
        made.append(harness.pipeline.arrive(raw, origin=origin, traceparent=TRACE))
    assert made[0] == made[1]
    assert (made[0].origin, made[0].traceparent) == (origin, TRACE)


def test_both_say_what_an_amount_is_in_the_reference_currency_before_a_message_is_read():
    amounts = [kind("sync").pipeline.reference_minor(1234, "EUR") for kind in KINDS.values()]
    made = [kind("sync").arrive(amount_minor=1234).amount_minor for kind in KINDS.values()]
    assert amounts == made == [1234, 1234]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[]",
        encode(make_authorization("a-1", event_at=NOON_US - 36 * 86_400_000_000)),
        encode(make_authorization("a-1", event_at=NOON_US + 3_600_000_000)),
        encode(make_authorization("a-1", card_token="4111111111111111")),
    ],
)
def test_both_refuse_the_same_messages_with_the_same_code(raw):
    codes = []
    for kind in KINDS.values():
        with pytest.raises(Rejected) as caught:
            kind("sync").pipeline.arrive(raw)
        codes.append(caught.value.code)
    assert codes[0] == codes[1]


async def test_an_id_is_decided_once_then_replayed_or_a_conflict(harness):
    (first,) = await harness.decide(harness.arrive())
    assert isinstance(first, Decided)
    harness.clock.advance(1)
    assert await harness.decide(harness.arrive(event_at=NOON_US)) == [Replayed(first.answer)]
    assert await harness.decide(harness.arrive(amount_minor=5)) == [Conflict()]


async def test_an_id_belongs_to_its_tenant(harness):
    await harness.decide(harness.arrive(tenant="one"))
    (other,) = await harness.decide(harness.arrive(tenant="two", amount_minor=5))
    assert isinstance(other, Decided)


async def test_two_of_one_id_in_a_batch_are_paired(harness):
    first, again, conflict, other = await harness.decide(
        harness.arrive("a-1"),
        harness.arrive("a-1"),
        harness.arrive("a-1", amount_minor=5),
        harness.arrive("a-2"),
    )
    assert isinstance(first, Decided)
    assert isinstance(other, Decided)
    assert (again, conflict) == (Replayed(first.answer), Conflict())


async def test_decisions_are_numbered_without_a_hole(harness):
    await harness.decide(harness.arrive("a-1"), harness.arrive("a-1"), harness.arrive("a-2"))
    (third,) = await harness.decide(harness.arrive("a-3"))
    assert isinstance(third, Decided)
    assert (third.decision.sequence, harness.pipeline.sequence) == (2, 3)
    harness.pipeline.sequence = 2  # taken back, as after an abort
    (again,) = await harness.decide(harness.arrive("a-4"))
    assert isinstance(again, Decided)
    assert again.decision.sequence == 2


async def test_the_answer_is_the_one_of_the_record(harness):
    (result,) = await harness.decide(harness.arrive(amount_minor=LARGE))
    assert isinstance(result, Decided)
    assert result.answer == encode(answer(result.decision))
    assert (result.decision.release, result.decision.policy) == (
        harness.pipeline.release,
        harness.pipeline.policy,
    )


def shape(value: Any) -> Any:
    """The names and types of a record, its values left out; empty and full lists are one."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    return type(value)


FREE = ("emitter", "release", "policy", "made_by", "score_ppm", "reasons", "outcome", "features")
"""What the two may say differently, in one shape."""


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("amount_minor", [SMALL, LARGE])
@pytest.mark.parametrize("entrypoint", ["sync", "stream"])
async def test_both_write_records_of_one_shape(entrypoint, amount_minor, late):
    records = []
    for kind in KINDS.values():
        harness = kind(entrypoint)
        arrival = harness.arrive(amount_minor=amount_minor, device_id="device-1")
        deadline_us = NOON_US if late else NOON_US + 50_000
        (result,) = await harness.decide(arrival, deadline_us=deadline_us)
        assert isinstance(result, Decided)
        assert len(result.decision.features) == catalogue.N
        records.append(msgspec.json.decode(encode(result.decision)))
        assert msgspec.json.decode(encode(result.decision), type=Decision) == result.decision
    fake, real = records
    assert shape(fake) == shape(real)
    for name in FREE:
        del fake[name], real[name]
    assert fake == real


async def test_rows_are_scored_one_number_each_and_a_rehearsal_passes(harness):
    scores = harness.pipeline.score_rows(np.ones((3, harness.columns), np.int64))
    assert (scores.shape, scores.dtype) == ((3,), np.int64)
    await harness.pipeline.rehearse()


async def test_a_model_that_is_down_fails_rows_and_rehearsals(harness):
    harness.fail()
    with pytest.raises(Unavailable):
        harness.pipeline.score_rows(np.ones((1, harness.columns), np.int64))
    with pytest.raises(Unavailable):
        await harness.pipeline.rehearse()
