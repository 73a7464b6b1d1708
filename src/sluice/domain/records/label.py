"""What became of an authorization, version 1 of ``labels.v1``: a chargeback or a verdict."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sluice.domain.records.authorization import Identifier, MicrosUtc


class Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says whether one authorization was fraud, and since when that is known.

    event_at is the authorization's time, known_at the time from which a feature may use it.
    It names the entities that it tells of, so that no reader needs to look the authorization up.
    """

    v: Literal[1] = 1
    authorization_id: Identifier
    event_at: MicrosUtc
    known_at: MicrosUtc
    is_fraud: bool
    kind: Literal["chargeback", "alert", "verdict"]
    source: Annotated[str, Meta(min_length=1, max_length=32)]
    tenant: Annotated[str, Meta(min_length=1, max_length=32)]
    card_token: Identifier
    merchant_id: Identifier
    terminal_id: Identifier
    device_id: Identifier | None = None
