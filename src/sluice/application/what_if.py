"""One decision, judged again as it was, and as it would have been.

What is changed is a field of the authorization, a feature of the vector, the policy or the release;
all else stays as it was: the states served, the views that were missing, what the breaker had left
out. Nothing is let through, for nobody can say what would have been drawn. A field that names an
entity cannot be changed: which state another card would have been served with, no record says.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from sluice.application.consistency import SampleSource, is_ahead, keys_of
from sluice.application.ports import Ints, Scorer
from sluice.application.rejudge import LEVELS, Again, Library, Result, left_out_of, levels, rejudge
from sluice.application.replay import Recomputed, Replay
from sluice.domain.features import catalogue
from sluice.domain.features.catalogue import NEVER_S, Feature
from sluice.domain.policy.policy import D2, LeftOut, Policy
from sluice.domain.records.authorization import (
    Authorization,
    Channel,
    ThreeDs,
    decode_authorization,
)
from sluice.domain.records.currencies import AMOUNT_MAX_MINOR, EXPONENTS
from sluice.domain.records.decision import Decision
from sluice.domain.records.entity import KEY_FIELDS
from sluice.domain.records.money import Money
from sluice.domain.records.outcome import BY_SEVERITY, Outcome
from sluice.errors import Misconfigured, Rejected

FIELDS = (
    "amount_minor", "currency", "mcc", "channel", "three_ds", "merchant_country", "card_country",
    "event_at",
)  # fmt: skip
"""Of an authorization, that can be changed: those that name no entity and that a vector rests on.
"""
OTHER_CATALOGUE, AHEAD = "other_catalogue", "not_archived_yet"
"""Codes of a decision that cannot be recomputed here."""
STEPS = 48
"""Values of a feature or an amount that are tried to each side, a factor of FACTOR apart; what lies
between two of them is then halved to the unit."""
FACTOR = 1.5
FLIPS_MAX = 10
"""Changes that an answer names, the smallest first."""


class Replayed(msgspec.Struct, frozen=True):
    """One decision judged again, for people and programs. result, differences, why: of
    :class:`sluice.application.rejudge.Again`. sha256: of the record's own bytes. features: how
    many. The rest is as recorded."""

    authorization_id: str
    place: str
    sha256: str
    catalogue: str
    release: str | None
    policy: str
    features: int
    score_ppm: int | None
    outcome: Outcome
    reasons: list[str]
    result: Result
    differences: dict[str, list[str]]
    why: str
    counterfactual: Counterfactual | None = None


class Case(NamedTuple):
    """A decision, and all that it was made from. again: judged by what it names itself."""

    decision: Decision
    replay: Replay
    recomputed: Recomputed
    again: Again


class Change(NamedTuple):
    """What is to be otherwise. auth: of the authorization, by field. features: of the vector."""

    auth: Mapping[str, Any] = {}
    features: Mapping[str, int] = {}


NO_CHANGE = Change()


class Verdict(msgspec.Struct, frozen=True):
    """What would have been said."""

    outcome: Outcome
    reasons: list[str]
    score_ppm: int | None
    degradation_level: str
    release: str | None
    policy: str


class Flip(msgspec.Struct, frozen=True):
    """One change that by itself leads to another outcome.

    name: of a field or a feature. ratio: of the larger to the smaller of both numbers, each plus
    one: what the changes are ordered by; None where they are no numbers. field: it is of the
    authorization, and so of everything that follows from it; a feature is changed alone, and no
    authorization may exist that has such a vector.
    """

    name: str
    was: str
    becomes: str
    outcome: Outcome
    ratio: float | None
    field: bool


class Counterfactual(msgspec.Struct, frozen=True):
    """was: as recorded, but for what was let through. would_be: with the changes. flips: from there
    the smallest single changes that lead to another outcome; None where nobody asked."""

    authorization_id: str
    was: Verdict
    would_be: Verdict
    changed: dict[str, list[str]]
    features: dict[str, list[int]]
    flips: list[Flip] | None = None


def open_case(
    source: SampleSource, decision: Decision, ends: Mapping[int, int], library: Library
) -> Case:
    """Recompute and judge one decision again. ends: what the archive held before it was read.
    Raises Rejected: made by another catalogue, or from events that the archive lacks."""
    if decision.catalogue != catalogue.DIGEST:
        raise Rejected(
            f"its vector is of catalogue {decision.catalogue[:12]}, this build knows "
            f"{catalogue.DIGEST[:12]}",
            fix="replay it with the build that decided, or one of the same catalogue",
            code=OTHER_CATALOGUE,
        )
    if is_ahead(decision, ends):
        raise Rejected(
            "it was served from events that the archive does not hold",
            fix="the archiver is behind, or this archive is another one, or was cut",
            code=AHEAD,
        )
    replay = Replay(source.event_history(keys_of([decision])))
    recomputed = replay.recompute([decision])
    return Case(decision, replay, recomputed, rejudge([decision], recomputed, library)[0])


def replayed(
    case: Case, place: str, record: bytes, counterfactual: Counterfactual | None = None
) -> Replayed:
    """What to tell of a case. record: its own bytes."""
    d, again = case.decision, case.again
    return Replayed(
        authorization_id=d.authorization.authorization_id,
        place=place,
        sha256=hashlib.sha256(record).hexdigest(),
        catalogue=d.catalogue,
        release=d.release,
        policy=d.policy,
        features=len(d.features),
        score_ppm=d.score_ppm,
        outcome=d.outcome,
        reasons=d.reasons,
        result=again.result,
        differences={
            name: [str(each) for each in pair] for name, pair in again.differences.items()
        },
        why=again.why,
        counterfactual=counterfactual,
    )


def parse_change(texts: Sequence[str], auth: Authorization) -> Change:
    """Read ``NAME=VALUE``: a field, a feature, or ``amount`` in units of the currency.

    Raises Misconfigured for what is neither, Rejected for a value that no entrypoint takes.
    """
    fields: dict[str, Any] = {}
    features: dict[str, int] = {}
    entities = set(KEY_FIELDS.values())
    for text in texts:
        name, equals, value = text.partition("=")
        where = f"--set {name}"
        if not equals:
            raise Misconfigured("write NAME=VALUE", where=f"--set {text}")
        if name == "amount":
            continue  # its currency may be changed by another one
        if name in entities:
            raise Misconfigured(
                f"{name} names an entity, and no record says what its state was",
                where=where,
                fix=f"what can be changed: amount, {', '.join(FIELDS)}, or a feature by its name",
            )
        if (name in FIELDS and name not in catalogue.INDEX) or name == "amount_minor":
            numeric = name in ("amount_minor", "event_at")
            fields[name] = _integer(value, where) if numeric else value or None
        elif name in catalogue.INDEX:
            features[name] = _integer(value, where)
        else:
            raise Misconfigured(
                "neither a field that can be changed nor a feature",
                where=where,
                fix=f"amount, {', '.join(FIELDS)}; docs/reference/features.md",
            )
    for text in texts:
        name, _, value = text.partition("=")
        if name == "amount":
            fields["amount_minor"] = _minor(value, fields.get("currency") or auth.currency)
    changed(auth, fields)  # says what is wrong with it
    return Change(fields, features)


def changed(auth: Authorization, fields: Mapping[str, Any]) -> Authorization:
    """The same with other fields, as an entrypoint would take it. Raises Rejected."""
    if not fields:
        return auth
    tree = msgspec.to_builtins(auth) | dict(fields)
    given = {name: value for name, value in tree.items() if value is not None}
    return decode_authorization(msgspec.json.encode(given))


def what_if(
    case: Case,
    library: Library,
    *,
    change: Change = NO_CHANGE,
    policy: Policy | None = None,
    scorer: Scorer | None = None,
    flips: bool = False,
) -> Counterfactual:
    """Judge a decision with something changed. policy, scorer: instead of those recorded.

    Another release is taken to have answered in time; without one a decision that had no score has
    none. Amounts stay as they were converted, whatever another policy's rates are, unless the
    authorization's amount or currency is changed. Raises Rejected for a policy or a release that
    the library lacks, or that cannot judge it; Misconfigured for another reference currency.
    """
    d = case.decision
    then = library.policy(d.policy)
    own = None if d.release is None else library.scorer(d.release, d.entrypoint)
    before = _Judge(case, then, own, judged_by_record=True)
    was = before.verdict(before.rows([d.authorization]))
    by = policy or then
    if by.fx.reference != d.reference_currency:
        raise Misconfigured(
            f"the policy counts in {by.fx.reference}, this decision in {d.reference_currency}",
            where=by.id,
        )
    judge = _Judge(case, by, scorer or own, judged_by_record=scorer is None)
    auth = changed(d.authorization, change.auth)
    features = judge.rows([auth])
    for name, value in change.features.items():
        features[:, catalogue.INDEX[name]] = value
    moved = np.flatnonzero(features[0] != case.recomputed.features[0])
    return Counterfactual(
        authorization_id=d.authorization.authorization_id,
        was=was,
        would_be=judge.verdict(features, auth),
        changed={
            name: [_shown(getattr(d.authorization, name)), _shown(getattr(auth, name))]
            for name in change.auth
        },
        features={
            catalogue.NAMES[f]: [int(case.recomputed.features[0, f]), int(features[0, f])]
            for f in moved
        },
        flips=_flips(judge, auth, features, change) if flips else None,
    )


class _Judge:
    """Judges variants of one decision by one policy and one release."""

    def __init__(
        self, case: Case, policy: Policy, scorer: Scorer | None, *, judged_by_record: bool
    ) -> None:
        d = case.decision
        self.case, self.policy, self.scorer = case, policy, scorer
        self.missing = case.recomputed.missing
        self.level = levels([d], self.missing, scorer)
        if judged_by_record and d.score_ppm is None:
            self.scorer = None
            self.level = levels([d], self.missing, None)
        self.left_out: LeftOut = {}
        causes = left_out_of(d, policy, int(self.missing[0]), int(self.level[0]))
        if causes:
            self.left_out = {d.authorization.tenant: causes}

    def rows(self, auths: Sequence[Authorization]) -> Ints:
        """(k,) variants of the authorization to (k, N) vectors, over the states it was served."""
        d = self.case.decision
        amounts: dict[tuple[int, str], int] = {
            (d.authorization.amount_minor, d.authorization.currency): d.reference_amount_minor
        }
        variants = []
        for auth in auths:
            key = auth.amount_minor, auth.currency
            if key not in amounts:
                amounts[key] = self.policy.fx.to_reference(*key)
            variants.append(
                msgspec.structs.replace(d, authorization=auth, reference_amount_minor=amounts[key])
            )
        return self.case.replay.features(variants)

    def severities(self, auths: Sequence[Authorization], features: Ints) -> Ints:
        """(k,) severities."""
        k = len(features)
        if not k:
            return np.zeros(0, np.int64)
        level = np.repeat(self.level, k)
        score = level if self.scorer is None else self.scorer.score(features).ppm
        return self.policy.severities(
            auths,
            np.ascontiguousarray(features),
            missing=np.repeat(self.missing, k),
            level=level,
            score_ppm=score,
            left_out=self.left_out,
        ).astype(np.int64)

    def verdict(self, features: Ints, auth: Authorization | None = None) -> Verdict:
        """In full, of one row."""
        scored = self.scorer is not None and int(self.level[0]) < D2
        ppm = None if self.scorer is None else self.scorer.score(features).ppm
        found = self.policy.decide(
            [auth or self.case.decision.authorization],
            features,
            missing=self.missing,
            level=self.level,
            score_ppm=ppm,
            explain=None if self.scorer is None else self.scorer.reasons,
            left_out=self.left_out,
        )
        return Verdict(
            outcome=found.outcome(0),
            reasons=found.reasons[0],
            score_ppm=int(ppm[0]) if ppm is not None and scored else None,
            degradation_level=LEVELS[int(self.level[0])],
            release=self.scorer.release if self.scorer is not None and scored else None,
            policy=self.policy.id,
        )

    def columns(self) -> list[int]:
        """Features that can matter: of the model, and of the rules."""
        of_rules = set(self.policy.rules.conditions[:, 0].tolist())
        of_model = set() if self.scorer is None else set(self.scorer.columns.tolist())
        return sorted(of_rules | of_model)


def _flips(judge: _Judge, auth: Authorization, features: Ints, change: Change) -> list[Flip]:
    """The smallest single change of each field and feature that leads to another outcome."""
    here = int(judge.severities([auth], features)[0])
    found = [*_amount_flips(judge, auth, change, here), *_field_flips(judge, auth, change, here)]
    found += _feature_flips(judge, auth, features, here)
    found.sort(key=lambda flip: (flip.ratio is None, flip.ratio or 0.0, not flip.field))
    return found[:FLIPS_MAX]


def _amount_flips(judge: _Judge, auth: Authorization, change: Change, here: int) -> list[Flip]:
    most = min(AMOUNT_MAX_MINOR[auth.currency], judge.policy.fx.most(auth.currency))

    def severity(values: Sequence[int]) -> Ints:
        variants = [changed(auth, {"amount_minor": value}) for value in values]
        rows = judge.rows(variants)
        for name, value in change.features.items():
            rows[:, catalogue.INDEX[name]] = value
        return judge.severities(variants, rows)

    nearest = _nearest(auth.amount_minor, 0, most, here, severity)
    return [
        Flip(
            "amount",
            str(Money(auth.amount_minor, auth.currency)),
            str(Money(value, auth.currency)),
            BY_SEVERITY[then],
            _ratio(auth.amount_minor, value),
            field=True,
        )
        for value, then in nearest
    ]


def _field_flips(judge: _Judge, auth: Authorization, change: Change, here: int) -> list[Flip]:
    choices: list[tuple[str, Any]] = [
        *(("channel", channel.value) for channel in Channel if channel != auth.channel),
        *(("three_ds", value) for value in (None, *ThreeDs) if value != auth.three_ds),
    ]
    if auth.merchant_country != auth.card_country:
        choices.append(("merchant_country", auth.card_country))
    variants = [changed(auth, {name: value}) for name, value in choices]
    rows = judge.rows(variants)
    for name, value in change.features.items():
        rows[:, catalogue.INDEX[name]] = value
    severity = judge.severities(variants, rows)
    return [
        Flip(name, _shown(getattr(auth, name)), _shown(value), BY_SEVERITY[then], None, field=True)
        for (name, value), then in zip(choices, severity.tolist(), strict=True)
        if then != here
    ]


def _feature_flips(judge: _Judge, auth: Authorization, features: Ints, here: int) -> list[Flip]:
    found = []
    for column in judge.columns():
        feature = catalogue.FEATURES[column]
        if feature.entity == "context":
            continue  # a field says it

        def severity(values: Sequence[int], column: int = column) -> Ints:
            rows = np.repeat(features, len(values), axis=0)
            rows[:, column] = values
            return judge.severities([auth] * len(values), rows)

        now = int(features[0, column])
        low, high = _bounds(feature, now)
        found += [
            Flip(
                feature.name,
                str(now),
                str(value),
                BY_SEVERITY[then],
                _ratio(now, value),
                field=False,
            )
            for value, then in _nearest(now, low, high, here, severity)
        ]
    return found


def _bounds(feature: Feature, now: int) -> tuple[int, int]:
    """What a feature can be."""
    if feature.unit == "flag":
        return 0, 1
    if feature.unit == "s":
        return 0, max(NEVER_S, now)
    if feature.unit == "ppm":
        return 0, max(1_000_000, now)
    return min(0, now), max(10**12, now)


def _nearest(
    now: int, low: int, high: int, here: int, severity: Callable[[Sequence[int]], Ints]
) -> list[tuple[int, int]]:
    """To each side the value nearest to now that has another severity, and that severity.

    Values a factor apart are tried, then what lies between the last alike and the first that is
    not is halved: where the outcome changes there and back within one step, it is not seen.
    """
    found = []
    for side in (-1, 1):
        values = _grid(now, low, high, side)
        if not values:
            continue
        said = severity(values)
        other = np.flatnonzero(said != here)
        if not len(other):
            continue
        first = int(other[0])
        far, near = values[first], values[first - 1] if first else now
        then = int(said[first])
        while abs(far - near) > 1:
            middle = (near + far) // 2
            at = int(severity([middle])[0])
            if at == here:
                near = middle
            else:
                far, then = middle, at
        found.append((far, then))
    return found


def _grid(now: int, low: int, high: int, side: int) -> list[int]:
    """Values from now to one side, first one apart, then ever farther, to the bound."""
    values: list[int] = []
    distance = 1.0
    for _ in range(STEPS):
        value = now + side * math.floor(distance)
        if not low <= value <= high:
            break
        values.append(value)
        distance = max(distance + 1, distance * FACTOR)
    bound = low if side < 0 else high
    if now != bound and (not values or values[-1] != bound):
        values.append(bound)
    return values


def _ratio(a: int, b: int) -> float:
    small, large = sorted((abs(a) + 1, abs(b) + 1))
    return round(large / small, 4)


def _integer(text: str, where: str) -> int:
    try:
        value = int(text.replace("_", ""))
    except ValueError as exc:
        raise Misconfigured(f"{text!r} is no integer", where=where) from exc
    if abs(value) >= 2**62:
        raise Misconfigured(f"{text} is too large", where=where)
    return value


def _minor(text: str, currency: str) -> int:
    """Minor units of an amount like ``19.99``. Raises Misconfigured."""
    exponent = EXPONENTS.get(currency, 2)
    whole, _, rest = text.partition(".")
    if not whole.isascii() or not whole.isdecimal() or len(rest) > exponent:
        raise Misconfigured(
            f"{text!r} is no amount in {currency}",
            where="--set amount",
            fix=f"at most {exponent} decimals, like 19{'.' + '9' * exponent if exponent else ''}",
        )
    return _integer(whole + rest.ljust(exponent, "0"), "--set amount")


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
