"""The active configuration: the release and the policy that decide now.

What lies in their folders is a candidate. It takes effect if its activation says that it may, and
if it would not have moved the outcomes of the last decisions too far (the dry run). Once it
decides, its declines are counted (the breaker); what declines too much is undone or left out. And
the keys behind it may be withdrawn.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from sluice.application.breaker import OTHERS, DeclineBreaker, Trip
from sluice.application.dry_run import SHIFT, Recent, Rows, check_policy, check_release
from sluice.application.ports import Ints, Scorer
from sluice.domain.activation import (
    FORCED,
    Activation,
    Checked,
    Known,
    SignedActivation,
    What,
    check,
)
from sluice.domain.clock import DAY_US, Clock
from sluice.domain.policy.policy import LISTS, MODEL, LeftOut, Policy, Verdicts
from sluice.domain.records.authorization import Authorization
from sluice.domain.release import KEY_WITHDRAWN, Trusted
from sluice.errors import Corrupt, Misconfigured, SluiceError, Unavailable

T = TypeVar("T")
H_co = TypeVar("H_co", covariant=True)
N_co = TypeVar("N_co", covariant=True)

INTERNAL = "internal"
"""Code of a refusal: judging it ended in a way that nobody foresaw."""
TRIPPED = "breaker"
"""Code of what the breaker took out of effect."""
STAYS = frozenset({SHIFT, TRIPPED})
"""Codes by which the same content stays refused until somebody signs another activation of it."""
UNDONE_MAX = 64
"""Digests that are remembered as tripped; the oldest are forgotten."""
CHANGES_MAX = 256
"""Changes that wait to be told; somebody signed each, or the breaker tripped."""
SUSPECT_US = DAY_US
"""So long after a change, a trip is held to be its doing, and undoes it."""

Remedy = Literal["undone", "left_out", "none"]
"""undone: the newest change was. left_out: the rule, or the model, for that tenant. none: said."""


class Followed(Protocol[H_co, N_co]):
    """What may be replaced, whole, while it is used."""

    def current(self) -> H_co:
        """The newest that was read and is whole."""
        ...

    @property
    def refused(self) -> SluiceError | None:
        """Why what lies there now is not it; None if it is."""
        ...

    def poll(self) -> N_co | None:
        """What has just replaced it, None if nothing has. Raises a SluiceError if what lies there
        now is wrong: then nothing changes, and the same is not looked at again; Unavailable if it
        could not be looked at now, and will be next time."""
        ...


class TrustedFolder(Trusted, Protocol):
    """The keys that are trusted, followed where they lie."""

    @property
    def refused(self) -> SluiceError | None:
        """Why what lies there cannot be read; None if it can. Until then it trusts nobody."""
        ...

    def poll(self) -> bool:
        """Whether another set of keys is trusted than before, be it that one's time has ended.
        Raises Misconfigured, once, if what lies there is wrong."""
        ...


class Activations(Protocol):
    """Where the activation of what lies in a folder is read."""

    def read(self) -> SignedActivation | None:
        """The activation that lies there now. Raises Misconfigured if it cannot be read."""
        ...


class Epochs(Protocol):
    """Remembers the highest epoch that has decided, across restarts if it can."""

    def known(self, what: What) -> Known:
        """The highest so far. Raises Misconfigured, Corrupt if it cannot be read."""
        ...

    def raise_to(self, what: What, known: Known) -> None:
        """Remember a higher one; a lower one changes nothing. Raises Misconfigured if it cannot be
        kept."""
        ...


class Report(Protocol):
    """Whom to say what happened."""

    def activated(self, what: What, name: str, by: Checked | None) -> None:
        """This decides from now on, by this activation."""
        ...

    def refused(self, what: str, error: SluiceError) -> None:
        """A release, a policy or the trust folder was refused, once for each content."""
        ...

    def refusing(self, what: str, now: bool) -> None:
        """With every poll: whether what lies in the folder is not what decides; of the trust
        folder, whether it cannot be read."""
        ...

    def untrusted(self, what: What, keys: Sequence[str]) -> None:
        """With every poll: the withdrawn keys without which what decides would not."""
        ...

    def withdrawn(self, what: What, name: str, keys: Sequence[str]) -> None:
        """Once: this decides, and would not be taken today, for these keys were withdrawn."""
        ...

    def not_rehearsed(self, what: What, name: str, rows: int) -> None:
        """It takes effect without a dry run: there were too few decisions to try it on."""
        ...

    def tripped(self, trip: Trip, remedy: Remedy) -> None:
        """The breaker tripped, and what was done about it."""
        ...

    def open_trips(self, trips: Sequence[Trip]) -> None:
        """With every change: trips whose remedy still holds."""
        ...


class _Taken(NamedTuple, Generic[T]):
    """What decides, or did."""

    value: T
    name: str
    digest: str
    by: Checked | None
    signers: frozenset[str]
    since_us: int


class TookEffect(NamedTuple):
    """What decides from now on. by: its activation, None without one. score_ppm,
    expected_loss_minor: a policy's thresholds, as in ``MadeBy``; None of a release."""

    what: What
    id: str
    digest: str
    by: Checked | None
    score_ppm: list[int | None] | None = None
    expected_loss_minor: list[int | None] | None = None


class _Identity(NamedTuple):
    """What a candidate is called, its digest, and who signed it besides its activation."""

    name: str
    digest: str
    signers: frozenset[str]


class _Tripped(NamedTuple):
    """A trip that was remedied. what: the part that was undone, or whose cause is left out."""

    trip: Trip
    what: What
    remedy: Remedy


class Limits(NamedTuple):
    """approvals: signatures that an activation needs, by what it is of; 0 needs no activation.
    shift_ppm: bound of the dry run; None makes none. drop_untrusted: whether what decides is taken
    out of effect when its key is withdrawn."""

    release_approvals: int = 0
    policy_approvals: int = 0
    shift_ppm: int | None = None
    drop_untrusted: bool = False

    def approvals(self, what: What) -> int:
        """Signatures that an activation of this needs."""
        return self.release_approvals if what == "release" else self.policy_approvals


class Part(Generic[T]):
    """One of the two, and what lies in its folder."""

    def __init__(
        self,
        what: What,
        followed: Followed[T | None, T],
        activations: Activations,
        identity: Callable[[T], _Identity],
        rehearse: Callable[[T, Rows, int], None],
    ) -> None:
        self.what: What = what
        self.followed = followed
        self.activations = activations
        self.identity = identity
        self.rehearse = rehearse
        self.now: _Taken[T] | None = None
        self.before: _Taken[T] | None = None
        self.candidate: T | None = None
        self.judged: tuple[object, ...] | None = None
        self.undone: dict[str, Trip] = {}
        """By digest, what tripped and was not reset."""
        self.untrusted: list[str] = []
        self._refused: SluiceError | None = None

    @property
    def refused(self) -> SluiceError | None:
        """Why what lies in the folder does not decide; None if it does."""
        return self.followed.refused or self._refused

    def refuse(self, error: SluiceError | None) -> None:
        """Note why the candidate does not decide, None if it does."""
        self._refused = error

    def stays_refused(self) -> bool:
        """Whether only a later activation changes anything."""
        return self._refused is not None and self._refused.code in STAYS


class _ReleasePart(Part[Scorer]):
    def current(self) -> Scorer | None:
        """The release that scores; None without one."""
        return None if self.now is None else self.now.value


class _PolicyPart(Part[Policy]):
    def current(self) -> Policy:
        """The policy that decides."""
        assert self.now is not None, "nothing starts without a policy"
        return self.now.value


class ActiveConfiguration:
    """Both of them, and all that may replace them.

    ``decided`` and ``left_out`` are the decision pipeline's, on its thread; ``poll`` may run on
    another one. Raises what the policy was refused for if there is none to begin with.
    """

    def __init__(
        self,
        releases: Followed[Scorer | None, Scorer],
        policies: Followed[Policy, Policy],
        *,
        trusted: TrustedFolder,
        release_activations: Activations,
        policy_activations: Activations,
        epochs: Epochs,
        recent: Recent,
        breaker: DeclineBreaker,
        limits: Limits,
        report: Report,
        clock: Clock,
    ) -> None:
        self.left_out: LeftOut = {}
        """By tenant, what the breaker leaves out of its decisions."""
        self.out_of_domain = False
        """Whether the release meets another population than it was made for; the population check
        replaces it."""
        self._trusted = trusted
        self._epochs = epochs
        self.recent = recent
        self._breaker = breaker
        self._limits = limits
        self._report = report
        self._clock = clock
        self._trust_changes = 0
        self._tripped: list[_Tripped] = []
        self._changes: deque[TookEffect] = deque(maxlen=CHANGES_MAX)
        self._swap = threading.RLock()
        self.releases = _ReleasePart(
            "release",
            releases,
            release_activations,
            lambda scorer: _Identity(
                scorer.release, scorer.digest, frozenset(filter(None, (scorer.signer,)))
            ),
            self._rehearse_release,
        )
        self.policies = _PolicyPart(
            "policy",
            policies,
            policy_activations,
            lambda policy: _Identity(policy.id, policy.digest, frozenset()),
            self._rehearse_policy,
        )
        self._parts: tuple[Part[Any], ...] = (self.policies, self.releases)
        self.policies.candidate = policies.current()
        self._admit(self.policies)
        if self.policies.now is None:
            assert self.policies.refused is not None
            raise self.policies.refused
        report.open_trips(())
        self.poll()

    def activation(self) -> Activation | None:
        """Of the release that scores; None without one."""
        now = self.releases.now
        return None if now is None or now.by is None else now.by.activation

    def changes(self) -> list[TookEffect]:
        """What came to decide since the last call, in order: with the start, by an activation, or
        because what did was undone."""
        found = []
        while self._changes:
            found.append(self._changes.popleft())
        return found

    def lacks(self) -> str:
        """That no release decides, and why; "" if one does."""
        if self.releases.current() is not None:
            return ""
        return f"no release decides: {self.releases.refused or 'none lies there'}"

    # ------------------------------------------------------------ what lies in the folders

    def poll(self) -> None:
        """Take over what may take effect; what may not is refused, reported, and changes nothing.
        Raises Unavailable if something could not be looked at now; the rest was."""
        try:
            self._trust_changes += self._trusted.poll()
        except Misconfigured as error:
            self._report.refused("trust", error)
        self._report.refusing("trust", self._trusted.refused is not None)
        late: list[Unavailable] = []
        for part in self._parts:
            unforeseen = False
            try:
                self._follow(part)
            except Unavailable as error:
                late.append(error)
            except Exception as error:  # it may be wrong in any way, and must not end the following
                unforeseen, part.judged = True, None
                what = f"{type(error).__name__}: {error}"
                self._report.refused(part.what, SluiceError(what, code=INTERNAL))
            if self._trusted.refused is None:
                untrusted = self._untrusted(part)
                if part.now is not None and untrusted and untrusted != part.untrusted:
                    self._report.withdrawn(part.what, part.now.name, untrusted)
                part.untrusted = untrusted
                if untrusted and self._limits.drop_untrusted:
                    untrusted = self._drop(part, untrusted)
                self._report.untrusted(part.what, untrusted)
            self._report.refusing(part.what, unforeseen or part.refused is not None)
        for late_error in late:
            raise late_error

    def _follow(self, part: Part[T]) -> None:
        try:
            fresh = part.followed.poll()
        except Unavailable:
            raise
        except SluiceError as error:
            self._report.refused(part.what, error)
            return
        if fresh is not None:
            part.candidate = fresh
        if part.candidate is not None:
            self._admit(part)

    def _admit(self, part: Part[T]) -> None:
        """Judge the candidate, unless nothing has changed since it was judged."""
        assert part.candidate is not None
        name, digest, signers = part.identity(part.candidate)
        try:
            signed = part.activations.read()
        except Misconfigured as error:
            if part.judged != (digest, str(error)):
                part.judged = (digest, str(error))
                self._refuse(part, error)
            return
        question = (digest, signed, self._trust_changes)
        if part.judged == question:
            return
        same = part.judged is not None and part.judged[:2] == question[:2]
        part.judged = question
        now = part.now
        decides = now is not None and now.digest == digest
        if same and (decides or part.stays_refused()):
            return  # other keys are trusted, which is no question of what decides already
        try:
            by = self._check(part, digest, signers, signed)
            if now is not None and now.digest == digest:
                self._reaffirm(part, now, by)
                return
            if by is None or by.activation.act not in FORCED:
                if (trip := part.undone.get(digest)) is not None:
                    raise _tripped(part.what, name, trip)
                self._rehearse(part, name)
            if by is not None:
                self._epochs.raise_to(part.what, Known(by.activation.epoch, digest))
        except SluiceError as error:
            self._refuse(part, error)
            return
        self._take(part, _Taken(part.candidate, name, digest, by, signers, self._clock.now_us()))

    def _check(
        self,
        part: Part[T],
        digest: str,
        signers: frozenset[str],
        signed: SignedActivation | None,
    ) -> Checked | None:
        if lost := sorted(signers - self._trusted.keys.keys()):
            why = self._trusted.withdrawn.get(lost[0], "which is not trusted")
            raise Corrupt(f"signed by {lost[0]}, {why}", where=part.what, code=KEY_WITHDRAWN)
        return check(
            signed,
            self._trusted,
            what=part.what,
            digest=digest,
            approvals=self._limits.approvals(part.what),
            known=self._epochs.known(part.what),
            now_us=self._clock.now_us(),
        )

    def _refuse(self, part: Part[T], error: SluiceError) -> None:
        part.refuse(error)
        self._report.refused(part.what, error)

    def _reaffirm(self, part: Part[T], now: _Taken[T], by: Checked | None) -> None:
        """What decides lies in the folder, maybe with another activation."""
        if by is not None:
            self._epochs.raise_to(part.what, Known(by.activation.epoch, now.digest))
        with self._swap:
            if part.now is not now:
                return  # the breaker undid it meanwhile
            part.refuse(None)
            part.now = now._replace(by=by)
            if by is None or (now.by is not None and by.activation == now.by.activation):
                return
            if by.activation.act == "reset":
                self._keep([each for each in self._tripped if each.what != part.what])
        self._activated(part, now._replace(by=by))

    def _take(self, part: Part[T], taken: _Taken[T]) -> None:
        reset = taken.by is not None and taken.by.activation.act == "reset"
        with self._swap:
            before = part.before = part.now
            part.now = taken
            part.refuse(None)
            part.undone.pop(taken.digest, None)
            kept = [
                each
                for each in self._tripped
                if not (reset and each.what == part.what) and _holds(each, part.what, before, taken)
            ]
            self._keep(kept)
        self._activated(part, taken)

    def _activated(self, part: Part[T], now: _Taken[T]) -> None:
        """Say that this decides from now on."""
        steps = now.value.steps if isinstance(now.value, Policy) else (None, None)
        self._changes.append(TookEffect(part.what, now.name, now.digest, now.by, *steps))
        self._report.activated(part.what, now.name, now.by)

    def _keep(self, tripped: list[_Tripped]) -> None:
        """Leave out what these say, and nothing else, and count anew."""
        left_out: dict[str, frozenset[str]] = {}
        for trip, _, remedy in tripped:
            if remedy == "left_out":
                left_out[trip.tenant] = left_out.get(trip.tenant, frozenset()) | {trip.cause}
        self._tripped, self.left_out = tripped, left_out
        self._breaker.clear()
        self._report.open_trips([each.trip for each in tripped])

    # ------------------------------------------------------------ the dry run

    def _rehearse(self, part: Part[T], name: str) -> None:
        assert part.candidate is not None
        if self._limits.shift_ppm is None:
            return
        rows = self.recent.batch()
        if rows is None:
            self._report.not_rehearsed(part.what, name, len(self.recent))
        else:
            part.rehearse(part.candidate, rows, self._limits.shift_ppm)

    def _rehearse_policy(self, candidate: Policy, rows: Rows, shift_ppm: int) -> None:
        check_policy(candidate, self.policies.current(), rows, shift_ppm, self.left_out)

    def _rehearse_release(self, candidate: Scorer, rows: Rows, shift_ppm: int) -> None:
        policy, declines_ppm = self.policies.current(), self._breaker.bound_ppm
        check_release(candidate, policy, rows, shift_ppm, declines_ppm, self.left_out)

    # ------------------------------------------------------------ what was decided

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
        """Keep a batch for the dry run, and count what it declined. Once a batch."""
        self.recent.add(Rows(auths, features, missing, level, score_ppm))
        for trip in self._breaker.add(auths, verdicts.declined, policy.causes):
            if policy is not self.policies.current() or self._trip(trip) == "undone":
                break  # the others' cause is gone already

    def _trip(self, trip: Trip) -> Remedy:
        with self._swap:
            changed = self._suspect(trip)
            remedy: Remedy = "left_out"
            what: What = "release" if trip.cause == MODEL else "policy"
            if changed is not None:
                remedy, what = "undone", changed.what
                self._undo(changed, trip)
            elif trip.cause == LISTS or trip.tenant == OTHERS:
                remedy = "none"
            fresh = _Tripped(trip, what, remedy)
            alike = [each for each in self._tripped if each[:2] != fresh[:2]]
            self._keep([*alike, fresh])
        self._report.tripped(trip, remedy)
        return remedy

    def _suspect(self, trip: Trip) -> Part[Any] | None:
        """The newest change that may be behind a trip and can be undone."""
        since = self._clock.now_us() - SUSPECT_US
        parts = self._parts if trip.cause == MODEL else (self.policies,)
        changed = [
            (part.now.since_us, part)
            for part in parts
            if part.now is not None and part.before is not None and part.now.since_us > since
        ]
        return max(changed, key=lambda pair: pair[0])[1] if changed else None

    def _undo(self, part: Part[T], trip: Trip) -> None:
        assert part.now is not None
        tripped = part.now
        part.now, part.before = part.before, None
        part.undone[tripped.digest] = trip
        while len(part.undone) > UNDONE_MAX:
            del part.undone[next(iter(part.undone))]
        part.refuse(_tripped(part.what, tripped.name, trip))
        if part.now is not None:
            self._activated(part, part.now)

    # ------------------------------------------------------------ withdrawn keys

    def _untrusted(self, part: Part[T]) -> list[str]:
        """Withdrawn keys without which what decides would not; [] if it would."""
        if part.now is None:
            return []
        keys = self._trusted.keys.keys()
        signers = part.now.signers
        if part.now.by is not None:
            left = part.now.by.signers & keys
            if len(left) < max(1, self._limits.approvals(part.what)):
                signers = signers | part.now.by.signers
        return sorted(signers - keys)

    def _drop(self, part: Part[T], untrusted: list[str]) -> list[str]:
        """Take what decides out of effect. Returns the withdrawn keys of what decides then."""
        assert part.now is not None
        dropped = part.now
        with self._swap:
            now, part.now = part.now, part.before
            if part.now is not None and self._untrusted(part):
                part.now = None
            if part.now is None and part.what == "policy":
                part.now = now  # somebody must decide
                return untrusted
            part.before = None
            self._breaker.clear()
        self._refuse(
            part,
            Corrupt(
                f"its key {', '.join(untrusted)} was withdrawn",
                where=dropped.name,
                fix="sign it with a key that is trusted, if you still vouch for it",
                code=KEY_WITHDRAWN,
            ),
        )
        if part.now is not None:
            self._activated(part, part.now)
        return self._untrusted(part)


def _tripped(what: What, name: str, trip: Trip) -> Corrupt:
    return Corrupt(
        f"{trip.cause} declined {trip.declined} of {trip.rows} decisions of a tenant",
        where=name,
        fix=f"when it is mended or meant: sluice {what} reset",
        code=TRIPPED,
    )


def _holds(
    each: _Tripped, what: What, before: _Taken[Any] | None, after: _Taken[Any] | None
) -> bool:
    """Whether a trip is still open once ``after`` is taken: what declined is there, unchanged."""
    if each.remedy != "left_out":
        return each.what != what
    if what == "release":
        return each.what != what
    if before is None or after is None:
        return False
    then, now = before.value, after.value
    if each.trip.cause == MODEL:
        same: bool = then.pack.thresholds == now.pack.thresholds
        return same
    return then.rule(each.trip.cause) == now.rule(each.trip.cause) is not None
