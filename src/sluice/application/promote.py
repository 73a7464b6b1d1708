"""The steps of a release beside others: shadow, canary, champion, and back.

A folder holds releases, each in a folder of its id, and one ``activation.note``: the champion, and
what scores or answers beside it. A step writes that note anew, signed, and only over the one that
it looked at (compare and set by epoch), so that of two people who go a step at once one hears of
the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import UNSET, UnsetType, structs

from sluice.domain.activation import (
    ACTIVATION,
    FIRST_SHARE_MAX_PPM,
    FORCED,
    MOVED,
    RELEASE,
    Act,
    Activation,
    Canary,
    Named,
    SignedActivation,
    decode,
    statement_of,
)
from sluice.domain.clock import SECOND_US, Clock, to_datetime
from sluice.domain.records.rollout import Role, Rollout
from sluice.errors import Corrupt, Misconfigured


class Releases(Protocol):
    """A folder of releases and its activation."""

    def read(self) -> SignedActivation | None:
        """The activation that lies there, None without one. Raises Misconfigured."""
        ...

    def replace(self, signed: SignedActivation, before: SignedActivation | None) -> None:
        """Put one in the place of ``before``, whole. Raises Misconfigured with code MOVED if
        another statement lies there by now."""
        ...

    def identity(self, name: str) -> tuple[Named, int]:
        """A release by its folder's name, and when it was made. Raises Misconfigured, and Corrupt
        if its files are not the ones that its manifest names."""
        ...


Returned = Callable[[int], Sequence[Rollout]]
"""What deciders wrote of returns of an epoch. Raises Unavailable."""


def check_held(
    releases: Releases, name: str, role: Role, returned: Returned
) -> tuple[Activation, Named]:
    """That a release is in a role, and that no decider took it out. Returns what lies there.

    Raises Misconfigured if not, Unavailable if nobody can say.
    """
    signed = releases.read()
    if signed is None:
        raise Misconfigured(
            "no release is the champion yet", where=ACTIVATION, fix="sluice release promote"
        )
    now = decode(signed.statement)
    named, _ = releases.identity(name)
    if _in_role(now, role) != named:
        raise Misconfigured(
            f"{name} is not the {role}",
            where=ACTIVATION,
            fix="sluice release list says what it is; somebody went a step, or went back",
        )
    for event in returned(now.epoch) if role != "champion" else ():
        if event.epoch == now.epoch and event.digest == named.digest:
            raise Misconfigured(
                f"{name} went back by itself: {event.reason}, {event.detail}",
                where=f"{event.emitter}, {to_datetime(event.at):%Y-%m-%d %H:%M:%S} UTC",
                fix="docs/runbooks/canary.md",
            )
    return now, named


def _in_role(now: Activation, role: Role) -> Named | UnsetType:
    if role == "champion":
        return now.champion
    if role == "shadow":
        return now.shadow
    return UNSET if now.canary is UNSET else now.canary.release


class Steps:
    """Goes a step, as somebody who signs. expect: the epoch that must lie there; None is whichever
    is found when the step begins. once: a step that lies there already is not signed again, so that
    whoever does not know whether it was gone may go it twice."""

    def __init__(
        self,
        releases: Releases,
        key: Ed25519PrivateKey,
        clock: Clock,
        *,
        who: str,
        why: str,
        expect: int | None = None,
        once: bool = False,
    ) -> None:
        """Raises Misconfigured if what lies there cannot be read, or is not what was expected."""
        self._releases = releases
        self._key = key
        self._clock = clock
        self._who, self._why = who, why
        self._once = once
        self._before = releases.read()
        self.now = None if self._before is None else decode(self._before.statement)
        """What lies there."""
        found = 0 if self.now is None else self.now.epoch
        if expect is not None and expect != found:
            raise _moved(found, expect)

    def shadow(self, name: str) -> Activation:
        """Let a release score beside the champion. Raises Misconfigured if it is older than it."""
        now, (named, created_at) = self._there(), self._releases.identity(name)
        if self._once and now.shadow == named:
            return now
        self._check_newer(now, named, created_at)
        return self._write(structs.replace(now, act="shadow", shadow=named))

    def canary(self, name: str, share_ppm: int) -> Activation:
        """Let a release answer a share of the cards: the shadow, or the canary itself another
        share. Raises Misconfigured for one that was neither, or a first share that is too large."""
        now, (named, _) = self._there(), self._releases.identity(name)
        answers = _in_role(now, "canary") == named
        if self._once and now.canary == Canary(named, share_ppm):
            return now
        if not answers and now.shadow != named:
            raise Misconfigured(
                f"{name} is not the shadow", where=ACTIVATION, fix="sluice release shadow, before"
            )
        if not answers and share_ppm > FIRST_SHARE_MAX_PPM:
            raise Misconfigured(
                f"a canary begins with at most {FIRST_SHARE_MAX_PPM} ppm of the cards",
                where="--share-ppm",
                fix="begin with less, and raise it when it has held",
            )
        if not 0 < share_ppm < 1_000_000:
            raise Misconfigured("a share lies between 1 and 999999 ppm", where="--share-ppm")
        shadow = UNSET if now.shadow == named else now.shadow
        return self._write(
            structs.replace(now, act="canary", shadow=shadow, canary=Canary(named, share_ppm))
        )

    def promote(self, name: str, returned: Returned, held_s: int = 0) -> Activation:
        """Make the canary the champion; in a folder without activation, any release the first one.

        held_s: how long its share must have stood. Raises Misconfigured if it is not the canary,
        has not held for so long, or went back by itself; Unavailable if nobody can say whether it
        did.
        """
        named, _ = self._releases.identity(name)
        if self.now is None:
            return self._write(self._first(named))
        if self._once and self._there().champion == named:
            return self._there()
        now, _ = check_held(self._releases, name, "canary", returned)
        held_us = self._clock.now_us() - now.epoch
        if held_us < held_s * SECOND_US:
            raise Misconfigured(
                f"{name} has had its share for {held_us // SECOND_US} s, {held_s} s are asked for",
                where="--held-s",
                fix="wait, or ask for less",
            )
        return self._write(
            structs.replace(
                now,
                id=named.id,
                digest=named.digest,
                act="promote",
                canary=UNSET,
                before=now.champion,
            )
        )

    def rollback(self) -> Activation:
        """One step back: no canary and no shadow any more; without either, the champion of before.
        Raises Misconfigured if there is nothing to go back to."""
        now = self._there()
        if now.canary is not UNSET or now.shadow is not UNSET:
            return self._write(structs.replace(now, act="rollback", shadow=UNSET, canary=UNSET))
        return self._to_before(now)

    def _to_before(self, now: Activation) -> Activation:
        if now.before is UNSET:
            raise Misconfigured("there was no champion before this one", where=ACTIVATION)
        named, _ = self._releases.identity(now.before.id)
        if named != now.before:
            raise Corrupt("it is another release by now", where=now.before.id)
        return self._write(
            structs.replace(
                now, id=named.id, digest=named.digest, act="rollback", before=now.champion
            )
        )

    def withdraw(self, name: str) -> Activation:
        """Take a release out, whatever it is: shadow, canary, or champion, whose place the champion
        of before takes. Where it is none of them nothing is written: it may be done twice.
        Raises Misconfigured if there is no champion to go back to."""
        now, (named, _) = self._there(), self._releases.identity(name)
        if now.champion == named:
            return self._to_before(now)
        if named not in (now.shadow, _in_role(now, "canary")):
            return now
        shadow = UNSET if now.shadow == named else now.shadow
        canary = UNSET if _in_role(now, "canary") == named else now.canary
        return self._write(structs.replace(now, act="rollback", shadow=shadow, canary=canary))

    def again(self, kind: Act) -> Activation:
        """Sign what lies there once more, as another act: force or reset. Raises Misconfigured."""
        if kind not in FORCED:
            raise Misconfigured(
                f"{kind} is of one release, and this is a folder of releases",
                where=ACTIVATION,
                fix="sluice release shadow, canary, promote",
            )
        return self._write(structs.replace(self._there(), act=kind))

    def _there(self) -> Activation:
        if self.now is None:
            raise Misconfigured(
                "no release is the champion yet", where=ACTIVATION, fix="sluice release promote"
            )
        if self.now.what != RELEASE:
            raise Misconfigured("it is a policy's", where=ACTIVATION)
        return self.now

    def _first(self, named: Named) -> Activation:
        epoch = self._clock.now_us()
        return Activation(
            what=RELEASE, id=named.id, digest=named.digest, epoch=epoch, act="promote",
            who=self._who, why=self._why,
        )  # fmt: skip

    def _check_newer(self, now: Activation, named: Named, created_at: int) -> None:
        if named == now.champion:
            raise Misconfigured(f"{named.id} is the champion", where=ACTIVATION)
        champion, made_at = self._releases.identity(now.id)
        if champion == now.champion and created_at < made_at:
            raise Misconfigured(
                f"{named.id} was made before the champion, {champion.id}",
                where=named.id,
                fix="to go back to the champion of before: sluice release rollback",
            )

    def _write(self, wanted: Activation) -> Activation:
        after = UNSET if self.now is None else self.now.epoch
        epoch = max(self._clock.now_us(), 0 if self.now is None else self.now.epoch + 1)
        done = structs.replace(wanted, epoch=epoch, who=self._who, why=self._why, after=after)
        unsigned = statement_of(done)
        decode(unsigned.statement)
        self._releases.replace(unsigned.approved(self._key), self._before)
        return done


def _moved(found: int, expect: int) -> Misconfigured:
    return Misconfigured(
        f"its epoch is {found}, not {expect}: somebody went a step in between",
        where=ACTIVATION,
        fix="look what is there now: sluice release list",
        code=MOVED,
    )
