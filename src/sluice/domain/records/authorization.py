"""The message we judge: one card authorization, version 1 of ``authorizations.v1``.

An entrypoint is closed: it refuses an unknown field, so that nothing unexpected is ever stored
(``decode_authorization``). Our own readers pass over fields that a newer writer added. An optional
field that is absent is left out where it is written, so that a field added later changes no message
without it, and no digest of one. What a field may hold is said in its type alone (see
:mod:`sluice.domain.records.texts`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from itertools import islice
from typing import Annotated, Literal, cast

import msgspec
from msgspec import Meta

from sluice.domain.clock import DAY_US, MINUTE_US, to_datetime
from sluice.domain.records.card_numbers import holds_card_number
from sluice.domain.records.countries import COUNTRY_INDEX
from sluice.domain.records.currencies import (
    AMOUNT_MAX_MINOR,
    AMOUNT_MIN_MAX_MINOR,
    ENDED,
    ENDED_US,
    EXPONENTS,
    MINOR_MAX,
)
from sluice.domain.records.repeated_keys import repeats_a_key
from sluice.domain.records.texts import (
    GRAPHIC,
    Kind,
    Table,
    card_number,
    checker,
    matched_text,
    not_searched,
    text,
)
from sluice.errors import Rejected
from sluice.shown import named

MAX_BODY_BYTES = 16_384
"""An authorization is about 500 bytes; 32 times that is an attack or a mistake."""
MAX_AMOUNT_MINOR = MINOR_MAX
"""In any currency; each has its own besides (``AMOUNT_MAX_MINOR``)."""

NAMES_MAX = 10_000
"""Regions and tenants known to be well shaped; there are a handful."""
_MCCS = 10_000
_CURRENCIES = Table(EXPONENTS, "the currency is not in ISO 4217", "unknown_currency")
_COUNTRIES = Table(COUNTRY_INDEX, "the country is not in ISO 3166-1", "unknown_country")
_ID = f"{GRAPHIC}{{1,64}}"
_IDENTIFIER, _NAME = Kind(_ID), Kind("[a-z0-9-]{1,32}", few_max=NAMES_MAX)

Id = Annotated[str, text(_IDENTIFIER, 1, 64)]
Country = Annotated[str, text(Kind("[A-Z]{2}", table=_COUNTRIES), 2, 2)]
Currency = Annotated[str, text(Kind("[A-Z]{3}", table=_CURRENCIES), 3, 3)]
Name = Annotated[str, text(_NAME, 1, 32)]
Mcc = Annotated[str, text(Kind("[0-9]{4}", few_max=_MCCS), 4, 4)]
_IP_PREFIX = Kind(
    "(?:(?:[0-9]{1,3}[.]){3}0/(?:[0-9]|1[0-9]|2[0-4])"
    "|(?:[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){0,3})?::/(?:[0-9]|[1-5][0-9]|6[0-4]))"
)
"""A network of 256 addresses or more in IPv4, of one line or more in IPv6 (/64), and no host in it:
no log may hold a full address (:mod:`sluice.application.never_logged`)."""
IpPrefix = Annotated[str, text(_IP_PREFIX, 3, 43)]
Identifier = Annotated[str, matched_text(_IDENTIFIER, 1, 64)]
GivenName = Annotated[str, matched_text(_NAME, 1, 32)]
AmountMinor = Annotated[int, Meta(ge=0, le=MAX_AMOUNT_MINOR)]
MicrosUtc = Annotated[
    int,
    Meta(
        ge=0,
        le=4_102_444_800_000_000,
        extra=not_searched("a time near now: an entrypoint refuses any other (check_event_time)"),
    ),
]
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


class ScaExemption(StrEnum):
    """Why strong customer authentication was not asked for: an exemption of Delegated Regulation
    (EU) 2018/389, in the order of its articles 11 to 18, or what lies outside its scope.

    As the payee's or payer's provider applied it. :mod:`sluice.domain.sca` has the articles.
    """

    CONTACTLESS = "contactless"
    UNATTENDED_TERMINAL = "unattended_terminal"
    TRUSTED_BENEFICIARY = "trusted_beneficiary"
    RECURRING = "recurring"
    OWN_ACCOUNTS = "own_accounts"
    LOW_VALUE = "low_value"
    SECURE_CORPORATE = "secure_corporate"
    TRANSACTION_RISK_ANALYSIS = "transaction_risk_analysis"
    MERCHANT_INITIATED = "merchant_initiated"
    MOTO = "moto"
    ONE_LEG = "one_leg"


def _version() -> Literal[1]:
    return 1


class Authorization(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """One request to spend on a card. Money in minor units, time in microseconds UTC."""

    v: Annotated[Literal[1], Meta(extra_json_schema={"default": 1})] = msgspec.field(
        default_factory=_version  # a plain default would be left out
    )
    authorization_id: Id
    event_at: MicrosUtc
    card_token: Id
    merchant_id: Id
    terminal_id: Id
    mcc: Mcc
    channel: Channel
    amount_minor: AmountMinor
    currency: Currency
    merchant_country: Country
    card_country: Country
    region: Name
    tenant: Name
    customer_id: Id | None = None
    device_id: Id | None = None
    ip_prefix: IpPrefix | None = None
    three_ds: ThreeDs | None = None
    sca_exemption: ScaExemption | None = None

    def __repr__(self) -> str:
        """Names the message, never the card."""
        return f"Authorization({self.authorization_id!r})"

    def __eq__(self, other: object) -> bool:
        """By content, whether it came through an entrypoint, from a record, or was made here."""
        if not isinstance(other, Authorization):
            return NotImplemented
        return msgspec.structs.astuple(self) == msgspec.structs.astuple(other)

    def __hash__(self) -> int:
        return hash(msgspec.structs.astuple(self))


Received = cast(
    "type[Authorization]",
    msgspec.defstruct(
        "Authorization",
        [],
        bases=(Authorization,),
        module=__name__,
        namespace={"__doc__": Authorization.__doc__},
        frozen=True,
        forbid_unknown_fields=True,
        omit_defaults=True,
        kw_only=True,
        gc=False,
    ),
)
"""The same fields, closed: what an entrypoint takes. An unknown field is refused, so that nothing
is stored that nothing has checked."""


class EventTimeBounds(msgspec.Struct, frozen=True):
    """How far an authorization's own time may lie from ours before we refuse it."""

    max_age_us: int = 35 * DAY_US
    max_ahead_us: int = 5 * MINUTE_US


encode: Callable[[msgspec.Struct], bytes] = msgspec.json.Encoder().encode
"""The one JSON encoding of a record: declared field order, no white space."""
_QUOTES = 4 * sum(field.required for field in msgspec.structs.fields(Authorization)) - 2 * 2
"""Of a text with the required fields alone, two of which are numbers."""
FIELDS_SEARCHED_MAX = 64
"""Of a message that is refused anyway: whether it is refused as a card number too. Three times the
fields there are, so that a body of 16 KB of such texts costs no more than some milliseconds."""
_decoder = msgspec.json.Decoder(Received)
_ENUM_VALUE = re.compile(r"Invalid enum value .*(?= - at `\$[^`]*`\Z)", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"unknown field `(.*)`", re.DOTALL)
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
FIX = "docs/reference/authorization.md lists every field with type and bounds"


def _code(text: str) -> str:
    return next((code for mark, code in _CODES if mark in text), "invalid")


def decode_authorization(
    raw: bytes, check: Callable[[Authorization], None] | None = None
) -> Authorization:
    """Parse and check one authorization, strictly.

    raw: UTF-8 JSON of at most MAX_BODY_BYTES. check: with tenants' grammars, see
    :mod:`sluice.domain.records.grammars`. Raises Rejected whose ``code`` is one of too_large,
    invalid_json, unknown_field, missing_field, duplicate_field, wrong_type, out_of_range,
    bad_format, bad_token, unknown_value, unknown_currency, unknown_country, card_number,
    other_region. The error never repeats a value, and the name of an unknown field only if it
    looks like one.
    """
    if len(raw) > MAX_BODY_BYTES:
        raise Rejected(
            f"the body has {len(raw)} bytes, at most {MAX_BODY_BYTES} are read",
            fix=FIX,
            code="too_large",
        )
    try:
        auth = _decoder.decode(raw)
    except msgspec.ValidationError as exc:
        raise refusal(exc, raw, FIX) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Rejected(f"not JSON: {exc}", fix=FIX, code="invalid_json") from None
    if _quotes(auth, raw) != raw.count(b'"') and repeats_a_key(raw):
        raise Rejected("a field comes twice", fix=FIX, code="duplicate_field")
    (check or _check)(auth)
    if auth.amount_minor > AMOUNT_MIN_MAX_MINOR or auth.currency in ENDED_US:
        _check_money(auth)
    return auth


def refusal(error: msgspec.ValidationError, raw: bytes, fix: str) -> Rejected:
    """Why a text is no record, with its code: a card number, whatever else is wrong, if one of its
    values looks like one. No value is repeated. fix: what to advise."""
    if _raw_holds_card_number(raw):
        return card_number()
    text = _ENUM_VALUE.sub("Invalid enum value", str(error))
    text = _UNKNOWN_FIELD.sub(lambda found: f"unknown field {named(found[1])}", text)
    return Rejected(text, fix=fix, code=_code(text))


def _quotes(auth: Authorization, raw: bytes) -> int:
    """How many quotation marks a text has that makes this authorization, if no field comes twice.

    Two for each name and each text; all fields but v and the optional ones are there, and all but
    v and two numbers are texts. A field that comes twice, a null and an escaped quotation mark only
    add some: the text is looked at closely then.
    """
    optional = (
        (auth.customer_id is not None)
        + (auth.device_id is not None)
        + (auth.ip_prefix is not None)
        + (auth.three_ds is not None)
        + (auth.sca_exemption is not None)
    )
    versioned = raw.startswith(b'{"v":') or b'"v":' in raw
    return _QUOTES + 4 * optional + 2 * versioned


def _check_money(auth: Authorization) -> None:
    """Raise Rejected (out_of_range, unknown_currency) for an amount that its currency does not
    have, and for a currency that had ended."""
    largest = AMOUNT_MAX_MINOR[auth.currency]
    if auth.amount_minor > largest:
        raise Rejected(
            f"Expected `int` <= {largest}, the bound in {auth.currency}",
            where="$.amount_minor",
            fix=FIX,
            code="out_of_range",
        )
    if auth.event_at >= ENDED_US.get(auth.currency, auth.event_at + 1):
        raise Rejected(
            f"{auth.currency} was paid with until {ENDED[auth.currency]}",
            where="$.currency",
            fix="send the currency that took its place",
            code="unknown_currency",
        )


check: Callable[[Authorization], None] = checker(Authorization, fix=FIX)
"""The checks that the decoder does not make: shapes, ISO codes, and no card number anywhere.

Raises Rejected (bad_format, unknown_currency, unknown_country, card_number)."""
_check = check


def of_region(
    region: str, check: Callable[[Authorization], None]
) -> Callable[[Authorization], None]:
    """A check, and whether the authorization is of this region. Raises Rejected (other_region)."""

    def checked(auth: Authorization) -> None:
        check(auth)
        if auth.region != region:
            raise Rejected(
                f"it is of another region than {region}, which this cell is for",
                where="$.region",
                fix="send it to the cell of its own region",
                code="other_region",
            )

    return checked


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


def _raw_holds_card_number(raw: bytes) -> bool:
    try:
        decoded = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    if not isinstance(decoded, dict):
        return False
    return any(
        isinstance(value, str) and holds_card_number(value)
        for value in islice(decoded.values(), FIELDS_SEARCHED_MAX)
    )
