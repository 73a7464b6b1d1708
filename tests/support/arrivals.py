"""What a store is asked about, and what it holds."""

from __future__ import annotations

from sluice.application.ports import Arrival
from sluice.domain.features.events import event_row
from sluice.domain.records.authorization import Authorization, Channel
from sluice.domain.records.decision import Origin


def arrival(
    authorization_id: str = "a-1",
    *,
    card: str = "card-1",
    device: str | None = "dev-1",
    tenant: str = "acme",
    offset: int | None = None,
    digest: bytes = b"digest-1",
    received_at: int = 1,
) -> Arrival:
    """From the stream where an offset is given, else from HTTP."""
    auth = Authorization(
        authorization_id=authorization_id,
        event_at=1_780_000_000_000_000,
        card_token=card,
        merchant_id="merch-1",
        terminal_id="term-1",
        mcc="5411",
        channel=Channel.POS,
        amount_minor=1999,
        currency="EUR",
        merchant_country="FR",
        card_country="FR",
        region="eu",
        tenant=tenant,
        device_id=device,
    )
    origin = None if offset is None else Origin("authorizations.v1", 3, offset)
    return Arrival(auth, 1999, event_row(auth, 1999), digest, received_at, origin)


def state(applied: int, body: bytes = b"body") -> bytes:
    return b"\x01" + applied.to_bytes(8, "little") + body
