"""Judge recorded decisions again: score, policy and reasons by the release and policy they name.

What timing and chance decided is taken from the record, for nobody can compute it: which views were
missing, whether a model was there in time, what the breaker left out, which of a canary and its
champion answered, and what was let through. All else is computed anew, and must come out as it was
recorded, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, get_args

import msgspec
import numpy as np

from sluice.application.ports import Ints, Scorer
from sluice.application.replay import Recomputed
from sluice.domain.features import catalogue
from sluice.domain.policy.let_through import Draw, LetThrough
from sluice.domain.policy.policy import D2, D3, Policy
from sluice.domain.records.authorization import encode
from sluice.domain.records.decision import Decision, DegradationLevel, Entrypoint, States
from sluice.domain.records.entity import ALL_VIEWS, mask_of, views_in
from sluice.domain.records.outcome import BY_SEVERITY
from sluice.errors import Rejected, SluiceError

LEVELS: tuple[DegradationLevel, ...] = get_args(DegradationLevel)
NO_POLICY: Literal["no_policy"] = "no_policy"
NO_RELEASE: Literal["no_release"] = "no_release"
"""Codes of what a library does not hold."""
Result = Literal["equal", "differing", "no_policy", "no_release", "failed"]
"""failed: the policy or the release that it names ends in an error."""
RESULTS: tuple[Result, ...] = get_args(Result)
_MISSING: dict[str, Result] = {NO_POLICY: NO_POLICY, NO_RELEASE: NO_RELEASE}
COMPARED = (
    "reference_amount_minor", "release", "score_ppm", "outcome", "reasons", "degradation_level",
    "degraded", "silenced", "let_through_ppm", "fired", "made_by",
)  # fmt: skip
"""Fields of a record that are computed anew, besides features and states."""


class Library(Protocol):
    """Policies and releases that once decided."""

    def policy(self, id: str) -> Policy:
        """The one of a recorded id. Raises Rejected (NO_POLICY)."""
        ...

    def scorer(self, release: str, entrypoint: Entrypoint) -> Scorer:
        """A release as an entrypoint scores with it. Raises Rejected (NO_RELEASE)."""
        ...


class Again(NamedTuple):
    """One decision judged again.

    decision: the whole record, made anew; None if it could not be. differences: what was recorded
    and what came out, by field, of vectors by feature, of states by ``<view>_version``. why: what
    was in the way.
    """

    decision: Decision | None
    result: Result
    differences: dict[str, tuple[Any, Any]]
    why: str = ""


class RecordedDraw(Draw):
    """Lets through what the record says. That the id is among those drawn by the deciders' key is
    not computed: a replay needs no secret."""

    def __init__(self, let_through_ppm: int | None) -> None:
        super().__init__(b"", self._had_room)
        self._ppm = let_through_ppm

    def drawn(self, tenant: str, authorization_id: str, share_ppm: int) -> bool:
        """See Draw."""
        return self._ppm is not None

    def _had_room(self, _limits: LetThrough, _amount_minor: int) -> bool:
        return bool(self._ppm)


def rejudge(decisions: Sequence[Decision], again: Recomputed, library: Library) -> list[Again]:
    """Judge (n,) decisions again, over their recomputed vectors.

    Those of one policy, release and entrypoint go through model and rules as one batch.
    """
    found: dict[int, Again] = {}
    groups: dict[tuple[str, str | None, Entrypoint], list[int]] = {}
    for i, d in enumerate(decisions):
        groups.setdefault((d.policy, d.release, d.entrypoint), []).append(i)
    for (policy_id, release, entrypoint), at in groups.items():
        some = [decisions[i] for i in at]
        try:
            policy = library.policy(policy_id)
            scorer = None if release is None else library.scorer(release, entrypoint)
            made = _judge(some, again.of(at), policy, scorer)
        except SluiceError as error:
            result = _MISSING.get(error.code, "failed")
            judged = [Again(None, result, {}, str(error))] * len(at)
        else:
            judged = [_compared(d, new) for d, new in zip(some, made, strict=True)]
        found.update(zip(at, judged, strict=True))
    return [found[i] for i in range(len(decisions))]


def levels(decisions: Sequence[Decision], missing: Ints, scorer: Scorer | None) -> Ints:
    """(n,) 0 to 3. Of what a model scored, by the views that it can do without; of the rest the
    recorded one, as far as the missing views allow it: nobody knows any more which model was late.
    """
    if scorer is not None:
        fatal = missing & ~mask_of(scorer.tolerates)
        return np.where(missing == 0, 0, np.where(fatal == 0, 1, D2)).astype(np.int64)
    no_features = np.array([d.degradation_level == LEVELS[D3] for d in decisions], np.bool_)
    return np.where(no_features & (missing == ALL_VIEWS), D3, D2).astype(np.int64)


def left_out_of(decision: Decision, policy: Policy, missing: int, level: int) -> frozenset[str]:
    """Causes that the breaker had left out: what could not fire though its views were there."""
    by_view = policy.rules.silenced(missing, level)
    return frozenset(f"rule {rule}" for rule in decision.silenced if rule not in by_view)


def _judge(
    some: Sequence[Decision], again: Recomputed, policy: Policy, scorer: Scorer | None
) -> list[Decision]:
    """Of one policy and one release: the records made anew."""
    ppm = None if scorer is None else scorer.score(again.features).ppm
    level = levels(some, again.missing, scorer)
    alike: dict[tuple[int | None, frozenset[str]], list[int]] = {}
    for i, d in enumerate(some):
        left_out = left_out_of(d, policy, int(again.missing[i]), int(level[i]))
        alike.setdefault((d.let_through_ppm, left_out), []).append(i)
    made: dict[int, Decision] = {}
    for (let_through_ppm, left_out), at in alike.items():
        verdicts = policy.decide(
            [some[i].authorization for i in at],
            again.features[at],
            missing=again.missing[at],
            level=level[at],
            score_ppm=None if ppm is None else ppm[at],
            explain=None if scorer is None else scorer.reasons,
            left_out={some[i].authorization.tenant: left_out for i in at} if left_out else {},
            draw=RecordedDraw(let_through_ppm),
        )
        for row, i in enumerate(at):
            d, missing = some[i], int(again.missing[i])
            scored = ppm is not None and level[i] < D2
            made[i] = msgspec.structs.replace(
                d,
                reference_amount_minor=_reference_amount(d, policy),
                features=again.features[i].tolist(),
                states=States(*again.versions[i]),  # type: ignore[arg-type]
                release=scorer.release if scored and scorer is not None else None,
                score_ppm=int(ppm[i]) if scored and ppm is not None else None,
                outcome=BY_SEVERITY[verdicts.severity[row]],
                reasons=verdicts.reasons[row],
                degradation_level=LEVELS[int(level[i])],
                degraded=[
                    *(named for named in d.degraded if named not in catalogue.VIEWS),
                    *views_in(missing),
                ],
                silenced=[*verdicts.silenced[row]],
                let_through_ppm=verdicts.let_through.get(row),
                fired=None if d.fired is None else policy.ids(verdicts.fired.get(row, 0)),
                made_by=None
                if d.made_by is None
                else msgspec.structs.replace(d.made_by, policy_digest=policy.digest),
            )
    return [made[i] for i in range(len(some))]


def _reference_amount(decision: Decision, policy: Policy) -> int:
    """By the policy's rates; -1 where it has none."""
    auth = decision.authorization
    try:
        return policy.fx.to_reference(auth.amount_minor, auth.currency)
    except Rejected:
        return -1


def _compared(recorded: Decision, made: Decision) -> Again:
    if encode(made) == encode(recorded):
        return Again(made, "equal", {})
    differences: dict[str, tuple[Any, Any]] = {
        name: (was, now)
        for name, was, now in zip(catalogue.NAMES, recorded.features, made.features, strict=True)
        if was != now
    }
    for view in catalogue.VIEWS:
        was, now = recorded.states.of(view), made.states.of(view)
        if was != now:
            differences[f"{view}_version"] = (was, now)
    for name in COMPARED:
        was, now = getattr(recorded, name), getattr(made, name)
        if was != now:
            differences[name] = (was, now)
    return Again(made, "differing", differences)
