"""What no log may hold, looked for in the bytes that are to be logged.

Card numbers, card verification values, track data, PIN blocks (PCI DSS 4.0.1, 3.3), tokens,
cookies and passwords, full IP addresses, and sentences. A record's schema keeps out what has
another shape; this finds what hides in a text of the right one. First one compiled loop over a
whole batch marks the strings and numbers that deserve a closer look, 3 ns a byte; then each of
those is searched as it is, and as what it may be an encoding of (:func:`search`).

What cannot be told from an id is not found: an unlabelled verification value of three digits, an
encrypted PIN block in hex, a secret without a name before it.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Literal, get_args
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from sluice.domain.compiled import entry
from sluice.domain.records.card_numbers import SEARCHED_MAX, holds_card_number

Found = Literal[
    "card_number", "verification_value", "track_data", "pin_block", "secret", "ip_address", "text"
]
FOUND: tuple[Found, ...] = get_args(Found)
TEXT_MAX = 128
"""Characters of a text; ids have at most 64, and what is longer is a sentence or a document."""
KNOWN_MAX = 16_384
"""Strings whose answer is remembered: constants of many records, some ids; 3 MB."""
DECODED_MAX = 2
"""Encodings in each other that are undone."""
IPV4_BITS_MAX, IPV6_BITS_MAX = 24, 64
"""Of an address that may be logged: a network of 256 hosts, one line of a household."""

_OVERLAP = 64
_WORD = r"(?<![A-Za-z])"
_VERIFICATION = re.compile(
    rf"{_WORD}(?:cvv2?|cvc2?|cav2?|csc|cid|card.?verification.?(?:value|code))"
    r"[\"' ]{0,2}[:=# _-]{1,2}[\"' ]{0,2}[0-9]{3,4}(?![0-9])",
    re.IGNORECASE,
)
_TRACK = re.compile(r"%?B[0-9 ]{12,23}\^[^^]{2,26}\^[0-9]{4}|;?[0-9]{12,19}[=D][0-9]{7,}")
_PIN = re.compile(
    rf"{_WORD}pin(?:.?block)?[\"' ]{{0,2}}[:=][\"' ]{{0,2}}[0-9A-F]{{4,16}}(?![0-9A-Z])",
    re.IGNORECASE,
)
_PIN_FORMAT_2 = re.compile(r"(?<![0-9A-Za-z])2[4-9A-C][0-9]{4,12}F{2,10}(?![0-9A-Za-z])")
"""ISO 9564-1, the one format that is not mixed with the card number."""
_SECRET = re.compile(
    r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}"
    r"|-----BEGIN"
    rf"|{_WORD}(?:AKIA|ASIA)[0-9A-Z]{{16}}"
    rf"|{_WORD}(?:gh[opsu]|xox[abps]|[spr]k_(?:live|test))[_-][A-Za-z0-9-]{{10,}}"
    rf"|{_WORD}(?i:bearer|basic)[ +][A-Za-z0-9._~+/=-]{{8,}}"
    rf"|{_WORD}(?i:(?:set.?)?cookie2?|j?session_?id|phpsessid|sess(?:ion)?|sid|csrf(?:.?token)?"
    r"|(?:access|refresh|id|auth|api).?(?:token|key)|authorization|passw(?:or)?d|secret)"
    r"[\"' ]{0,2}[:=][\"' ]{0,2}[^ ]{4,}"
)
_IPV4 = re.compile(
    r"(?<![0-9A-Za-z.])([0-9]{1,3}(?:\.[0-9]{1,3}){3})(?:/([0-9]{1,2}))?(?![0-9.]*[0-9A-Za-z])"
)
_IPV6 = re.compile(
    r"(?<![0-9A-Za-z:.])([0-9A-Fa-f:]*:[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*)(?:/([0-9]{1,3}))?"
)
_ENCODED = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_PRINTABLE = re.compile(rb"[ -~\t\r\n]*")

_DIGIT, _HEX, _LETTER, _SPECIAL, _DOT, _COLON, _BLANK, _APART = 1, 2, 3, 4, 5, 6, 7, 8
_BASE64, _FIRST, _SECOND = 1, 2, 4
_TRIPLES = (
    "cvv", "cvc", "csc", "cav", "cid", "rif", "pin", "eyj", "rer", "bas", "ghp", "gho", "ghs",
    "ghu", "xox", "aki", "asi", "k_l", "k_t", "---", "coo", "ses", "sid", "pas", "sec", "csr",
    "api",
)  # fmt: skip
"""One is in every word that the searches above ask for; none is of hexadecimal digits alone."""


def _tables() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    kinds = np.full(256, _APART, np.uint8)
    kinds[list(b"+/_-")] = 0
    kinds[[*range(32), *range(127, 256)]] = _SPECIAL
    kinds[list(b"%=;^\\")] = _SPECIAL
    kinds[list(b"0123456789")] = _DIGIT
    kinds[[*range(ord("A"), ord("Z") + 1), *range(ord("a"), ord("z") + 1)]] = _LETTER
    kinds[list(b"ABCDEFabcdef")] = _HEX
    kinds[ord(".")], kinds[ord(":")], kinds[ord(" ")] = _DOT, _COLON, _BLANK
    letters = np.zeros(256, np.uint8)
    for i in range(26):
        letters[ord("a") + i] = letters[ord("A") + i] = i + 1
    letters[ord("_")], letters[ord("-")] = 27, 28
    triples = np.zeros(1 << 15, np.bool_)
    for triple in _TRIPLES:
        first, second, third = (int(letters[ord(char)]) for char in triple)
        triples[first << 10 | second << 5 | third] = True
    return kinds, letters, triples


def _base64_codes() -> npt.NDArray[np.uint8]:
    """Of each byte, whether base64 is written with it, and whether it may be the first or second of
    four that are three bytes of a text."""
    codes = np.zeros(256, np.uint8)
    chars = np.frombuffer(_ALPHABET, np.uint8)
    codes[[*chars, *b"-_"]] = _BASE64
    printable = [byte for byte in range(256) if _PRINTABLE.fullmatch(bytes([byte]))]
    codes[chars[[byte >> 2 for byte in printable]]] |= _FIRST
    codes[chars[[high << 4 | byte >> 4 for byte in printable for high in range(4)]]] |= _SECOND
    return codes


_KINDS, _LETTERS, _IS_TRIPLE = _tables()
_CODES = _base64_codes()
_IS_PAIR = np.zeros(256, np.bool_)
_IS_PAIR[list(b"DTjz")] = True


@entry
def _look(text, ends, kinds, letters, triples, pairs, codes, marks):  # type: ignore[no-untyped-def]
    """See :func:`_marked`. Returns how many there are."""
    at = count = 0
    for one in range(ends.size):
        end = ends[one]
        suspect = inside = False
        began = digits = 0
        length = run = dots = colons = blanks = triple = bits = last = nine = apart = 0
        paired = network = False
        while at <= end:
            byte = text[at] if at < end else 0
            at += 1
            if not inside:
                if 48 <= byte <= 57:
                    digits += 1
                    continue
                # Thirteen or sixteen digits that begin with 1 are a time.
                if digits >= 13 and not (digits in (13, 16) and text[at - 1 - digits] == 49):
                    marks[count, 0], marks[count, 1], marks[count, 2] = one, at - 1 - digits, at - 1
                    count += 1
                digits = 0
                if byte == 34 and at <= end:
                    inside = True
                    began = at
                    length = run = dots = colons = blanks = triple = bits = last = nine = apart = 0
                    suspect = paired = network = False
                continue
            if at > end or byte == 34:
                inside = False
                suspect |= dots >= 3 and not (network and 0 <= bits <= 24)
                if not suspect and length >= 16:  # base64 of a text, in what stands together
                    first, behind, fits = began, at - 1, True
                    apart += dots + colons + blanks
                    for here in range(began, at):
                        code = codes[text[here]] if here < behind else 0
                        place = here - first & 3
                        if code == 0:
                            suspect |= fits and here - first >= 16
                            first, fits = here + 1, True
                        elif place == 0:
                            fits &= code & 2 != 0
                        elif place == 2:
                            fits &= codes[text[here - 1]] & 4 != 0
                        if not fits and apart == 0:
                            break
                if suspect or at > end:
                    marks[count, 0], marks[count, 1], marks[count, 2] = one, began, at - 1
                    count += 1
                continue
            length += 1
            kind = kinds[byte]
            triple = (triple << 5 | letters[byte]) & 0x7FFF
            suspect |= triples[triple]
            if kind == 1:
                run += 1
                nine = (nine << 4 | byte - 48) & 0xFFFFFFFFF
                suspect |= run >= 13
                paired = False
                bits = max(bits, 0) * 10 + byte - 48
            elif 2 <= kind <= 3:
                # Four digits in hex and a separator: 3n3n3n3n2d. The last nine digits, as nibbles.
                suspect |= run >= 9 and kind == 2 and nine & 0xF0F0F0F00 == 0x303030300
                run = nine = 0
                network = False
                suspect |= byte == 70 and last == 70  # what fills a PIN block
                # Two characters that two digits may have become in base64.
                suspect |= paired and pairs[byte]
                paired = 77 <= byte <= 79
            elif kind == 4:
                suspect = True
                if byte == 92 and at < end:
                    at += 1
            elif kind == 5:
                dots += 1
                network = False
            elif kind == 6:
                colons += 1
                suspect |= colons >= 2
            elif kind == 7:
                blanks += 1
                suspect |= blanks >= 2
            elif kind == 8:
                apart += 1
            if byte == 47:
                network = length <= 16
                bits = -1
            suspect |= length > 128
            last = byte
        at = end
    return count


def _marked(texts: Sequence[bytes]) -> Iterable[tuple[int, bytes, bool]]:
    """What deserves a closer look in n texts of JSON: number of the text, the inside of a string or
    a number, and whether it is a string. Whatever :func:`find_in` finds in one, it is marked.

    A string that does not end is marked up to the end of its text. What may be a time in milli- or
    microseconds of 2001 to 2033 is not: chance puts a card number in its digits.
    """
    whole = b"".join(texts)
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    # A string that is marked has two quotes and a byte; the last of each text may lack them.
    marks = np.empty((len(whole) // 3 + len(texts), 3), np.int64)
    text = np.frombuffer(whole, np.uint8)
    count = _look(text, ends, _KINDS, _LETTERS, _IS_TRIPLE, _IS_PAIR, _CODES, marks)
    for one, first, behind in marks[:count].tolist():
        yield one, whole[first:behind], whole[first - 1 : first] == b'"'


def search(
    texts: Sequence[bytes], is_declared: Callable[[int, str], bool] = lambda _, __: False
) -> list[Found | None]:
    """Of each of n texts of JSON, the first that is found and may not be logged; None if nothing
    is. Keys and values are searched, and numbers outside of them.

    is_declared: says of a text's number, and of a value in it, that its sender makes such ids, so
    that digits beside other digits in it are no card number.

    >>> search([b'{"a":"cvv=123"}', b'{"a":"a-1"}', b'{"a":4111111111111111}'])
    ['verification_value', None, 'card_number']
    """
    answer: list[Found | None] = [None] * len(texts)
    for one, raw, is_text in _marked(texts):
        if answer[one] is not None:
            continue
        if not is_text:
            answer[one] = "card_number" if holds_card_number(raw.decode()) else None
            continue
        found = _find_in_string(raw)
        if found == "card_number" and is_declared(one, value := _value(raw)):
            found = find_in(value, declared=True)
        answer[one] = found
    return answer


@lru_cache(KNOWN_MAX)
def _find_in_string(raw: bytes) -> Found | None:
    try:
        return find_in(_value(raw))
    except ValueError:
        return "text"


def _value(raw: bytes) -> str:
    """Of a string of JSON: between its quotes. Raises ValueError."""
    return str(json.loads(b'"%b"' % raw, strict=False)) if b"\\" in raw else raw.decode()


def find_in(value: str, *, declared: bool = False) -> Found | None:
    """The same in one text, outside of JSON.

    >>> find_in("cvv=123"), find_in("10.0.0.1"), find_in("tok_9f86d081884c7d65")
    ('verification_value', 'ip_address', None)
    """
    for one in _readings(value):
        found = _find_in_clear(one, declared=declared)
        if found is not None:
            return found
    if len(value) > TEXT_MAX or not value.isascii() or not value.isprintable():
        return "text"
    return "text" if value.count(" ") > 1 else None


def _find_in_clear(value: str, *, declared: bool) -> Found | None:
    if _TRACK.search(value):
        return "track_data"
    starts = range(0, max(1, len(value)), SEARCHED_MAX - _OVERLAP)
    if any(holds_card_number(value[at : at + SEARCHED_MAX], declared=declared) for at in starts):
        return "card_number"
    if _VERIFICATION.search(value):
        return "verification_value"
    if _PIN.search(value) or _PIN_FORMAT_2.search(value):
        return "pin_block"
    if _SECRET.search(value):
        return "secret"
    return "ip_address" if _holds_address(value) else None


def _readings(value: str) -> list[str]:
    """The text, and what it says where it is percent-encoded, base64 or both."""
    found = newest = [value]
    for _ in range(DECODED_MAX):
        newest = [again for one in newest for again in _decoded(one) if again not in found]
        if not newest:
            break
        found = [*found, *newest]
    return found


def _decoded(value: str) -> list[str]:
    found = [unquote(value, errors="replace")] if "%" in value else []
    for token in _ENCODED.findall(value):
        plain = token.rstrip("=").replace("-", "+").replace("_", "/")
        try:
            raw = base64.b64decode(plain + "=" * (-len(plain) % 4))
        except binascii.Error:
            continue
        if _PRINTABLE.fullmatch(raw):
            found.append(raw.decode())
    return found


def _holds_address(value: str) -> bool:
    return any(
        _is_address(address, bits, most)
        for pattern, most in ((_IPV4, IPV4_BITS_MAX), (_IPV6, IPV6_BITS_MAX))
        for address, bits in pattern.findall(value)
    )


def _is_address(address: str, bits: str, most: int) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return not bits or int(bits) > most
