"""Only what is exactly right gets in, and a refusal says what is wrong without repeating it."""

from __future__ import annotations

import json

import pytest

from sluice.domain.clock import DAY_US, MINUTE_US
from sluice.domain.records.authorization import (
    MAX_AMOUNT_MINOR,
    MAX_BODY_BYTES,
    Authorization,
    Channel,
    EventTimeBounds,
    check_event_time,
    decode_authorization,
    encode,
)
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


def body(**changes: object) -> bytes:
    return json.dumps({k: v for k, v in {**GOOD, **changes}.items() if v != "absent"}).encode()


def test_what_was_encoded_decodes_to_the_same() -> None:
    assert decode_authorization(encode(AUTH)) == AUTH


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


@pytest.mark.parametrize(
    "field",
    ["authorization_id", "card_token", "merchant_id", "terminal_id", "customer_id", "device_id"],
)
def test_a_card_number_is_refused_in_any_identifier_and_never_repeated(field: str) -> None:
    with pytest.raises(Rejected) as caught:
        decode_authorization(body(**{field: CARD_NUMBER}))
    assert caught.value.code == "card_number"
    assert "4111" not in str(caught.value)


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
