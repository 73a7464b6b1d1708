"""Entries come apart in one way, and a header is read in one way or not at all."""

import json

import pytest

from sluice.audit.entries import DEPTH_MAX, HEADER_MAX_BYTES, NUMBER_MAX, join, parse_header, split
from sluice.audit.errors import Malformed
from sluice.audit.tiles import ENTRY_MAX_BYTES


@pytest.mark.parametrize("sealed", [b"", b"\n", b"\x00\xff\n{}", b"x" * 1000])
def test_an_entry_comes_apart_into_what_was_joined(sealed):
    assert split(join(b'{"v":1}', sealed)) == (b'{"v":1}', sealed)


def test_what_would_not_come_apart_again_is_not_joined():
    for header in (b"", b'{"v":\n1}', b" " * (HEADER_MAX_BYTES + 1)):
        with pytest.raises(ValueError, match="no header"):
            join(header)
    with pytest.raises(ValueError, match="at most 65535"):
        join(b"{}", bytes(ENTRY_MAX_BYTES))


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b'{"v":1}',
        b"\nsealed",
        b" " * (HEADER_MAX_BYTES + 1) + b"\n",
        b"{}\n" + bytes(ENTRY_MAX_BYTES),
    ],
)
def test_what_is_no_entry_is_malformed(entry):
    with pytest.raises(Malformed):
        split(entry)


@pytest.mark.parametrize(
    "value",
    [{}, {"a": [1, -1, NUMBER_MAX, -NUMBER_MAX, None, True, 'é"\\ ü']}, {"a": {"a": {"a": 1}}}],
)
def test_compact_json_is_read_as_it_is(value):
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    assert parse_header(text) == value


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b'{"a":1,"a":1}', id="a key twice"),
        pytest.param(b'{"b":[{"a":1,"\\u0061":2}]}', id="a key twice, escaped, inside"),
        pytest.param(b'{"a":1.0}', id="a float"),
        pytest.param(b'{"a":1e3}', id="an exponent"),
        pytest.param(b'{"a":NaN}', id="not a number"),
        pytest.param(b'{"a":-Infinity}', id="infinity"),
        pytest.param(b'{"a":-0}', id="minus zero"),
        pytest.param(b'{"a":01}', id="a leading zero"),
        pytest.param(b'{"a":9007199254740992}', id="2**53"),
        pytest.param(b'{"a":' + b"9" * 10_000 + b"}", id="a huge number"),
        pytest.param(b'{"a": 1}', id="a blank"),
        pytest.param(b'{"a":1}\n', id="a newline behind"),
        pytest.param(b'{"a":1}{"a":1}', id="two objects"),
        pytest.param(b'{"a":"\\u0062"}', id="an escape that is not needed"),
        pytest.param(b'{"a":"\\/"}', id="an escaped slash"),
        pytest.param(b'{"a":"\\ud800"}', id="half a surrogate pair"),
        pytest.param(b'{"a":"\\ud83d\\ude00"}', id="a surrogate pair"),
        pytest.param(b'{"a":"\\n"}', id="a newline in a text"),
        pytest.param(b'{"a":"\\u0000"}', id="NUL"),
        pytest.param(b'{"a":"\\u001b[2J"}', id="ANSI"),
        pytest.param('{"a":"\u202egnp"}'.encode(), id="bidi"),
        pytest.param('{"a":"\u200b"}'.encode(), id="of no width"),
        pytest.param('{"\u2066a":1}'.encode(), id="bidi in a key"),
        pytest.param('{"a":"\x9b2J"}'.encode(), id="C1"),
        pytest.param(b'{"a":"\x7f"}', id="delete"),
        pytest.param(b'\xef\xbb\xbf{"a":1}', id="a byte order mark"),
        pytest.param(b'{"a":"\xff"}', id="not UTF-8"),
        pytest.param(b'{"a":"\xc0\xaf"}', id="an overlong encoding"),
        pytest.param(b"[1]", id="a list"),
        pytest.param(b'"a"', id="a text"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"{'a':1}", id="other quotes"),
        pytest.param(b'{"a":1,}', id="a comma too many"),
        pytest.param(nested(DEPTH_MAX + 1), id="one too deep"),
        pytest.param(nested(HEADER_MAX_BYTES // 2 - 2), id="very deep"),
        pytest.param(b"[" * HEADER_MAX_BYTES, id="deep, and no JSON"),
        pytest.param(b'{"a":"' + b"x" * HEADER_MAX_BYTES + b'"}', id="too long"),
    ],
)
def test_every_other_way_to_write_a_header_is_malformed(header):
    with pytest.raises(Malformed):
        parse_header(header)


def test_a_header_may_be_as_deep_as_it_says_and_brackets_in_texts_are_no_depth():
    assert parse_header(nested(DEPTH_MAX))
    assert parse_header(b'{"a":"' + b"[" * 100 + b'\\"{{{"}')
