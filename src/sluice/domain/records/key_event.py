"""What happened to the keys of the compliance log: each of these becomes a record of the log.

The keystore writes them down in the transaction that does what they tell of, counted without a
hole, and the auditor appends them (docs/decisions/0049-sealing.md). They name a card by its
pseudonym alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sluice.domain.records.authorization import Identifier, MicrosUtc
from sluice.domain.records.texts import Kind, checker, matched_text

KeyEventKind = Literal["erasure", "hold", "hold_lifted", "expiry", "access"]
"""expiry: keys of quarters past their retention were destroyed. access: somebody opened a record.
"""
Reference = Annotated[str, matched_text(Kind("[A-Za-z0-9._@-]{1,64}"), 1, 64)]
"""A login or a ticket: no sentence, since a log that forgets nothing takes no free text."""
Subject = Annotated[str, matched_text(Kind("[0-9a-f]{32}"), 32, 32)]
Period = Annotated[str, matched_text(Kind("[0-9]{4}Q[1-4]"), 6, 6)]


class KeyEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event. sequence counts a keystore's events from 0 without a hole."""

    v: Literal[1] = 1
    sequence: Annotated[int, Meta(ge=0, le=999_999_999)]
    at: MicrosUtc
    kind: KeyEventKind
    who: Reference
    """Who answers for it."""
    case: Reference
    """The request, order or ticket that it was done for."""
    subject: Subject | None = None
    """Whose keys; None for an expiry, and for the access to a record without a sealed part."""
    through: Period | None = None
    """Of an erasure or expiry: the keys of this quarter and of all before it were destroyed."""
    keys: Annotated[int, Meta(ge=0, le=999_999_999)] = 0
    """How many were destroyed."""
    authorization_id: Identifier | None = None
    """Of an access: whose record was opened."""


check_key_event: Callable[[KeyEvent], None] = checker(
    KeyEvent, fix="a login or ticket of 1 to 64 letters, digits and . _ @ -"
)
"""Shapes, and no card number. Raises Rejected."""
