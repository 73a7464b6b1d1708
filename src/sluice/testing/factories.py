"""Records made in memory, so that a test names only what it is about."""

from __future__ import annotations

from typing import Any

from sluice.application.decide import content_digest
from sluice.application.ports import Arrival
from sluice.domain.features.events import event_row
from sluice.domain.records.authorization import Authorization, Channel
from sluice.domain.records.decision import Origin
from sluice.domain.records.label import Label, label_of

NOON_US = 1_780_056_000_000_000
"""2026-05-29 12:00 UTC."""


def make_authorization(authorization_id: str = "a-1", **changes: Any) -> Authorization:
    """A purchase of 12.34 EUR at a terminal in Belgium, at noon."""
    given: dict[str, Any] = {
        "event_at": NOON_US,
        "card_token": "card-1",
        "merchant_id": "merchant-1",
        "terminal_id": "terminal-1",
        "mcc": "5411",
        "channel": Channel.POS,
        "amount_minor": 1234,
        "currency": "EUR",
        "merchant_country": "BE",
        "card_country": "BE",
        "region": "eea",
        "tenant": "test",
    }
    return Authorization(authorization_id=authorization_id, **(given | changes))


def make_arrival(
    authorization_id: str = "a-1", *, origin: Origin | None = None, **changes: Any
) -> Arrival:
    """The same, at an entrypoint; the amount counts as it is in the reference currency."""
    auth = make_authorization(authorization_id, **changes)
    row = event_row(auth, auth.amount_minor)
    return Arrival(auth, auth.amount_minor, row, content_digest(auth), auth.event_at, origin)


def make_label(auth: Authorization, *, known_at: int, is_fraud: bool = True) -> Label:
    """What becomes known of an authorization."""
    return label_of(auth, known_at=known_at, is_fraud=is_fraud, kind="chargeback", source="test")
