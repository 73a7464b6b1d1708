"""What a log has told already of things that many say, or that nobody says twice.

Every decider writes that an activation is in force, again with each start; the log tells of it
once. What has been told is in the log itself, and in the summary of its last checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import msgspec

from sluice.domain.activation import POLICY, Activation
from sluice.domain.records.log_record import (
    ActivatedBody,
    KeyRotationBody,
    ModelRecord,
    PolicyRecord,
    ThresholdBody,
    ThresholdRecord,
    actor_of,
    encode,
)
from sluice.domain.records.rollout import Role, Rollout

STATEMENTS_MAX = 64
"""Newest activations that are remembered; one that is older than all of them is not told of."""

_Body = TypeVar("_Body", ActivatedBody, ThresholdBody)


class Change(NamedTuple):
    """What a step says that its own record does not. activated: of the activation by which it goes,
    None without one. thresholds: of a policy."""

    role: Role
    at: int
    activated: ActivatedBody | None
    thresholds: ThresholdBody | None


def change_of(value: bytes) -> Change | None:
    """What came to decide, by a record of ``rollouts.v1``; None for every other step. Raises
    DecodeError."""
    step = _rollout.decode(value)
    if step.step != "began" or step.role not in ("champion", POLICY):
        return None
    thresholds = None
    if step.score_ppm is not None and step.expected_loss_minor is not None:
        thresholds = _in_shape(
            ThresholdBody(
                policy=step.release,
                digest=step.digest,
                before=None,
                score_ppm=step.score_ppm,
                expected_loss_minor=step.expected_loss_minor,
            )
        )
    activated = None
    if step.statement is not None:
        activated = _in_shape(_activation_body(step, step.statement.encode()))
    return Change(step.role, step.at, activated, thresholds)


def _in_shape(body: _Body) -> _Body:
    """The same, if it has the shapes of its schema. Raises DecodeError."""
    return msgspec.json.decode(encode(body), type=type(body))


def _activation_body(step: Rollout, statement: bytes) -> ActivatedBody:
    """What a log says of an activation whose signatures a decider checked. Raises DecodeError."""
    said = msgspec.json.decode(statement, type=Activation)
    return ActivatedBody(
        id=step.release,
        digest=said.digest,
        epoch=said.epoch,
        act=said.act,
        actor=actor_of(said.who),
        statement=hashlib.sha256(statement).hexdigest(),
        signers=sorted(step.signers or []),
        shadow=said.shadow.digest if said.shadow else None,
        canary=said.canary.release.digest if said.canary else None,
        share_ppm=said.canary.share_ppm if said.canary else None,
        before=said.before.digest if said.before else None,
        after=said.after or None,
    )


class Told(msgspec.Struct, kw_only=True):
    """Of one log.

    statements: SHA-256 of each activation to its epoch. policy, digest: of the thresholds that were
    told last. keys: by purpose and name, the id of the key that signs.
    """

    statements: dict[str, int] = {}
    policy: str | None = None
    digest: str = ""
    keys: dict[str, str] = {}

    def copy(self) -> Told:
        """What a summary keeps."""
        return Told(
            statements={**self.statements},
            policy=self.policy,
            digest=self.digest,
            keys={**self.keys},
        )

    def new(self, change: Change) -> Iterator[tuple[Callable[..., Any], Any]]:
        """Kind and body of the records that a change asks for, noted."""
        activated, thresholds = change.activated, change.thresholds
        if activated is not None and self._note_activation(activated):
            yield PolicyRecord if change.role == POLICY else ModelRecord, activated
        if thresholds is not None and thresholds.digest != self.digest:
            yield ThresholdRecord, msgspec.structs.replace(thresholds, before=self.policy)
            self._note_thresholds(thresholds)

    def note(self, kind: str, body: bytes) -> None:
        """Take in a record of the log."""
        if kind in ("model", "policy"):
            self._note_activation(_activated.decode(body))
        elif kind == "threshold":
            self._note_thresholds(_thresholds.decode(body))
        elif kind == "key_rotation":
            self.note_key(_rotation.decode(body))

    def note_key(self, body: KeyRotationBody) -> None:
        """A key took another's place."""
        name = body.after.partition("+")[0]
        self.keys[f"{body.purpose} {name}"] = body.after

    def _note_activation(self, body: ActivatedBody) -> bool:
        known = self.statements
        if body.statement in known:
            return False
        if len(known) >= STATEMENTS_MAX:
            oldest = min(known, key=known.__getitem__)
            if body.epoch <= known[oldest]:
                return False
            del known[oldest]
        known[body.statement] = body.epoch
        return True

    def _note_thresholds(self, body: ThresholdBody) -> None:
        self.policy, self.digest = body.policy, body.digest


_activated = msgspec.json.Decoder(ActivatedBody)
_thresholds = msgspec.json.Decoder(ThresholdBody)
_rotation = msgspec.json.Decoder(KeyRotationBody)
_rollout = msgspec.json.Decoder(Rollout)
