"""The record of one decision, version 1 of ``decisions.v1``: all that is needed to replay it.

There is no float in it: features are fixed-point integers, scores are parts per million.

Readers pass over fields that a newer writer added, at every level: these records are written by
deciders alone, and a fleet is never of one version (docs/how-to/change-a-contract.md).
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from sluice.domain.records.authorization import Authorization
from sluice.domain.records.entity import EntityKind, key_of
from sluice.domain.records.outcome import Outcome

MAX_REASONS = 4
MAX_PENDING = 64
"""Authorizations of one card that may be in flight at once; the oldest are dropped and counted."""
MAX_GIVEN_UP = 64
"""Stretches of numbers that one record tells of; more wait for the next."""

Number = Annotated[int, Meta(ge=0)]
Entrypoint = Literal["sync", "stream"]
ENTRYPOINTS: tuple[Entrypoint, ...] = get_args(Entrypoint)
DegradationLevel = Literal["D0", "D1", "D2", "D3"]


class Origin(msgspec.Struct, frozen=True, gc=False):
    """A place in Kafka: where a record came from."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}@{self.offset}"


class Pending(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An authorization of the same card, judged moments ago, that its state did not hold yet.

    All a card state keeps of an authorization, so that a vector can be recomputed from the
    record alone. Tags are :func:`sluice.domain.records.identifiers.tag32`. Written as an array, so
    a field is only ever added at the end, with a default.
    """

    authorization_id: str
    event_us: int
    amount_minor: int
    """In the reference currency."""
    merchant_tag: int
    device_tag: int
    country: int
    currency: int
    mcc: int
    channel: int
    left_at: int
    """When the entry was left, microseconds UTC of the decider's clock."""


class States(msgspec.Struct, frozen=True, gc=False):
    """Versions of the states served: for each entity, [source, last offset] pairs.

    source: kind * 4096 + partition; kind 0 ``decisions.v1``, 1 ``labels.v1``, 2 backfill.
    An empty list is a state never written. None is a view that was missing.
    """

    card: list[tuple[int, int]] | None = []
    terminal: list[tuple[int, int]] | None = []
    merchant: list[tuple[int, int]] | None = []
    device: list[tuple[int, int]] | None = []

    def of(self, kind: EntityKind) -> list[tuple[int, int]] | None:
        """Version of the state served in a view."""
        version: list[tuple[int, int]] | None = getattr(self, kind)
        return version


class MadeBy(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What decided, by its exact contents: the same for a batch.

    release_digest: SHA-256 of the release's manifest, None without a model. runtime: what ran it.
    policy_digest: SHA-256. score_ppm, expected_loss_minor: from which value on the policy asks for
    challenge, review, decline; None is never. build: our version and commit. image, config: digests
    of the container's image and of the settings, where they are told.
    """

    release_digest: str | None = None
    runtime: str | None = None
    policy_digest: str
    policy_version: int
    score_ppm: list[int | None]
    expected_loss_minor: list[int | None]
    build: str
    image: str | None = None
    config: str | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One decision with everything it was made from."""

    v: Literal[1] = 1
    authorization: Authorization
    entrypoint: Entrypoint
    origin: Origin | None
    """Where the authorization lay, for the stream processor; None behind HTTP."""
    emitter: str
    """The process that decided: replica name and start time."""
    sequence: Number
    """Counts this emitter's decisions from 0 without a hole."""
    received_at: int
    decided_at: int
    reference_amount_minor: int
    reference_currency: str
    catalogue: str
    """Digest of the catalogue that names the features below."""
    features: list[int]
    states: States
    pending: list[Pending]
    release: str | None
    score_ppm: int | None
    policy: str
    outcome: Outcome
    reasons: Annotated[list[str], Meta(max_length=MAX_REASONS)]
    degradation_level: DegradationLevel
    degraded: list[str]
    silenced: list[str] = []
    """Ids of the rules that could not fire: a view was missing, or the breaker left them out."""
    let_through_ppm: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    """Of a would-be decline that was approved to learn from it: the probability that it was chosen.
    0: it was chosen, and declined all the same, since the day's budget was spent. None: neither."""
    fired: list[str] | None = None
    """Ids of the rules that fired; None of a decider that did not say."""
    made_by: MadeBy | None = None
    """None of a decider that did not say."""
    settled: Number | None = None
    """Below it each of this emitter's numbers is durable, or given up and said to be. None of a
    decider that did not say."""
    given_up: Annotated[list[tuple[Number, Number]], Meta(max_length=MAX_GIVEN_UP)] = []
    """Numbers of this emitter, [first, until), that no record has: it could not be made durable,
    and nobody heard the decision. A broker may have kept it all the same."""

    def entity(self, kind: EntityKind) -> str | None:
        """Key of the entity of this kind that was judged; None without a device."""
        return key_of(self.authorization, kind)

    def __repr__(self) -> str:
        return f"Decision({self.authorization.authorization_id!r}, {self.outcome})"


class Answer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the caller hears."""

    v: Literal[1] = 1
    authorization_id: str
    outcome: Outcome
    reasons: list[str]
    score_ppm: int | None
    degradation_level: DegradationLevel
    degraded: list[str]
    release: str | None
    policy: str
    decided_at: int


def answer(decision: Decision) -> Answer:
    """The part of a decision that its caller may see."""
    return Answer(
        authorization_id=decision.authorization.authorization_id,
        outcome=decision.outcome,
        reasons=decision.reasons,
        score_ppm=decision.score_ppm,
        degradation_level=decision.degradation_level,
        degraded=decision.degraded,
        release=decision.release,
        policy=decision.policy,
        decided_at=decision.decided_at,
    )
