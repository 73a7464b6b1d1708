"""The active configuration: what takes effect, what does not, and what is taken out of it again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.adapters.trustfiles import EpochFile
from sluice.application.activate import act
from sluice.application.active import ActiveConfiguration, Limits, Remedy
from sluice.application.breaker import DeclineBreaker, Trip
from sluice.application.decide import Decided, DecisionPipeline
from sluice.application.dry_run import Recent
from sluice.application.once import Once
from sluice.domain.activation import Act, Checked, SignedActivation, What
from sluice.domain.clock import DAY_US, SECOND_US
from sluice.domain.features import catalogue
from sluice.domain.policy.policy import Policy, Thresholds
from sluice.domain.records.authorization import EventTimeBounds
from sluice.domain.records.decision import Decision
from sluice.domain.records.outcome import Outcome
from sluice.domain.release import TrustedKeys, key_id
from sluice.errors import Corrupt, Misconfigured, SluiceError, Unavailable
from sluice.testing.factories import NOON_US, make_arrival
from sluice.testing.policy import STEPS, make_policy, make_rule
from sluice.testing.scorer import FakeScorer
from sluice.testing.store import FakeClock, FakeStore

ANN, BOB, EVE = (Ed25519PrivateKey.generate() for _ in range(3))
WINDOW = 1000
BOUND_PPM = 300_000
AMOUNT = catalogue.INDEX["amount_minor"]


def ids(*keys: Ed25519PrivateKey) -> list[str]:
    return sorted(key_id(key.public_key()) for key in keys)


class Folder:
    """What lies in a folder: the thing itself, or what is wrong with it, and its activation."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.refused: SluiceError | None = None
        self.signed: SignedActivation | None = None
        self._fresh: Any = None

    def current(self) -> Any:
        return self.value

    def put(self, value: Any, signed: SignedActivation | None = None) -> None:
        self._fresh, self.signed = value, signed

    def poll(self) -> Any:
        fresh, self._fresh = self._fresh, None
        if isinstance(fresh, SluiceError) and not isinstance(fresh, Unavailable):
            self.refused = fresh
        if isinstance(fresh, Exception):
            raise fresh
        if fresh is not None:
            self.value, self.refused = fresh, None
        return fresh

    def read(self) -> SignedActivation | None:
        return self.signed

    def write(self, signed: SignedActivation) -> None:
        self.signed = signed


class Trust:
    """Keys that are trusted until they are not."""

    def __init__(self, *keys: Ed25519PrivateKey) -> None:
        self.refused: SluiceError | None = None
        self._changed = False
        self._trusted = TrustedKeys({})
        self.trust(*keys)

    def trust(self, *keys: Ed25519PrivateKey, revoked: dict[str, str] | None = None) -> None:
        self._trusted = TrustedKeys(
            {key_id(key.public_key()): key.public_key() for key in keys}, revoked or {}
        )
        self._changed = True

    @property
    def keys(self) -> Any:
        return self._trusted.keys

    @property
    def withdrawn(self) -> Any:
        return self._trusted.withdrawn

    def poll(self) -> bool:
        changed, self._changed = self._changed, False
        return changed


class Said:
    """What was reported."""

    def __init__(self) -> None:
        self.activations: list[tuple[What, str, Act | None]] = []
        self.refusals: list[tuple[str, str]] = []
        self.is_refusing: dict[str, bool] = {}
        self.is_untrusted: dict[What, list[str]] = {}
        self.withdrawals: list[tuple[What, str]] = []
        self.unrehearsed: list[What] = []
        self.trips: list[tuple[Trip, Remedy]] = []
        self.open: list[Trip] = []

    def activated(self, what: What, name: str, by: Checked | None) -> None:
        self.activations.append((what, name, by.activation.act if by else None))

    def refused(self, what: str, error: SluiceError) -> None:
        self.refusals.append((what, error.code))

    def refusing(self, what: str, now: bool) -> None:
        self.is_refusing[what] = now

    def untrusted(self, what: What, keys: Sequence[str]) -> None:
        self.is_untrusted[what] = [*keys]

    def withdrawn(self, what: What, name: str, keys: Sequence[str]) -> None:
        self.withdrawals.append((what, name))

    def not_rehearsed(self, what: What, name: str, rows: int) -> None:
        self.unrehearsed.append(what)

    def tripped(self, trip: Trip, remedy: Remedy) -> None:
        self.trips.append((trip, remedy))

    def open_trips(self, trips: Sequence[Trip]) -> None:
        self.open = [*trips]


def scorer_of(name: str, ppm: int | None = None, key: Ed25519PrivateKey = ANN) -> FakeScorer:
    signer = key_id(key.public_key())
    if ppm is None:
        return FakeScorer(release=name, signer=signer)
    return FakeScorer(ppm, release=name, signer=signer)


DECLINE_ALL = make_policy(rules=[make_rule("all", all=["amount_minor >= 0"],
                                           outcome=Outcome.DECLINE)])  # fmt: skip


def declining_from(minor: int, *more: Any) -> Policy:
    """The usual policy, and a rule ``large`` that declines from an amount on."""
    large = make_rule("large", all=[f"amount_minor >= {minor}"], outcome=Outcome.DECLINE)
    return make_policy(rules=[large, *more])


class World:
    """A decider of two folders, over a clock that a test moves."""

    def __init__(
        self,
        policy: Policy | None = None,
        scorer: FakeScorer | None = None,
        *,
        epochs: EpochFile | None = None,
        signed: SignedActivation | None = None,
        **limits: Any,
    ) -> None:
        self.clock = FakeClock(NOON_US)
        self.release = Folder(None)
        self.release.put(scorer)
        self.policy = Folder(policy or make_policy())
        self.policy.signed = signed
        self.trust = Trust(ANN, BOB)
        self.said = Said()
        self.active = ActiveConfiguration(
            self.release,
            self.policy,
            trusted=self.trust,
            release_activations=self.release,
            policy_activations=self.policy,
            epochs=epochs or EpochFile(None),
            recent=Recent(2000),
            breaker=DeclineBreaker(BOUND_PPM, WINDOW),
            limits=Limits(**{"shift_ppm": 5_000, **limits}),
            report=self.said,
            clock=self.clock,
        )
        self.pipeline = DecisionPipeline(
            entrypoint="sync",
            emitter="test",
            ids=Once(FakeStore(self.clock), self.clock),
            scorer=self.active.releases,
            policy=self.active.policies,
            log=Log(),
            clock=self.clock,
            bounds=EventTimeBounds(),
            watch=self.active,
        )
        self._sent = 0

    async def decide(self, *amounts: int, tenant: str = "bank") -> list[Decision]:
        """Decide authorizations of these amounts, each of a card of its own."""
        batch = []
        for amount in amounts:
            self._sent += 1
            name = f"a-{self._sent}"
            batch.append(make_arrival(name, amount_minor=amount, card_token=name, tenant=tenant))
        results = await self.pipeline.decide(batch)
        decided = [result.decision for result in results if isinstance(result, Decided)]
        assert len(decided) == len(amounts)
        return decided

    async def usual(self, rows: int = 1000) -> None:
        """Traffic that is mostly approved: 1 in 100 is large."""
        amounts = [50_000 if i % 100 == 0 else 2_000 for i in range(rows)]
        for at in range(0, rows, 250):
            await self.decide(*amounts[at : at + 250])

    def poll(self, later_s: int = 1) -> None:
        self.clock.advance(later_s)
        self.active.poll()

    def sign(
        self, folder: Folder, kind: Act = "activate", *keys: Ed25519PrivateKey, value: Any = None
    ) -> SignedActivation:
        """An activation of what lies in a folder, signed by these keys; by Ann without any."""
        value = folder.value if value is None else value
        what: What = "policy" if folder is self.policy else "release"
        name = value.id if what == "policy" else value.release
        first, *others = keys or (ANN,)
        held = Folder(None)
        act(
            held, first, self.clock,
            what=what, name=name, digest=value.digest, kind=kind, who="ann", why="a test",
        )  # fmt: skip
        signed = held.signed
        assert signed is not None
        for key in others:
            signed = signed.approved(key)
        return signed

    def put(self, folder: Folder, value: Any, kind: Act = "activate", *keys: Any) -> None:
        """Put it into its folder with an activation of its own."""
        self.clock.advance(1)
        folder.put(value, self.sign(folder, kind, *keys, value=value))
        self.poll()


class Log:
    """``decisions.v1`` that keeps nothing."""

    async def append(self, decisions: Sequence[Any], late: Any) -> None:
        pass


# ---------------------------------------------------------------- what it lacks


async def test_it_lacks_a_release_until_one_decides_and_says_why() -> None:
    world = World()
    assert world.active.lacks() == "no release decides: none lies there"
    world.release.put(Corrupt("its signature is missing"))
    world.poll()
    assert world.active.lacks() == "no release decides: its signature is missing"
    world.put(world.release, FakeScorer(), "activate", ANN)
    assert world.active.lacks() == ""
    world.release.put(Corrupt("a bad one after it"))
    world.poll()
    assert world.active.lacks() == "", "the one before goes on"


async def test_each_thing_that_comes_to_decide_is_told_once_with_what_was_signed() -> None:
    world = World(scorer=scorer_of("one"))
    assert [(one.what, one.id, one.by) for one in world.active.changes()] == [
        ("policy", world.policy.value.id, None),
        ("release", "one", None),
    ]
    assert world.active.changes() == []
    fresh = declining_from(900_000)
    world.put(world.policy, fresh, "activate", ANN, BOB)
    world.poll()
    (told,) = world.active.changes()
    assert (told.what, told.digest) == ("policy", fresh.digest)
    assert [told.score_ppm, told.expected_loss_minor] == list(fresh.steps)
    assert told.by is not None
    assert world.policy.signed is not None
    assert told.by.statement == world.policy.signed.statement
    assert len(told.by.signers) == 2


# ---------------------------------------------------------------- the dry run


async def test_a_policy_that_declines_everything_does_not_take_effect() -> None:
    world = World()
    before = world.active.policies.current()
    await world.usual()
    world.policy.put(DECLINE_ALL)
    world.poll()
    assert world.active.policies.current() is before
    assert ("policy", "dry_run_shift") in world.said.refusals
    assert world.said.is_refusing["policy"]
    assert "decline from 0.0% to 100.0%" in str(world.active.policies.refused)


async def test_a_constant_model_does_not_take_effect() -> None:
    world = World(scorer=scorer_of("one"))
    await world.usual()
    world.release.put(scorer_of("constant", 950_000))
    world.poll()
    assert world.pipeline.release == "one"
    assert ("release", "dry_run_shift") in world.said.refusals


async def test_what_moves_little_takes_effect() -> None:
    world = World(scorer=scorer_of("one"))
    await world.usual()
    fresh = declining_from(900_000)
    world.policy.put(fresh)
    world.release.put(scorer_of("two"))
    world.poll()
    assert world.active.policies.current() is fresh
    assert world.pipeline.release == "two"


async def test_what_was_refused_is_not_tried_again_when_the_traffic_changes() -> None:
    world = World()
    await world.usual()
    fresh = declining_from(10_000)
    world.policy.put(fresh)
    world.poll()
    world.trust.trust(ANN)
    for _ in range(12):
        await world.decide(*[2_000] * 250)
    world.poll()
    assert world.active.policies.current() is not fresh
    assert world.said.refusals == [("policy", "dry_run_shift")]


async def test_with_too_few_decisions_nothing_is_tried_and_that_is_said() -> None:
    world = World()
    await world.usual(100)
    world.said.unrehearsed.clear()
    world.policy.put(DECLINE_ALL)
    world.poll()
    assert world.active.policies.current() is DECLINE_ALL
    assert world.said.unrehearsed == ["policy"]


async def test_a_forced_act_takes_effect_and_says_who_and_why() -> None:
    world = World()
    await world.usual()
    world.policy.put(DECLINE_ALL)
    world.poll()
    world.clock.advance(1)
    world.policy.signed = world.sign(world.policy, "force", value=DECLINE_ALL)
    world.poll()
    assert world.active.policies.current() is DECLINE_ALL
    assert world.said.activations[-1] == ("policy", DECLINE_ALL.id, "force")
    assert not world.said.is_refusing["policy"]


async def test_a_forced_act_by_a_stranger_changes_nothing() -> None:
    world = World()
    await world.usual()
    world.put(world.policy, DECLINE_ALL, "force", EVE)
    assert world.active.policies.current() is not DECLINE_ALL
    assert world.said.refusals == [("policy", "corrupt")]


async def test_the_folder_put_back_refuses_nothing_any_more() -> None:
    world = World()
    before = world.active.policies.current()
    await world.usual()
    world.policy.put(DECLINE_ALL)
    world.poll()
    world.policy.put(make_policy())
    world.poll()
    assert world.active.policies.current() is before
    assert not world.said.is_refusing["policy"]


async def test_what_cannot_be_read_changes_nothing() -> None:
    world = World()
    before = world.active.policies.current()
    world.policy.put(Misconfigured("not YAML"))
    world.poll()
    assert world.active.policies.current() is before
    assert world.said.refusals == [("policy", "misconfigured")]
    assert world.said.is_refusing["policy"]


# ---------------------------------------------------------------- the breaker


async def shifted(world: World, rows: int, *, tenant: str = "bank") -> list[Decision]:
    """Traffic that has shifted: every amount is large."""
    found = []
    for _ in range(0, rows, 50):
        found += await world.decide(*[50_000] * 50, tenant=tenant)
    return found


async def test_a_trip_undoes_a_new_policy_and_says_so() -> None:
    world = World()
    before = world.active.policies.current()
    await world.usual()
    fresh = declining_from(60_000)
    world.policy.put(fresh)
    world.poll()
    assert world.active.policies.current() is fresh
    decisions = []
    for _ in range(20):
        decisions += await world.decide(*[70_000] * 50)
    declined = [d for d in decisions if d.outcome is Outcome.DECLINE]
    assert BOUND_PPM * WINDOW < len(declined) * 1_000_000 <= BOUND_PPM * WINDOW + 50 * 1_000_000
    assert world.active.policies.current() is before
    ((trip, remedy),) = world.said.trips
    assert (trip.tenant, trip.cause, remedy) == ("bank", "rule large", "undone")
    assert world.said.open == [trip]
    world.poll()
    assert world.active.policies.refused is not None
    assert world.active.policies.refused.code == "breaker"
    assert world.said.is_refusing["policy"]


async def test_a_trip_undoes_a_new_model() -> None:
    world = World(scorer=scorer_of("one", 1000))
    await world.usual()
    by_amount = FakeScorer(
        lambda f: np.where(f[:, AMOUNT] > 60_000, 950_000, 1000),
        release="two",
        signer=ids(ANN)[0],
    )
    world.release.put(by_amount)
    world.poll()
    assert world.pipeline.release == "two"
    for _ in range(20):
        await world.decide(*[70_000] * 50)
    assert world.pipeline.release == "one"
    assert [remedy for _, remedy in world.said.trips] == ["undone"]


async def test_without_a_recent_change_the_rule_is_left_out_for_that_tenant_alone() -> None:
    world = World(declining_from(40_000))
    await shifted(world, 350)
    ((trip, remedy),) = world.said.trips
    assert remedy == "left_out"
    assert world.active.left_out == {"bank": {"rule large"}}
    (mine,) = await world.decide(50_000)
    assert (mine.outcome, mine.silenced) == (Outcome.APPROVE, ["large"])
    (theirs,) = await world.decide(50_000, tenant="shop")
    assert (theirs.outcome, theirs.silenced) == (Outcome.DECLINE, [])
    assert world.said.open == [trip]


async def test_a_day_after_a_change_a_trip_is_not_its_doing() -> None:
    world = World()
    fresh = declining_from(40_000)
    world.policy.put(fresh)
    world.poll()
    world.poll(DAY_US // SECOND_US)
    await world.decide(2_000)
    for _ in range(7):
        await world.decide(*[50_000] * 50)
    assert world.active.policies.current() is fresh
    assert [remedy for _, remedy in world.said.trips] == ["left_out"]


async def test_without_a_recent_change_the_model_is_left_out_for_that_tenant_alone() -> None:
    world = World(scorer=scorer_of("one", 950_000))
    await world.decide(*[2_000] * 301)
    assert [(t.cause, remedy) for t, remedy in world.said.trips] == [("model", "left_out")]
    (mine,) = await world.decide(2_000)
    assert (mine.degradation_level, mine.degraded, mine.release) == ("D2", ["model"], None)
    (theirs,) = await world.decide(2_000, tenant="shop")
    assert (theirs.degradation_level, theirs.degraded, theirs.release) == ("D0", [], "one")


async def test_what_is_left_out_is_in_the_next_policy_too_unless_the_rule_is_another() -> None:
    world = World(declining_from(40_000))
    await shifted(world, 350)
    world.policy.put(declining_from(40_000, make_rule("other", all=["amount_minor > 9_000_000"])))
    world.poll()
    assert world.active.left_out == {"bank": {"rule large"}}
    world.policy.put(declining_from(45_000))
    world.poll()
    assert world.said.refusals == [("policy", "dry_run_shift")], "that would decline as before"
    world.policy.put(declining_from(90_000))
    world.poll()
    assert world.active.left_out == {}
    assert world.said.open == []


async def test_the_model_is_asked_again_after_another_release_or_other_thresholds() -> None:
    for mend in ("release", "thresholds"):
        world = World(scorer=scorer_of("one", 950_000))
        await world.decide(*[2_000] * 301)
        assert world.active.left_out == {"bank": {"model"}}
        world.policy.put(declining_from(900_000))
        world.poll()
        assert world.active.left_out == {"bank": {"model"}}, "another rule is no mending"
        if mend == "release":
            world.release.put(scorer_of("two", 1000))
        else:
            never = Thresholds(score_ppm=STEPS | {Outcome.DECLINE: None})
            world.policy.put(make_policy(thresholds=never))
        world.poll()
        assert world.active.left_out == {}


async def test_the_dry_run_compares_with_what_decides_without_what_is_left_out() -> None:
    world = World(declining_from(40_000))
    await shifted(world, 350)
    mended = declining_from(90_000)
    world.policy.put(mended)
    world.poll()
    assert world.active.policies.current() is mended
    assert world.said.refusals == []


async def test_a_signed_reset_asks_the_rule_again_and_counts_anew() -> None:
    world = World(declining_from(40_000))
    await shifted(world, 350)
    world.clock.advance(1)
    world.policy.signed = world.sign(world.policy, "reset")
    world.poll()
    assert world.active.left_out == {}
    assert world.said.open == []
    (again,) = await world.decide(50_000)
    assert again.outcome is Outcome.DECLINE


async def test_a_signed_reset_brings_back_what_was_undone() -> None:
    world = World()
    await world.usual()
    fresh = declining_from(60_000)
    world.policy.put(fresh)
    world.poll()
    for _ in range(7):
        await world.decide(*[70_000] * 50)
    assert world.active.policies.current() is not fresh
    world.clock.advance(1)
    world.policy.signed = world.sign(world.policy, "activate", value=fresh)
    world.poll()
    assert world.said.refusals[-1] == ("policy", "breaker")
    world.clock.advance(1)
    world.policy.signed = world.sign(world.policy, "reset", value=fresh)
    world.poll()
    assert world.active.policies.current() is fresh
    assert world.said.open == []


async def test_what_was_undone_stays_out_when_the_traffic_is_the_usual_again() -> None:
    world = World()
    await world.usual()
    fresh = declining_from(60_000)
    world.policy.put(fresh)
    world.poll()
    for _ in range(7):
        await world.decide(*[70_000] * 50)
    await world.usual(2500)
    world.policy.put(make_policy())
    world.poll()
    world.policy.put(fresh)
    world.poll()
    assert world.active.policies.current() is not fresh
    assert world.said.refusals == [("policy", "breaker")]


async def test_following_goes_on_whatever_goes_wrong() -> None:
    world = World(scorer=scorer_of("one"))
    before = world.active.policies.current()
    for wrong, code in ((IndexError("a bug"), "internal"), (Unavailable("no process"), "")):
        world.policy.put(wrong)
        world.release.put(scorer_of(f"after {code}"))
        if code:
            world.poll()
            assert world.said.refusals == [("policy", code)]
            assert world.said.is_refusing["policy"]
        else:
            with pytest.raises(Unavailable):
                world.poll()
        assert world.pipeline.release == f"after {code}"
        assert world.active.policies.current() is before
    world.poll()
    assert not world.said.is_refusing["policy"]


# ---------------------------------------------------------------- epochs


async def test_an_older_activation_is_refused_and_a_rollback_is_not() -> None:
    world = World()
    one, two = scorer_of("one"), scorer_of("two")
    world.put(world.release, one)
    old = world.release.signed
    world.put(world.release, two)
    assert world.pipeline.release == "two"

    world.release.put(scorer_of("one"), old)
    world.poll()
    assert world.pipeline.release == "two"
    assert world.said.refusals == [("release", "epoch")]
    assert "sluice release rollback" in str(world.active.releases.refused)

    world.put(world.release, scorer_of("one"), "rollback")
    assert world.pipeline.release == "one"
    assert world.said.activations[-1] == ("release", "one", "rollback")


async def test_after_an_activation_nothing_without_one_takes_effect() -> None:
    world = World()
    world.put(world.release, scorer_of("one"))
    world.release.put(scorer_of("two"), None)
    world.poll()
    assert world.pipeline.release == "one"
    assert world.said.refusals == [("release", "epoch")]


async def test_an_activation_of_the_future_is_refused() -> None:
    world = World()
    world.clock.advance(DAY_US / SECOND_US)
    signed = world.sign(world.release, value=scorer_of("one"))
    world.clock.advance(-DAY_US / SECOND_US)
    world.release.put(scorer_of("one"), signed)
    world.poll()
    assert world.pipeline.release is None
    assert world.said.refusals == [("release", "epoch")]


async def test_an_activation_of_something_else_is_refused() -> None:
    world = World()
    world.release.put(scorer_of("two"), world.sign(world.release, value=scorer_of("one")))
    world.poll()
    assert world.pipeline.release is None
    assert world.said.refusals == [("release", "corrupt")]


async def test_epochs_are_remembered_over_a_restart_where_there_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "epochs.json"
    first = World(epochs=EpochFile(path))
    old_policy = make_policy()
    old = first.sign(first.policy, value=old_policy)
    first.put(first.policy, declining_from(900_000))
    with pytest.raises(Corrupt, match="sluice policy rollback") as refused:
        World(old_policy, epochs=EpochFile(path), signed=old)
    assert refused.value.code == "epoch"
    World(old_policy, signed=old)  # without the file nobody knows


# ---------------------------------------------------------------- approvals and keys


async def test_two_approvals_are_two_keys() -> None:
    start = World()
    signed = start.sign(start.policy, "activate", ANN, BOB)
    world = World(signed=signed, policy_approvals=2)
    fresh = declining_from(900_000)
    world.put(world.policy, fresh, "activate", ANN)
    assert world.said.refusals[-1] == ("policy", "unapproved")
    world.put(world.policy, fresh, "activate", ANN, ANN)
    assert world.said.refusals[-1] == ("policy", "unapproved")
    world.put(world.policy, fresh, "activate", ANN, EVE)
    assert world.said.refusals[-1] == ("policy", "corrupt")
    assert world.active.policies.current() is not fresh
    world.put(world.policy, fresh, "activate", ANN, BOB)
    assert world.active.policies.current() is fresh


async def test_nothing_starts_on_a_policy_that_lacks_approvals() -> None:
    with pytest.raises(Corrupt, match="2 approvals are needed"):
        World(policy_approvals=2)


async def test_a_withdrawn_key_signs_nothing_new_and_what_decides_is_named() -> None:
    world = World(scorer=scorer_of("one"))
    world.trust.trust(BOB, revoked={ids(ANN)[0]: "which was revoked: stolen"})
    world.poll()
    assert world.said.is_untrusted["release"] == ids(ANN)
    assert world.said.withdrawals == [("release", "one")]
    assert world.pipeline.release == "one"
    assert not world.said.is_refusing["release"]

    world.release.put(scorer_of("two"))
    world.poll()
    assert world.pipeline.release == "one"
    assert world.said.refusals == [("release", "key_withdrawn")]
    world.release.put(scorer_of("three", key=BOB))
    world.poll()
    assert world.pipeline.release == "three"
    assert world.said.is_untrusted["release"] == []


async def test_what_a_withdrawn_key_signed_stops_deciding_where_that_is_set() -> None:
    world = World(scorer=scorer_of("one", key=BOB), drop_untrusted=True)
    world.release.put(scorer_of("two"))
    world.poll()
    world.trust.trust(BOB)
    world.poll()
    assert world.pipeline.release == "one"
    assert world.said.refusals == [("release", "key_withdrawn")]
    world.trust.trust()
    world.poll()
    assert world.pipeline.release is None
    (decision,) = await world.decide(2_000)
    assert decision.degraded == ["model"]


async def test_a_policy_whose_keys_are_withdrawn_goes_on_where_there_is_no_other() -> None:
    start = World()
    signed = start.sign(start.policy)
    world = World(signed=signed, drop_untrusted=True)
    before = world.active.policies.current()
    world.trust.trust(BOB)
    world.poll()
    assert world.active.policies.current() is before
    assert world.said.is_untrusted["policy"] == ids(ANN)


async def test_while_the_trust_folder_cannot_be_read_what_decides_goes_on() -> None:
    world = World(scorer=scorer_of("one"), drop_untrusted=True)
    world.trust.trust()
    world.trust.refused = Misconfigured("not a public key")
    world.poll()
    assert world.pipeline.release == "one"
    assert world.said.is_refusing["trust"]
    assert world.said.withdrawals == []


async def test_a_key_trusted_again_lets_through_what_it_signed() -> None:
    world = World()
    world.trust.trust(BOB)
    world.release.put(scorer_of("one"))
    world.poll()
    assert world.pipeline.release is None
    world.trust.trust(ANN)
    world.poll()
    assert world.pipeline.release == "one"


# ---------------------------------------------------------------- what is named beside the champion


async def test_what_is_beside_the_champion_is_what_was_taken_last_and_not_what_was_refused() -> (
    None
):
    world = World(scorer=scorer_of("champion", 1))
    world.put(world.release, scorer_of("champion", 1))
    await world.usual()
    taken = world.active.activation()
    assert taken is not None
    assert taken.id == "champion"
    world.put(world.release, scorer_of("declines", 999_999))
    assert ("release", "dry_run_shift") in world.said.refusals
    assert world.active.activation() == taken
    world.put(world.release, scorer_of("declines", 999_999), "force")
    now = world.active.activation()
    assert now is not None
    assert (now.id, now.act) == ("declines", "force")
