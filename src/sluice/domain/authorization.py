"""The message we judge: one card authorization, version 1 of ``authorizations.v1``.

The schema is closed: an unknown field is refused, so that nothing unexpected is ever stored.
"""

from __future__ import annotations

import re
from enum import StrEnum
from operator import attrgetter
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sluice.domain.clock import DAY_US, MINUTE_US, to_datetime
from sluice.domain.countries import COUNTRY_INDEX
from sluice.domain.currencies import EXPONENTS
from sluice.domain.identifiers import holds_card_number, may_hold_card_number
from sluice.errors import Rejected

MAX_BODY_BYTES = 16_384
"""An authorization is about 500 bytes; 32 times that is an attack or a mistake."""
MAX_AMOUNT_MINOR = 10_000_000_000
"""A hundred million in a two-digit currency; keeps every sum of a window inside 64 bits."""


def _shaped(pattern: str) -> Meta:
    """A pattern for the schema only: one expression checks all of them at once, in ``check``.

    Thirteen patterns checked one by one, as msgspec does, would double the time of decoding.
    """
    return Meta(extra_json_schema={"pattern": f"^{pattern}$"})


_ID, _MCC, _COUNTRY, _CURRENCY = "[!-~]{1,64}", "[0-9]{4}", "[A-Z]{2}", "[A-Z]{3}"
_NAME, _PREFIX = "[a-z0-9-]{1,32}", "[0-9a-f.:]{1,39}/[0-9]{1,3}"
Identifier = Annotated[str, Meta(min_length=1, max_length=64, pattern=f"^{_ID}$")]
Id = Annotated[str, _shaped(_ID)]
Country = Annotated[str, _shaped(_COUNTRY)]
Currency = Annotated[str, _shaped(_CURRENCY)]
Name = Annotated[str, _shaped(_NAME)]
AmountMinor = Annotated[int, Meta(ge=0, le=MAX_AMOUNT_MINOR)]
MicrosUtc = Annotated[int, Meta(ge=0, le=4_102_444_800_000_000)]
"""1970 to 2100."""


class Channel(StrEnum):
    """How the card was presented."""

    POS = "pos"
    CONTACTLESS = "contactless"
    ECOM = "ecom"
    MOTO = "moto"
    ATM = "atm"


CHANNEL_INDEX: dict[str, int] = {c: i for i, c in enumerate(Channel, start=1)}


class ThreeDs(StrEnum):
    """Outcome of EMV 3-D Secure, where it ran."""

    FRICTIONLESS = "frictionless"
    CHALLENGED = "challenged"
    ATTEMPTED = "attempted"
    FAILED = "failed"


THREE_DS_INDEX: dict[str, int] = {t: i for i, t in enumerate(ThreeDs, start=1)}


class Authorization(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One request to spend on a card. Money in minor units, time in microseconds UTC."""

    v: Literal[1] = 1
    authorization_id: Id
    event_at: MicrosUtc
    card_token: Id
    merchant_id: Id
    terminal_id: Id
    mcc: Annotated[str, _shaped(_MCC)]
    channel: Channel
    amount_minor: AmountMinor
    currency: Currency
    merchant_country: Country
    card_country: Country
    region: Name
    tenant: Name
    customer_id: Id | None = None
    device_id: Id | None = None
    ip_prefix: Annotated[str, _shaped(_PREFIX)] | None = None
    three_ds: ThreeDs | None = None

    def __repr__(self) -> str:
        """Names the message, never the card."""
        return f"Authorization({self.authorization_id!r})"


class EventTimeBounds(msgspec.Struct, frozen=True):
    """How far an authorization's own time may lie from ours before we refuse it."""

    max_age_us: int = 35 * DAY_US
    max_ahead_us: int = 5 * MINUTE_US


_decoder = msgspec.json.Decoder(Authorization)
_encoder = msgspec.json.Encoder()
_LONG_DIGITS = re.compile(r"\d[\d -]{11,}\d")
_ENUM_VALUE = re.compile(r"Invalid enum value .*(?= - at `)", re.DOTALL)
_CODES = (
    ("unknown field", "unknown_field"),
    ("missing required field", "missing_field"),
    (">=", "out_of_range"),
    ("<=", "out_of_range"),
    ("out of range", "out_of_range"),
    ("regex", "bad_format"),
    ("Invalid enum", "unknown_value"),
    ("Expected", "wrong_type"),
)
_FIX = "docs/reference/authorization.md lists every field with type and bounds"


def _code(text: str) -> str:
    return next((code for mark, code in _CODES if mark in text), "invalid")


def decode_authorization(raw: bytes) -> Authorization:
    """Parse and check one authorization, strictly.

    raw: UTF-8 JSON of at most MAX_BODY_BYTES. Raises Rejected whose ``code`` is one of
    too_large, invalid_json, unknown_field, missing_field, wrong_type, out_of_range, bad_format,
    unknown_value, unknown_currency, unknown_country, card_number. The error never repeats a value.
    """
    if len(raw) > MAX_BODY_BYTES:
        raise Rejected(
            f"the body has {len(raw)} bytes, at most {MAX_BODY_BYTES} are read",
            fix=_FIX,
            code="too_large",
        )
    try:
        auth = _decoder.decode(raw)
    except msgspec.ValidationError as exc:
        if _raw_holds_card_number(raw):
            raise _card_number() from None
        text = _ENUM_VALUE.sub("Invalid enum value", _LONG_DIGITS.sub("…", str(exc)))
        raise Rejected(text, fix=_FIX, code=_code(text)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        text = _LONG_DIGITS.sub("…", str(exc))
        raise Rejected(f"not JSON: {text}", fix=_FIX, code="invalid_json") from None
    check(auth)
    return auth


_TEXTS = (
    ("authorization_id", _ID),
    ("card_token", _ID),
    ("merchant_id", _ID),
    ("terminal_id", _ID),
    ("mcc", _MCC),
    ("currency", _CURRENCY),
    ("merchant_country", _COUNTRY),
    ("card_country", _COUNTRY),
    ("region", _NAME),
    ("tenant", _NAME),
    ("customer_id", _ID),
    ("device_id", _ID),
    ("ip_prefix", _PREFIX),
)
_OPTIONAL = frozenset({"customer_id", "device_id", "ip_prefix"})
_SHAPE = re.compile(
    "\n".join(f"(?:{shape})?" if name in _OPTIONAL else shape for name, shape in _TEXTS)
)
"""All texts of an authorization, a line each; a text that was not given is an empty line."""
_texts = attrgetter(*(name for name, _ in _TEXTS))


def check(auth: Authorization) -> None:
    """The checks that types cannot express: shapes, ISO codes, and no card number anywhere.

    Raises Rejected (bad_format, unknown_currency, unknown_country, card_number).
    """
    texts = _texts(auth)
    page = "\n".join([text or "" for text in texts])
    if may_hold_card_number(page) and any(text and holds_card_number(text) for text in texts):
        raise _card_number()
    if not _SHAPE.fullmatch(page) or "" in texts:
        raise _misshaped(texts)
    if auth.currency not in EXPONENTS:
        raise Rejected(
            "the currency is not in ISO 4217", where="$.currency", code="unknown_currency"
        )
    for field, code in (
        ("merchant_country", auth.merchant_country),
        ("card_country", auth.card_country),
    ):
        if code not in COUNTRY_INDEX:
            raise Rejected(
                "the country is not in ISO 3166-1", where=f"$.{field}", code="unknown_country"
            )


def _misshaped(texts: tuple[str | None, ...]) -> Rejected:
    field, shape = next(
        (name, shape)
        for (name, shape), text in zip(_TEXTS, texts, strict=True)
        if text is not None and not re.fullmatch(shape, text)
    )
    return Rejected(
        f"Expected `str` matching regex '^{shape}$'",
        where=f"$.{field}",
        fix=_FIX,
        code="bad_format",
    )


def check_event_time(auth: Authorization, now_us: int, bounds: EventTimeBounds) -> None:
    """Raise Rejected (event_in_future, event_too_old) if event_at lies outside the bounds."""
    if auth.event_at > now_us + bounds.max_ahead_us:
        raise Rejected(
            f"event_at is {to_datetime(auth.event_at).isoformat()}, "
            f"{(auth.event_at - now_us) // 1_000_000} s ahead of us",
            where="$.event_at",
            fix="send microseconds since 1970 UTC, and check the sender's clock",
            code="event_in_future",
        )
    if auth.event_at < now_us - bounds.max_age_us:
        raise Rejected(
            f"event_at is {to_datetime(auth.event_at).isoformat()}, "
            f"{(now_us - auth.event_at) // 1_000_000} s ago",
            where="$.event_at",
            fix="send microseconds since 1970 UTC; for history, raise decider.max_event_age_s",
            code="event_too_old",
        )


def encode(value: msgspec.Struct) -> bytes:
    """The one JSON encoding of a record: declared field order, no white space."""
    return _encoder.encode(value)


def _card_number() -> Rejected:
    return Rejected(
        "a field holds what looks like a card number",
        fix="send the card's token; numbers never enter",
        code="card_number",
    )


def _raw_holds_card_number(raw: bytes) -> bool:
    try:
        decoded = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    if not isinstance(decoded, dict):
        return False
    return any(isinstance(v, str) and holds_card_number(v) for v in decoded.values())
