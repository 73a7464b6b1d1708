"""What became of an authorization, version 1 of ``labels.v1``: a chargeback or a verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec

from sluice.domain.records.authorization import (
    Authorization,
    Channel,
    GivenName,
    Identifier,
    MicrosUtc,
)
from sluice.domain.records.texts import Kind, checker, matched_text

LabelKind = Literal["chargeback", "alert", "verdict", "issuer_report"]
"""issuer_report: a fraud report of the card's issuer to its network, as Visa's TC40 or Mastercard's
SAFE. What each is worth against the others: :mod:`sluice.domain.records.standing`."""
Uncounted = Literal["repeats", "outranked"]
ReasonCode = Annotated[str, matched_text(Kind("[A-Za-z0-9._-]{1,16}"), 1, 16)]
"""A network's own, like Visa's 10.4 or Mastercard's 4837."""


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """Says whether one authorization was fraud, and since when that is known.

    event_at is the authorization's time, known_at the time from which a feature may use it.
    It names the entities that it tells of, so that no reader needs to look the authorization up.
    """

    v: Literal[1] = 1
    authorization_id: Identifier
    event_at: MicrosUtc
    known_at: MicrosUtc
    is_fraud: bool
    kind: LabelKind
    source: GivenName
    tenant: GivenName
    card_token: Identifier
    merchant_id: Identifier
    terminal_id: Identifier
    device_id: Identifier | None = None
    channel: Channel | None = None
    report_id: Identifier | None = None
    """What its source calls this report: source and report_id come once."""
    reason: ReasonCode | None = None
    """Why the source says so, in its own codes."""
    uncounted: Uncounted | None = None
    """Why states do not count it, where a report of the authorization lay in the topic before it:
    it says the same again, or a stronger one says otherwise. It is kept as history."""
    withdraws: MicrosUtc | None = None
    """Since when the fraud was known that states counted, and that this one takes back."""


_SHARED = [
    name
    for name in Label.__struct_fields__
    if name in Authorization.__struct_fields__ and name != "v"
]
check_label: Callable[[Label], None] = checker(Label, fix="contracts/labels.v1.schema.json")
"""As for an authorization: shapes, and no card number. Raises Rejected."""


def label_of(
    auth: Authorization,
    *,
    known_at: int,
    is_fraud: bool,
    kind: LabelKind,
    source: str,
    report_id: str | None = None,
    reason: str | None = None,
) -> Label:
    """The label of an authorization, with every field that both have. Raises Rejected."""
    made = Label(
        known_at=known_at,
        is_fraud=is_fraud,
        kind=kind,
        source=source,
        report_id=report_id,
        reason=reason,
        **{name: getattr(auth, name) for name in _SHARED},
    )
    check_label(made)
    return made
