"""Policies made in memory, so that a test names only what it is about."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from sluice.domain.features import catalogue
from sluice.domain.policy.fx import Fx
from sluice.domain.policy.let_through import LetThrough
from sluice.domain.policy.members import Members
from sluice.domain.policy.policy import (
    Fallback,
    Listing,
    Pack,
    Policy,
    Steps,
    Thresholds,
    digest_of,
)
from sluice.domain.policy.rules import FeatureLike, Rule, When
from sluice.domain.records.authorization import Channel
from sluice.domain.records.outcome import Outcome

EUROS = Fx(
    reference="EUR",
    as_of=datetime.date(2026, 1, 1),
    rates_ppm={"EUR": 1_000_000, "USD": 1_160_000, "JPY": 180_000_000, "KWD": 356_000},
)
STEPS: Steps = {
    Outcome.CHALLENGE: 200_000,
    Outcome.REVIEW: 500_000,
    Outcome.DECLINE: 900_000,
}
THRESHOLDS = Thresholds(score_ppm=STEPS)
TABLE: dict[Channel, Steps] = {
    channel: {Outcome.CHALLENGE: 10_000, Outcome.DECLINE: 100_000} for channel in Channel
}

DECIDE: dict[Channel, Literal["refuse", "decide"]] = dict.fromkeys(Channel, "decide")


def make_rule(
    name: str = "high-amount",
    *,
    all: Sequence[str] = (),
    any: Sequence[str] = (),
    outcome: Outcome = Outcome.REVIEW,
    reason: str = "HIGH_AMOUNT",
) -> Rule:
    """A rule; without conditions, one on amounts from 1,000.00."""
    if not (all or any):
        all = ["amount_minor >= 100_000"]
    return Rule(id=name, reason=reason, outcome=outcome, when=When(list(all), list(any)))


def make_policy(
    *,
    rules: Sequence[Rule] = (),
    fallback: Sequence[Rule] = (),
    thresholds: Thresholds = THRESHOLDS,
    table: Mapping[Channel, Steps] = TABLE,
    unidentified: Mapping[Channel, Literal["refuse", "decide"]] = DECIDE,
    out_of_domain: Literal["keep", "leave_out"] = "keep",
    lists: Sequence[tuple[Listing, Sequence[str]]] = (),
    let_through: LetThrough | None = None,
    fx: Fx = EUROS,
    features: Sequence[FeatureLike] = catalogue.FEATURES,
) -> Policy:
    """A compiled policy named ``test``: score thresholds, a table, and what you give it."""
    pack = Pack(
        version=1,
        thresholds=thresholds,
        rules=list(rules),
        fallback=Fallback(rules=list(fallback)),
        table=dict(table),
        unidentified=dict(unidentified),
        out_of_domain=out_of_domain,
        lists=[spec for spec, _ in lists],
        let_through=let_through or msgspec.UNSET,
    )
    entries = {spec.file: ids for spec, ids in lists}
    return Policy(
        "test",
        pack,
        fx,
        {file: Members.of(ids) for file, ids in entries.items()},
        features,
        digest=digest_of(pack, fx, entries),
    )
