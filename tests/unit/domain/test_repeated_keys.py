"""A field that comes twice is refused, however it is written; nothing else is for it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.domain.records.authorization import Authorization, decode_authorization, encode
from sluice.domain.records.repeated_keys import repeats_a_key
from sluice.errors import Rejected
from sluice.testing.factories import make_authorization

AUTH = make_authorization("a-1", device_id="d-1")
FIELDS = json.loads(encode(AUTH))


def text(pairs: list[tuple[str, object]], gap: str = "") -> bytes:
    return (
        "{" + ",".join(f"{json.dumps(k)}{gap}:{gap}{json.dumps(v)}" for k, v in pairs) + "}"
    ).encode()


def code(raw: bytes) -> str:
    with pytest.raises(Rejected) as caught:
        decode_authorization(raw)
    return caught.value.code


@pytest.mark.parametrize("gap", ["", " "])
@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("again", [name for name in FIELDS if name != "v"])
def test_each_field_is_taken_once(again: str, versioned: bool, gap: str) -> None:
    pairs = [(name, value) for name, value in FIELDS.items() if versioned or name != "v"]
    assert decode_authorization(text(pairs, gap)) == AUTH
    assert code(text([*pairs, (again, FIELDS[again])], gap)) == "duplicate_field"
    assert code(text([(again, FIELDS[again]), *pairs], gap)) == "duplicate_field"


def test_so_is_the_version_and_a_name_written_otherwise_and_no_value_is_taken_for_one() -> None:
    raw = encode(AUTH)
    assert code(b'{"v":1,' + raw[1:]) == "duplicate_field"
    assert code(b'{"amount_m\\u0069nor":1,' + raw[1:]) == "duplicate_field"
    named_v = [(k, "v" if k == "merchant_id" else v) for k, v in FIELDS.items() if k != "v"]
    assert decode_authorization(text(named_v)).merchant_id == "v"
    assert code(text([*named_v, ("amount_minor", 1)])) == "duplicate_field"


def test_null_and_escapes_are_no_field_that_comes_twice() -> None:
    assert decode_authorization(text([*FIELDS.items(), ("three_ds", None)])) == AUTH
    escaped = encode(AUTH).replace(b"merchant", b"\\u006derchant")
    assert decode_authorization(escaped) == AUTH


@given(st.lists(st.tuples(st.sampled_from([*FIELDS]), st.booleans()), max_size=4))
def test_whatever_comes_again_is_found(more: list[tuple[str, bool]]) -> None:
    pairs = [*FIELDS.items(), *((name, FIELDS[name]) for name, _ in more)]
    if more:
        assert code(text(pairs)) == "duplicate_field"
    else:
        assert decode_authorization(text(pairs)) == AUTH


def test_an_optional_field_that_is_null_once_and_set_once_comes_twice() -> None:
    assert code(text([("device_id", None), *FIELDS.items()])) == "duplicate_field"
    assert "device_id" in Authorization.__struct_fields__


def test_deep_texts_and_long_numbers_end_nothing() -> None:
    assert not repeats_a_key(b"[" * 100_000 + b"]" * 100_000)
    assert not repeats_a_key(b'{"a": ' + b"9" * 100_000 + b"}")
