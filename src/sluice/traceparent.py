"""A trace context of our own, for a message whose sender gave two (W3C Trace Context, 3.2.2)."""

from __future__ import annotations

import os

from sluice.domain.records.card_numbers import holds_card_number


def new_traceparent() -> str:
    """A new trace, not sampled. 32 hex digits have room for a card number: never one that may hold
    such.

    >>> len(new_traceparent())
    55
    """
    while True:
        trace_id, span_id = os.urandom(16).hex(), os.urandom(8).hex()
        ids = (trace_id, span_id)
        if any(map(holds_card_number, ids)) or not (trace_id.strip("0") and span_id.strip("0")):
            continue
        return f"00-{trace_id}-{span_id}-00"
