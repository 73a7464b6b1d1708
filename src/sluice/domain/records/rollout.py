"""What became of a release beside others, version 1 of ``rollouts.v1`` and ``shadow-scores.v1``.

Each decider writes each step that it takes, so that the log says who went where, when and why. A
``returned`` is also an order: every decider that reads it does the same.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sluice.domain.records.authorization import MicrosUtc

Role = Literal["champion", "canary", "shadow", "policy"]
"""policy: no release but the policy, which takes its steps in the same way."""
Step = Literal["began", "ended", "returned"]
"""began: it does so from now on. ended: not any more, as somebody signed. returned: not any more,
because this decider found it wrong."""
KeyId = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}$")]
Thresholds = Annotated[list[int | None], Meta(min_length=3, max_length=3)]


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One step of one decider.

    emitter: its replica and start, as in ``decisions.v1``. release: its id, or the policy's.
    digest: SHA-256 of the release's manifest, or of what the policy means. epoch: of the activation
    by which it goes, microseconds UTC; 0 without one. share_ppm: of a canary. who, why: of the
    activation. reason, detail: of a return; detail also of an end that nobody signed.

    Of a champion or a policy that began: statement, the exact bytes of the activation; signers, ids
    of the keys that approved it, as this decider checked. score_ppm, expected_loss_minor: from
    which value on a policy asks for challenge, review, decline; None is never.
    """

    v: Literal[1] = 1
    at: MicrosUtc
    emitter: str
    step: Step
    role: Role
    release: str
    digest: str
    epoch: int
    share_ppm: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    who: str | None = None
    why: str | None = None
    reason: str | None = None
    detail: str | None = None
    statement: str | None = None
    signers: Annotated[list[KeyId], Meta(max_length=64)] | None = None
    score_ppm: Thresholds | None = None
    expected_loss_minor: Thresholds | None = None


class ShadowScores(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a shadow says of decisions that were made without it, by column.

    tenants, authorization_ids, event_at: (n,) whose decision. score_ppm: the shadow's, -1 where it
    gave none. served_ppm: that of the decision, -1 without one. outcomes: the shadow's severity, 0
    approve to 3 decline; served_outcomes: the decision's, before anything was let through.
    """

    v: Literal[1] = 1
    at: MicrosUtc
    emitter: str
    release: str
    digest: str
    epoch: int
    tenants: list[str]
    authorization_ids: list[str]
    event_at: list[int]
    score_ppm: list[int]
    served_ppm: list[int]
    outcomes: list[int]
    served_outcomes: list[int]
