"""What no log may hold is found, in every encoding that is named, and what ids look like is not."""

import base64
import json
import random
import re
import uuid
from urllib.parse import quote

import pytest

from sluice.application.never_logged import FOUND, TEXT_MAX, _marked, find_in, search
from sluice.domain.records.card_numbers import holds_card_number

PANS = ("4111111111111111", "5500005555555559", "378282246310005", "6304000000000000")


def every(text: str, char: str, group: int = 4) -> str:
    return char.join(text[at : at + group] for at in range(0, len(text), group))


def every_string(text: bytes) -> str | None:
    """What is found where every string of a JSON text is searched, not only those marked."""
    for raw in re.findall(rb'"((?:[^"\\]|\\.)*)"', text, re.DOTALL):
        try:
            value = json.loads(b'"%b"' % raw, strict=False)
        except ValueError:
            return "text"
        if found := find_in(value):
            return found
    outside = re.sub(rb'"(?:[^"\\]|\\.)*"', b"", text, flags=re.DOTALL)
    numbers = re.findall(rb"[0-9]{13,}", outside)
    return "card_number" if any(holds_card_number(one.decode()) for one in numbers) else None


def find(text: bytes) -> str | None:
    return search([text])[0]


def encodings(pan: str) -> dict[str, str]:
    return {
        "clear": pan,
        "spaced": every(pan, " "),
        "dashed": every(pan, "-"),
        "dotted": every(pan, "."),
        "in an id": f"ref:{pan}/7",
        "percent": "".join(f"%{ord(c):02x}" for c in pan),
        "first digit in percent": f"%{ord(pan[0]):02x}{pan[1:]}",
        "percent twice": quote("".join(f"%{ord(c):02x}" for c in pan)),
        "base64": base64.b64encode(pan.encode()).decode(),
        "base64 dashed": base64.b64encode(every(pan, "-").encode()).decode(),
        "base64url unpadded": base64.urlsafe_b64encode(f"id={pan}".encode()).decode().rstrip("="),
        "base64 in percent": quote(base64.b64encode(pan.encode()).decode().replace("N", "%4E")),
        "hex": pan.encode().hex(),
        "hex of dashed": every(pan, "-").encode().hex(),
        "full width": "".join(chr(ord(c) - 48 + 0xFF10) for c in pan),
    }


CORPUS = [
    *((f"{name} {pan}", text) for pan in PANS for name, text in encodings(pan).items()),
    ("track 1", "%B4111111111111111^DOE/JOHN^25121010000000000000?"),
    ("track 2", ";4111111111111111=25121010000012345678?"),
    ("track 2 with D", "4111111111111112D25121010000012345678"),
    ("cvv", "cvv=123"),
    ("cvv2", "CVV2: 1234"),
    ("cvc", "x-cvc-123"),
    ("csc", "csc:999"),
    ("cvv in percent", "a%3Bcvv%3D123"),
    ("cvv in base64", base64.b64encode(b'{"cvv":"123"} ').decode()),
    ("pin", "pin=1234"),
    ("pin block", "pin_block:0412AC89ABCDEF67"),
    ("pin block, format 2", "241234FFFFFFFFFF"),
    ("jwt", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2ln"),
    ("bearer", "Bearer abcdef0123456789"),
    ("basic", "Basic dXNlcjpwYXNzd29yZA=="),
    ("cookie", "Cookie: a=b; c=d12345"),
    ("session", "JSESSIONID=0123456789ABCDEF"),
    ("sid", "sid:abcd1234"),
    ("api key", "api_key=abcd1234"),
    ("password", "password:hunter22"),
    ("github", "ghp_0123456789abcdefABCD"),
    ("stripe", "sk_live_0123456789abcdef"),
    ("slack", "xoxb-0123456789-abcdef"),
    ("aws", "AKIAIOSFODNN7EXAMPLE"),
    ("pem", "-----BEGIN PRIVATE KEY-----"),
    ("ipv4", "192.168.17.4"),
    ("ipv4 with its port", "192.168.17.4:443"),
    ("ipv4 as a network of one", "192.168.17.4/32"),
    ("ipv4 as a network of two", "10.1.2.2/31"),
    ("ipv4 in a url", "http://10.1.2.3/a"),
    ("ipv6", "2001:db8:1:2:3:4:5:6"),
    ("ipv6 short", "2001:db8::1"),
    ("ipv6 as a network of one", "2001:db8::1/128"),
    ("ipv4 in ipv6", "::ffff:10.0.0.1"),
    ("a sentence", "the customer called twice"),
    ("a name", "M\u00fcller"),
    ("a newline", "a\nb"),
    ("bidi", "a\u202eb"),
    ("a document", "x" * (TEXT_MAX + 1)),
]


@pytest.mark.parametrize("text", [text for _, text in CORPUS], ids=[name for name, _ in CORPUS])
@pytest.mark.parametrize("escaped", [True, False])
def test_each_of_the_corpus_is_found_wherever_it_stands(text, escaped):
    def written(value: object) -> bytes:
        return json.dumps(value, ensure_ascii=escaped, separators=(",", ":")).encode()

    harmless = written({"authorization_id": "a-1", "event_at": 1_780_056_000_000_000})
    for value in ({"a": text}, {"a": ["x", {"b": text}]}, {"a": f"{text}"}):
        text_of = written(value)
        found = every_string(text_of)
        assert found is not None
        assert search([harmless, text_of, harmless, text_of]) == [None, found, None, found]


def test_the_kind_that_is_found_is_told_and_each_kind_is_in_the_corpus():
    found = {name: find_in(text) for name, text in CORPUS}
    assert set(found.values()) == set(FOUND)
    assert {kind for name, kind in found.items() if name.startswith("cvv")} == {
        "verification_value"
    }
    assert {kind for name, kind in found.items() if name.startswith("pin")} == {"pin_block"}
    assert {kind for name, kind in found.items() if name.startswith("track")} == {"track_data"}
    assert {kind for name, kind in found.items() if name.startswith("ipv")} == {"ip_address"}


def test_a_card_number_is_found_as_a_key_and_as_a_number():
    for text in (b'{"4111111111111111":1}', b'{"pan":4111111111111111}', b"[5500005555555559]"):
        assert find(text) == "card_number"


def test_what_is_no_whole_text_of_json_is_looked_at():
    assert search([b'{"a":"cvv=123', b'{"a":"', b'{"a":"\\', b'"', b"", b"4111111111111111"]) == [
        "verification_value", None, "text", None, None, "card_number",
    ]  # fmt: skip


def test_nothing_is_found_in_what_two_texts_have_together():
    parts = ["4111111111111111", "cvv=123", "Bearer abcdef0123456789", "192.168.17.4", "pin=1234"]
    for part in parts:
        for at in range(1, len(part)):
            first, second = part[:at].encode(), part[at:].encode()
            for texts in ([b"[" + first, second + b"]"], [b'{"a":"' + first, second + b'"}']):
                apart = [search([one])[0] for one in texts]
                assert search(texts) == apart
    assert search([b"41111111", b"11111111"]) == [None, None]
    assert search([b'["41111111', b'11111111"]']) == [None, None]


def test_a_time_is_no_card_number_whatever_its_digits_are():
    diners = next(at for at in range(1_736_000_000_000_000, 10**16) if holds_card_number(str(at)))
    assert search([b'{"at":%d,"a":"cid-9f86d081884c7d65"}' % diners]) == [None]
    assert search([b'{"at":%d}' % (10 * diners)]) == ["card_number"]


def test_ids_networks_times_and_digests_may_be_logged():
    draw = random.Random(7)
    fine = [
        "a-1", "term-00042", "tok_9f86d081884c7d65", "203.0.113.0/24", "2001:db8::/48", "risk_low",
        "2026Q4", "0.2.0", "onnxruntime-1.22.0", "decider-0/1780000000000-1", "cards@0c1d2e3f4a5b",
        "demo/eu/0", "HIGH_SCORE", "pinewood-7", "cidre-2", "secondhand",
    ]  # fmt: skip
    fine += [str(uuid.UUID(int=draw.getrandbits(128), version=4)) for _ in range(300)]
    fine += [draw.randbytes(32).hex() for _ in range(300)]
    assert [text for text in fine if find_in(text) is not None] == []
    assert find(b'{"at":1780056000000000,"states":[[3,884213],[4,884214]]}') is None


def test_most_records_need_no_closer_look():
    draw = random.Random(7)
    texts = [
        json.dumps(
            {
                "authorization_id": str(uuid.UUID(int=draw.getrandbits(128), version=4)),
                "card_token": f"tok_{draw.randbytes(12).hex()}",
                "ip_prefix": f"{draw.randrange(1, 224)}.{draw.randrange(256)}.7.0/24",
                "event_at": 1_780_056_000_000_000,
            },
            separators=(",", ":"),
        ).encode()
        for _ in range(1_000)
    ]
    assert len({at for at, _, _ in _marked(texts)}) < 60
    assert sum(1 for _ in _marked(texts)) < 70


def test_a_text_in_base64_is_marked_whatever_its_letters_and_an_id_in_base64_is_not():
    draw = random.Random(5)
    large = base64.b64encode(b"CVV =4004PAY")
    assert large.isupper()
    assert find(b'"%b"' % large) == "verification_value"
    printable = [*range(32, 127), 9, 10, 13]
    texts = [bytes(draw.choices(printable, k=draw.randrange(12, 60))) for _ in range(3_000)]
    for text in texts:
        token = base64.b64encode(text).decode().rstrip("=")
        for value in (token, token.replace("+", "-").replace("/", "_"), f"a.{token}", f"{token}@b"):
            assert [raw for _, raw, _ in _marked([b'"%b"' % value.encode()])] == [value.encode()]
    ids = [base64.urlsafe_b64encode(draw.randbytes(24)) for _ in range(3_000)]
    marked = sum(1 for _ in _marked([b'"tok_%b"' % one for one in ids]))
    assert marked < 1_000  # for a pair that may be two digits, or a word


def test_what_a_tenant_declares_is_no_card_number_for_the_digits_beside_it():
    value = "7411111111111111117"
    text = json.dumps({"id": value}).encode()
    assert find(text) == "card_number"
    assert search([text, text], lambda at, one: (at, one) == (1, value)) == ["card_number", None]
    assert search([b'{"id":%b}' % value.encode()], lambda _, __: True) == ["card_number"]


def test_what_is_marked_is_all_in_which_something_is_found_in_texts_made_of_pieces_of_such_things():
    draw = random.Random(11)
    pieces = [text for _, text in CORPUS if len(text) < 40]
    glue = ["", " ", "-", ":", "=", "/", ".", "a", "7", "F", "id", "%", "\\", '"', "\n", "\u202e"]

    def value() -> str:
        one = draw.choice(pieces)
        begin, end = sorted(draw.randrange(len(one) + 1) for _ in range(2))
        made = draw.choice(glue) + one[begin:end] + draw.choice(glue) + draw.choice(pieces)[:9]
        return draw.choice(
            [made, made, quote(made), base64.b64encode(made.encode()).decode(), made.encode().hex()]
        )

    texts = []
    for _ in range(5_000):
        value_of: object = draw.choice(
            [value(), [value()], {value(): 1}, draw.randrange(2 * 10**15, 10**17)]
        )
        texts.append(
            json.dumps(
                {"b": "a-1", "a": value_of}, ensure_ascii=draw.random() < 0.5, separators=(",", ":")
            ).encode()
        )
    expected = [every_string(text) for text in texts]
    assert sum(one is not None for one in expected) > 500
    alone = [search([text])[0] for text in texts]
    assert [one for one in zip(texts, expected, alone, strict=True) if one[1] != one[2]] == []
    assert search(texts) == expected
