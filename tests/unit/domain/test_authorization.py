"""Only what is exactly right gets in, and a refusal says what is wrong without repeating it."""

from __future__ import annotations

import json
import re
from datetime import date, datetime

import msgspec
import pytest

from sluice.domain.clock import DAY_US, MINUTE_US
from sluice.domain.records.authorization import (
    MAX_AMOUNT_MINOR,
    MAX_BODY_BYTES,
    Authorization,
    Channel,
    EventTimeBounds,
    check,
    check_event_time,
    decode_authorization,
    encode,
)
from sluice.domain.records.card_numbers import CARD_DIGITS_MIN
from sluice.domain.records.currencies import AMOUNT_MAX_MINOR, ENDED
from sluice.domain.records.grammars import checks
from sluice.domain.records.texts import base_types, kinds_of
from sluice.errors import Rejected

AUTH = Authorization(
    authorization_id="a-1",
    event_at=1_767_225_600_000_000,
    card_token="card-1",
    merchant_id="m-1",
    terminal_id="t-1",
    mcc="5411",
    channel=Channel.POS,
    amount_minor=1500,
    currency="EUR",
    merchant_country="PT",
    card_country="DE",
    region="eu",
    tenant="demo",
)
GOOD = json.loads(encode(AUTH))
CARD_NUMBER = "4111111111111111"


def us(day: str) -> int:
    return int(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()) * 1_000_000


def issubclass_(base: object, of: type) -> bool:
    return isinstance(base, type) and issubclass(base, of)


def body(**changes: object) -> bytes:
    return json.dumps({k: v for k, v in {**GOOD, **changes}.items() if v != "absent"}).encode()


def test_what_was_encoded_decodes_to_the_same() -> None:
    assert decode_authorization(encode(AUTH)) == AUTH


@pytest.mark.parametrize(
    ("currency", "largest"),
    [
        ("IDR", 10**12 - 1),
        ("LBP", 10**12 - 1),
        ("IRR", 10**12 - 1),
        ("EUR", 10**12 - 1),
        ("VND", 10**10),
        ("KWD", 10**12 - 1),
    ],
)
def test_an_amount_is_bound_by_the_decimals_of_its_currency(currency: str, largest: int) -> None:
    assert decode_authorization(body(currency=currency, amount_minor=largest))
    with pytest.raises(Rejected) as caught:
        decode_authorization(body(currency=currency, amount_minor=largest + 1))
    assert caught.value.code == "out_of_range"
    assert str(largest) in str(caught.value)


def test_no_bound_is_tighter_than_it_was_and_none_can_be_a_card_number() -> None:
    assert min(AMOUNT_MAX_MINOR.values()) == 10_000_000_000
    assert len(str(max(AMOUNT_MAX_MINOR.values()))) == CARD_DIGITS_MIN - 1


@pytest.mark.parametrize(("currency", "last"), [*ENDED.items()])
def test_a_currency_that_ended_is_taken_up_to_its_last_day_anywhere(
    currency: str, last: date
) -> None:
    behind = us(str(last)) + DAY_US + DAY_US // 2
    assert decode_authorization(body(currency=currency, event_at=behind - 1))
    with pytest.raises(Rejected, match=f"{currency} was paid with until {last}") as caught:
        decode_authorization(body(currency=currency, event_at=behind))
    assert caught.value.code == "unknown_currency"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (body(colour="red"), "unknown_field"),
        (body(mcc="absent"), "missing_field"),
        (body(amount_minor="12"), "wrong_type"),
        (body(amount_minor=12.5), "wrong_type"),
        (body(amount_minor=True), "wrong_type"),
        (body(amount_minor=-1), "out_of_range"),
        (body(amount_minor=MAX_AMOUNT_MINOR + 1), "out_of_range"),
        (body(amount_minor=10**12 - 1, currency="VND"), "out_of_range"),
        (body(currency="BGN", event_at=us("2026-01-02")), "unknown_currency"),
        (body(event_at=-1), "out_of_range"),
        (body(event_at=2**63), "out_of_range"),
        (body(mcc="541"), "bad_format"),
        (body(card_token="with space"), "bad_format"),
        (body(tenant="Not Allowed"), "bad_format"),
        (body(channel="telepathy"), "unknown_value"),
        (body(currency="XYZ"), "unknown_currency"),
        (body(card_country="QQ"), "unknown_country"),
        (body(merchant_country="QQ"), "unknown_country"),
        (body(v=2), "unknown_value"),
        (b"\xff\xfe", "invalid_json"),
        (b"{", "invalid_json"),
        (b"", "invalid_json"),
        (encode(AUTH).replace(b"1500", b"NaN"), "invalid_json"),
        (b"[" * 10_000, "wrong_type"),
        (b" " * (MAX_BODY_BYTES + 1), "too_large"),
    ],
)
def test_each_wrong_message_is_refused_with_its_code(raw: bytes, code: str) -> None:
    with pytest.raises(Rejected) as caught:
        decode_authorization(raw)
    assert caught.value.code == code


# Every text field of the struct, whatever it is: nobody lists them.

KINDS = kinds_of(Authorization)
TEXTS = sorted(name for name, base in base_types(Authorization).items() if issubclass_(base, str))
FULL_WIDTH = str.maketrans("0123456789", "".join(chr(0xFF10 + digit) for digit in range(10)))
WRONG = {
    "a card number": (CARD_NUMBER, "card_number"),
    "a spaced card number": ("4111 1111 1111 1111", "card_number"),
    "a dashed card number": ("4111-1111-1111-1111", "card_number"),
    "a card number among words": ("pan:4111111111111111", "card_number"),
    "a full-width card number": (CARD_NUMBER.translate(FULL_WIDTH), "bad_format"),
    "a space": (lambda good: good[:-1] + " ", "bad_format"),
    "a space before": (lambda good: " " + good[1:], "bad_format"),
    "a line end": (lambda good: good[:-1] + "\n", "bad_format"),
    "an accent": (lambda good: good[:-1] + "é", "bad_format"),
    "a full-width digit": (lambda good: good[:-1] + "\uff14", "bad_format"),
    "an Arabic digit": (lambda good: good[:-1] + "\u0664", "bad_format"),
    "no character": ("", "bad_format"),
    "too many": ("x" * 65, "bad_format"),
    "a number": (4, "wrong_type"),
}


def good(field: str) -> str:
    """Some value of a text field."""
    kind = KINDS[field]
    for value in ("a-1", "5411", "EUR", "PT", "10.0.0.0/8"):
        known = kind.table.values if kind.table else {value}
        if re.fullmatch(kind.pattern, value) and value in known:
            return value
    raise AssertionError(f"no sample fits {field}: add one that matches {kind.pattern}")


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("field", TEXTS)
def test_each_text_field_refuses_what_is_wrong_and_says_how(field: str, what: str) -> None:
    value, code = WRONG[what]
    if field not in KINDS:  # an enum: whatever it does not list is unknown
        value = value("some") if callable(value) else value
        code = "unknown_value" if code == "bad_format" else code
    raw = body(**{field: value(good(field)) if callable(value) else value})
    with pytest.raises(Rejected) as caught:
        decode_authorization(raw)
    assert caught.value.code == code
    assert "4111" not in str(caught.value)


@pytest.mark.parametrize("field", KINDS)
def test_each_text_field_takes_what_is_right_and_the_check_names_it_when_it_is_not(
    field: str,
) -> None:
    assert getattr(decode_authorization(body(**{field: good(field)})), field) == good(field)
    # As another producer of structs would leave it, past the decoder's lengths.
    for value, code in ((good(field) + " ", "bad_format"), (CARD_NUMBER, "card_number")):
        with pytest.raises(Rejected) as caught:
            check(msgspec.structs.replace(AUTH, **{field: value}))
        assert caught.value.code == code
        assert code == "card_number" or caught.value.where == f"$.{field}"


@pytest.mark.parametrize("field", KINDS)
def test_a_value_remembered_as_good_is_no_way_in_for_another_field(field: str) -> None:
    decode_authorization(body(region="abcd", tenant="zz"))
    if KINDS[field] is not KINDS["region"] and not re.fullmatch(KINDS[field].pattern, "abcd"):
        with pytest.raises(Rejected):
            check(msgspec.structs.replace(AUTH, **{field: "abcd"}))


def test_decoded_strictly_or_not_it_is_the_same_authorization() -> None:
    strict = decode_authorization(encode(AUTH))
    read = msgspec.json.decode(encode(AUTH), type=Authorization)
    assert strict == read == AUTH
    assert len({strict, read, AUTH}) == 1
    assert strict != msgspec.structs.replace(AUTH, mcc="5412")
    assert strict != "a-1"


def test_a_card_number_in_an_unknown_field_or_as_a_number_is_not_repeated_either() -> None:
    for raw in (body(pan=CARD_NUMBER), body(amount_minor=int(CARD_NUMBER))):
        with pytest.raises(Rejected) as caught:
            decode_authorization(raw)
        assert "4111" not in str(caught.value)


def test_its_repr_names_the_message_and_never_the_card() -> None:
    assert repr(AUTH) == "Authorization('a-1')"


def test_an_event_may_lie_so_far_from_now_and_no_further() -> None:
    bounds = EventTimeBounds()
    check_event_time(AUTH, AUTH.event_at - 5 * MINUTE_US, bounds)
    check_event_time(AUTH, AUTH.event_at + 35 * DAY_US, bounds)
    with pytest.raises(Rejected, match="ahead of us") as ahead:
        check_event_time(AUTH, AUTH.event_at - 5 * MINUTE_US - 1, bounds)
    with pytest.raises(Rejected, match="s ago") as old:
        check_event_time(AUTH, AUTH.event_at + 35 * DAY_US + 1, bounds)
    assert (ahead.value.code, old.value.code) == ("event_in_future", "event_too_old")


def test_a_cell_takes_its_own_region_alone_and_repeats_no_other() -> None:
    check_here = checks({}, region="eu")
    assert decode_authorization(body(), check_here) == AUTH
    with pytest.raises(Rejected, match="another region than eu") as caught:
        decode_authorization(body(region="elsewhere"), check_here)
    assert (caught.value.code, caught.value.where) == ("other_region", "$.region")
    assert "elsewhere" not in str(caught.value)
    assert decode_authorization(body(region="elsewhere"), checks({})).region == "elsewhere"
    with pytest.raises(Rejected) as caught:  # what is worse is said first
        decode_authorization(body(region="elsewhere", card_token=CARD_NUMBER), check_here)
    assert caught.value.code == "card_number"
