"""The decision pipeline: what happens to an authorization, whichever entrypoint it came through.

observe, score, decide, record: one function over a batch of one (HTTP) or of hundreds (Kafka).
The same input over the same states makes the same record.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from sluice import BUILD
from sluice.application.challengers import Answers, Challengers, Judged
from sluice.application.dry_run import Rows, Severities
from sluice.application.once import Ids
from sluice.application.ports import (
    NOT_SENT,
    Arrival,
    DecisionLog,
    Ints,
    Lookup,
    Scorer,
)
from sluice.domain.clock import SECOND_US, Clock
from sluice.domain.features import catalogue
from sluice.domain.features.events import (
    AMOUNT,
    CARD,
    WIDTH,
    event_row,
    event_rows,
    pending_rows,
)
from sluice.domain.features.kernel import Kernel, Served
from sluice.domain.policy.let_through import Draw
from sluice.domain.policy.policy import MODEL, LeftOut, Policy, Verdicts
from sluice.domain.records.authorization import (
    Authorization,
    EventTimeBounds,
    check,
    check_event_time,
    decode_authorization,
    encode,
)
from sluice.domain.records.decision import (
    Decision,
    DegradationLevel,
    Entrypoint,
    MadeBy,
    Origin,
    States,
    answer,
)
from sluice.domain.records.entity import ALL_VIEWS, mask_of, views_in
from sluice.domain.records.outcome import BY_SEVERITY, Outcome
from sluice.errors import Unavailable

T_co = TypeVar("T_co", covariant=True)

Bools = npt.NDArray[np.bool_]

DIGEST_BYTES = 8
MADE_BY_MAX = 64
"""Pairs of policy and release whose part of the record is remembered."""
IDEMPOTENCY = "idempotency"
"""What ``degraded`` names where nobody could say whether the id was decided before."""
_MODEL_LEVELS = 2
_LEVELS: tuple[DegradationLevel, ...] = ("D0", "D1", "D2", "D3")


class Current(Protocol[T_co]):
    """Holds what is in force now; someone else replaces it, whole."""

    def current(self) -> T_co:
        """What is in force."""
        ...


class Watch(Protocol):
    """Looks at what is decided, and may leave causes out."""

    left_out: LeftOut
    """By tenant; someone else replaces it, whole."""
    out_of_domain: bool
    """Whether the model meets another population than its release was made for."""

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
        """A batch was decided of these, which nobody changes any more."""
        ...


class Decided(msgspec.Struct, frozen=True, gc=False):
    """A new decision, durable. answer: JSON of :class:`sluice.domain.records.decision.Answer`."""

    decision: Decision
    answer: bytes


class Replayed(msgspec.Struct, frozen=True):
    """Same id, same content: the same answer again."""

    answer: bytes


class Conflict(msgspec.Struct, frozen=True):
    """The id was used before with other content."""


class Busy(msgspec.Struct, frozen=True):
    """Another arrival holds the id and has not answered yet."""


class Unrecorded(msgspec.Struct, frozen=True):
    """The record could not be made durable in time, so nobody hears a decision."""

    why: str


class Unidentified(msgspec.Struct, frozen=True):
    """Nobody could say whether the id was decided before, and its channel's policy is to refuse
    then. Nothing was recorded."""


Result = Decided | Replayed | Conflict | Busy | Unrecorded | Unidentified


@dataclass(frozen=True, slots=True)
class Score:
    """What a model says of a batch. ppm: (n,) int64, probability of fraud in parts per million."""

    ppm: Ints
    scorer: Scorer

    @property
    def release(self) -> str:
        """The release that scored."""
        return self.scorer.release

    @property
    def tolerates(self) -> frozenset[str]:
        """Views that it can do without."""
        return self.scorer.tolerates

    @property
    def reasons(self) -> Callable[[Ints], list[str]]:
        """Reason codes of one row, strongest first."""
        return self.scorer.reasons


@dataclass(frozen=True, slots=True)
class NoScore:
    """No model had its say. why: ``deadline`` or ``model``, as ``degraded`` names it."""

    why: str


class Build(NamedTuple):
    """What runs, for the record. build: our version. runtime: what scores. image, config: digests
    of the container's image and of the settings; None where nobody said."""

    build: str = BUILD
    runtime: str | None = None
    image: str | None = None
    config: str | None = None


def content_digest(auth: Authorization) -> bytes:
    """Digest of what an entrypoint took, by which a repeat is told from a conflict.

    Over the canonical encoding: white space and field order do not count, nor does an optional
    field that is absent, so that deciders of two versions agree on every message that both take.
    Only for who has read it strictly; whoever reads a record takes :func:`written_digest`.
    """
    return written_digest(encode(auth))


def written_digest(authorization: bytes | msgspec.Raw) -> bytes:
    """The same from the bytes of an authorization as they stand in a decision's record.

    A reader may know fewer fields than the decider that wrote it: encoding again what it
    understood would make a conflict of a repeat. 8 bytes of BLAKE2b.
    """
    return hashlib.blake2b(authorization, digest_size=DIGEST_BYTES).digest()


class _Part(msgspec.Struct):
    authorization: msgspec.Raw


_part = msgspec.json.Decoder(_Part)


def recorded_digest(decision: bytes) -> bytes:
    """The same from the bytes of a decision's record."""
    return written_digest(_part.decode(decision).authorization)


def _no_stage(_stage: str, _seconds: float) -> None:
    """Nobody is measuring."""


class DecisionPipeline:
    """Decides batches at one entrypoint. Not shared between threads."""

    def __init__(
        self,
        *,
        entrypoint: Entrypoint,
        emitter: str,
        ids: Ids,
        scorer: Current[Scorer | None],
        policy: Current[Policy],
        log: DecisionLog,
        clock: Clock,
        bounds: EventTimeBounds,
        stage: Callable[[str, float], None] = _no_stage,
        watch: Watch | None = None,
        challengers: Challengers | None = None,
        check: Callable[[Authorization], None] = check,
        turned_away: Callable[[], Unavailable | None] = lambda: None,
        draw: Draw | None = None,
        build: Build = Build(),  # noqa: B008 - immutable
    ) -> None:
        self.sequence = 0
        """Number of the next decision. An entrypoint that takes records back sets it back too."""
        self._entrypoint: Entrypoint = entrypoint
        self.emitter = emitter
        self._ids = ids
        self._scorer = scorer
        self._policy = policy
        self._log = log
        self._clock = clock
        self._bounds = bounds
        self._stage = stage
        self._watch = watch
        self._challengers = challengers
        self._check = check
        self._turned_away = turned_away
        self._draw = draw
        self._build = build
        self._made: dict[tuple[str, str | None], MadeBy] = {}
        self._kernel = Kernel()

    @property
    def release(self) -> str | None:
        """Id of the release that scores now, None without a model."""
        scorer = self._scorer.current()
        return scorer.release if scorer else None

    @property
    def policy(self) -> str:
        """Id of the policy in force."""
        return self._policy.current().id

    def arrive(
        self, raw: bytes, *, origin: Origin | None = None, traceparent: str | None = None
    ) -> Arrival:
        """Read one message. Raises Rejected with the code of what is wrong."""
        now_us = self._clock.now_us()
        auth = decode_authorization(raw, self._check)
        check_event_time(auth, now_us, self._bounds)
        fx = self._policy.current().fx
        amount_minor = fx.to_reference(auth.amount_minor, auth.currency)
        return Arrival(
            auth,
            amount_minor,
            event_row(auth, amount_minor),
            content_digest(auth),
            now_us,
            origin,
            traceparent,
        )

    def reference_minor(self, amount_minor: int, currency: str) -> int:
        """Minor units of the policy's reference currency. Raises Rejected without a rate."""
        return self._policy.current().fx.to_reference(amount_minor, currency)

    async def decide(
        self, batch: Sequence[Arrival], *, deadline_us: int | None = None
    ) -> list[Result]:
        """Decide (n,) arrivals; result i belongs to arrival i.

        deadline_us: moment by the clock after which optional parts are left out and named in
        ``degraded``. Two arrivals of one card see each other; two of one id get one decision.
        """
        timer = _StageTimer(self._stage)
        late = deadline_us is not None and self._clock.now_us() >= deadline_us
        lookups, left_out = await self._ids.look_up(batch, late=late)
        timer.stage("observe")
        results, fresh, replays = _sort(batch, lookups)
        if left_out or any(reply.unidentified for reply in lookups):
            fresh = self._refuse_unidentified(batch, lookups, fresh, results)
        if fresh:
            chosen = [batch[i] for i in fresh]
            try:
                decisions = self._judge(
                    chosen, [lookups[i] for i in fresh], left_out, deadline_us, timer
                )
                answers = [encode(answer(d)) for d in decisions]
            except BaseException:
                self._ids.release(chosen)
                raise
            answered = list(zip(chosen, answers, strict=True))
            try:
                await self._log.append(
                    list(zip(chosen, decisions, strict=True)), partial(self._ids.remember, answered)
                )
            except Unavailable as error:
                # Unless nothing was sent, a record may be durable without our knowing: the ids stay
                # taken, and whoever asks again waits until that is known, or until the idempotency
                # records end.
                if error.code == NOT_SENT:
                    self._ids.release(chosen)
                else:
                    self._ids.hold(chosen)
                for i in fresh:
                    results[i] = Unrecorded(str(error))
            except BaseException:
                self._ids.hold(chosen)
                raise
            else:
                self._ids.remember(answered)
                for i, decision, said in zip(fresh, decisions, answers, strict=True):
                    results[i] = Decided(decision, said)
            timer.stage("record")
        for i, before in replays:
            original = results[before]
            results[i] = Replayed(original.answer) if isinstance(original, Decided) else original
        return results

    async def rehearse(self) -> None:
        """Finalise and score an empty row as a decision would; raises Unavailable without a model,
        or where the store turns us away by what only a person mends.

        The first one may compile the kernel, so that ready means ready.
        """
        if (refusal := self._turned_away()) is not None:
            raise Unavailable(refusal.what, where=refusal.where, fix=refusal.fix, code=refusal.code)
        scorer = self._scorer.current()
        if scorer is None:
            raise Unavailable("no release is loaded", fix="see the log for why it was refused")
        nothing = event_rows([(0,) * WIDTH])
        scorer.score(self._kernel.finalise(nothing, [(b"",) * 4], [()]).features)

    def score_rows(self, features: Ints) -> Ints:
        """(n, N) catalogue features to (n,) parts per million. Raises Unavailable."""
        scorer = self._scorer.current()
        if scorer is None:
            raise Unavailable("no release is loaded")
        return scorer.score(features).ppm

    def _refuse_unidentified(
        self,
        batch: Sequence[Arrival],
        lookups: Sequence[Lookup],
        fresh: list[int],
        results: list[Result],
    ) -> list[int]:
        """Settle the rows that must not be decided without knowing their id; returns the rest."""
        policy = self._policy.current()
        refused = [
            i
            for i in fresh
            if lookups[i].unidentified and policy.refuses_unidentified(batch[i].auth.channel)
        ]
        if not refused:
            return fresh
        # The store may have kept the record that we were not told of.
        self._ids.release([batch[i] for i in refused])
        for i in refused:
            results[i] = Unidentified()
        return [i for i in fresh if not isinstance(results[i], Unidentified)]

    def _judge(
        self,
        batch: Sequence[Arrival],
        lookups: Sequence[Lookup],
        left_out: list[str],
        deadline_us: int | None,
        timer: _StageTimer,
    ) -> list[Decision]:
        """Features, score and outcome of arrivals that were never decided. No I/O."""
        rows = event_rows([a.row for a in batch])
        served = self._kernel.finalise(
            rows,
            [(x.card, x.terminal, x.merchant, x.device) for x in lookups],
            [pending_rows(x.pending) if x.pending else () for x in lookups],
        )
        timer.stage("finalise")
        score, answers = self._score(served.features, rows, deadline_us)
        levels = _levels(served.missing, score)
        auths = [a.auth for a in batch]
        policy = self._policy.current()
        spared = self._watch.left_out if self._watch is not None else {}
        without_model = _without_model(auths, spared) if spared else None
        if self._watch is not None and self._watch.out_of_domain and policy.leaves_out_of_domain:
            without_model = np.ones(len(auths), np.bool_)
        if without_model is not None:
            levels = np.where(without_model, _levels(served.missing, NoScore("model")), levels)
        timer.stage("score")
        ppm = None if isinstance(score, NoScore) else score.ppm
        # Asked once: another thread may take the canary out meanwhile.
        beside = self._challengers if self._challengers and self._challengers.active else None
        if beside is None:
            answers = None
        if answers is not None:
            usable = levels < _MODEL_LEVELS
            if without_model is not None:
                usable &= ~without_model
            answers = _used(answers, usable, served.missing)
        verdicts = policy.decide(
            auths,
            served.features,
            missing=served.missing,
            level=levels,
            score_ppm=ppm,
            explain=None if isinstance(score, NoScore) else score.reasons,
            left_out=spared,
            draw=self._draw,
            undrawn=() if answers is None else frozenset(answers.at.tolist()),
        )
        if beside is not None and ppm is not None:
            champion, before = ppm, _undrawn(verdicts)
            if answers is not None:
                the_rest = (policy, auths, served, levels, spared, self._draw)
                try:
                    verdicts = _answered(answers, verdicts, *the_rest)
                except Unavailable:
                    beside.failed(answers)
                    if isinstance(score, Score):  # the champion answers them, and draws for them
                        own = Answers(answers.at, ppm[answers.at], score.scorer)
                        verdicts = _answered(own, verdicts, *the_rest)
                    answers = None
                else:
                    ppm = ppm.copy()
                    ppm[answers.at] = answers.ppm
                    score = Score(ppm, score.scorer) if isinstance(score, Score) else score
            kept = Rows(auths, served.features, served.missing, levels, ppm)
            after = _undrawn(verdicts)
            beside.judged(Judged(kept, rows[:, AMOUNT], champion, before, after), policy, answers)
        else:
            answers = None
        decisions = self._records(
            batch, lookups, served, score, levels, policy, verdicts, left_out, without_model
        )
        if answers is not None:
            release, made = answers.scorer.release, self._made_by(policy, answers.scorer)
            for i in answers.at.tolist():
                decisions[i] = msgspec.structs.replace(decisions[i], release=release, made_by=made)
        if self._watch is not None:
            self._watch.decided(
                auths, served.features, served.missing, levels, ppm, policy, verdicts
            )
        timer.stage("decide")
        return decisions

    def _score(
        self, features: Ints, rows: Ints, deadline_us: int | None
    ) -> tuple[Score | NoScore, Answers | None]:
        """The champion's scores of all rows, and the canary's of its own."""
        scorer = self._scorer.current()
        if deadline_us is not None and self._clock.now_us() >= deadline_us:
            return NoScore("deadline"), None
        if scorer is None:
            return NoScore("model"), None
        try:
            if self._challengers is None or not self._challengers.active:
                return Score(scorer.score(features).ppm, scorer), None
            ppm, answers = self._challengers.answer(rows[:, CARD], features, scorer)
            return Score(ppm, scorer), answers
        except Unavailable:
            return NoScore("model"), None

    def _records(
        self,
        batch: Sequence[Arrival],
        lookups: Sequence[Lookup],
        served: Served,
        score: Score | NoScore,
        levels: Ints,
        policy: Policy,
        verdicts: Verdicts,
        left_out: Sequence[str],
        without_model: Bools | None,
    ) -> list[Decision]:
        """One record a row, of everything it was decided from. without_model: (n,) rows from which
        the model was left out."""
        now = self._clock.now_us()
        first = self.sequence
        self.sequence += len(batch)
        ppm = None if isinstance(score, NoScore) else score.ppm.tolist()
        release = None if isinstance(score, NoScore) else score.release
        without_release = self._made_by(policy, None)
        made = (
            without_release if isinstance(score, NoScore) else self._made_by(policy, score.scorer)
        )
        no_score = [score.why] if isinstance(score, NoScore) else []
        named = [*dict.fromkeys([*left_out, *no_score])]
        unidentified = [*dict.fromkeys([*left_out, IDEMPOTENCY, *no_score])]
        decisions = []
        for i, (arrival, level, missing, features, severity, used) in enumerate(
            zip(
                batch,
                levels.tolist(),
                served.missing.tolist(),
                served.features.tolist(),
                verdicts.severity.tolist(),
                served.used,
                strict=True,
            )
        ):
            scored = ppm is not None and level < _MODEL_LEVELS
            without = unidentified if lookups[i].unidentified else named
            if without_model is not None and without_model[i]:
                without = [*dict.fromkeys([*without, "model"])]
            decisions.append(
                Decision(
                    authorization=arrival.auth,
                    entrypoint=self._entrypoint,
                    origin=arrival.origin,
                    emitter=self.emitter,
                    sequence=first + i,
                    received_at=arrival.received_at,
                    decided_at=now,
                    reference_amount_minor=arrival.amount_minor,
                    reference_currency=policy.fx.reference,
                    catalogue=catalogue.DIGEST,
                    features=features,
                    states=States(*served.states(i)),  # type: ignore[arg-type]
                    pending=[lookups[i].pending[p] for p in used] if used else [],
                    release=release if scored else None,
                    score_ppm=ppm[i] if scored and ppm else None,
                    policy=policy.id,
                    outcome=BY_SEVERITY[severity],
                    reasons=verdicts.reasons[i],
                    degradation_level=_LEVELS[level],
                    degraded=[*without, *views_in(missing)] if missing else [*without],
                    silenced=[*verdicts.silenced[i]],
                    let_through_ppm=verdicts.let_through.get(i),
                    fired=policy.ids(verdicts.fired[i]) if i in verdicts.fired else [],
                    made_by=made if scored else without_release,
                )
            )
        return decisions

    def _made_by(self, policy: Policy, scorer: Scorer | None) -> MadeBy:
        """What a batch's records say of who made them."""
        by = policy.digest, scorer.digest if scorer is not None else None
        made = self._made.get(by)
        if made is not None:
            return made
        if len(self._made) >= MADE_BY_MAX:
            self._made.clear()
        score_ppm, expected_loss_minor = policy.steps
        made = self._made[by] = MadeBy(
            release_digest=(scorer.digest or None) if scorer is not None else None,
            runtime=self._build.runtime if scorer is not None else None,
            policy_digest=policy.digest,
            policy_version=policy.pack.version,
            score_ppm=score_ppm,
            expected_loss_minor=expected_loss_minor,
            build=self._build.build,
            image=self._build.image,
            config=self._build.config,
        )
        return made


def _without_model(auths: Sequence[Authorization], left_out: LeftOut) -> Bools:
    """(n,) rows whose tenant's decisions the model is left out of."""
    return np.array([MODEL in left_out.get(auth.tenant, ()) for auth in auths], np.bool_)


def _used(answers: Answers, usable: Bools, missing: Ints) -> Answers | None:
    """The rows that the canary answers: those that the champion's model would, and that lack no
    view that the canary cannot do without. None if there is none."""
    at = answers.at
    kept = usable[at] & ((missing[at] & ~mask_of(answers.scorer.tolerates)) == 0)
    if kept.all():
        return answers
    return answers._replace(at=at[kept], ppm=answers.ppm[kept]) if kept.any() else None


def _answered(
    answers: Answers,
    verdicts: Verdicts,
    policy: Policy,
    auths: Sequence[Authorization],
    served: Served,
    levels: Ints,
    left_out: LeftOut,
    draw: Draw | None,
) -> Verdicts:
    """The champion's verdicts, for whose rows at ``answers`` nothing was drawn, with the canary's
    there. Raises Unavailable if its scores cannot be explained."""
    rows = answers.at.tolist()
    theirs = policy.decide(
        [auths[i] for i in rows],
        served.features[answers.at],
        missing=served.missing[answers.at],
        level=levels[answers.at],
        score_ppm=answers.ppm,
        explain=answers.scorer.reasons,
        left_out=left_out,
        draw=draw,
    )
    severity = verdicts.severity.copy()
    severity[answers.at] = theirs.severity
    reasons, silenced = [*verdicts.reasons], [*verdicts.silenced]
    for i, why, silent in zip(rows, theirs.reasons, theirs.silenced, strict=True):
        reasons[i], silenced[i] = why, silent
    its = frozenset(rows)
    declined = [pair for pair in verdicts.declined if pair[0] not in its]
    declined += [(rows[i], mask) for i, mask in theirs.declined]
    through = {i: ppm for i, ppm in verdicts.let_through.items() if i not in its}
    through |= {rows[i]: ppm for i, ppm in theirs.let_through.items()}
    return Verdicts(severity, reasons, silenced, declined, through, verdicts.fired)


def _undrawn(verdicts: Verdicts) -> Severities:
    """(n,) severities as if nothing had been let through: what models are compared by."""
    drawn = [i for i, ppm in verdicts.let_through.items() if ppm]
    if not drawn:
        return verdicts.severity
    severity = verdicts.severity.copy()
    severity[drawn] = Outcome.DECLINE.severity
    return severity


def _levels(missing: Ints, score: Score | NoScore) -> Ints:
    """(n,) 0 to 3: DESIGN 6. Model with all, model without some, rules, table."""
    if isinstance(score, NoScore):
        return np.where(missing == ALL_VIEWS, 3, 2).astype(np.int64)
    fatal = missing & ~mask_of(score.tolerates)
    return np.where(missing == 0, 0, np.where(fatal == 0, 1, 2)).astype(np.int64)


class _StageTimer:
    """Tells the time each stage took."""

    def __init__(self, stage: Callable[[str, float], None]) -> None:
        self._stage = stage
        self._since = time.perf_counter()

    def stage(self, name: str) -> None:
        now = time.perf_counter()
        self._stage(name, now - self._since)
        self._since = now


_OPEN = Busy()


def _sort(
    batch: Sequence[Arrival], lookups: Sequence[Lookup]
) -> tuple[list[Result], list[int], list[tuple[int, int]]]:
    """Results of what needs no decision, the indices of what does, and pairs of indices: a repeat
    inside the batch, and its first."""
    results: list[Result] = [_OPEN] * len(batch)
    fresh: list[int] = []
    replays: list[tuple[int, int]] = []
    first: dict[tuple[str, str], int] = {}
    for i, (arrived, reply) in enumerate(zip(batch, lookups, strict=True)):
        before = first.setdefault((arrived.auth.tenant, arrived.auth.authorization_id), i)
        if before != i:
            if batch[before].digest != arrived.digest:
                results[i] = Conflict()
            else:
                replays.append((i, before))
        elif reply.conflict:
            results[i] = Conflict()
        elif reply.earlier is not None:
            results[i] = Replayed(reply.earlier)
        elif not reply.in_progress_elsewhere:
            fresh.append(i)
    return results, fresh, replays


def deadline_after(received_at: int, deadline_ms: int) -> int:
    """The moment by which optional parts must be there, microseconds UTC."""
    return received_at + deadline_ms * SECOND_US // 1000
