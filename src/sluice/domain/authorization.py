"""The message we judge: one card authorization, version 1 of ``authorizations.v1``.

The schema is closed: an unknown field is refused, so that nothing unexpected is ever stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from operator import attrgetter
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sluice.domain.clock import DAY_US, MINUTE_US, to_datetime
from sluice.domain.countries import COUNTRY_INDEX
from sluice.domain.currencies import EXPONENTS
from sluice.domain.identifiers import holds_card_number
from sluice.errors import Rejected

MAX_BODY_BYTES = 16_384
"""An authorization is about 500 bytes; 32 times that is an attack or a mistake."""
MAX_AMOUNT_MINOR = 10_000_000_000
"""A hundred million in a two-digit currency; keeps every sum of a window inside 64 bits."""


def _shaped(pattern: str, least: int, most: int) -> Meta:
    """Length for the decoder, pattern for the schema: ``check`` looks at all texts at once.

    Thirteen patterns one by one, as msgspec checks them, would double the time of decoding.
    """
    return Meta(min_length=least, max_length=most, extra_json_schema={"pattern": f"^{pattern}$"})


_ID, _MCC, _COUNTRY, _CURRENCY = "[!-~]{1,64}", "[0-9]{4}", "[A-Z]{2}", "[A-Z]{3}"
_NAME, _PREFIX = "[a-z0-9-]{1,32}", "[0-9a-f.:]{1,39}/[0-9]{1,3}"
Identifier = Annotated[str, Meta(min_length=1, max_length=64, pattern=f"^{_ID}$")]
Id = Annotated[str, _shaped(_ID, 1, 64)]
Country = Annotated[str, _shaped(_COUNTRY, 2, 2)]
Currency = Annotated[str, _shaped(_CURRENCY, 3, 3)]
Name = Annotated[str, _shaped(_NAME, 1, 32)]
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


class ThreeDs(StrEnum):
    """Outcome of EMV 3-D Secure, where it ran."""

    FRICTIONLESS = "frictionless"
    CHALLENGED = "challenged"
    ATTEMPTED = "attempted"
    FAILED = "failed"


class Authorization(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False
):
    """One request to spend on a card. Money in minor units, time in microseconds UTC."""

    v: Literal[1] = 1
    authorization_id: Id
    event_at: MicrosUtc
    card_token: Id
    merchant_id: Id
    terminal_id: Id
    mcc: Annotated[str, _shaped(_MCC, 4, 4)]
    channel: Channel
    amount_minor: AmountMinor
    currency: Currency
    merchant_country: Country
    card_country: Country
    region: Name
    tenant: Name
    customer_id: Id | None = None
    device_id: Id | None = None
    ip_prefix: Annotated[str, _shaped(_PREFIX, 3, 43)] | None = None
    three_ds: ThreeDs | None = None

    def __repr__(self) -> str:
        """Names the message, never the card."""
        return f"Authorization({self.authorization_id!r})"


class EventTimeBounds(msgspec.Struct, frozen=True):
    """How far an authorization's own time may lie from ours before we refuse it."""

    max_age_us: int = 35 * DAY_US
    max_ahead_us: int = 5 * MINUTE_US


encode: Callable[[msgspec.Struct], bytes] = msgspec.json.Encoder().encode
"""The one JSON encoding of a record: declared field order, no white space."""
_decoder = msgspec.json.Decoder(Authorization)
_LONG_DIGITS = re.compile(r"\d[\d -]{11,}\d")
_ENUM_VALUE = re.compile(r"Invalid enum value .*(?= - at `)", re.DOTALL)
_CODES = (
    ("unknown field", "unknown_field"),
    ("missing required field", "missing_field"),
    ("of length", "bad_format"),
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


_SHAPES = {
    "authorization_id": _ID,
    "card_token": _ID,
    "merchant_id": _ID,
    "terminal_id": _ID,
    "mcc": _MCC,
    "currency": _CURRENCY,
    "merchant_country": _COUNTRY,
    "card_country": _COUNTRY,
    "region": _NAME,
    "tenant": _NAME,
    "customer_id": _ID,
    "device_id": _ID,
    "ip_prefix": _PREFIX,
}
_texts = attrgetter(*_SHAPES)
_prefix = re.compile(_PREFIX).fullmatch
_DIGITS = b"0123456789"
_GRAPHIC = bytes(range(ord("!"), ord("~") + 1))
_CARD_DIGITS_MIN = 13
NAMES_MAX = 10_000
"""Regions and tenants known to be well shaped; there are a handful."""
_good_names: set[str] = set()


def check(auth: Authorization) -> None:
    """The checks that types cannot express: shapes, ISO codes, and no card number anywhere.

    Raises Rejected (bad_format, unknown_currency, unknown_country, card_number). Looks at all
    texts together, and at each only where something may be wrong: 2 µs instead of 10.
    """
    own = auth.authorization_id
    others = (
        f"{auth.card_token}{auth.merchant_id}{auth.terminal_id}"
        f"{auth.customer_id or ''}{auth.device_id or ''}{auth.ip_prefix or ''}"
    ).encode()
    digits = len(others) - len(others.translate(None, _DIGITS))
    if digits >= _CARD_DIGITS_MIN or len(auth.region) + len(auth.tenant) >= _CARD_DIGITS_MIN:
        suspects = _texts(auth)
    else:
        suspects = (own,)
    for text in suspects:
        if text is not None and holds_card_number(text):
            raise _card_number()
    if (
        others.translate(None, _GRAPHIC)
        or own.encode().translate(None, _GRAPHIC)
        or auth.currency not in EXPONENTS
        or auth.merchant_country not in COUNTRY_INDEX
        or auth.card_country not in COUNTRY_INDEX
        or not (auth.mcc.isdecimal() and auth.mcc.isascii())
        or (auth.ip_prefix is not None and not _prefix(auth.ip_prefix))
        or not (auth.region in _good_names and auth.tenant in _good_names)
    ):
        _check_each(auth)


def _check_each(auth: Authorization) -> None:
    """Find the text that is wrong; none is, if only a name was new."""
    for (field, shape), text in zip(_SHAPES.items(), _texts(auth), strict=True):
        if text is not None and not re.fullmatch(shape, text):
            raise Rejected(
                f"Expected `str` matching regex '^{shape}$'",
                where=f"$.{field}",
                fix=_FIX,
                code="bad_format",
            )
    if auth.currency not in EXPONENTS:
        raise Rejected(
            "the currency is not in ISO 4217", where="$.currency", code="unknown_currency"
        )
    for field in ("merchant_country", "card_country"):
        if getattr(auth, field) not in COUNTRY_INDEX:
            raise Rejected(
                "the country is not in ISO 3166-1", where=f"$.{field}", code="unknown_country"
            )
    if len(_good_names) < NAMES_MAX:
        _good_names.update((auth.region, auth.tenant))


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
