"""Records as they lie in ``decisions.v1`` and ``shadow-scores.v1``, for tests that make none."""

from __future__ import annotations

from typing import Any

from sluice.domain.records.decision import Decision, Pending, States
from sluice.domain.records.outcome import Outcome
from sluice.domain.records.rollout import ShadowScores
from sluice.testing.factories import NOON_US, make_authorization


def make_decision(authorization_id: str = "a-1", *, sequence: int = 0, **auth: Any) -> Decision:
    """An approval by model and rules, with one pending entry and a card state that was served."""
    return Decision(
        authorization=make_authorization(authorization_id, **auth),
        entrypoint="sync",
        origin=None,
        emitter="test/1",
        sequence=sequence,
        received_at=NOON_US + 1_000,
        decided_at=NOON_US + 3_000,
        reference_amount_minor=1234,
        reference_currency="EUR",
        catalogue="c" * 16,
        features=[1, -2, 2**62, 0],
        states=States(card=[(3, 41)], terminal=None),
        pending=[Pending("a-0", NOON_US - 1, 500, 1, 0, 21, 978, 5411, 1, NOON_US)],
        release="release-1",
        score_ppm=1_200,
        policy="policy-1",
        outcome=Outcome.APPROVE,
        reasons=["model_low"],
        degradation_level="D1",
        degraded=["terminal"],
    )


def make_shadow_scores(*authorization_ids: str, digest: str = "d" * 64) -> ShadowScores:
    """What a shadow says of these: it would decline what was approved."""
    n = len(authorization_ids)
    return ShadowScores(
        at=NOON_US + 4_000,
        emitter="test/1",
        release="release-2",
        digest=digest,
        epoch=NOON_US - 1_000,
        tenants=["test"] * n,
        authorization_ids=list(authorization_ids),
        event_at=[NOON_US] * n,
        score_ppm=[900_000 + i for i in range(n)],
        served_ppm=[1_200] * n,
        outcomes=[3] * n,
        served_outcomes=[0] * n,
    )
