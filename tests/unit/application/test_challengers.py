"""The shadow and the canary of one decider: who answers, what is recorded, what takes them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from msgspec import UNSET

from sluice.adapters.kafka.config import MESSAGE_MAX_BYTES
from sluice.application.active import TookEffect
from sluice.application.challengers import (
    QUEUE_ROWS,
    RECORD_ROWS,
    SHADOW_BURST_S,
    Beside,
    Challengers,
)
from sluice.application.decide import Decided, DecisionPipeline
from sluice.application.once import Once
from sluice.application.ports import Ints, Scorer, Scores
from sluice.domain.activation import Activation, Canary, Checked, Named
from sluice.domain.canary import in_share
from sluice.domain.policy.let_through import SHARE_MAX_PPM, Draw, LetThrough
from sluice.domain.policy.policy import Policy
from sluice.domain.records.authorization import EventTimeBounds, encode
from sluice.domain.records.decision import Decision
from sluice.domain.records.identifiers import tag32
from sluice.domain.records.outcome import Outcome
from sluice.domain.records.rollout import Rollout, ShadowScores
from sluice.errors import Corrupt, SluiceError, Unavailable
from sluice.testing.factories import NOON_US, make_arrival
from sluice.testing.policy import make_policy
from sluice.testing.scorer import FakeScorer, by_amount
from sluice.testing.store import FakeClock, FakeStore

SHARE_PPM = 200_000


def named(scorer: Scorer) -> Named:
    return Named(scorer.release, scorer.digest)


class Topic:
    """``rollouts.v1`` that several deciders share, or one alone. away: it cannot be reached."""

    def __init__(self) -> None:
        self.events: list[Rollout] = []
        self.away = False

    def reader(self) -> TopicOfOne:
        return TopicOfOne(self)


class TopicOfOne:
    """The port Log of one decider."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._read = 0

    def returned(self, epoch: int) -> Sequence[Rollout]:
        if self._topic.away:
            raise Unavailable("no broker")
        new, self._read = self._topic.events[self._read :], len(self._topic.events)
        return [event for event in new if event.step == "returned" and event.epoch == epoch]

    def write(self, events: Sequence[Rollout]) -> None:
        if self._topic.away:
            raise Unavailable("no broker")
        self._topic.events += events


class Recorded:
    """``shadow-scores.v1``."""

    def __init__(self) -> None:
        self.records: list[ShadowScores] = []

    def write(self, scores: ShadowScores) -> None:
        self.records.append(scores)


class Folder:
    """A release in its folder; broken: why it cannot be loaded."""

    def __init__(self, scorer: Scorer, broken: SluiceError | None = None) -> None:
        self._fresh: Scorer | None = scorer
        self._broken = broken

    def poll(self) -> Scorer | None:
        if self._broken is not None:
            raised, self._broken, self._fresh = self._broken, None, None
            raise raised
        fresh, self._fresh = self._fresh, None
        return fresh


class Said:
    def __init__(self) -> None:
        self.events: list[Rollout] = []
        self.refusals: list[tuple[str, str]] = []
        self.is_refusing: dict[str, bool] = {}
        self.shares: dict[str, int] = {}
        self.canary_rows = self.shadow_rows = self.failed = 0
        self.left: dict[str, int] = {"canary": 0, "shadow": 0}

    def challenger(self, event: Rollout) -> None:
        self.events.append(event)

    def refused(self, what: str, error: SluiceError) -> None:
        self.refusals.append((what, error.code))

    def refusing(self, what: str, now: bool) -> None:
        self.is_refusing[what] = now

    def beside(self, role: Beside, share_ppm: int) -> None:
        self.shares[role] = share_ppm

    def shadowed(self, rows: int, seconds: float, stricter: int, laxer: int, failed: bool) -> None:
        self.shadow_rows += rows
        self.failed += failed

    def answered(self, rows: int) -> None:
        self.canary_rows += rows

    def left_out(self, role: Beside, rows: int) -> None:
        self.left[role] += rows


class Log:
    """``decisions.v1`` that keeps nothing."""

    async def append(self, decisions: Sequence[Any], late: Any) -> None:
        pass


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value

    def current(self) -> Any:
        return self.value


class World:
    """A decider whose champion scores by amount, and what lies beside it."""

    def __init__(
        self,
        *,
        topic: Topic | None = None,
        emitter: str = "decider-0/1-1",
        policy: Policy | None = None,
        draw: Draw | None = None,
    ) -> None:
        self.clock = FakeClock(NOON_US)
        self.store = FakeStore(self.clock)
        self.champion = FakeScorer(release="champion")
        self.topic = topic or Topic()
        self.recorded = Recorded()
        self.said = Said()
        self.folders: dict[str, Folder] = {}
        self.trusted: frozenset[str] = frozenset()
        self.cpu_s = self.steady_s = 0.0
        self.challengers = Challengers(
            lambda name: self.folders[name],
            trusted=lambda: self.trusted,
            log=self.topic.reader(),
            scores=self.recorded,
            report=self.said,
            clock=self.clock,
            emitter=emitter,
            thread_s=lambda: self.cpu_s,
            steady_s=lambda: self.steady_s,
        )
        self.pipeline = DecisionPipeline(
            entrypoint="sync",
            emitter=emitter,
            ids=Once(self.store, self.clock),
            scorer=Holder(self.champion),
            policy=Holder(policy or make_policy()),
            log=Log(),
            clock=self.clock,
            bounds=EventTimeBounds(),
            challengers=self.challengers,
            draw=draw,
        )
        self._sent = 0
        self.activation: Activation | None = None

    def sign(
        self,
        *,
        canary: FakeScorer | None = None,
        shadow: FakeScorer | None = None,
        broken: SluiceError | None = None,
    ) -> None:
        """Somebody signs what is to score beside the champion, and the decider follows."""
        for scorer in (canary, shadow):
            if scorer is not None:
                self.folders[scorer.release] = Folder(scorer, broken)
        self.clock.advance(1)
        self.activation = Activation(
            what="release", id="champion", digest=self.champion.digest, epoch=self.clock.now_us(),
            act="canary", who="ann", why="a test", after=1,
            canary=UNSET if canary is None else Canary(named(canary), SHARE_PPM),
            shadow=UNSET if shadow is None else named(shadow),
        )  # fmt: skip
        self.poll()

    def poll(self) -> None:
        self.challengers.poll(self.activation)

    async def decide(self, *amounts: int) -> list[Decision]:
        """Decide authorizations of these amounts, each of a card of its own."""
        batch = []
        for amount in amounts:
            self._sent += 1
            name = f"a-{self._sent}"
            batch.append(make_arrival(name, amount_minor=amount, card_token=name))
        results = await self.pipeline.decide(batch)
        decided = [result.decision for result in results if isinstance(result, Decided)]
        assert len(decided) == len(amounts)
        return decided

    async def usual(self, rows: int = 500) -> list[Decision]:
        """Traffic of which 2 in 100 are declined, and no two amounts are alike."""
        amounts = [950_000 + i if i % 50 == 0 else 100 + 13 * i for i in range(rows)]
        decided = []
        for at in range(0, rows, 100):
            decided += await self.decide(*amounts[at : at + 100])
            self.work()
        return decided

    def work(self) -> None:
        self.steady_s += 0.1
        self.challengers.work()

    def steps(self) -> list[tuple[str, str]]:
        return [(event.step, event.role) for event in self.said.events]

    def reason(self) -> str | None:
        return next((e.reason for e in self.said.events if e.step == "returned"), None)


def like_the_champion(release: str = "canary", ppm: Any = None) -> FakeScorer:
    """Orders rows as the champion does, and says 7 ppm more."""
    return FakeScorer(ppm or (lambda rows: by_amount(rows) + 7), release=release)


# ---------------------------------------------------------------- who answers


async def test_the_canary_answers_its_cards_and_the_champion_all_others() -> None:
    world = World()
    canary = like_the_champion()
    world.sign(canary=canary)
    decided = await world.usual()
    for decision in decided:
        tag = np.array([tag32(decision.authorization.card_token)])
        by = "canary" if in_share(tag, canary.digest, SHARE_PPM)[0] else "champion"
        assert decision.release == by
        assert decision.score_ppm == decision.reference_amount_minor + 7 * (by == "canary")
    answered = sum(d.release == "canary" for d in decided)
    assert 0.1 < answered / len(decided) < 0.3
    assert world.said.canary_rows == answered
    assert world.reason() is None


async def test_a_batch_of_one_is_decided_as_in_a_batch_of_many() -> None:
    many, single = World(), World()
    for world in (many, single):
        world.sign(canary=like_the_champion())
    amounts = [100 + 7_001 * i for i in range(120)]
    together = await many.decide(*amounts)
    alone = [(await single.decide(amount))[0] for amount in amounts]
    assert [(d.release, d.score_ppm, d.outcome, d.reasons) for d in together] == [
        (d.release, d.score_ppm, d.outcome, d.reasons) for d in alone
    ]


async def test_the_canarys_outcome_is_the_answer_and_so_are_its_reasons() -> None:
    world = World()
    world.sign(canary=FakeScorer(950_000, release="canary"))
    decided = await world.decide(*range(100, 140))
    by_canary = [d for d in decided if d.release == "canary"]
    assert by_canary
    assert {d.outcome for d in by_canary} == {"decline"}
    assert {d.reasons[0] for d in by_canary} == {"MODEL_AMOUNT"}
    assert {d.outcome for d in decided if d.release == "champion"} == {"approve"}


async def test_a_shadow_never_answers_and_each_of_its_scores_is_recorded() -> None:
    with_it, without = World(), World()
    with_it.sign(shadow=FakeScorer(950_000, release="shadow"))
    without.clock.advance(1)
    decided = await with_it.usual()
    assert decided == await without.usual()
    found: dict[str, tuple[int, ...]] = {}
    for record in with_it.recorded.records:
        assert record.release == "shadow"
        for i, name in enumerate(record.authorization_ids):
            columns = (
                record.score_ppm, record.served_ppm, record.outcomes, record.served_outcomes
            )  # fmt: skip
            found[name] = tuple(column[i] for column in columns)
    assert found == {
        d.authorization.authorization_id: (950_000, d.score_ppm, 3, d.outcome.severity)
        for d in decided
    }


async def test_where_no_release_is_beside_the_champion_nothing_is_kept() -> None:
    world = World()
    await world.usual()
    assert not world.challengers.active
    assert world.recorded.records == []
    assert world.topic.events == []


async def test_what_the_canary_would_decline_is_let_through_as_what_the_champion_would() -> None:
    limits = LetThrough(share_ppm=SHARE_MAX_PPM, amount_max_minor=10**9)
    draw = Draw(b"sixteen bytes or")
    world = World(policy=make_policy(let_through=limits), draw=draw)
    world.sign(canary=FakeScorer(950_000, release="canary"), shadow=like_the_champion("shadow"))
    decided = await world.decide(*range(100, 400))
    world.work()
    canarys = [d for d in decided if d.release == "canary"]
    through = {d.authorization.authorization_id for d in canarys if d.let_through_ppm}
    names = [d.authorization.authorization_id for d in canarys]
    assert through == {name for name in names if draw.drawn("test", name, SHARE_MAX_PPM)}
    assert through
    assert {d.outcome for d in canarys if d.let_through_ppm} == {"approve"}
    assert not any(d.let_through_ppm for d in decided if d.release == "champion")
    # What models are compared by is what they said: a decline each.
    said = {
        name: outcome
        for record in world.recorded.records
        for name, outcome in zip(record.authorization_ids, record.served_outcomes, strict=True)
    }
    assert {said[name] for name in names} == {Outcome.DECLINE.severity}


class Unexplained(FakeScorer):
    """Scores, and cannot say why."""

    def reasons(self, row: Ints) -> list[str]:
        raise Unavailable("the runtime failed")


@pytest.mark.parametrize(
    ("canary", "spent"),
    [
        (FakeScorer(950_000, release="canary"), "the canary's declines too"),
        (FakeScorer(20, release="canary"), "none for what the canary approves"),
        (Unexplained(950_000, release="canary"), "the champion's, where the canary fails"),
    ],
    ids=["declines", "approves", "fails"],
)
async def test_the_day_s_budget_is_spent_once_for_each_authorization_that_is_let_through(
    canary: FakeScorer, spent: str
) -> None:
    taken: list[int] = []
    draw = Draw(b"sixteen bytes or", lambda _limits, minor: taken.append(minor) is None)
    limits = LetThrough(share_ppm=SHARE_MAX_PPM, amount_max_minor=10**9)
    world = World(policy=make_policy(let_through=limits), draw=draw)
    world.sign(canary=canary)
    decided = await world.decide(*range(950_000, 950_300))  # which the champion would decline
    through = [d for d in decided if d.let_through_ppm]
    assert len(taken) == len(through) > 0, spent
    names = {d.authorization.authorization_id for d in decided if d.outcome != "approve"}
    assert not any(draw.drawn("test", name, SHARE_MAX_PPM) for name in names)


# ---------------------------------------------------------------- what takes a canary out


class Failing(FakeScorer):
    """Loads, and then gives no score, or none that is its own."""

    def __init__(self, how: str) -> None:
        super().__init__(lambda rows: by_amount(rows) + 7, release="canary")
        self.how = how
        self.runs = 0

    def score(self, features: Ints) -> Scores:
        self.runs += 1
        if self.how == "fails":
            raise Unavailable("the runtime failed")
        scores = super().score(features)
        return Scores(scores.ppm + self.runs, scores.release) if self.how == "drifts" else scores


BAD = {
    "inverted": (FakeScorer(lambda rows: 1_000_000 - by_amount(rows), release="canary"), None),
    "constant": (FakeScorer(20, release="canary"), "agreement"),
    "failing": (Failing("fails"), "errors"),
    "another score each time": (Failing("drifts"), "consistency"),
}


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_canary_is_taken_out_and_each_authorization_is_decided(kind: str) -> None:
    scorer, reason = BAD[kind]
    world = World()
    world.sign(canary=scorer)
    decided = await world.usual(3000)
    assert world.reason() == (reason or world.reason())
    assert world.steps()[-1] == ("returned", "canary")
    assert world.said.shares["canary"] == 0
    assert {d.release for d in decided[-1000:]} == {"champion"}
    assert {d.degradation_level for d in decided} == {"D0"}
    assert sum(d.release == "canary" for d in decided) <= 250
    world.poll()
    assert [e.step for e in world.topic.events][-1] == "returned"


async def test_a_slow_canary_is_taken_out_by_the_processor_time_it_takes() -> None:
    world = World()

    class Slow(FakeScorer):
        def score(self, features: Ints) -> Scores:
            world.cpu_s += 0.02
            return super().score(features)

    world.sign(canary=Slow(by_amount, release="canary"))
    await world.usual()
    assert world.reason() == "latency"
    assert world.said.canary_rows <= 300


async def test_what_cannot_be_explained_is_decided_by_the_champion() -> None:
    world = World()

    class Silent(FakeScorer):
        def reasons(self, row: Ints) -> list[str]:
            raise Unavailable("the runtime failed")

    world.sign(canary=Silent(950_000, release="canary"))
    decided = await world.decide(*range(100, 140))
    assert {d.release for d in decided} == {"champion"}
    for first in (140, 180):
        await world.decide(*range(first, first + 40))
    assert world.reason() == "errors"


async def test_a_view_that_the_canary_needs_and_the_champion_does_not_leaves_it_out() -> None:
    world = World()
    world.champion.tolerates = frozenset({"terminal"})
    world.store.missing = {"terminal"}
    world.sign(canary=FakeScorer(950_000, release="canary"))
    decided = await world.decide(*range(100, 140))
    assert {(d.release, d.degradation_level) for d in decided} == {("champion", "D1")}


async def test_a_returned_canary_stays_out_until_somebody_signs_it_again() -> None:
    world = World()
    world.sign(canary=Failing("fails"))
    await world.usual()
    for _ in range(3):
        world.poll()
    assert world.said.shares["canary"] == 0
    world.sign(canary=like_the_champion())
    assert world.said.shares["canary"] == SHARE_PPM


# ---------------------------------------------------------------- two replicas


async def test_what_one_decider_finds_wrong_every_other_one_takes_out() -> None:
    topic = Topic()
    one, other = World(topic=topic), World(topic=topic, emitter="decider-1/1-1")
    for world in (one, other):
        world.sign(canary=Failing("fails"))
    assert other.said.shares["canary"] == SHARE_PPM
    await one.usual(200)
    one.poll()
    other.poll()
    assert other.said.shares["canary"] == 0
    assert other.said.events[-1].step == "ended"
    assert "another decider found it wrong: errors" in (other.said.events[-1].detail or "")


async def test_a_decider_that_starts_hears_of_a_return_before_it_begins() -> None:
    topic = Topic()
    one = World(topic=topic)
    one.sign(canary=Failing("fails"))
    await one.usual(200)
    one.poll()
    late = World(topic=topic, emitter="decider-1/2-2")
    late.folders, late.activation = {"canary": Folder(like_the_champion())}, one.activation
    late.poll()
    assert late.said.shares["canary"] == 0
    assert ("began", "canary") not in late.steps()


def test_no_canary_begins_while_nobody_can_say_whether_it_went_back() -> None:
    world = World()
    world.topic.away = True
    with pytest.raises(Unavailable):
        world.sign(canary=like_the_champion())
    assert world.said.shares["canary"] == 0
    world.topic.away = False
    world.poll()
    assert world.said.shares["canary"] == SHARE_PPM


async def test_a_return_takes_effect_here_though_the_topic_is_away_and_is_written_later() -> None:
    world = World()
    world.sign(canary=Failing("fails"))
    world.topic.away = True
    await world.usual(200)
    assert world.said.shares["canary"] == 0
    with pytest.raises(Unavailable):
        world.poll()
    world.topic.away = False
    world.poll()
    assert [e.step for e in world.topic.events].count("returned") == 1


# ---------------------------------------------------------------- what the activation says


def test_each_step_is_written_with_who_and_why() -> None:
    world = World()
    world.sign(shadow=like_the_champion("next"))
    world.sign(canary=like_the_champion("next"))
    world.sign()
    world.poll()
    assert [(e.step, e.role, e.release) for e in world.topic.events] == [
        ("began", "shadow", "next"),
        ("ended", "shadow", "next"),
        ("began", "canary", "next"),
        ("ended", "canary", "next"),
    ]
    assert {(e.who, e.why) for e in world.topic.events} == {("ann", "a test")}


def test_what_came_to_decide_is_written_with_the_words_that_were_signed() -> None:
    world = World()
    act = Activation(
        what="policy", id="p-7", digest="d" * 64, epoch=NOON_US, act="activate", who="ann",
        why="a test",
    )  # fmt: skip
    by = Checked(act, frozenset({"bb", "aa"}), b'{"v":1,  "why":"a test"}\n')
    policy = TookEffect("policy", "p-7", "d" * 64, by, [None, 1, 2], [None] * 3)
    world.topic.away = True
    with pytest.raises(Unavailable):
        world.challengers.poll(None, [policy, TookEffect("release", "r-1", "e" * 64, None)])
    world.topic.away = False
    world.challengers.poll(None)
    one, other = world.topic.events
    assert (one.step, one.role, one.release, one.epoch) == ("began", "policy", "p-7", NOON_US)
    assert (one.statement, one.signers) == ('{"v":1,  "why":"a test"}\n', ["aa", "bb"])
    assert (one.who, one.why, one.score_ppm) == ("ann", "a test", [None, 1, 2])
    assert (other.step, other.role, other.release, other.epoch) == ("began", "champion", "r-1", 0)
    assert (other.statement, other.signers, other.score_ppm) == (None, None, None)


def test_an_older_activation_that_decides_again_brings_no_canary_back() -> None:
    world = World()
    world.sign(canary=like_the_champion())
    older = world.activation
    world.sign()
    world.challengers.poll(older)
    assert world.said.shares["canary"] == 0


def test_a_release_that_is_not_whole_does_not_score_and_is_said() -> None:
    world = World()
    world.sign(canary=like_the_champion(), broken=Corrupt("another digest"))
    assert world.said.refusals == [("canary", "corrupt")]
    assert world.said.is_refusing["canary"]
    assert world.said.shares["canary"] == 0


def test_another_release_in_the_folder_than_was_signed_does_not_score() -> None:
    world = World()
    canary = like_the_champion()
    world.folders["canary"] = Folder(FakeScorer(release="exchanged"))
    world.activation = Activation(
        what="release", id="champion", digest=world.champion.digest, epoch=world.clock.now_us(),
        act="canary", who="ann", why="a test", canary=Canary(named(canary), SHARE_PPM),
    )  # fmt: skip
    world.poll()
    assert world.said.refusals == [("canary", "corrupt")]
    assert world.said.shares["canary"] == 0


def test_a_canary_stops_when_its_key_is_withdrawn() -> None:
    world = World()
    canary = FakeScorer(release="canary", signer="aa")
    world.trusted = frozenset({"aa"})
    world.sign(canary=canary)
    assert world.said.shares["canary"] == SHARE_PPM
    world.trusted = frozenset()
    world.poll()
    assert world.said.shares["canary"] == 0


# ---------------------------------------------------------------- what a shadow may cost


async def test_a_shadow_takes_its_share_of_the_processor_and_no_more() -> None:
    world = World()

    class Slow(FakeScorer):
        def score(self, features: Ints) -> Scores:
            world.cpu_s += SHADOW_BURST_S
            return super().score(features)

    world.sign(shadow=Slow(release="shadow"))
    decided = await world.usual(2000)
    assert len(decided) == 2000
    assert world.said.left["shadow"] > 1500
    assert world.cpu_s <= SHADOW_BURST_S * 3


async def test_what_waits_is_bounded_and_what_does_not_fit_is_counted() -> None:
    world = World()
    world.sign(shadow=like_the_champion("shadow"))
    for _ in range(QUEUE_ROWS // 100 + 5):
        await world.decide(*range(100, 200))
    assert world.said.left["shadow"] >= 400
    world.work()
    assert world.said.shadow_rows <= QUEUE_ROWS
    rows = [len(record.score_ppm) for record in world.recorded.records]
    assert sum(rows) == world.said.shadow_rows
    assert max(rows) == RECORD_ROWS
    assert max(len(encode(record)) for record in world.recorded.records) < MESSAGE_MAX_BYTES / 2


async def test_a_shadow_that_fails_is_taken_out_and_no_decision_knows() -> None:
    world = World()
    world.sign(shadow=Failing("fails"))
    decided = await world.usual()
    assert len(decided) == 500
    assert {d.degradation_level for d in decided} == {"D0"}
    assert world.steps()[-1] == ("returned", "shadow")
    assert world.reason() == "errors"
