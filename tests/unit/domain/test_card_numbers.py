"""No card number comes through in any encoding, and hardly an ordinary id is refused."""

from __future__ import annotations

import itertools
import json

import pytest

from sluice.domain.records.authorization import decode_authorization, encode
from sluice.domain.records.card_numbers import holds_card_number, passes_luhn
from sluice.domain.records.grammars import Grammars, checks
from sluice.errors import Misconfigured, Rejected
from sluice.testing.factories import make_authorization
from tests.support.card_corpus import ENCODINGS, IDS, OUT_OF_REACH, REFUSED_MAX_PPM, ids, numbers

COUNT = 2_000
NUMBER = "4111111111111111"
SNOWFLAKE = "1993021374839201793"
"""Some of its digits have an issuer's range, one of its lengths and a right check digit."""


def test_the_check_digit_is_found_and_one_wrong_digit_is_not_missed() -> None:
    assert passes_luhn(NUMBER)
    for at, digit in itertools.product(range(len(NUMBER)), "0123456789"):
        if NUMBER[at] != digit:
            assert not passes_luhn(NUMBER[:at] + digit + NUMBER[at + 1 :])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_number_comes_through_and_no_refusal_repeats_one(encoding: str) -> None:
    found = numbers(encoding, COUNT)
    assert (found.passed, found.said) == ([], 0)
    assert found.codes["card_number"] > COUNT / 3


@pytest.mark.parametrize("kind", IDS)
def test_of_ordinary_ids_fewer_than_one_in_a_thousand_is_refused(kind: str) -> None:
    found = ids(IDS[kind], 2 * COUNT)
    assert found.refused_ppm < REFUSED_MAX_PPM, found.codes


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("4111 1111 1111 1111", True),
        ("ref:4111-1111-1111-1111", True),
        ("4111111111111112", False),
        ("9111111111111117", False),  # a right check digit, and no issuer
        ("41111111111111", False),  # an issuer's range, and none of its lengths
        ("4222222222222", True),
        ("x-2026-4222222222222", True),
        ("term-00042", False),
        ("a4111111111111111z", True),
        ("0004111111111111111", True),
        ("4111111111111111123", True),
        ("41111111-1111-1111-1111-111111111111", True),
        ("2026050112345600123", False),  # 2605011234560012 begins in the time of day
        ("202605011234564111111111111111", True),
        ("ORD-2026-05-01-12:34:56-00123", False),
        ("c202203151147253456", True),  # 2203151147253456 behind a letter and 20
        ("DE89370400440532013000", False),
        ("DE88370400440532013000", False),
        ("FI4111111111111111", True),
        ("a" * 30 + NUMBER + "b", True),
        ("a" * 30 + "1" + NUMBER + "b", False),
        ("41111111-1111-4111-8111-11111111111a", False),  # 4111111111114111: no check digit
        ("41111111-1111-1111-8f00-4bf92f3577b3", True),
        ("4bf92f35-77b3-4da6-8111-4111111111111111"[:36], False),
        ("4bf92f35-77b3-4da6-4111-111111111111", True),  # of no variant: searched whole
        (f"%34%31{NUMBER[2:]}", True),
        ("", False),
        ("４１１１１１１１１１１１１１１１", False),  # other digits are refused as characters
        ("\udc80" * 20, False),
    ],
)
def test_card_numbers_are_found_in_text(text: str, *, holds: bool) -> None:
    assert holds_card_number(text) is holds


def message(**changes: str) -> bytes:
    fields = json.loads(encode(make_authorization("a-1", tenant="bank"))) | changes
    return json.dumps({k: v for k, v in fields.items() if v is not None}).encode()


def refusal(grammars: dict[str, str], **changes: str) -> str:
    """Its code; "" if it is taken."""
    try:
        decode_authorization(message(**changes), checks(grammars))
    except Rejected as error:
        return error.code
    return ""


def test_ids_that_look_like_numbers_are_taken_once_their_tenant_says_how_it_makes_them() -> None:
    assert refusal({}, authorization_id=SNOWFLAKE) == "card_number"
    declared = {"bank.authorization_id": "[12][0-9]{18}"}
    assert refusal(declared, authorization_id=SNOWFLAKE) == ""
    assert refusal(declared, authorization_id="a-2") == "bad_token"
    assert refusal(declared, card_token=SNOWFLAKE) == "card_number"  # of another field
    assert refusal(declared, authorization_id=SNOWFLAKE, tenant="other") == "card_number"
    assert refusal({"*.authorization_id": "[12][0-9]{18}"}, authorization_id=SNOWFLAKE) == ""


def test_a_uuid_that_is_declared_is_never_refused() -> None:
    unlucky = "41111111-1111-4111-8f00-4bf92f3577b3"
    assert holds_card_number(unlucky.replace("-4111-", "-1111-"))
    hexes = "[0-9a-f]"
    shape = f"{hexes}{{8}}-{hexes}{{4}}-[0-9]{hexes}{{3}}-[89ab]{hexes}{{3}}-{hexes}{{12}}"
    declared = {"bank.authorization_id": shape}
    for text in (unlucky, unlucky.replace("-4111-", "-1111-")):
        assert refusal(declared, authorization_id=text) == ""
    assert refusal(declared, authorization_id="41111111-1111-1111-8111-111111111111") == ""
    assert refusal({}, authorization_id="41111111-1111-1111-8111-111111111111") == "card_number"


def test_a_tenants_own_grammar_is_before_everyones() -> None:
    grammars = {"*.card_token": "tok_[0-9a-f]{8}", "bank.card_token": "c-[0-9]{4}"}
    assert refusal(grammars, card_token="c-0042") == ""
    assert refusal(grammars, card_token="tok_0123abcd") == "bad_token"
    assert refusal(grammars, card_token="tok_0123abcd", tenant="other") == ""


@pytest.mark.parametrize(
    "text",
    [
        NUMBER,
        f"tok_{NUMBER}",
        "tok_ab4111111111111111cd",
        NUMBER.encode().hex(),
        "4111-1111-1111-1111",
    ],
)
def test_no_grammar_lets_a_number_through_that_stands_alone_or_is_encoded(text: str) -> None:
    wide = {"bank.card_token": "[A-Za-z0-9_-]{1,64}"}
    assert refusal(wide, card_token=text) == "card_number"


@pytest.mark.parametrize("kind", OUT_OF_REACH)
def test_what_no_check_can_tell_is_refused_less_often_once_it_is_declared(kind: str) -> None:
    make, grammar = OUT_OF_REACH[kind]
    bare, declared = ids(make, COUNT), ids(make, COUNT, grammar=grammar)
    assert declared.codes["bad_token"] == 0
    assert declared.refused_ppm <= bare.refused_ppm
    assert bare.refused_ppm > 0


@pytest.mark.parametrize(
    ("key", "grammar", "says"),
    [
        ("bank.card_token", "(a|b)", "characters, classes and counts"),
        ("bank.card_token", "[a-z]+", "characters, classes and counts"),
        ("bank.card_token", "tok_.*", "characters, classes and counts"),
        ("bank.card_token", "[z-a]", "characters, classes and counts"),
        ("bank.card_token", "[a-z é]", "characters, classes and counts"),
        ("bank.card_token", "a" * 129, "characters, classes and counts"),
        ("bank.card_token", "", "characters, classes and counts"),
        ("bank.mcc", "[0-9]{4}", "tenant's field"),
        ("bank.amount_minor", "[0-9]{4}", "tenant's field"),
        ("card_token", "[0-9]{4}", "tenant's field"),
        ("Bank.card_token", "[0-9]{4}", "tenant's field"),
    ],
)
def test_a_wrong_grammar_is_refused_at_the_start(key: str, grammar: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says) as caught:
        Grammars({key: grammar})
    assert "decider.grammars" in caught.value.where
