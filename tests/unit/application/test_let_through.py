"""The same id is let through at both entrypoints, and its record says so."""

from __future__ import annotations

from typing import Any

import msgspec

from sluice.application.decide import Decided, DecisionPipeline
from sluice.application.let_through import draw_of
from sluice.application.once import Once
from sluice.domain.policy.let_through import LetThrough
from sluice.domain.records.authorization import EventTimeBounds, encode
from sluice.domain.records.decision import Answer, Decision, Entrypoint
from sluice.domain.records.outcome import Outcome
from sluice.testing.factories import NOON_US, make_authorization
from sluice.testing.policy import make_policy
from sluice.testing.scorer import FakeScorer
from sluice.testing.store import FakeClock, FakeStore

SECRET = "a secret of 24 characters"
N = 200
POLICY = make_policy(let_through=LetThrough(share_ppm=100_000, amount_max_minor=2_000))


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value

    def current(self) -> Any:
        return self.value


class Log:
    async def append(self, decisions: Any, became: Any) -> None: ...


async def decided(entrypoint: Entrypoint, sizes: int) -> list[tuple[Decision, Answer]]:
    """N authorizations that the model would decline, so many at once."""
    clock = FakeClock(NOON_US)
    pipeline = DecisionPipeline(
        entrypoint=entrypoint,
        emitter=entrypoint,
        ids=Once(FakeStore(clock), clock),
        scorer=Holder(FakeScorer(990_000)),
        policy=Holder(POLICY),
        log=Log(),
        clock=clock,
        bounds=EventTimeBounds(),
        draw=draw_of(SECRET, clock),
    )
    made: list[tuple[Decision, Answer]] = []
    for first in range(0, N, sizes):
        batch = [
            pipeline.arrive(encode(make_authorization(f"a-{i}", event_at=NOON_US)))
            for i in range(first, first + sizes)
        ]
        for one in await pipeline.decide(batch):
            assert isinstance(one, Decided)
            made.append((one.decision, msgspec.json.decode(one.answer, type=Answer)))
    return made


async def test_the_same_ids_are_let_through_at_both_entrypoints_and_the_record_says_so() -> None:
    sync, stream = await decided("sync", 1), await decided("stream", 100)
    for (one, answer), (other, _) in zip(sync, stream, strict=True):
        assert (one.outcome, one.reasons) == (other.outcome, other.reasons)
        assert one.let_through_ppm == other.let_through_ppm
        assert (answer.outcome, answer.reasons) == (one.outcome, one.reasons)
        if one.let_through_ppm is None:
            assert one.outcome is Outcome.DECLINE
        else:
            assert (one.outcome, one.let_through_ppm) == (Outcome.APPROVE, 100_000)
            assert one.reasons == ["LET_THROUGH", "MODEL_AMOUNT"]
            assert one.score_ppm == 990_000
    assert 5 < sum(one.let_through_ppm is not None for one, _ in sync) < 40
