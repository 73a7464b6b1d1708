"""Entries of the compliance log, made of what lies in Kafka.

Each message becomes one entry, or the reason why it has none. Its bytes are checked twice before
anything is sealed: by the schema (:mod:`sluice.domain.records.log_record`), and by the search for
what no log may hold (:mod:`sluice.application.never_logged`). What is personal is sealed under the
key of its subject and quarter; where that key was destroyed, nothing is sealed.

Most records are decisions. Their shapes are looked at as they are read: numbers and lengths by
types that are the log record's, texts by :func:`_fit`. The header that is made of them needs no
strict reading any more, which would be the dearest step of all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from sluice.application.keep_log import Decided, Read, Refused, decided_of
from sluice.application.never_logged import search
from sluice.application.ports import Keystore, Message
from sluice.application.sealing import SealingKey, period_of
from sluice.application.told import change_of
from sluice.audit.entries import join
from sluice.audit.errors import Malformed
from sluice.domain.records.authorization import Authorization, ScaExemption
from sluice.domain.records.dead_letter import DUPLICATE, REDRIVEN, DeadLetter
from sluice.domain.records.decision import Decision, Origin
from sluice.domain.records.grammars import EVERYONE
from sluice.domain.records.label import Label
from sluice.domain.records.log_record import (
    DEGRADED_MAX,
    DIGEST,
    ID,
    RULES_MAX,
    WORD,
    ActionClass,
    AdminBody,
    AdminRecord,
    AnyRecord,
    Count,
    DeadLetterBody,
    DeadLetterRecord,
    DecisionBody,
    DecisionRecord,
    Digest,
    DuplicateBody,
    DuplicateRecord,
    LabelBody,
    LabelRecord,
    Micros,
    Model,
    PolicyInForce,
    Ppm,
    Provenance,
    RolloutBody,
    RolloutRecord,
    Sca,
    Sealed,
    Sha256,
    Source,
    StatesServed,
    Steps,
    Tra,
    Version,
    Word,
    actor_of,
    encode,
    read,
)
from sluice.domain.records.outcome import Outcome
from sluice.domain.records.rollout import Rollout
from sluice.domain.sca import threshold_of

ACTION_CLASSES: Mapping[Outcome, ActionClass] = {
    Outcome.APPROVE: "allow",
    Outcome.CHALLENGE: "authenticate",
    Outcome.REVIEW: "refer",
    Outcome.DECLINE: "refuse",
}
_NUMBERS = b"0123456789,-[] \t\r\n"
_TRACE = re.compile("[0-9a-f]{32}")
FIT_MAX = 10_000
"""Texts that are known to fit: rules, policies, tenants, and emitters, which come and go."""
MADE_MAX = 256
"""What decided, by its bytes, that is remembered; a fleet has a few at a time."""


class _Place(msgspec.Struct, frozen=True, gc=False):
    """Of an authorization: :class:`Origin`, as a log record may hold it."""

    topic: str
    partition: Count
    offset: Count


class _States(msgspec.Struct, frozen=True, gc=False):
    """:class:`sluice.domain.records.decision.States`, the same."""

    card: Version | None = []
    terminal: Version | None = []
    merchant: Version | None = []
    device: Version | None = []


class _MadeBy(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """:class:`sluice.domain.records.decision.MadeBy`, the same; here with its texts."""

    release_digest: Sha256 | None = None
    runtime: Word | None = None
    policy_digest: Sha256
    policy_version: Count
    score_ppm: Steps
    expected_loss_minor: Steps
    build: Word
    image: Word | None = None
    config: Digest | None = None


_SHAPES: Mapping[str, Any] = {
    "authorization": msgspec.Raw,
    "features": msgspec.Raw,
    "pending": msgspec.Raw,
    "made_by": msgspec.Raw,
    "origin": _Place | None,
    "states": _States,
    "sequence": Count,
    "received_at": Micros,
    "decided_at": Micros,
    "reference_amount_minor": Count,
    "score_ppm": Ppm | None,
    "settled": Count | None,
    "silenced": Annotated[list[str], Meta(max_length=RULES_MAX)],
    "fired": Annotated[list[str], Meta(max_length=RULES_MAX)] | None,
    "degraded": Annotated[list[str], Meta(max_length=DEGRADED_MAX)],
}
"""Fields of a decision that a log record holds in a narrower shape, or that stay the bytes that
they are."""


def _recorded() -> type[msgspec.Struct]:
    """A decision as far as it can be logged, but for the shapes of its texts."""
    fields: list[Any] = []
    for one in msgspec.structs.fields(Decision):
        kind = _SHAPES.get(one.name, one.type)
        if one.name == "made_by":
            fields.append((one.name, kind, msgspec.field(default=msgspec.Raw(b"null"))))
        elif one.default is not msgspec.NODEFAULT:
            fields.append((one.name, kind, msgspec.field(default=one.default)))
        elif one.default_factory is not msgspec.NODEFAULT:
            fields.append((one.name, kind, msgspec.field(default_factory=one.default_factory)))
        else:
            fields.append((one.name, kind))
    return msgspec.defstruct(
        "Recorded",
        fields,
        kw_only=True,
        frozen=True,
        gc=False,
    )


_decision: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_recorded())
_made = msgspec.json.Decoder(_MadeBy | None)
_authorization = msgspec.json.Decoder(Authorization)
_label = msgspec.json.Decoder(Label)
_dead_letter = msgspec.json.Decoder(DeadLetter)
_rollout = msgspec.json.Decoder(Rollout)


class _Draft(NamedTuple):
    """A record before it is sealed.

    kind, said: its class and fields. personal: JSON that is sealed, b"" for nothing. subject:
    tenant and card token. at: of which quarter the key is. searched: of what is personal, all but
    lists of whole numbers. fits: whether its shapes were looked at.
    """

    kind: Callable[..., AnyRecord]
    said: dict[str, Any]
    personal: bytes = b""
    subject: tuple[str, str] = ("", "")
    at: int = 0
    searched: bytes = b""
    fits: bool = False


_Key = tuple[str, str, SealingKey]
"""Subject, period and key."""


class LogRecords:
    """Makes the entries of one log; see :class:`sluice.application.keep_log.MakesEntries`.

    log: its origin. grammars: by ``tenant.field`` how a tenant makes its ids
    (``decider.grammars``). topic_prefix: of the names of topics. Not thread-safe.
    """

    def __init__(
        self,
        *,
        log: str,
        keystore: Keystore,
        grammars: Mapping[str, str] | None = None,
        topic_prefix: str = "",
    ) -> None:
        self._topic_prefix = topic_prefix
        self._log = log
        self._keystore = keystore
        self._grammars: dict[str, list[re.Pattern[str]]] = {}
        for key, grammar in (grammars or {}).items():
            tenant = key.partition(".")[0]
            self._grammars.setdefault(tenant, []).append(re.compile(grammar, re.ASCII))
        search([b"{}"])  # compiled now: later no heartbeat of the log waits for it

    def read(self, batch: Sequence[Message]) -> list[Read]:
        """See the port."""
        return [_read(message, message.topic.removeprefix(self._topic_prefix)) for message in batch]

    def entries(
        self, batch: Sequence[Read], superseded: Sequence[bool], at_us: int
    ) -> list[bytes | Refused]:
        """See the port. Raises Unavailable, and Corrupt: of the keystore."""
        drafts: list[_Draft | None] = [
            _superseded(one.draft) if second and one.draft is not None else one.draft
            for one, second in zip(batch, superseded, strict=True)
        ]
        keys = self._keys(drafts)
        headers = [
            b"" if draft is None else self._header(draft, key, one.message, at_us)
            for draft, key, one in zip(drafts, keys, batch, strict=True)
        ]
        texts = [
            b"" if draft is None else header.rpartition(b',"sealed":')[0] + draft.searched
            for draft, header in zip(drafts, headers, strict=True)
        ]
        found = search(texts, lambda one, value: self._is_declared(drafts[one], value))
        return [
            _UNREADABLE
            if draft is None
            else _entry(draft, header, key)
            if held is None
            else Refused("forbidden_content", held)
            for draft, header, key, held in zip(drafts, headers, keys, found, strict=True)
        ]

    def _keys(self, drafts: Sequence[_Draft | None]) -> list[_Key | None]:
        """Of each draft that has something to seal, and whose key was not destroyed."""
        places = [
            (self._keystore.subject(*draft.subject), period_of(draft.at))
            if draft is not None and draft.personal
            else None
            for draft in drafts
        ]
        wanted = list(dict.fromkeys(place for place in places if place is not None))
        keys = dict(zip(wanted, self._keystore.keys(wanted), strict=True)) if wanted else {}
        found: list[_Key | None] = []
        for place in places:
            key = keys[place] if place is not None else None
            found.append((*place, key) if place is not None and key is not None else None)
        return found

    def _header(self, draft: _Draft, key: _Key | None, message: Message, at_us: int) -> bytes:
        sealed = None
        if key is not None:
            sealed = Sealed(subject=key[0], period=key[1], key_commitment=key[2].commitment)
        source = Source(topic=message.topic, partition=message.partition, offset=message.offset)
        return encode(
            draft.kind(log=self._log, recorded_at=at_us, source=source, sealed=sealed, **draft.said)
        )

    def _is_declared(self, draft: _Draft | None, value: str) -> bool:
        tenant = "" if draft is None else draft.subject[0]
        shapes = [*self._grammars.get(tenant, ()), *self._grammars.get(EVERYONE, ())]
        return any(shape.fullmatch(value) for shape in shapes)


_UNREADABLE, _TOO_LARGE = Refused("unreadable"), Refused("too_large")


def _entry(draft: _Draft, header: bytes, key: _Key | None) -> bytes | Refused:
    if not draft.fits:
        try:
            read(header)
        except Malformed:
            return _UNREADABLE
    try:
        return join(header, key[2].seal(draft.personal, header) if key is not None else b"")
    except ValueError:
        return _TOO_LARGE


def _read(message: Message, topic: str) -> Read:
    """Without a draft: what is no record of its topic."""
    if topic == "decisions.v1":
        return _read_decision(message)
    try:
        return Read(message, None, _DRAFTS[topic](message.value))
    except (msgspec.DecodeError, KeyError):
        return Read(message, None, None)


def _read_decision(message: Message) -> Read:
    try:
        decision = _decision.decode(message.value)
        auth = _authorization.decode(decision.authorization)
        draft = _of_decision(message, decision, auth)
    except msgspec.DecodeError:
        draft = None
    if draft is None or decision.given_up:
        return Read(message, decided_of(message.value), draft)
    said = Decided(auth.tenant, auth.authorization_id, decision.emitter, [])
    return Read(message, said, draft)


def _of_decision(message: Message, decision: Any, auth: Authorization) -> _Draft | None:
    made: Any = _made_by(bytes(decision.made_by))
    trace = message.traceparent[3:35] if message.traceparent else None
    if (
        bytes(decision.features).translate(None, _NUMBERS)
        or not ID.fullmatch(auth.authorization_id)
        or (trace is not None and not _TRACE.fullmatch(trace))
        or not _fit(_texts(message, decision, auth))
        or not _fit_digests((decision.catalogue,))
    ):
        return None
    body = DecisionBody(
        entrypoint=decision.entrypoint,
        origin=_source(decision.origin),
        tenant=auth.tenant,
        region=auth.region,
        channel=auth.channel,
        amount_minor=decision.reference_amount_minor,
        currency=decision.reference_currency,
        received_at=decision.received_at,
        decided_at=decision.decided_at,
        latency_us=max(0, decision.decided_at - decision.received_at),
        outcome=decision.outcome,
        action_class=ACTION_CLASSES[decision.outcome],
        solely_automated=decision.outcome is not Outcome.REVIEW,
        reasons=decision.reasons,
        let_through_ppm=decision.let_through_ppm,
        score_ppm=decision.score_ppm,
        model=Model(
            release=decision.release,
            digest=made and made.release_digest,
            runtime=made and made.runtime,
        )
        if decision.release is not None
        else None,
        policy=PolicyInForce(
            id=decision.policy,
            version=made and made.policy_version,
            digest=made and made.policy_digest,
            rules=decision.fired,
            silenced=decision.silenced,
            score_ppm=made and made.score_ppm,
            expected_loss_minor=made and made.expected_loss_minor,
        ),
        catalogue=decision.catalogue,
        states=StatesServed(
            card=decision.states.card,
            terminal=decision.states.terminal,
            merchant=decision.states.merchant,
            device=decision.states.device,
        ),
        degradation_level=decision.degradation_level,
        degraded=decision.degraded,
        sca=_sca(auth, decision),
        provenance=Provenance(
            build=made and made.build,
            image=made and made.image,
            config=made and made.config,
            trace=trace,
        ),
        settled=msgspec.UNSET if decision.settled is None else decision.settled,
    )
    said = {
        "emitter": decision.emitter,
        "sequence": decision.sequence,
        "authorization_id": auth.authorization_id,
        "event_at": auth.event_at,
        "body": body,
    }
    authorization, pending = bytes(decision.authorization), bytes(decision.pending)
    return _Draft(
        DecisionRecord,
        said,
        b'{"authorization":%b,"features":%b,"pending":%b}'
        % (authorization, bytes(decision.features), pending),
        (auth.tenant, auth.card_token),
        decision.decided_at,
        authorization + pending,
        fits=True,
    )


def _superseded(draft: _Draft) -> _Draft:
    """A decision whose id another record had before."""
    body: DecisionBody = draft.said["body"]
    second = DuplicateBody(kind="superseded", origin=body.origin, decision=body)
    return draft._replace(kind=DuplicateRecord, said={**draft.said, "body": second})


@lru_cache(MADE_MAX)
def _made_by(raw: bytes) -> _MadeBy | None:
    return _made.decode(raw)


def _texts(message: Message, decision: Any, auth: Authorization) -> list[str | None]:
    """Those of a decision's header that many records share, None where one is not told; but for
    what it was made by."""
    return [
        message.topic,
        decision.emitter,
        auth.tenant,
        auth.region,
        auth.sca_exemption,
        decision.origin and decision.origin.topic,
        decision.reference_currency,
        decision.release,
        decision.policy,
        *decision.reasons,
        *decision.degraded,
        *decision.silenced,
        *(decision.fired or ()),
    ]


class _Fit:
    """Whether texts have a shape; a regex looks at each of them once. None has every shape."""

    def __init__(self, shape: re.Pattern[str]) -> None:
        self._shape = shape
        self._known: set[str | None] = {None}

    def __call__(self, texts: Sequence[str | None]) -> bool:
        if self._known.issuperset(texts):
            return True
        if not all(text is None or self._shape.fullmatch(text) for text in texts):
            return False
        if len(self._known) > FIT_MAX:
            self._known = {None}
        self._known.update(texts)
        return True


_fit, _fit_digests = _Fit(WORD), _Fit(DIGEST)


def _sca(auth: Authorization, decision: Any) -> Sca:
    if auth.sca_exemption is not ScaExemption.TRANSACTION_RISK_ANALYSIS:
        return Sca(exemption=auth.sca_exemption, three_ds=auth.three_ds)
    etv = threshold_of(decision.reference_amount_minor, decision.reference_currency)
    tra = Tra(etv_eur=etv and etv.etv_eur, reference_rate_ppm=etv and etv.reference_rate_ppm)
    return Sca(exemption=auth.sca_exemption, three_ds=auth.three_ds, tra=tra)


class _PersonalOfLabel(msgspec.Struct, frozen=True, gc=False):
    """What is sealed of a label."""

    card_token: str
    merchant_id: str
    terminal_id: str
    device_id: str | None
    report_id: str | None


def _of_label(value: bytes) -> _Draft:
    label = _label.decode(value)
    body = LabelBody(
        tenant=label.tenant,
        channel=label.channel,
        known_at=label.known_at,
        is_fraud=label.is_fraud,
        kind=label.kind,
        source=label.source,
        reason=label.reason,
        uncounted=label.uncounted,
        withdraws=label.withdraws,
    )
    personal = msgspec.json.encode(
        _PersonalOfLabel(
            label.card_token, label.merchant_id, label.terminal_id, label.device_id, label.report_id
        )
    )
    return _Draft(
        LabelRecord,
        {"authorization_id": label.authorization_id, "event_at": label.event_at, "body": body},
        personal,
        (label.tenant, label.card_token),
        label.known_at,
        personal,
    )


def _of_dead_letter(value: bytes) -> _Draft:
    dead = _dead_letter.decode(value)
    origin = Source(
        topic=dead.origin.topic, partition=dead.origin.partition, offset=dead.origin.offset
    )
    if dead.code == DUPLICATE:
        body = DuplicateBody(kind="redelivered", origin=origin, decision=None)
        return _Draft(DuplicateRecord, {"body": body})
    if dead.code == REDRIVEN and dead.who is not None:
        acted = AdminBody(
            actor=actor_of(dead.who), action="redrive", target=str(dead.origin), detail=None
        )
        return _Draft(AdminRecord, {"event_at": dead.dead_at, "body": acted})
    return _Draft(
        DeadLetterRecord,
        {
            "body": DeadLetterBody(
                origin=origin,
                sha256=dead.sha256,
                size_bytes=dead.size_bytes,
                code=dead.code,
                service=dead.service,
                dead_at=dead.dead_at,
            )
        },
    )


def _of_rollout(value: bytes) -> _Draft:
    step = _rollout.decode(value)
    change_of(value)  # what the log cannot tell of is no record of this topic
    body = RolloutBody(
        decider=step.emitter,
        at=step.at,
        step=step.step,
        role=step.role,
        release=step.release,
        digest=step.digest,
        epoch=step.epoch,
        share_ppm=step.share_ppm,
        actor=actor_of(step.who) if step.who is not None else None,
        reason=step.reason,
        why=_sha256_of(step.why),
        detail=_sha256_of(step.detail),
    )
    return _Draft(RolloutRecord, {"body": body})


_DRAFTS: Mapping[str, Callable[[bytes], _Draft]] = {
    "labels.v1": _of_label,
    "dead-letters.v1": _of_dead_letter,
    "rollouts.v1": _of_rollout,
}


def _sha256_of(sentence: str | None) -> str | None:
    return None if sentence is None else hashlib.sha256(sentence.encode()).hexdigest()


def _source(origin: Origin | _Place | None) -> Source | None:
    if origin is None:
        return None
    return Source(topic=origin.topic, partition=origin.partition, offset=origin.offset)
