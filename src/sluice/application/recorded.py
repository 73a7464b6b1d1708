"""A decision's record, read for what the id stands for and what its caller was told."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from sluice.application.decide import written_digest
from sluice.application.once import Answered
from sluice.domain.records.authorization import Authorization, encode
from sluice.domain.records.decision import Answer, DegradationLevel
from sluice.domain.records.outcome import Outcome


class _Written(msgspec.Struct, frozen=True):
    """What is needed of a Decision; skipping the rest halves the decoding.

    authorization: its bytes, of which the digest is made; it may hold fields unknown here.
    """

    authorization: msgspec.Raw
    reference_amount_minor: int
    outcome: Outcome
    reasons: list[str]
    score_ppm: int | None
    degradation_level: DegradationLevel
    degraded: list[str]
    release: str | None
    policy: str
    decided_at: int


class Recorded(NamedTuple):
    """One decision, with its authorization read."""

    authorization: Authorization
    rest: _Written


_written = msgspec.json.Decoder(_Written).decode
_authorization = msgspec.json.Decoder(Authorization).decode


def read(value: bytes) -> Recorded:
    """The bytes of one record of ``decisions.v1``. Raises msgspec.DecodeError."""
    rest = _written(value)
    return Recorded(_authorization(rest.authorization), rest)


def answered(one: Recorded) -> Answered:
    """What to remember, with the bytes of the entrypoint's own answer
    (:func:`sluice.domain.records.decision.answer`)."""
    auth, rest = one
    return Answered(
        auth.tenant,
        auth.authorization_id,
        written_digest(rest.authorization),
        encode(
            Answer(
                authorization_id=auth.authorization_id,
                outcome=rest.outcome,
                reasons=rest.reasons,
                score_ppm=rest.score_ppm,
                degradation_level=rest.degradation_level,
                degraded=rest.degraded,
                release=rest.release,
                policy=rest.policy,
                decided_at=rest.decided_at,
            )
        ),
        rest.decided_at,
    )
