"""What people did to the log's keys, its decisions and its system: each becomes a record.

The keystore writes them down in the transaction that does what they tell of, counted without a
hole, and the auditor appends them (docs/decisions/0049-sealing.md). They name a card by its
pseudonym alone, and hold no sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from sluice.domain.records.log_record import (
    AccessBody,
    AccessRecord,
    AdminBody,
    AdminRecord,
    AnyRecord,
    Count,
    ErasureBody,
    ErasureRecord,
    HoldBody,
    HoldRecord,
    Id,
    KeyRotationBody,
    KeyRotationRecord,
    Micros,
    OverrideBody,
    OverrideRecord,
    Period,
    Sha256,
    Subject,
    Word,
)
from sluice.domain.records.outcome import Outcome
from sluice.domain.records.texts import Kind, checker, matched_text

KeyEventKind = Literal[
    "erasure", "hold", "hold_lifted", "expiry", "access", "rewrap", "override", "admin"
]
"""expiry: keys of quarters past their retention were destroyed. access: somebody opened a record.
rewrap: another key wraps the root keys. override: a person set an outcome aside. admin: a person
changed how the system runs, by a verb.
"""
EXPIRY = "expire_keys"
"""The action of an expiry's record, which is an ``admin``; its target is the quarter."""
Reference = Annotated[str, matched_text(Kind("[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"), 1, 64)]
"""A login or a ticket: no sentence, since a log that forgets nothing takes no free text."""


class Given(msgspec.Struct, frozen=True):
    """What an operator types. who: answers for it. case: the request or order it is done for."""

    who: Reference
    case: Reference


check_given: Callable[[Given], None] = checker(
    Given, fix="a login or ticket: 1 to 64 letters, digits and . _ @ -"
)
"""Shapes, and no card number. Raises Rejected."""


class KeyEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event. sequence counts a keystore's events from 0 without a hole."""

    sequence: Count
    at: Micros
    kind: KeyEventKind
    who: str
    case: str
    subject: Subject | None = None
    """Whose keys; None for an expiry, and for the access to a record without a sealed part."""
    through: Period | None = None
    """Of an erasure or expiry: the keys of this quarter and of all before it are gone."""
    periods: list[Period] = []
    """Of an erasure: the quarters of which there was a key."""
    archive_rows: Count | None = None
    """Of an erasure: rows of the archive that were rewritten; None where none was looked at."""
    authorization_id: Id | None = None
    """Of an access, whose record was opened; with its index in the log. Of an override, whose
    outcome was set aside."""
    index: Count | None = None
    grant: Sha256 | None = None
    before: Word | None = None
    """Of a rewrap: what wrapped the root keys, as in ``keystore.wrapper``, and what does now. Of an
    override: the two outcomes."""
    after: Word | None = None
    action: Word | None = None
    """Of an admin: the verb, what it was done to, and the SHA-256 of what it said that it does."""
    target: Word | None = None
    detail: Sha256 | None = None


def record_of(event: KeyEvent, *, log: str, emitter: str, recorded_at: int) -> AnyRecord:
    """The log's record of an event. emitter: the keystore's. Its event_at is when it happened."""
    base: dict[str, Any] = {
        "log": log,
        "recorded_at": recorded_at,
        "emitter": emitter,
        "sequence": event.sequence,
        "event_at": event.at,
        "authorization_id": event.authorization_id,
    }
    if event.kind == "access":
        access = AccessBody(
            actor=event.who,
            purpose=event.case,
            index=event.index or 0,
            subject=event.subject,
            grant=event.grant or "",
        )
        return AccessRecord(**base, body=access)
    if event.kind == "expiry":
        admin = AdminBody(
            actor=event.who,
            action=f"{EXPIRY}:{event.case}",
            target=event.through or "",
            detail=None,
        )
        return AdminRecord(**base, body=admin)
    if event.kind == "admin":
        acted = AdminBody(
            actor=event.who,
            action=f"{event.action}:{event.case}",
            target=event.target or "",
            detail=event.detail,
        )
        return AdminRecord(**base, body=acted)
    if event.kind == "rewrap":
        rotation = KeyRotationBody(
            actor=event.who,
            case=event.case,
            purpose="wrapping",
            before=event.before,
            after=event.after or "",
        )
        return KeyRotationRecord(**base, body=rotation)
    if event.kind == "override":
        override = OverrideBody(
            actor=event.who,
            before=Outcome(event.before or ""),
            outcome=Outcome(event.after or ""),
            reason=event.case,
        )
        return OverrideRecord(**base, body=override)
    if event.kind == "erasure":
        erasure = ErasureBody(
            actor=event.who,
            subject=event.subject or "",
            through=event.through or "",
            periods=event.periods,
            request=event.case,
            archive_rows=event.archive_rows,
        )
        return ErasureRecord(**base, body=erasure)
    hold = HoldBody(
        actor=event.who,
        subject=event.subject or "",
        placed=event.kind == "hold",
        case=event.case,
    )
    return HoldRecord(**base, body=hold)


def event_of(record: AnyRecord) -> KeyEvent | None:
    """The event that a record of a keystore tells of; None for any other record."""
    base: dict[str, Any] = {"sequence": record.sequence or 0, "at": record.event_at or 0}
    if isinstance(record, ErasureRecord):
        return KeyEvent(
            **base,
            kind="erasure",
            who=record.body.actor,
            case=record.body.request,
            subject=record.body.subject,
            through=record.body.through,
            periods=record.body.periods,
            archive_rows=record.body.archive_rows,
        )
    if isinstance(record, HoldRecord):
        return KeyEvent(
            **base,
            kind="hold" if record.body.placed else "hold_lifted",
            who=record.body.actor,
            case=record.body.case,
            subject=record.body.subject,
        )
    if isinstance(record, AccessRecord):
        return KeyEvent(
            **base,
            kind="access",
            who=record.body.actor,
            case=record.body.purpose,
            subject=record.body.subject,
            authorization_id=record.authorization_id,
            index=record.body.index,
            grant=record.body.grant,
        )
    if isinstance(record, OverrideRecord):
        return KeyEvent(
            **base,
            kind="override",
            who=record.body.actor,
            case=record.body.reason,
            authorization_id=record.authorization_id,
            before=record.body.before,
            after=record.body.outcome,
        )
    if isinstance(record, KeyRotationRecord) and record.body.purpose == "wrapping":
        return KeyEvent(
            **base,
            kind="rewrap",
            who=record.body.actor or "",
            case=record.body.case or "",
            before=record.body.before,
            after=record.body.after,
        )
    if isinstance(record, AdminRecord):
        action, _, case = record.body.action.partition(":")
        base |= {"who": record.body.actor, "case": case}
        if action == EXPIRY:
            return KeyEvent(**base, kind="expiry", through=record.body.target)
        return KeyEvent(
            **base,
            kind="admin",
            action=action,
            target=record.body.target,
            detail=record.body.detail,
        )
    return None
