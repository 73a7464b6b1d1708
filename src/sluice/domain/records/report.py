"""What a source tells the labeller of one authorization, version 1: over HTTP, Kafka or by a file.

Closed, like the authorization: an unknown field is refused. Identifiers of card, merchant and
terminal may be left out where the labeller can look the authorization up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from sluice.domain.records.authorization import (
    Channel,
    GivenName,
    Identifier,
    MicrosUtc,
    refusal,
)
from sluice.domain.records.label import Label, LabelKind, ReasonCode
from sluice.domain.records.repeated_keys import repeats_a_key
from sluice.domain.records.texts import checker
from sluice.errors import Rejected

MAX_REPORT_BYTES = 4_096
"""A report is about 300 bytes."""
FIX = "contracts/reports.v1.schema.json lists every field"
ENTITIES = ("event_at", "card_token", "merchant_id", "terminal_id")
"""What a label needs of its authorization, besides a device where it had one."""


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One report. source and report_id name it forever: sent again it is the same report.

    known_at: since when the source knows, microseconds UTC; the time of intake where it is left
    out. A feature uses it from then on.
    """

    v: Literal[1] = 1
    source: GivenName
    report_id: Identifier
    kind: LabelKind
    is_fraud: bool
    authorization_id: Identifier
    tenant: GivenName
    known_at: MicrosUtc | None = None
    reason: ReasonCode | None = None
    event_at: MicrosUtc | None = None
    card_token: Identifier | None = None
    merchant_id: Identifier | None = None
    terminal_id: Identifier | None = None
    device_id: Identifier | None = None
    channel: Channel | None = None

    def __repr__(self) -> str:
        """Names the report, never the card."""
        return f"Report({self.source!r}, {self.report_id!r})"

    @property
    def complete(self) -> bool:
        """Whether a label can be made of it alone."""
        return all(getattr(self, name) is not None for name in ENTITIES)


_decoder = msgspec.json.Decoder(Report)
_check: Callable[[Report], None] = checker(Report, fix=FIX)


def decode_report(raw: bytes | msgspec.Raw) -> Report:
    """Parse and check one report, strictly. Raises Rejected with the codes of an authorization."""
    text = bytes(raw)
    if len(text) > MAX_REPORT_BYTES:
        raise Rejected(
            f"the report has {len(text)} bytes, at most {MAX_REPORT_BYTES} are read",
            fix=FIX,
            code="too_large",
        )
    try:
        report = _decoder.decode(text)
    except msgspec.ValidationError as exc:
        raise refusal(exc, text, FIX) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Rejected(f"not JSON: {exc}", fix=FIX, code="invalid_json") from None
    if repeats_a_key(text):
        raise Rejected("a field comes twice", fix=FIX, code="duplicate_field")
    _check(report)
    return report


class Named(msgspec.Struct, frozen=True):
    """What an authorization's record says that a label needs."""

    event_at: int
    card_token: str
    merchant_id: str
    terminal_id: str
    device_id: str | None = None
    channel: Channel | None = None


def label_of_report(report: Report, named: Named | None, now_us: int) -> Label:
    """The label of a report, and of the authorization where it was looked up. What the report says
    itself counts. Checked before: one of the two has each field."""
    found = named or Named(0, "", "", "")
    return Label(
        authorization_id=report.authorization_id,
        event_at=found.event_at if report.event_at is None else report.event_at,
        known_at=now_us if report.known_at is None else report.known_at,
        is_fraud=report.is_fraud,
        kind=report.kind,
        source=report.source,
        tenant=report.tenant,
        card_token=report.card_token or found.card_token,
        merchant_id=report.merchant_id or found.merchant_id,
        terminal_id=report.terminal_id or found.terminal_id,
        device_id=report.device_id or found.device_id,
        channel=report.channel or found.channel,
        report_id=report.report_id,
        reason=report.reason,
    )
