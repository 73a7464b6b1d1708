"""An authorization as a caller sends it: a JSON object, which tests break in one place."""

from __future__ import annotations

import time
from typing import Any

NOW_US = time.time_ns() // 1000
"""Of every authorization here: the same id is the same authorization."""


def authorization(authorization_id: str, **changes: Any) -> dict[str, Any]:
    """A valid one, with these fields changed or added."""
    return {
        "authorization_id": authorization_id,
        "event_at": NOW_US,
        "card_token": "tok_1",
        "merchant_id": "merchant-1",
        "terminal_id": "terminal-1",
        "mcc": "5411",
        "channel": "pos",
        "amount_minor": 1999,
        "currency": "EUR",
        "merchant_country": "DE",
        "card_country": "DE",
        "region": "eu",
        "tenant": "bank",
    } | changes
