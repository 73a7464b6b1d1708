"""Opening what is sealed: by a grant of somebody else, and with a record of who looked.

A grant is a statement in JSON, an empty line and a line of signature, as an activation is: that one
person may open the record of one authorization, for one case, until a time. The access is written
down in the keystore, durably, before a byte is shown; the auditor appends it to the log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.application.sealing import SealingKey
from sluice.audit.checkpoints import parse_checkpoint
from sluice.audit.entries import split
from sluice.audit.notes import parse_note
from sluice.audit.tiles import WIDTH, Read, Tile, read_entries
from sluice.domain.activation import SignedActivation, signers_of
from sluice.domain.clock import HOUR_US, to_datetime
from sluice.domain.records.key_event import Given, KeyEvent, check_given, event_of
from sluice.domain.records.log_record import AnyRecord, Id, Micros, read
from sluice.domain.release import Trusted
from sluice.errors import Corrupt, Misconfigured, Rejected

CHECKPOINT = "checkpoint"
GRANT_MAX_US = 72 * HOUR_US
"""Longest that a grant holds: who still needs it then, asks again."""
GRANT_MAX_BYTES = 16_384
NO_GRANT = "no_grant"
"""Code of a refusal: nobody who may grants that this record is opened by this person now."""


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The statement of a grant. who may open the record of authorization_id, for case."""

    v: int = 1
    authorization_id: Id
    who: str
    case: str
    until: Micros


class Found(NamedTuple):
    """An entry of the log. place: its index. header, sealed: its exact bytes."""

    place: int
    record: AnyRecord
    header: bytes
    sealed: bytes


class Accesses(Protocol):
    """The keystore's side of an opening."""

    def existing(self, subject: str, period: str) -> SealingKey:
        """See :class:`sluice.application.ports.Keystore`."""
        ...

    def access(self, opened: Opening, subject: str | None, *, who: str, case: str) -> KeyEvent:
        """Write down, durably, that somebody opens a record."""
        ...


class Opening(msgspec.Struct, frozen=True):
    """Which record somebody opens: its id, its index in the log, SHA-256 of the grant."""

    authorization_id: str
    index: int
    grant: str


def grant(
    authorization_id: str, *, who: str, case: str, until: int, now_us: int, key: Ed25519PrivateKey
) -> bytes:
    """The grant's bytes. Raises Rejected for what is no id, or longer than GRANT_MAX_US."""
    check_given(Given(who, case))
    if not now_us < until <= now_us + GRANT_MAX_US:
        raise Rejected(
            f"a grant ends within {GRANT_MAX_US // HOUR_US} hours", where="until", fix="--hours"
        )
    made = Grant(authorization_id=authorization_id, who=who, case=case, until=until)
    return SignedActivation(msgspec.json.encode(made) + b"\n", ()).approved(key).note()


def granted(note: bytes, authorization_id: str, *, trusted: Trusted, now_us: int) -> Grant:
    """The grant, if it lets this record be opened now. Raises Rejected with code NO_GRANT, Corrupt
    for a signature that is none."""
    signed = SignedActivation.parse(note)
    if not signers_of(signed, trusted):
        raise _no_grant("nobody signed it")
    try:
        found = msgspec.json.decode(signed.statement, type=Grant)
    except msgspec.DecodeError as exc:
        raise _no_grant(f"it is no grant: {exc}") from exc
    check_given(Given(found.who, found.case))
    if found.v != 1 or found.authorization_id != authorization_id:
        raise _no_grant("it is for another record")
    if not now_us < found.until <= now_us + GRANT_MAX_US:
        raise _no_grant(f"it holds until {to_datetime(found.until):%Y-%m-%d %H:%M} UTC")
    return found


def opened(
    entries: Iterator[Found], authorization_id: str, note: bytes, given: Grant, store: Accesses
) -> Iterator[tuple[Found, bytes]]:
    """Each entry of an authorization that has a sealed part, and its text.

    Every opening is written down first. Raises Rejected where there is none, Erased where the key
    is gone, Corrupt where entry and key do not belong together.
    """
    digest = hashlib.sha256(note).hexdigest()
    count = 0
    for found in entries:
        sealed = found.record.sealed
        if found.record.authorization_id != authorization_id or sealed is None:
            continue
        count += 1
        opening = Opening(authorization_id, found.place, digest)
        store.access(opening, sealed.subject, who=given.who, case=given.case)
        key = store.existing(sealed.subject, sealed.period)
        if key.commitment != sealed.key_commitment:
            raise Corrupt(
                "the keystore's key is not the one that the header commits to",
                where=f"entry {found.place}",
                fix="it is another log's keystore, or a new one: docs/runbooks/keystore.md",
            )
        yield found, key.open(found.sealed, found.header)
    if not count:
        raise Rejected(
            "the log has no entry of this authorization with a sealed part",
            where=authorization_id,
            fix="it is in no checkpoint yet, or was erased before it was logged",
        )


def entries(source: Read, wanted: Callable[[bytes], bool]) -> Iterator[Found]:
    """Entries of a log's folder whose header is wanted, as far as its checkpoint goes.

    Nothing is verified: ``sluice log verify`` does that. Raises Corrupt for what is no log.
    """
    try:
        size = parse_checkpoint(parse_note(source(CHECKPOINT)).text).size
        for number in range(-(-size // WIDTH)):
            bundle = Tile(0, number, min(WIDTH, size - number * WIDTH))
            for i, entry in enumerate(read_entries(source, bundle)):
                header, sealed = split(entry)
                if wanted(header):
                    yield Found(number * WIDTH + i, read(header), header, sealed)
    except FileNotFoundError as exc:
        raise Misconfigured(
            "no log lies there, or a part of it is missing", where=str(exc), fix="name its folder"
        ) from exc
    except ValueError as exc:  # Malformed, Refuted
        raise Corrupt(f"this is no log: {exc}", fix="sluice log verify") from exc


def key_events(source: Read, emitter: str) -> list[KeyEvent]:
    """What a log says of a keystore, in order. Raises as :func:`entries`."""
    mark = f'"emitter":"{emitter}"'.encode()
    found = (event_of(one.record) for one in entries(source, lambda header: mark in header)
             if one.record.emitter == emitter)  # fmt: skip
    return sorted((one for one in found if one is not None), key=lambda one: one.sequence)


def _no_grant(why: str) -> Rejected:
    return Rejected(
        f"the grant does not let this be opened: {why}",
        where="grant",
        fix="have one made: sluice log grant",
        code=NO_GRANT,
    )
