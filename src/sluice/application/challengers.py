"""Releases beside the champion, in one decider: the shadow and the canary.

The canary answers its share of the cards on the decision pipeline's thread, after the champion has
scored the same rows: where it fails, the champion's score is there, and nobody waits. Everything
else is done by another thread, of copies that a bounded queue holds: the shadow's scores, and the
comparison of the canary with the champion. What does not fit is left out and counted.

What this decider finds wrong it takes out at once, for itself, and writes to ``rollouts.v1``; what
another one wrote there it takes out too. So a return needs no signature and no agreement: any one
decider stops a release, and only somebody who signs starts it again. See
docs/decisions/0044-any-decider-stops-a-canary.md.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple, Protocol

import numpy as np
from msgspec import UNSET

from sluice.application.active import TookEffect
from sluice.application.dry_run import MODEL_LEVELS, Rows, Severities
from sluice.application.ports import Ints, Scorer
from sluice.domain.activation import RELEASE, Activation, Named
from sluice.domain.canary import BAD_FAILED_PPM, FAILED_PPM, Back, Cusum, Paired, in_share
from sluice.domain.clock import Clock
from sluice.domain.policy.policy import Policy
from sluice.domain.records.entity import mask_of
from sluice.domain.records.rollout import Role, Rollout, ShadowScores, Step
from sluice.errors import Corrupt, SluiceError, Unavailable

QUEUE_ROWS = 8_192
"""Rows that wait for the other thread, 12 MB; more are left out."""
RECORD_ROWS = 2_000
"""Of one record of shadow-scores.v1: a third of the megabyte that fits, with ids of 64 bytes."""
WORK_S = 0.1
"""How often they are worked off: what came by then is scored together."""
SHADOW_DUTY = 0.2
"""Share of one core that the shadow may take; rows beyond it are left out."""
SHADOW_BURST_S = 0.2
"""What of it may be saved up, in processor time."""
OTHERS = "another decider found it wrong"

Beside = Literal["shadow", "canary"]
ROLES: tuple[Beside, ...] = ("canary", "shadow")


class Log(Protocol):
    """``rollouts.v1``."""

    def returned(self, epoch: int) -> Sequence[Rollout]:
        """Returns of an epoch: the first time all of them, then those that are new, or all again.
        Raises Unavailable."""
        ...

    def write(self, events: Sequence[Rollout]) -> None:
        """Returns when they are durable. Raises Unavailable."""
        ...


class Scores(Protocol):
    """``shadow-scores.v1``."""

    def write(self, scores: ShadowScores) -> None:
        """Queue one record, which may be lost with this process. Raises Unavailable."""
        ...


class Followed(Protocol):
    """One release in its folder."""

    def poll(self) -> Scorer | None:
        """What has just been loaded, None if nothing changed. Raises a SluiceError once for the
        same content; Unavailable if it could not be looked at now."""
        ...


class Report(Protocol):
    """Whom to say what happened."""

    def challenger(self, event: Rollout) -> None:
        """A step of this decider."""
        ...

    def refused(self, what: str, error: SluiceError) -> None:
        """A release beside the champion does not score here, once for each content."""
        ...

    def refusing(self, what: str, now: bool) -> None:
        """Whether that is so now."""
        ...

    def beside(self, role: Beside, share_ppm: int) -> None:
        """With every change: the share of the cards that a role's release answers or scores."""
        ...

    def shadowed(self, rows: int, seconds: float, stricter: int, laxer: int, failed: bool) -> None:
        """The shadow scored rows, and took so much processor time. stricter, laxer: how many it
        would have decided otherwise. failed: it gave no score."""
        ...

    def answered(self, rows: int) -> None:
        """The canary answered rows."""
        ...

    def left_out(self, role: Beside, rows: int) -> None:
        """Rows that were not compared, for want of time."""
        ...


class Answers(NamedTuple):
    """What the canary says of its rows in a batch. at: (k,) which. ppm: (k,) scores."""

    at: Ints
    ppm: Ints
    scorer: Scorer


class Judged(NamedTuple):
    """A batch as it was decided. amounts: (n,) in the reference currency. champion: (n,) its
    scores. before, after: (n,) severities, by the champion alone and as decided, before anything
    was let through."""

    rows: Rows
    amounts: Ints
    champion: Ints
    before: Severities
    after: Severities


class _Beside(NamedTuple):
    """A release that scores beside the champion. since: epoch of the activation."""

    role: Beside
    named: Named
    scorer: Scorer
    share_ppm: int
    epoch: int


class _Work(NamedTuple):
    """A batch as it was decided, for the other thread."""

    judged: Judged
    policy: Policy
    answers: Answers | None


@dataclass(slots=True)
class _Wanted:
    """What the activation asks for in a role, and where it is followed."""

    named: Named
    share_ppm: int
    folder: Followed
    scorer: Scorer | None = None


class Challengers:
    """Of one decider. ``answer``, ``failed`` and ``judged`` are the decision pipeline's, on its
    thread; ``work`` is another thread's, ``poll`` a third's.

    follow: a release's folder, by its name. trusted: ids of the keys that are. thread_s: processor
    time of the calling thread. steady_s: a clock that is never set.
    """

    def __init__(
        self,
        follow: Callable[[str], Followed],
        *,
        trusted: Callable[[], frozenset[str]],
        log: Log,
        scores: Scores,
        report: Report,
        clock: Clock,
        emitter: str,
        thread_s: Callable[[], float] = time.thread_time,
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._follow = follow
        self._trusted = trusted
        self._log = log
        self._scores = scores
        self._report = report
        self._clock = clock
        self._emitter = emitter
        self._thread_s = thread_s
        self._steady_s = steady_s
        self._canary: _Beside | None = None
        self._shadow: _Beside | None = None
        self._paired = Paired()
        self._failed = Cusum(FAILED_PPM, BAD_FAILED_PPM)
        self._lock = threading.Lock()
        self._queue: deque[_Work] = deque()
        self._queued = 0
        self._saved_s, self._saved_at_s = SHADOW_BURST_S, steady_s()
        self._activation: Activation | None = None
        self._wanted: dict[Beside, _Wanted] = {}
        self._returned: set[tuple[int, str]] = set()
        """By epoch and digest, what went back; kept for the newest epoch alone."""
        self._unwritten: list[Rollout] = []
        for role in ROLES:
            report.beside(role, 0)

    # ------------------------------------------------------------ on the decision pipeline's thread

    @property
    def active(self) -> bool:
        """Whether there is a release beside the champion."""
        return self._canary is not None or self._shadow is not None

    def answer(
        self, card_tags: Ints, features: Ints, champion: Scorer
    ) -> tuple[Ints, Answers | None]:
        """Scores of the champion, (n,), and what the canary says of its rows among them.

        card_tags: (n,). Raises what the champion raises, nothing of the canary's.
        """
        canary = self._canary
        if canary is None or canary.named.digest == champion.digest:
            return champion.score(features).ppm, None
        began = self._thread_s()
        ppm = champion.score(features).ppm
        champion_s = self._thread_s() - began
        at = np.flatnonzero(in_share(card_tags, canary.named.digest, canary.share_ppm))
        if not len(at):
            return ppm, None
        began = self._thread_s()
        try:
            scored = canary.scorer.score(features[at]).ppm
        except Unavailable:
            self._found(canary, self._paired.add_failure())
            return ppm, None
        back = self._paired.add_run(self._thread_s() - began, champion_s)
        if back is not None:
            self._found(canary, back)
        return ppm, Answers(at, scored, canary.scorer)

    def failed(self, answers: Answers) -> None:
        """The canary's scores could not be explained, and the champion decides."""
        canary = self._canary
        if canary is not None and canary.scorer is answers.scorer:
            self._found(canary, self._paired.add_failure())

    def judged(self, judged: Judged, policy: Policy, answers: Answers | None) -> None:
        """A batch was decided of these, which nobody changes any more. answers: of the canary, as
        far as they were used."""
        n = len(judged.rows.auths)
        if answers is not None:
            self._report.answered(len(answers.at))
        elif self._shadow is None:
            return
        if self._queued + n > QUEUE_ROWS:
            if self._shadow is not None:
                self._report.left_out("shadow", n)
            if answers is not None:
                self._report.left_out("canary", len(answers.at))
            return
        with self._lock:
            self._queued += n
        self._queue.append(_Work(judged, policy, answers))

    # ------------------------------------------------------------ on a thread of its own

    def work(self) -> None:
        """Compare, score and record what waits, due every WORK_S. Raises Unavailable if scores
        could not be recorded; the rest was done."""
        some: list[_Work] = []
        while self._queue:
            work = self._queue.popleft()
            with self._lock:
                self._queued -= len(work.judged.rows.auths)
            some.append(work)
        for work in some:
            if work.answers is not None:
                self._compare(work.judged, work.answers)
        now_s = self._steady_s()
        saved_s = self._saved_s + SHADOW_DUTY * (now_s - self._saved_at_s)
        self._saved_s, self._saved_at_s = min(SHADOW_BURST_S, saved_s), now_s
        for policy, judged in _joined(some):
            if (shadow := self._shadow) is None:
                return
            if self._saved_s <= 0:
                self._report.left_out("shadow", len(judged.rows.auths))
            else:
                self._score(judged, policy, shadow)

    def _compare(self, judged: Judged, answers: Answers) -> None:
        canary = self._canary
        if canary is None or canary.scorer is not answers.scorer:
            return
        at = answers.at
        try:  # in another order: a row's score is its own
            again = answers.scorer.score(judged.rows.features[at[::-1]]).ppm[::-1]
        except Unavailable:
            self._found(canary, self._paired.add_failure())
        else:
            if off := int((again != answers.ppm).sum()):
                why = f"{off} of {len(at)} rows had another score the second time"
                self._found(canary, Back("consistency", why))
        self._found(
            canary,
            self._paired.add_rows(
                judged.champion[at],
                answers.ppm,
                judged.before[at],
                judged.after[at],
                judged.amounts[at],
            ),
        )

    def _score(self, judged: Judged, policy: Policy, shadow: _Beside) -> None:
        rows = judged.rows
        n = len(rows.auths)
        began_s = self._thread_s()
        try:
            ppm = shadow.scorer.score(rows.features).ppm
        except Unavailable:
            ppm = np.full(n, -1, np.int64)
        failed = bool(ppm[0] < 0)
        fatal = rows.missing & ~mask_of(shadow.scorer.tolerates)
        level = np.where(rows.missing == 0, 0, np.where(fatal == 0, 1, rows.level))
        if failed:
            said = judged.after
        else:
            said = policy.severities(
                rows.auths, rows.features, missing=rows.missing, level=level, score_ppm=ppm
            )
        took_s = self._thread_s() - began_s
        self._saved_s -= took_s
        stricter, laxer = int((said > judged.after).sum()), int((said < judged.after).sum())
        self._report.shadowed(n, took_s, stricter, laxer, failed)
        if self._failed.add(failed, not failed):
            self._found(shadow, Back("errors", "its runs give no score"))
        if failed:
            return
        served = np.where(rows.level < MODEL_LEVELS, _scores(rows), -1)
        for first in range(0, n, RECORD_ROWS):
            some = slice(first, first + RECORD_ROWS)
            auths = rows.auths[some]
            self._scores.write(
                ShadowScores(
                    at=self._clock.now_us(),
                    emitter=self._emitter,
                    release=shadow.named.id,
                    digest=shadow.named.digest,
                    epoch=shadow.epoch,
                    tenants=[auth.tenant for auth in auths],
                    authorization_ids=[auth.authorization_id for auth in auths],
                    event_at=[auth.event_at for auth in auths],
                    score_ppm=ppm[some].tolist(),
                    served_ppm=served[some].tolist(),
                    outcomes=said[some].tolist(),
                    served_outcomes=judged.after[some].tolist(),
                )
            )

    # ------------------------------------------------------------ what the activation asks for

    def poll(self, activation: Activation | None, changes: Sequence[TookEffect] = ()) -> None:
        """Follow what decides now, load what it names beside it, take out what went back elsewhere,
        and write what happened here. changes: what came to decide since. Raises Unavailable,
        Misconfigured, Corrupt if a part of that could not be done; it is tried again."""
        self._take_up(activation)
        for now in changes:
            self._tell_effect(now)
        late: list[SluiceError] = []
        if self._wanted:
            try:
                self._heed()
                for role in [*self._wanted]:
                    self._load(role, self._wanted[role])
            except SluiceError as error:  # of the topic: nothing begins unheard
                late.append(error)
        if self._unwritten:
            with self._lock:
                events = [*self._unwritten]
            try:
                self._log.write(events)
            except SluiceError as error:
                late.append(error)
            else:
                with self._lock:
                    del self._unwritten[: len(events)]
        if late:
            raise late[0]

    def _take_up(self, activation: Activation | None) -> None:
        known = self._activation
        if activation is None or (known is not None and activation.epoch <= known.epoch):
            return  # an older one decides again: what it named beside it is not meant any more
        asked: dict[Beside, tuple[Named, int]] = {}
        if activation.canary is not UNSET and activation.canary.release != activation.champion:
            asked["canary"] = activation.canary.release, activation.canary.share_ppm
        if activation.shadow is not UNSET and activation.shadow != activation.champion:
            asked["shadow"] = activation.shadow, 1_000_000
        with self._lock:
            self._activation = activation
            self._returned = {each for each in self._returned if each[0] >= activation.epoch}
            before, self._wanted = self._wanted, {}
            for role, (named, share_ppm) in asked.items():
                self._wanted[role] = _Wanted(named, share_ppm, self._follow(named.id))
            for role in before:
                self._report.refusing(role, False)
                if (beside := self._of(role)) is not None:
                    self._set(role, None)
                    if asked.get(role, (None,))[0] != beside.named:
                        self._tell("ended", role, beside.named, activation)

    def _load(self, role: Beside, wanted: _Wanted) -> None:
        activation = self._activation
        assert activation is not None
        if (activation.epoch, wanted.named.digest) in self._returned:
            return
        try:
            fresh = wanted.folder.poll()
            if fresh is not None:
                wanted.scorer = fresh
                if fresh.digest != wanted.named.digest:
                    raise Corrupt(
                        f"the folder holds {fresh.digest[:12]}…, "
                        f"the activation names {wanted.named.digest[:12]}…",
                        where=wanted.named.id,
                    )
        except Unavailable:
            raise
        except SluiceError as error:
            self._end(role, activation, f"refused: {error.what}")
            self._report.refused(role, error)
            self._report.refusing(role, True)
            return
        scorer = wanted.scorer
        if scorer is None or scorer.digest != wanted.named.digest:
            return
        if scorer.signer and scorer.signer not in self._trusted():
            self._end(role, activation, f"its key {scorer.signer} was withdrawn")
            return
        now = self._of(role)
        if now is not None and now.scorer is scorer:
            return
        with self._lock:
            if role == "canary":
                self._paired = Paired()
            else:
                self._failed = Cusum(FAILED_PPM, BAD_FAILED_PPM)
            beside = _Beside(role, wanted.named, scorer, wanted.share_ppm, activation.epoch)
            self._set(role, beside)
            self._report.refusing(role, False)
            self._tell("began", role, wanted.named, activation, share_ppm=wanted.share_ppm)

    def _heed(self) -> None:
        """Take out what other deciders found wrong."""
        activation = self._activation
        assert activation is not None
        for event in self._log.returned(activation.epoch):
            for role in ROLES:
                beside = self._of(role)
                if beside is not None and beside.named.digest == event.digest:
                    self._end(role, activation, f"{OTHERS}: {event.reason}, {event.detail}")
            self._returned.add((event.epoch, event.digest))

    def _end(self, role: Beside, activation: Activation, detail: str) -> None:
        """Take out what is in, if something is, for a reason that is not this decider's finding."""
        with self._lock:
            if (beside := self._of(role)) is not None:
                self._set(role, None)
                self._tell("ended", role, beside.named, activation, detail=detail)

    def _found(self, beside: _Beside, back: Back | None) -> None:
        """Take a release out for what was found, if it is in."""
        if back is None:
            return
        with self._lock:
            if self._of(beside.role) is not beside or self._activation is None:
                return
            self._set(beside.role, None)
            self._returned.add((beside.epoch, beside.named.digest))
            self._tell(
                "returned",
                beside.role,
                beside.named,
                self._activation,
                reason=back.reason,
                detail=back.detail,
            )

    def _of(self, role: Beside) -> _Beside | None:
        return self._canary if role == "canary" else self._shadow

    def _set(self, role: Beside, beside: _Beside | None) -> None:
        if role == "canary":
            self._canary = beside
        else:
            self._shadow = beside
        self._report.beside(role, 0 if beside is None else beside.share_ppm)

    def _tell(
        self,
        step: Step,
        role: Role,
        named: Named,
        activation: Activation,
        *,
        share_ppm: int | None = None,
        reason: str | None = None,
        detail: str | None = None,
    ) -> None:
        event = Rollout(
            at=self._clock.now_us(),
            emitter=self._emitter,
            step=step,
            role=role,
            release=named.id,
            digest=named.digest,
            epoch=activation.epoch,
            share_ppm=share_ppm if role == "canary" else None,
            who=activation.who,
            why=activation.why,
            reason=reason,
            detail=detail,
        )
        self._unwritten.append(event)
        self._report.challenger(event)

    def _tell_effect(self, now: TookEffect) -> None:
        by = now.by
        event = Rollout(
            at=self._clock.now_us(),
            emitter=self._emitter,
            step="began",
            role="champion" if now.what == RELEASE else "policy",
            release=now.id,
            digest=now.digest,
            epoch=by.activation.epoch if by else 0,
            who=by.activation.who if by else None,
            why=by.activation.why if by else None,
            statement=by.statement.decode() if by else None,
            signers=sorted(by.signers) if by else None,
            score_ppm=now.score_ppm,
            expected_loss_minor=now.expected_loss_minor,
        )
        with self._lock:
            self._unwritten.append(event)


def _joined(some: Sequence[_Work]) -> Iterator[tuple[Policy, Judged]]:
    """What was decided by one policy as one batch, in order."""
    for policy, works in groupby(some, key=lambda work: work.policy):
        each = [work.judged for work in works]
        rows = [judged.rows for judged in each]
        yield (
            policy,
            Judged(
                Rows(
                    [auth for r in rows for auth in r.auths],
                    np.concatenate([r.features for r in rows]),
                    np.concatenate([r.missing for r in rows]),
                    np.concatenate([r.level for r in rows]),
                    np.concatenate([_scores(r) for r in rows]),
                ),
                *(np.concatenate(columns) for columns in zip(*(j[1:] for j in each), strict=True)),
            ),
        )


def _scores(rows: Rows) -> Ints:
    """(n,) scores of the decisions, -1 without one."""
    return np.full(len(rows.auths), -1, np.int64) if rows.score_ppm is None else rows.score_ppm
