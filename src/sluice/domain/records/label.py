"""What became of an authorization, version 1 of ``labels.v1``: a chargeback or a verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from sluice.domain.records.authorization import Authorization, GivenName, Identifier, MicrosUtc
from sluice.domain.records.texts import checker

LabelKind = Literal["chargeback", "alert", "verdict"]


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


_SHARED = [
    name
    for name in Label.__struct_fields__
    if name in Authorization.__struct_fields__ and name != "v"
]
check_label: Callable[[Label], None] = checker(Label, fix="contracts/labels.v1.schema.json")
"""As for an authorization: shapes, and no card number. Raises Rejected."""


def label_of(
    auth: Authorization, *, known_at: int, is_fraud: bool, kind: LabelKind, source: str
) -> Label:
    """The label of an authorization, with every field that both have. Raises Rejected."""
    made = Label(
        known_at=known_at,
        is_fraud=is_fraud,
        kind=kind,
        source=source,
        **{name: getattr(auth, name) for name in _SHARED},
    )
    check_label(made)
    return made
