"""What the compliance log says of one thing that happened, version 1 of ``log-records.v1``.

Each type has a record of its own: what all have, and a ``body``. Encoded it is the header of an
entry (:mod:`sluice.audit.entries`): nothing in it is about a person but ids that mean nothing
outside (docs/reference/log-records.md says which). What is personal is sealed behind it.

Closed: an unknown field is refused, a list is bounded, a text has a shape, and a sentence that a
person wrote is there by its digest alone. A field that is added later is left out where it is not
set (``UNSET``), so that :func:`read` gets the same bytes again from older records.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Generic, Literal, TypeVar, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

from sluice.audit.entries import NUMBER_MAX
from sluice.audit.errors import Malformed
from sluice.domain.records.authorization import Channel, ThreeDs
from sluice.domain.records.decision import (
    MAX_GIVEN_UP,
    MAX_REASONS,
    DegradationLevel,
    Entrypoint,
)
from sluice.domain.records.label import LabelKind, Uncounted
from sluice.domain.records.outcome import Outcome
from sluice.domain.records.rollout import Role, Step

CONTRACT = "log-records.v1"
RULES_MAX = 256
"""Of the rules that fired, or could not: a pack has at most 61 of each kind."""
DEGRADED_MAX = 16
SIGNERS_MAX = 64
SOURCES_MAX = 256
"""Sources in a state's version: one a partition that wrote it."""

# A bare $ would also match before a newline at the end.
_END = r"$(?!\n)"
Count = Annotated[int, Meta(ge=0, le=NUMBER_MAX)]
MICROS_MAX = 4_102_444_800_000_000
Micros = Annotated[int, Meta(ge=0, le=MICROS_MAX)]
"""Microseconds UTC, 1970 to 2100."""
Ppm = Annotated[int, Meta(ge=0, le=1_000_000)]
Id = Annotated[str, Meta(pattern=rf"^[!-~]{{1,64}}{_END}")]
Word = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9_.:@/+-]{{1,128}}{_END}")]
"""What we named: a code, a rule, a release, a topic, a build. No blanks, so no sentence."""
Sha256 = Annotated[str, Meta(pattern=rf"^[0-9a-f]{{64}}{_END}")]
Digest = Annotated[str, Meta(pattern=rf"^[0-9a-f]{{12,64}}{_END}")]
Actor = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9._@+-]{{1,64}}{_END}")]
"""Who did it: an account's name, or ``sha256-`` and 32 hex digits of what was no such name."""
TraceId = Annotated[str, Meta(pattern=rf"^[0-9a-f]{{32}}{_END}")]
Subject = Annotated[str, Meta(pattern=rf"^[0-9a-f]{{32}}{_END}")]
"""HMAC-SHA256 of tenant and card token, with a secret of the keystore, 16 bytes in hex."""
Period = Annotated[str, Meta(pattern=rf"^[0-9]{{4}}Q[1-4]{_END}")]
Version = Annotated[list[tuple[Count, Count]], Meta(max_length=SOURCES_MAX)]
Stretches = Annotated[list[tuple[Count, Count]], Meta(max_length=MAX_GIVEN_UP)]
"""Numbers, [first, until)."""
Steps = Annotated[list[Count | None], Meta(min_length=3, max_length=3)]
"""From which value on: challenge, review, decline. null is never."""
Rules = Annotated[list[Word], Meta(max_length=RULES_MAX)]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Part of a record."""


class Source(_Part, frozen=True, kw_only=True):
    """A place in Kafka."""

    topic: Word
    partition: Count
    offset: Count


class Sealed(_Part, frozen=True, kw_only=True):
    """How what is sealed can be opened. period: of the key. key_commitment: SHA-256, so that no
    other key opens it to something else."""

    subject: Subject
    period: Period
    key_commitment: Sha256


# Bodies, by type.


class Model(_Part, frozen=True, kw_only=True):
    """The release that scored. digest: SHA-256 of its manifest. runtime: library and version."""

    release: Word
    digest: Sha256 | None
    runtime: Word | None


class PolicyInForce(_Part, frozen=True, kw_only=True):
    """The policy that decided. digest: of the pack. rules: ids of those that fired; silenced: of
    those that could not. score_ppm, expected_loss_minor: its thresholds on the model."""

    id: Word
    version: Count | None
    digest: Sha256 | None
    rules: Rules | None
    silenced: Rules
    score_ppm: Steps | None
    expected_loss_minor: Steps | None


class StatesServed(_Part, frozen=True, kw_only=True):
    """Versions of the states that the features were made of: [source, last offset] pairs. null: the
    view was missing, and its features had their defaults."""

    card: Version | None
    terminal: Version | None
    merchant: Version | None
    device: Version | None


class Tra(_Part, frozen=True, kw_only=True):
    """What article 18 rests on, beside the risk score, which is the decision's ``score_ppm``.

    etv_eur: the lowest exemption threshold value that the amount does not exceed.
    reference_rate_ppm: the fraud rate that the Annex allows for it, in millionths. null: the amount
    exceeds the highest, or is not in euros.
    """

    etv_eur: Count | None
    reference_rate_ppm: Ppm | None


class Sca(_Part, frozen=True, kw_only=True):
    """Strong customer authentication (Delegated Regulation (EU) 2018/389). exemption: the one that
    the payee's or payer's provider applied, or what lies outside the regulation's scope, in the
    words of ``sca_exemption`` of the authorization; null where it is not told. three_ds: where EMV
    3-D Secure ran, how it ended. tra: only where the exemption is transaction risk analysis."""

    exemption: Word | None
    three_ds: ThreeDs | None
    tra: Tra | UnsetType = UNSET


class Provenance(_Part, frozen=True, kw_only=True):
    """What ran. build: version and commit. image, config: digests. null: not told."""

    build: Word | None
    image: Word | None
    config: Digest | None
    trace: TraceId | None


ActionClass = Literal["allow", "authenticate", "refer", "refuse"]
"""What an outcome does: approve, challenge (the payer authenticates), review (a person decides),
decline."""


class DecisionBody(_Part, frozen=True, kw_only=True):
    """A decision without what is personal. amount_minor: in the reference currency.

    origin: where the authorization lay, for the stream processor. solely_automated: no person was
    in it (GDPR 22): all but those referred to one. settled: below it each number of this emitter is
    durable, or given up and in a gap.
    """

    entrypoint: Entrypoint
    origin: Source | None
    tenant: Word
    region: Word
    channel: Channel
    amount_minor: Count
    currency: Word
    received_at: Micros
    decided_at: Micros
    latency_us: Count
    outcome: Outcome
    action_class: ActionClass
    solely_automated: bool
    reasons: Annotated[list[Word], Meta(max_length=MAX_REASONS)]
    let_through_ppm: Ppm | None
    score_ppm: Ppm | None
    model: Model | None
    policy: PolicyInForce
    catalogue: Digest
    states: StatesServed
    degradation_level: DegradationLevel
    degraded: Annotated[list[Word], Meta(max_length=DEGRADED_MAX)]
    sca: Sca
    provenance: Provenance
    settled: Count | UnsetType = UNSET


class LabelBody(_Part, frozen=True, kw_only=True):
    """What became known of an authorization."""

    tenant: Word
    channel: Channel | None
    known_at: Micros
    is_fraud: bool
    kind: LabelKind
    source: Word
    reason: Word | None
    uncounted: Uncounted | None
    withdraws: Micros | None


class OverrideBody(_Part, frozen=True, kw_only=True):
    """A person set an outcome aside. before: what stood until then. reason: a case or a code."""

    actor: Actor
    before: Outcome
    outcome: Outcome
    reason: Word


class ActivatedBody(_Part, frozen=True, kw_only=True):
    """The signed word that a release or a policy may decide (docs/reference/activation.md).

    statement: SHA-256 of its exact bytes, which say why. signers: ids of keys. shadow, canary,
    before: digests of the releases beside it. after: epoch that it took the place of.
    """

    id: Word
    digest: Sha256
    epoch: Micros
    act: Word
    actor: Actor
    statement: Sha256
    signers: Annotated[list[Word], Meta(max_length=SIGNERS_MAX)]
    shadow: Sha256 | None
    canary: Sha256 | None
    share_ppm: Ppm | None
    before: Sha256 | None
    after: Micros | None


class ThresholdBody(_Part, frozen=True, kw_only=True):
    """The thresholds of a policy that a decider decides by from ``event_at`` on. before: the policy
    of the threshold record before."""

    policy: Word
    digest: Digest
    before: Word | None
    score_ppm: Steps
    expected_loss_minor: Steps


class RolloutBody(_Part, frozen=True, kw_only=True):
    """One step of one decider (``rollouts.v1``). why, detail: SHA-256 of the sentences."""

    decider: Word
    at: Micros
    step: Step
    role: Role
    release: Word
    digest: Sha256
    epoch: Micros
    share_ppm: Ppm | None
    actor: Actor | None
    reason: Word | None
    why: Sha256 | None
    detail: Sha256 | None


class AccessBody(_Part, frozen=True, kw_only=True):
    """Somebody opened what is sealed. index: of the entry. grant: SHA-256 of what allowed it."""

    actor: Actor
    purpose: Word
    index: Count
    subject: Subject | None
    grant: Sha256


class AdminBody(_Part, frozen=True, kw_only=True):
    """Somebody did something to how the system runs. detail: SHA-256 of what was said besides."""

    actor: Actor
    action: Word
    target: Word
    detail: Sha256 | None


class HeartbeatBody(_Part, frozen=True, kw_only=True):
    """The log is written. size: entries before this one. taking: whether sources are read; false
    while its writer waits for a broker or the keystore."""

    size: Count
    taking: bool


class TimeSyncBody(_Part, frozen=True, kw_only=True):
    """How far the clock may be off. source: who says so. offset_us: what is still to be corrected.
    bound_us: the most that it may be off. null: unknown, for nobody keeps the clock in step."""

    source: Word
    offset_us: Annotated[int, Meta(ge=-NUMBER_MAX, le=NUMBER_MAX)] | None
    bound_us: Count | None


GapReason = Literal[
    "transaction_marker",
    "aborted",
    "expired",
    "forbidden_content",
    "unreadable",
    "too_large",
    "given_up",
]
"""transaction_marker: one offset that a committed reader is not given, which is mostly Kafka's own
record. aborted: several, of a transaction that never counted. expired: deleted by retention before
it was read. forbidden_content: holds what is never logged. unreadable: no record of its topic.
too_large: for an entry. given_up: of an emitter, whose record nobody could make durable, and whose
decision nobody heard."""


class GapBody(_Part, frozen=True, kw_only=True):
    """Offsets of a partition, or sequences of an emitter, that have no record of their own.

    [first, until). found: what the scanner found, where the reason is forbidden_content.
    """

    topic: Word | None
    partition: Count | None
    emitter: Word | None
    first: Count
    until: Count
    reason: GapReason
    found: Word | None


class DuplicateBody(_Part, frozen=True, kw_only=True):
    """A record whose authorization has one before it.

    superseded: it stands a second time in its topic, and ``decision`` is what it says. redelivered:
    it came again at the entrypoint; origin is where that lies.
    """

    kind: Literal["superseded", "redelivered"]
    origin: Source | None
    decision: DecisionBody | None


class DeadLetterBody(_Part, frozen=True, kw_only=True):
    """A message that was refused. origin: where it lies. sha256, size_bytes: of its bytes."""

    origin: Source
    sha256: Sha256
    size_bytes: Count
    code: Word
    service: Word
    dead_at: Micros


class ErasureBody(_Part, frozen=True, kw_only=True):
    """The keys of a subject were destroyed, of a quarter and of all before it. through: that
    quarter. periods: those that had a key. request: of whoever asked."""

    actor: Actor
    subject: Subject
    through: Period
    periods: Annotated[list[Period], Meta(max_length=400)]
    request: Word
    archive_rows: Count | None
    """Rewritten without the subject; null where there is no archive."""


class HoldBody(_Part, frozen=True, kw_only=True):
    """A legal hold begins or ends: while it lasts nothing of the subject is erased."""

    actor: Actor
    subject: Subject
    placed: bool
    case: Word


Purpose = Literal["log", "witness", "wrapping"]
"""Of a key: it signs checkpoints, or cosigns them, or wraps the keystore's root keys."""


class KeyRotationBody(_Part, frozen=True, kw_only=True):
    """A key took another's place. before, after: key ids, of log and witness ``name+id``; null
    before: it is the first. actor, case: null where the auditor saw it in its settings."""

    actor: Actor | None
    case: Word | None
    purpose: Purpose
    before: Word | None
    after: Word


class LogStartBody(_Part, frozen=True, kw_only=True):
    """A writer began. size: entries before. cut: entries behind the last whole one, torn off.
    replica: its pod."""

    size: Count
    cut: Count
    replica: Word | None
    provenance: Provenance


class LogStopBody(_Part, frozen=True, kw_only=True):
    """A writer ended, as it was told."""

    size: Count
    reason: Word


# Records.


B = TypeVar("B", bound=_Part)


class LogRecord(
    msgspec.Struct,
    Generic[B],
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="type",
):
    """What every record has.

    log: origin of its log, ``environment/cell/shard``, so that no other log takes it. source: what
    it is the record of. emitter, sequence: who counts its records from 0 without a hole, which is
    a decision's decider, and the log's writer for what it says itself; null for the rest, whose
    place in Kafka is their count. event_at: of the authorization, or when it happened.
    """

    v: Literal[1] = 1
    log: Word
    recorded_at: Micros
    source: Source | None = None
    emitter: Word | None = None
    sequence: Count | None = None
    authorization_id: Id | None = None
    event_at: Micros | None = None
    body: B
    sealed: Sealed | None = None

    @property
    def type(self) -> str:
        """The word that stands for its class."""
        return str(self.__struct_config__.tag)


class DecisionRecord(LogRecord[DecisionBody], frozen=True, tag="decision"):
    """See :class:`DecisionBody`."""


class LabelRecord(LogRecord[LabelBody], frozen=True, tag="label"):
    """See :class:`LabelBody`."""


class OverrideRecord(LogRecord[OverrideBody], frozen=True, tag="override"):
    """See :class:`OverrideBody`."""


class ModelRecord(LogRecord[ActivatedBody], frozen=True, tag="model"):
    """See :class:`ActivatedBody`."""


class PolicyRecord(LogRecord[ActivatedBody], frozen=True, tag="policy"):
    """See :class:`ActivatedBody`."""


class ThresholdRecord(LogRecord[ThresholdBody], frozen=True, tag="threshold"):
    """See :class:`ThresholdBody`."""


class RolloutRecord(LogRecord[RolloutBody], frozen=True, tag="rollout"):
    """See :class:`RolloutBody`."""


class AccessRecord(LogRecord[AccessBody], frozen=True, tag="access"):
    """See :class:`AccessBody`."""


class AdminRecord(LogRecord[AdminBody], frozen=True, tag="admin"):
    """See :class:`AdminBody`."""


class HeartbeatRecord(LogRecord[HeartbeatBody], frozen=True, tag="heartbeat"):
    """See :class:`HeartbeatBody`."""


class TimeSyncRecord(LogRecord[TimeSyncBody], frozen=True, tag="time_sync"):
    """See :class:`TimeSyncBody`."""


class GapRecord(LogRecord[GapBody], frozen=True, tag="gap"):
    """See :class:`GapBody`."""


class DuplicateRecord(LogRecord[DuplicateBody], frozen=True, tag="duplicate"):
    """See :class:`DuplicateBody`."""


class DeadLetterRecord(LogRecord[DeadLetterBody], frozen=True, tag="dead_letter"):
    """See :class:`DeadLetterBody`."""


class ErasureRecord(LogRecord[ErasureBody], frozen=True, tag="erasure"):
    """See :class:`ErasureBody`."""


class HoldRecord(LogRecord[HoldBody], frozen=True, tag="hold"):
    """See :class:`HoldBody`."""


class KeyRotationRecord(LogRecord[KeyRotationBody], frozen=True, tag="key_rotation"):
    """See :class:`KeyRotationBody`."""


class LogStartRecord(LogRecord[LogStartBody], frozen=True, tag="log_start"):
    """See :class:`LogStartBody`."""


class LogStopRecord(LogRecord[LogStopBody], frozen=True, tag="log_stop"):
    """See :class:`LogStopBody`."""


AnyRecord = (
    DecisionRecord
    | LabelRecord
    | OverrideRecord
    | ModelRecord
    | PolicyRecord
    | ThresholdRecord
    | RolloutRecord
    | AccessRecord
    | AdminRecord
    | HeartbeatRecord
    | TimeSyncRecord
    | GapRecord
    | DuplicateRecord
    | DeadLetterRecord
    | ErasureRecord
    | HoldRecord
    | KeyRotationRecord
    | LogStartRecord
    | LogStopRecord
)
TYPES: dict[str, type[AnyRecord]] = {
    str(record.__struct_config__.tag): record for record in get_args(AnyRecord)
}
"""By the word that stands for it."""

_ACTOR = re.compile(r"[A-Za-z0-9._@+-]{1,64}")
WORD = re.compile(r"[A-Za-z0-9_.:@/+-]{1,128}")
ID, DIGEST = re.compile(r"[!-~]{1,64}"), re.compile(r"[0-9a-f]{12,64}")
"""Of a :data:`Word`, an :data:`Id`, a :data:`Digest`."""
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyRecord)
encode = _encoder.encode
"""A record to the bytes of its header. Shapes are not looked at: :func:`read` does."""


def read(header: bytes) -> AnyRecord:
    """The record of a header, if these are exactly the bytes that :func:`encode` makes of it: so no
    key stands twice, nothing is in another order, and all readers read the same. 6 us.

    Raises Malformed.
    """
    try:
        record = _decoder.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Malformed(f"no record of {CONTRACT}: {exc}") from exc
    if _encoder.encode(record) != header:
        raise Malformed(f"a record of {CONTRACT} that is written in another way")
    return record


def actor_of(who: str) -> str:
    """An account's name; of anything else, which may be a sentence, a digest.

    >>> actor_of("ann@example.com"), actor_of("Ann, of risk")
    ('ann@example.com', 'sha256-75050115ef33d9b4258fe7a8d9cae484')
    """
    if _ACTOR.fullmatch(who):
        return who
    return f"sha256-{hashlib.sha256(who.encode()).hexdigest()[:32]}"
