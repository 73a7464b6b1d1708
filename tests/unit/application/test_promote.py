"""The steps of a release beside others, and who went one before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import UNSET

from sluice.adapters.trustfiles import ActivationFile
from sluice.application.promote import Steps, check_held
from sluice.domain.activation import (
    MOVED,
    Activation,
    Known,
    Named,
    SignedActivation,
    check,
    decode,
)
from sluice.domain.clock import DAY_US
from sluice.domain.records.rollout import Rollout
from sluice.domain.release import TrustedKeys, key_id
from sluice.errors import Misconfigured, Unavailable
from sluice.testing.factories import NOON_US
from sluice.testing.store import FakeClock

ANN = Ed25519PrivateKey.generate()
TRUSTED = TrustedKeys({key_id(ANN.public_key()): ANN.public_key()})
MADE = {"old": 1, "mid": 2, "new": 3}


def named(name: str) -> Named:
    return Named(name, f"{MADE[name]:064x}")


class Releases:
    """A folder of three releases, by age, with a real file of the activation."""

    def __init__(self, folder: Path) -> None:
        self._file = ActivationFile(folder)
        self.read, self.replace = self._file.read, self._file.replace
        self.clock = FakeClock(NOON_US)

    def identity(self, name: str) -> tuple[Named, int]:
        return named(name), NOON_US + MADE[name] * DAY_US

    def steps(self, expect: int | None = None, *, once: bool = False) -> Steps:
        self.clock.advance(1)
        return Steps(self, ANN, self.clock, who="ann", why="a test", expect=expect, once=once)

    def there(self) -> Activation:
        signed = self.read()
        assert signed is not None
        return decode(signed.statement)


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    """Its champion is mid."""
    made = Releases(tmp_path)
    made.steps().promote("mid", nothing)
    return made


def nothing(epoch: int) -> Sequence[Rollout]:
    return ()


def test_from_shadow_over_canary_to_champion_and_back(releases: Releases) -> None:
    assert releases.there().champion == named("mid")
    releases.steps().shadow("new")
    assert (releases.there().champion, releases.there().shadow) == (named("mid"), named("new"))
    releases.steps().canary("new", 10_000)
    there = releases.there()
    assert there.shadow is UNSET
    assert there.canary is not UNSET
    assert (there.canary.release, there.canary.share_ppm) == (named("new"), 10_000)
    releases.steps().canary("new", 200_000)
    releases.steps().promote("new", nothing)
    there = releases.there()
    assert (there.champion, there.before, there.canary) == (named("new"), named("mid"), UNSET)
    releases.steps().rollback()
    assert releases.there().champion == named("mid")


def test_each_step_is_an_activation_of_the_champion_that_a_decider_takes(
    releases: Releases,
) -> None:
    known = Known()
    steps: list[Callable[[], Activation]] = [
        lambda: releases.steps().shadow("new"),
        lambda: releases.steps().canary("new", 10_000),
        lambda: releases.steps().promote("new", nothing),
        lambda: releases.steps().rollback(),
    ]
    for step in steps:
        step()
        found = check(
            releases.read(), TRUSTED, what="release", digest=releases.there().digest,
            approvals=1, known=known, now_us=releases.clock.now_us(),
        )  # fmt: skip
        assert found is not None
        known = Known(found.activation.epoch, found.activation.digest)


def test_a_rollback_of_a_canary_leaves_the_champion(releases: Releases) -> None:
    releases.steps().shadow("new")
    releases.steps().canary("new", 10_000)
    done = releases.steps().rollback()
    assert (done.champion, done.canary, done.shadow) == (named("mid"), UNSET, UNSET)


def test_of_two_people_who_go_a_step_at_once_one_hears_of_the_other(releases: Releases) -> None:
    ann, bob = releases.steps(), releases.steps()
    done = ann.shadow("new")
    with pytest.raises(Misconfigured, match="somebody went a step") as raised:
        bob.shadow("new")
    assert raised.value.code == MOVED
    assert releases.there() == done


def test_a_step_over_another_epoch_than_expected_is_refused(releases: Releases) -> None:
    epoch = releases.there().epoch
    releases.steps(expect=epoch).shadow("new")
    with pytest.raises(Misconfigured, match="somebody went a step") as raised:
        releases.steps(expect=epoch)
    assert raised.value.code == MOVED


def test_a_signature_that_came_in_between_is_no_other_step(releases: Releases) -> None:
    bob = Ed25519PrivateKey.generate()
    mine = releases.steps()
    signed = releases.read()
    assert signed is not None
    ActivationFile(releases._file._path.parent).write(signed.approved(bob))
    mine.shadow("new")
    assert releases.there().shadow == named("new")


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (lambda steps: steps.canary("new", 10_000), "new is not the shadow"),
        (lambda steps: steps.promote("new", nothing), "new is not the canary"),
        (lambda steps: steps.shadow("old"), "old was made before the champion, mid"),
        (lambda steps: steps.shadow("mid"), "mid is the champion"),
        (lambda steps: steps.rollback(), "no champion before"),
    ],
)
def test_no_step_is_left_out(releases: Releases, step: object, why: str) -> None:
    before = releases.there()
    with pytest.raises(Misconfigured, match=why):
        step(releases.steps())  # type: ignore[operator]
    assert releases.there() == before


@pytest.mark.parametrize("share_ppm", [0, -1, 10_001, 1_000_000])
def test_a_canary_begins_with_one_card_in_a_hundred_at_most(
    releases: Releases, share_ppm: int
) -> None:
    releases.steps().shadow("new")
    with pytest.raises(Misconfigured) as raised:
        releases.steps().canary("new", share_ppm)
    assert raised.value.where == "--share-ppm"


def gone_back(releases: Releases, epoch: int) -> Rollout:
    return Rollout(
        at=releases.clock.now_us(), emitter="decider-1/1-1", step="returned", role="canary",
        release="new", digest=named("new").digest, epoch=epoch, reason="declines",
        detail="it is stricter in 4 of 4 decisions",
    )  # fmt: skip


def test_a_canary_that_went_back_by_itself_is_not_promoted(releases: Releases) -> None:
    releases.steps().shadow("new")
    releases.steps().canary("new", 10_000)
    event = gone_back(releases, releases.there().epoch)
    with pytest.raises(Misconfigured, match="went back by itself: declines, it is stricter in 4"):
        releases.steps().promote("new", lambda epoch: [event] if event.epoch == epoch else [])
    # Signed again, on purpose, it is another canary.
    releases.steps().canary("new", 10_000)
    releases.steps().promote("new", lambda epoch: [event] if event.epoch == epoch else [])


def test_nothing_is_promoted_while_nobody_can_say_whether_it_went_back(releases: Releases) -> None:
    def away(epoch: int) -> Sequence[Rollout]:
        raise Unavailable("no broker")

    releases.steps().shadow("new")
    releases.steps().canary("new", 10_000)
    with pytest.raises(Unavailable):
        releases.steps().promote("new", away)
    assert releases.there().champion == named("mid")


def test_force_and_reset_sign_what_is_there_and_activate_does_not(releases: Releases) -> None:
    releases.steps().shadow("new")
    done = releases.steps().again("reset")
    assert (done.act, done.shadow) == ("reset", named("new"))
    with pytest.raises(Misconfigured, match="a folder of releases"):
        releases.steps().again("activate")


def test_an_activation_of_one_release_has_the_bytes_that_it_had() -> None:
    signed = SignedActivation(
        b'{"v":1,"what":"release","id":"a","digest":"' + b"0" * 64 + b'","epoch":1,'
        b'"act":"activate","who":"ann","why":"w"}\n',
        (),
    )
    assert msgspec.json.encode(decode(signed.statement)) + b"\n" == signed.statement


def test_a_canary_that_has_not_held_for_as_long_as_was_asked_is_not_promoted(
    releases: Releases,
) -> None:
    releases.steps().shadow("new")
    releases.steps().canary("new", 10_000)
    steps = releases.steps()
    with pytest.raises(Misconfigured, match="600 s are asked for"):
        steps.promote("new", nothing, 600)
    releases.clock.advance(600)
    steps.promote("new", nothing, 600)


@pytest.mark.parametrize(
    ("before", "step"),
    [
        ((), lambda steps: steps.shadow("new")),
        (("shadow",), lambda steps: steps.canary("new", 10_000)),
        (("shadow", "canary"), lambda steps: steps.promote("new", nothing, 0)),
    ],
)
def test_whoever_does_not_know_whether_a_step_was_gone_may_go_it_twice(
    releases: Releases, before: tuple[str, ...], step: Callable[[Steps], Activation]
) -> None:
    go = {"shadow": lambda s: s.shadow("new"), "canary": lambda s: s.canary("new", 10_000)}
    for name in before:
        go[name](releases.steps())
    done = step(releases.steps(once=True))
    assert step(releases.steps(once=True)) == done
    assert releases.there() == done


def test_another_share_is_another_step(releases: Releases) -> None:
    releases.steps().shadow("new")
    first = releases.steps(once=True).canary("new", 10_000)
    assert releases.steps(once=True).canary("new", 100_000).epoch > first.epoch


def test_a_release_is_withdrawn_from_whatever_it_is_and_twice_is_once(releases: Releases) -> None:
    roles: list[Callable[[], object]] = [
        lambda: releases.steps().shadow("new"),
        lambda: (releases.steps().shadow("new"), releases.steps().canary("new", 10_000)),
        lambda: (
            releases.steps().shadow("new"),
            releases.steps().canary("new", 10_000),
            releases.steps().promote("new", nothing, 0),
        ),
    ]
    for bring in roles:
        bring()
        done = releases.steps().withdraw("new")
        assert (done.champion, done.canary, done.shadow) == (named("mid"), UNSET, UNSET)
        assert releases.steps().withdraw("new") == done


def test_a_withdrawal_leaves_what_others_are(releases: Releases) -> None:
    MADE["newer"] = 4
    releases.steps().shadow("new")
    releases.steps().canary("new", 10_000)
    releases.steps().shadow("newer")
    done = releases.steps().withdraw("new")
    assert (done.champion, done.canary, done.shadow) == (named("mid"), UNSET, named("newer"))


def test_a_release_holds_until_a_decider_or_a_person_takes_it_out(releases: Releases) -> None:
    releases.steps().shadow("new")
    assert check_held(releases, "new", "shadow", nothing)[1] == named("new")
    with pytest.raises(Misconfigured, match="new is not the canary"):
        check_held(releases, "new", "canary", nothing)
    releases.steps().canary("new", 10_000)
    check_held(releases, "new", "canary", nothing)
    event = gone_back(releases, releases.there().epoch)
    with pytest.raises(Misconfigured, match="went back by itself: declines"):
        check_held(releases, "new", "canary", lambda _: [event])
    check_held(releases, "mid", "champion", lambda _: [event])
    releases.steps().withdraw("new")
    with pytest.raises(Misconfigured, match="new is not the canary"):
        check_held(releases, "new", "canary", nothing)
