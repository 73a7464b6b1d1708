"""The decision pipeline with fakes: degradation levels, repeats, pending entries, sequences, the
same bits for any batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec import structs

from sluice import __version__
from sluice.application.decide import (
    Busy,
    Conflict,
    Decided,
    DecisionPipeline,
    Replayed,
    Result,
    Unrecorded,
    Watch,
)
from sluice.application.featurize import Featurizer
from sluice.application.once import Once
from sluice.application.ports import NOT_SENT, READY, Arrival, Ints
from sluice.domain.features import catalogue
from sluice.domain.policy.policy import LeftOut, Policy, Verdicts
from sluice.domain.records.authorization import Authorization, EventTimeBounds, encode
from sluice.domain.records.decision import Decision, Entrypoint, Origin, answer
from sluice.domain.records.entity import EntityKind
from sluice.errors import Rejected, Unavailable
from sluice.testing.factories import NOON_US, make_arrival
from sluice.testing.policy import make_policy, make_rule
from sluice.testing.scorer import FakeScorer
from sluice.testing.store import FakeClock, FakeStore, FakeStores, FakeWatermark

VIEWS: tuple[EntityKind, ...] = ("card", "terminal", "merchant", "device")
TOPICS = {"decisions.v1": "decisions", "observations.v1": "observations", "labels.v1": "labels"}


@dataclass
class Holder:
    """Something in force."""

    value: Any

    def current(self) -> Any:
        return self.value


@dataclass
class Log:
    """``decisions.v1`` in memory. error: what appends raise."""

    error: Unavailable | None = None
    kept: list[Decision] = field(default_factory=list)
    became: Callable[[Sequence[int]], None] | None = None
    """Whom the last append that was given up would tell."""

    async def append(
        self, decisions: Sequence[tuple[Arrival, Decision]], became: Callable[[Sequence[int]], None]
    ) -> None:
        if self.error:
            self.became = became
            raise self.error
        self.kept += [decision for _, decision in decisions]


class Harness:
    def __init__(
        self,
        scorer: FakeScorer | None = None,
        *,
        entrypoint: Entrypoint = "sync",
        policy: Policy | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.clock = FakeClock(NOON_US)
        self.store = FakeStore(self.clock)
        self.log = Log()
        self.scorer = Holder(scorer)
        self.decider = DecisionPipeline(
            entrypoint=entrypoint,
            emitter="test",
            ids=Once(self.store, self.clock),
            scorer=self.scorer,
            policy=Holder(policy or make_policy()),
            log=self.log,
            clock=self.clock,
            bounds=EventTimeBounds(),
            watch=watch,
        )

    async def decide(self, *batch: Arrival, **more: int) -> list[Result]:
        return await self.decider.decide(batch, **more)

    async def one(self, arrival: Arrival, **more: int) -> Decision:
        (result,) = await self.decide(arrival, **more)
        assert isinstance(result, Decided)
        return result.decision


class BrokenWatch:
    """A bug behind the judgement."""

    def __init__(self) -> None:
        self.left_out: LeftOut = {}
        self.out_of_domain = False

    def decided(self, *_: Any) -> None:
        raise RuntimeError


def arrival(name: str = "a-1", **changes: Any) -> Arrival:
    return make_arrival(name, **({"device_id": "device-1"} | changes))


def later(again: Arrival, harness: Harness) -> Arrival:
    """The same authorization, sent now."""
    return structs.replace(again, received_at=harness.clock.now_us())


# ---------------------------------------------------------------- degradation levels


@pytest.mark.parametrize(
    ("missing", "tolerates", "model", "level", "degraded"),
    [
        ([], [], True, "D0", []),
        (["device"], ["device"], True, "D1", ["device"]),
        (["terminal", "device"], ["device", "terminal"], True, "D1", ["terminal", "device"]),
        (VIEWS, VIEWS, True, "D1", [*VIEWS]),
        (["card"], ["device"], True, "D2", ["card"]),
        (["card", "device"], ["device"], True, "D2", ["card", "device"]),
        (VIEWS, [], True, "D2", [*VIEWS]),
        ([], [], False, "D2", ["model"]),
        (["device"], ["device"], False, "D2", ["model", "device"]),
        (VIEWS, VIEWS, False, "D3", ["model", *VIEWS]),
    ],
)
async def test_the_degradation_level_says_what_is_missing_and_degraded_names_it(
    missing: Sequence[EntityKind],
    tolerates: Sequence[str],
    model: bool,
    level: str,
    degraded: list[str],
) -> None:
    harness = Harness(FakeScorer(tolerates=frozenset(tolerates)) if model else None)
    harness.store.missing = set(missing)
    decision = await harness.one(arrival())
    assert (decision.degradation_level, decision.degraded) == (level, degraded)
    scored = level in ("D0", "D1")
    assert (decision.score_ppm is not None, decision.release is not None) == (scored, scored)
    served = decision.states
    absent = [v is None for v in (served.card, served.terminal, served.merchant, served.device)]
    assert absent == [kind in missing for kind in VIEWS]


async def test_a_model_that_cannot_run_is_left_out_and_named() -> None:
    scorer = FakeScorer()
    scorer.down = True
    decision = await Harness(scorer).one(arrival())
    assert (decision.degradation_level, decision.degraded) == ("D2", ["model"])


class Elsewhere:
    """A watch of which the release is out of its domain. scores: of what was decided."""

    out_of_domain = True

    def __init__(self) -> None:
        self.left_out: LeftOut = {}
        self.scores: list[Ints | None] = []

    def decided(
        self,
        auths: Sequence[Authorization],
        features: Ints,
        missing: Ints,
        level: Ints,
        score_ppm: Ints | None,
        policy: Policy,
        verdicts: Verdicts,
    ) -> None:
        self.scores.append(score_ppm)


async def test_out_of_its_domain_a_model_decides_unless_the_policy_leaves_it_out() -> None:
    kept = await Harness(FakeScorer(), watch=Elsewhere()).one(arrival())
    assert (kept.degradation_level, kept.degraded) == ("D0", [])
    watch = Elsewhere()
    policy = make_policy(out_of_domain="leave_out")
    harness = Harness(FakeScorer(), watch=watch, policy=policy)
    left = await harness.one(arrival())
    assert (left.degradation_level, left.degraded) == ("D2", ["model"])
    assert (left.score_ppm, left.release) == (None, None)
    assert watch.scores != [None], "it is still asked, so that its return is seen"
    await harness.decider.rehearse()


@pytest.mark.parametrize(("model", "level"), [(True, "D2"), (False, "D3")])
async def test_without_the_store_decisions_go_on(model: bool, level: str) -> None:
    harness = Harness(FakeScorer() if model else None)
    harness.store.down = True
    decision = await harness.one(arrival())
    named = ["store", "idempotency", *([] if model else ["model"]), *VIEWS]
    assert (decision.degradation_level, decision.degraded) == (level, named)


async def test_states_that_the_store_lost_are_not_served_and_ids_are_still_known() -> None:
    harness = Harness(FakeScorer())
    first = await harness.one(arrival("a-1"))
    FakeWatermark(harness.store).lose("")
    decision = await harness.one(arrival("a-2"))
    assert (decision.degradation_level, decision.degraded) == ("D2", ["store", *VIEWS])
    assert (decision.pending, decision.states.card) == ([], None)
    (again,) = await harness.decider.decide([arrival("a-1")])
    assert again == Replayed(encode(answer(first)))
    FakeWatermark(harness.store).move("first", READY)
    assert (await harness.one(arrival("a-3"))).degradation_level == "D0"


async def test_past_the_deadline_optional_parts_are_left_out() -> None:
    harness = Harness(FakeScorer())
    decision = await harness.one(arrival(), deadline_us=NOON_US)
    assert (decision.degradation_level, decision.degraded) == ("D3", ["deadline", *VIEWS])


async def test_a_part_that_comes_back_is_used_again() -> None:
    harness = Harness(FakeScorer())
    harness.store.down = True
    assert (await harness.one(arrival("a-1"))).degradation_level == "D2"
    harness.store.down = False
    assert (await harness.one(arrival("a-2"))).degradation_level == "D0"


async def test_a_rehearsal_fails_while_the_store_will_not_have_us_and_says_why() -> None:
    harness = Harness(FakeScorer())
    online = FakeStores(harness.store).online(batches=False, on_trust=lambda _why: None)
    decider = DecisionPipeline(
        entrypoint="sync",
        emitter="test",
        ids=Once(online, harness.clock),
        scorer=harness.scorer,
        policy=Holder(make_policy()),
        log=harness.log,
        clock=harness.clock,
        bounds=EventTimeBounds(),
        turned_away=online.refusal,
    )
    harness.store.turned_away = Unavailable("wrong password", fix="set it", code="store_password")
    with pytest.raises(Unavailable, match="wrong password; fix: set it") as caught:
        await decider.rehearse()
    assert caught.value.code == "store_password"
    harness.store.turned_away = None
    await decider.rehearse()


async def test_a_rehearsal_scores_and_fails_without_a_model() -> None:
    harness = Harness(FakeScorer())
    await harness.decider.rehearse()
    harness.scorer.value = None
    with pytest.raises(Unavailable):
        await harness.decider.rehearse()


# ---------------------------------------------------------------- once


async def test_a_repeat_hears_the_same_bytes_and_is_not_decided_again() -> None:
    harness = Harness(FakeScorer())
    (first,) = await harness.decide(arrival())
    harness.clock.advance(5)
    (again,) = await harness.decide(arrival())
    assert isinstance(first, Decided)
    assert again == Replayed(first.answer)
    assert len(harness.log.kept) == 1


async def test_an_id_with_other_content_is_a_conflict() -> None:
    harness = Harness(FakeScorer())
    await harness.decide(arrival())
    assert await harness.decide(arrival(amount_minor=99)) == [Conflict()]


async def test_an_id_that_another_arrival_holds_is_busy() -> None:
    harness = Harness(FakeScorer())
    await harness.store.observe([arrival()])
    harness.clock.advance(1)
    assert await harness.decide(later(arrival(), harness)) == [Busy()]
    assert harness.decider.sequence == 0


async def test_a_redelivery_from_the_same_place_is_decided_after_all() -> None:
    harness = Harness(FakeScorer(), entrypoint="stream")
    place = Origin("authorizations.v1", 0, 7)
    await harness.store.observe([arrival(origin=place)])  # then its decider was killed
    assert (await harness.one(arrival(origin=place))).origin == place


async def test_repeats_and_conflicts_inside_a_batch_are_told_apart() -> None:
    harness = Harness(FakeScorer())
    first, repeat, conflict = await harness.decide(
        arrival("a-1"), arrival("a-1"), arrival("a-1", amount_minor=99)
    )
    assert isinstance(first, Decided)
    assert repeat == Replayed(first.answer)
    assert conflict == Conflict()
    assert len(harness.log.kept) == 1


async def test_what_may_be_recorded_is_held_until_that_is_known() -> None:
    harness = Harness(FakeScorer())
    harness.log.error = Unavailable("no acknowledgement came")
    results = await harness.decide(arrival("a-1"), arrival("a-1"), arrival("a-2"))
    assert all(isinstance(result, Unrecorded) for result in results)
    harness.log.error = None
    harness.clock.advance(1)
    assert await harness.decide(later(arrival("a-1"), harness)) == [Busy()]


async def test_what_was_never_sent_may_be_decided_at_once() -> None:
    harness = Harness(FakeScorer())
    harness.log.error = Unavailable("the queue is full", code=NOT_SENT)
    await harness.decide(arrival("a-1"))
    harness.log.error = None
    assert isinstance((await harness.decide(arrival("a-1")))[0], Decided)


async def test_the_sequence_counts_decisions_alone() -> None:
    harness = Harness(FakeScorer())
    await harness.decide(arrival("a-1"), arrival("a-1"), arrival("a-2"))
    await harness.decide(arrival("a-1"))
    await harness.decide(arrival("a-2", amount_minor=99))
    await harness.decide(arrival("a-3"))
    assert [d.sequence for d in harness.log.kept] == [0, 1, 2]


async def test_numbers_that_nobody_recorded_are_told_by_the_next_record() -> None:
    harness = Harness(FakeScorer())
    await harness.decide(arrival("a-0"))
    harness.log.error = Unavailable("the queue is full", code=NOT_SENT)
    await harness.decide(arrival("a-1"))
    harness.log.error = Unavailable("no acknowledgement came")
    await harness.decide(arrival("a-2"), arrival("a-3"), arrival("a-4"))
    harness.log.error = None
    await harness.decide(arrival("a-5"))
    assert harness.log.became is not None
    harness.log.became([0, 2])
    await harness.decide(arrival("a-6"))
    await harness.decide(arrival("a-7"))
    assert [(d.sequence, d.settled, d.given_up) for d in harness.log.kept] == [
        (0, 0, []),
        (5, 1, []),  # the record that would have told was on its way
        (6, 1, [(1, 3), (4, 5)]),
        (7, 7, []),
    ]


async def test_a_number_whose_record_was_never_made_is_taken_again() -> None:
    harness = Harness(FakeScorer(), watch=BrokenWatch())
    with pytest.raises(RuntimeError):
        await harness.decide(arrival("a-1"), arrival("a-2"))
    assert harness.decider.sequence == 0


# ---------------------------------------------------------------- the same bits


async def test_one_card_in_a_batch_sees_its_earlier_authorizations_as_pending() -> None:
    harness = Harness(FakeScorer())
    await harness.decide(*(arrival(f"a-{n}") for n in range(3)))
    assert [[p.authorization_id for p in d.pending] for d in harness.log.kept] == [
        [],
        ["a-0"],
        ["a-0", "a-1"],
    ]
    count = catalogue.INDEX["card_count_1h"]
    assert [d.features[count] for d in harness.log.kept] == [1, 2, 3]


async def test_a_batch_makes_the_records_that_one_by_one_would_make() -> None:
    arrivals = [
        arrival(
            f"a-{n}",
            card_token=f"card-{n % 3}",
            amount_minor=1 + n * 7919,
            device_id="device-1" if n % 2 else None,
        )
        for n in range(40)
    ]
    together, apart = (Harness(FakeScorer(tolerates=frozenset(["device"]))) for _ in range(2))
    for harness in (together, apart):
        harness.store.missing = {"device"}
    await together.decide(*arrivals)
    for each in arrivals:
        await apart.decide(each)
    bare = [
        # What was durable by then is of the appends, not of the decision.
        [encode(structs.replace(d, settled=None)) for d in harness.log.kept]
        for harness in (together, apart)
    ]
    assert bare[0] == bare[1]


async def test_the_featurizer_repairs_an_answer_with_the_same_bytes() -> None:
    @dataclass
    class Record:
        value: bytes
        topic: str = "decisions.v1"
        partition: int = 0
        offset: int = 0

    class Nowhere:
        partitions = 1

        def produce(self, partition: int, value: bytes) -> None: ...

        def flush(self) -> None: ...

    harness = Harness(FakeScorer(tolerates=frozenset(["device"])))
    harness.store.missing = {"device"}
    (result,) = await harness.decide(arrival(amount_minor=950_000))
    assert isinstance(result, Decided)
    assert result.decision.reasons
    other = FakeStore(harness.clock)
    Featurizer(store=other, observations=Nowhere(), topics=TOPICS).apply(
        [Record(encode(result.decision))]
    )
    (reply,) = await other.observe([arrival(amount_minor=950_000)])
    assert reply.earlier == result.answer


# ---------------------------------------------------------------- at the entrypoint


def test_an_arrival_is_read_in_the_reference_currency_and_its_time_is_checked() -> None:
    harness = Harness()
    auth = arrival(amount_minor=1000, currency="JPY").auth
    assert harness.decider.arrive(encode(auth)).amount_minor == 556  # 180 yen a euro
    harness.clock.advance(36 * 86_400)
    with pytest.raises(Rejected) as error:
        harness.decider.arrive(encode(auth))
    assert error.value.code == "event_too_old"


# ---------------------------------------------------------------- what made it


async def test_a_record_says_which_rules_fired_and_the_exact_contents_of_what_decided() -> None:
    policy = make_policy(
        rules=[make_rule("from-1000"), make_rule("any", all=["amount_minor >= 1"])]
    )
    harness = Harness(scorer := FakeScorer(), policy=policy)
    small = await harness.one(arrival("a-1", amount_minor=100))
    large = await harness.one(arrival("a-2", amount_minor=200_000))
    assert (small.fired, large.fired) == (["any"], ["from-1000", "any"])
    made = small.made_by
    assert made is not None
    assert made == large.made_by
    assert made.release_digest == scorer.digest
    assert (made.policy_digest, made.policy_version) == (policy.digest, 1)
    assert made.score_ppm == [200_000, 500_000, 900_000]
    assert made.expected_loss_minor == [None, None, None]
    assert made.build == f"sluice-{__version__}"


async def test_a_record_without_a_model_names_no_release_and_a_rule_that_says_nothing() -> None:
    record = await Harness(None).one(arrival())
    assert record.fired == []
    assert record.made_by is not None
    assert record.made_by.release_digest is record.made_by.runtime is None
