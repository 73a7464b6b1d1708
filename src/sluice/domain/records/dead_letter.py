"""What could not be decided, version 1 of ``dead-letters.v1``: digest and origin, never content."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from sluice.domain.records.decision import Origin
from sluice.errors import SluiceError
from sluice.shown import shown

ERROR_MAX = 512
"""Characters of an error in a dead letter."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One message that was refused or already decided. The original stays where origin says.

    code "duplicate" is a redelivery of an authorization already decided with the same content:
    listed so that offsets = decisions + dead letters per partition, and never redriven.
    code "redriven" notes that the message of this origin was sent again: it is no end of its own,
    so the count above leaves it out. who: of such a note, who sent it.
    """

    v: Literal[1] = 1
    origin: Origin
    sha256: str
    size_bytes: int
    code: str
    error: str
    service: str
    dead_at: int
    who: str | None = None


def dead_letter_of(
    raw: bytes, origin: Origin, error: SluiceError, *, service: str, now_us: int
) -> DeadLetter:
    """The dead letter of one message: what came, from where, and why it stops here. Nothing of its
    content is in it: an error repeats no value, and is made safe to show."""
    return DeadLetter(
        origin=origin,
        sha256=hashlib.sha256(raw).hexdigest(),
        size_bytes=len(raw),
        code=error.code,
        error=shown(str(error), ERROR_MAX),
        service=service,
        dead_at=now_us,
    )


DUPLICATE: Literal["duplicate"] = "duplicate"
REDRIVEN: Literal["redriven"] = "redriven"
