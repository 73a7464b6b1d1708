"""Card numbers in strangers' texts: what is one, and how a text is searched for it.

A card number here is 13 to 19 digits of a length that its issuer range uses, with a valid check
digit (ISO/IEC 7812-1), on any stretch of the digits that are left when everything but letters and
digits is taken away. A text is searched as it is, and once more as what it may be an encoding of:
percent, base64, base64url, hex. docs/how-to/keep-card-numbers-out.md says what is not found, with
figures.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from itertools import accumulate
from urllib.parse import unquote_to_bytes

CARD_DIGITS_MIN = 13
"""Of a card number; the longest has 19 (ISO/IEC 7812-1). Maestro's 12 are as short as a retrieval
reference number, and are not looked for."""
CARD_DIGITS_MAX = 19
SEARCHED_MAX = 256
"""Characters of a text that are searched: no field takes more than 64."""

RANGES: tuple[tuple[str, tuple[tuple[int, int], ...], tuple[int, ...]], ...] = (
    ("visa", ((4000, 4999),), (13, 16, 19)),
    ("mastercard", ((5100, 5599), (2221, 2720)), (16,)),
    ("amex", ((3400, 3499), (3700, 3799)), (15,)),
    ("discover", ((6011, 6011), (6440, 6599)), (16, 17, 18, 19)),
    ("diners", ((3000, 3059), (3095, 3095), (3600, 3699), (3800, 3999)), (14, 16, 19)),
    ("jcb", ((3528, 3589),), (16, 17, 18, 19)),
    ("unionpay", ((6200, 6299), (8100, 8171)), (16, 17, 18, 19)),
    (
        "maestro",
        tuple((n, n) for n in (5018, 5020, 5038, 5893, 6304, 6759, 6761, 6762, 6763)),
        (13, 14, 15, 16, 17, 18, 19),
    ),
    ("mir", ((2200, 2204),), (16, 17, 18, 19)),
    ("rupay", ((5080, 5089), (6000, 6099), (8100, 8299), (3530, 3539), (3560, 3569)), (16,)),
    ("elo", ((5041, 5041), (5066, 5067), (5090, 5099), (6362, 6363)), (16,)),
    ("troy", ((9792, 9792),), (16,)),
)
"""Issuer, its ranges of the first four digits (longer prefixes are rounded outwards), its lengths.

From the networks' public lists as gathered in Wikipedia, "Payment card number", and Braintree's
credit-card-type; RuPay's, Elo's and Troy's second ranges lie inside those of others."""

_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
_ALPHANUMERIC = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_GRAPHIC = bytes(range(ord("!"), ord("~") + 1))
SEPARATORS = bytes(sorted(set(_GRAPHIC) - set(_ALPHANUMERIC)))
"""ASCII punctuation: what may stand between the digits of a number."""
_NOT_ALPHANUMERIC = bytes(sorted(set(range(256)) - set(_ALPHANUMERIC)))
STRANGE = b"!"
"""Stands in a squeezed text for a byte that is no visible ASCII character."""
BOUNDARY = "y"
"""Between two texts that are squeezed as one: a letter, which no run of digits crosses."""


def _classes() -> bytes:
    table = bytearray(STRANGE * 256)
    for byte in _ALPHANUMERIC:
        digit, hexadecimal = byte in b"0123456789", byte in b"ABCDEFabcdef"
        table[byte] = ord("0" if digit else "x" if hexadecimal else BOUNDARY)
    # Two digits at the start of three bytes: the first two of four characters in base64.
    for byte in b"MNO":
        table[byte] = ord("a")
    for byte in b"DTjz":
        table[byte] = ord("b")
    return bytes(table)


CLASSES = _classes()
"""``text.translate(CLASSES, SEPARATORS)`` squeezes a text to what the search needs to know of it:
0 for a digit, x and y for letters, a and b for letters that digits become in base64."""
RUN = b"0" * CARD_DIGITS_MIN
"""In every squeezed text that holds a number in clear."""
LONG_RUN, PAIR, GROUP, GROUP_D = 2 * RUN, b"ab", b"0" * 9 + b"x", b"0" * 9 + b"b"
"""One of them is in every squeezed text that holds a number in hex, in base64, in groups in hex (34
31 31 31 2d), unless ``%`` is in the text itself."""

_RUN = re.compile(rb"[0-9](?:[^0-9A-Za-z]*[0-9]){12,}")
_ALONE = re.compile(rb"(?<![0-9])[0-9]{13}(?![0-9])")
_MOMENT = re.compile(
    rb"20[23][0-9](?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])"
    rb"(?:[01][0-9]|2[0-3])[0-5][0-9][0-5][0-9]"
)
_HEX_DIGITS = re.compile(rb"3[0-9](?:(?:2[0-9A-Fa-f]|5[Ff])*3[0-9]){12,}")
_STANDARD = bytes.maketrans(b"-_", b"+/")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{18,}")
HASH_MIN = 32
"""Hex characters of a hash, in which digits beside digits are chance: MD5 has 32, SHA-256 64."""
_HASH = re.compile(
    rb"(?<![0-9A-Za-z])(?=[0-9-]*[A-Fa-f])(?:"
    rb"(?P<uuid>[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[1-8][0-9A-Fa-f]{3}-[89ABab][0-9A-Fa-f]{3}-[0-9A-Fa-f]{12})"
    rb"|[0-9A-Fa-f]{32,})(?![0-9A-Za-z])"
)
"""A hash, or a UUID of RFC 9562, with a letter in it."""
_HEX_LETTERS = re.compile(rb"[A-Fa-f]+")
_IBAN = re.compile(rb"[A-Z]{2}[0-9]{2}[0-9A-Z]{11,30}")


def _lengths() -> dict[bytes, tuple[int, ...]]:
    found: dict[bytes, set[int]] = {}
    for _, ranges, lengths in RANGES:
        for first, last in ranges:
            for prefix in range(first, last + 1):
                found.setdefault(b"%04d" % prefix, set()).update(lengths)
    return {prefix: tuple(sorted(lengths)) for prefix, lengths in found.items()}


_LENGTHS = _lengths()


def passes_luhn(digits: str) -> bool:
    """True if a digit string has a valid check digit (ISO/IEC 7812-1, annex B).

    >>> passes_luhn("4111111111111111"), passes_luhn("4111111111111112")
    (True, False)
    """
    total = 0
    for place, char in enumerate(reversed(digits)):
        digit = ord(char) - 48
        total += _DOUBLED[digit] if place & 1 else digit
    return total % 10 == 0


def holds_card_number(value: str, *, declared: bool = False) -> bool:
    """True if a text holds a card number, in clear or in one of the encodings.

    declared: its sender has said how it makes such texts, and it did; then digits beside other
    digits are no number, only all of them that stand together. Under a microsecond for a text
    that shows no sign of a number, some three for one that does.

    >>> holds_card_number("ref:4111-1111_1111.1111/7"), holds_card_number("term-00042")
    (True, False)
    >>> holds_card_number("NDExMTExMTExMTExMTExMQ"), holds_card_number("1769472000000042")
    (True, False)
    """
    if len(value) < CARD_DIGITS_MIN:
        return False
    raw = value[:SEARCHED_MAX].encode("ascii", "replace")
    squeezed = raw.translate(CLASSES, _NOT_ALPHANUMERIC)
    if RUN in squeezed and _in_clear(raw, declared=declared):
        return True
    return (
        PAIR in squeezed
        or GROUP in squeezed
        or GROUP_D in squeezed
        or LONG_RUN in squeezed
        or b"%" in raw
    ) and any(map(_in_clear, _decoded(raw)))


def _decoded(raw: bytes) -> list[bytes]:
    """What a text may be an encoding of."""
    found = [unquote_to_bytes(raw)] if b"%" in raw else []
    bare = raw.translate(None, _NOT_ALPHANUMERIC)
    found += [bytes.fromhex(one.group().decode()) for one in _HEX_DIGITS.finditer(bare)]
    for token in _BASE64.findall(raw):
        text = token.translate(_STANDARD)
        for start in range(4):  # a prefix may stand before it
            part = text[start : len(text) - (len(text) - start) % 4]
            rest = text[start + len(part) :]
            found.append(base64.b64decode(part + (rest.ljust(4, b"A") if len(rest) > 1 else b"")))
    return found


def none_suspect(texts: Sequence[str]) -> bool:
    """True if all texts are visible ASCII in which nothing looks like a card number, in clear or
    encoded: one look at all of them together, 10 ns each. False says nothing."""
    try:
        joined = BOUNDARY.join(texts).encode("ascii")
    except UnicodeEncodeError:
        return False
    squeezed = joined.translate(CLASSES, SEPARATORS)
    return b"%" not in joined and not any(
        mark in squeezed for mark in (RUN, PAIR, GROUP, GROUP_D, STRANGE)
    )


def _in_clear(raw: bytes, *, declared: bool = False) -> bool:
    """True if the digits of a text, whatever stands between them, hold a number.

    Left out, because ids hold some by chance: what reaches into a time of day, YYYYMMDDhhmmss of
    2020 to 2039, where digits begin behind no letter; most of a hash or UUID, see
    :func:`_in_hash`; digits inside an IBAN whose check digits are right.
    """
    if len(raw) >= HASH_MIN:
        hashes = list(_HASH.finditer(raw))
        if any(_in_hash(one, declared=declared) for one in hashes):
            return True
        if hashes:
            raw = _HASH.sub(BOUNDARY.encode(), raw)
    bare = raw.translate(None, _NOT_ALPHANUMERIC)
    if len(bare) > CARD_DIGITS_MIN and any(map(_is_number, _ALONE.findall(raw))):
        return True
    for run in _RUN.finditer(raw):
        digits = run.group().translate(None, _NOT_ALPHANUMERIC)
        if _is_number(digits):
            return True
        if declared:
            continue
        moment = _MOMENT.match(digits)
        if moment and not raw[: run.start()][-1:].isalpha():
            digits = digits[moment.end() :]
        if _holds_number(digits) and not _is_iban(bare):
            return True
    return False


def _in_hash(token: re.Match[bytes], *, declared: bool) -> bool:
    """True if a hash or a UUID begins or ends with a number, or a hash has one between letters.

    Elsewhere a stretch of digits is chance: of 10,000 random UUIDs seven hold one. A UUID that is
    declared is not searched.
    """
    runs = _HEX_LETTERS.split(token.group().replace(b"-", b""))
    first, last = runs[0], runs[-1]
    if token["uuid"] and declared:
        return False
    if not declared and (_begins_with_number(first) or _ends_with_number(last)):
        return True
    return not token["uuid"] and any(map(_is_number, runs))


def _is_iban(bare: bytes) -> bool:
    """ISO 13616: with the first four characters last and letters as 10 to 35, it is 1 modulo 97."""
    if not _IBAN.fullmatch(bare):
        return False
    turned = (bare[4:] + bare[:4]).decode()
    return int("".join(str(int(char, 36)) for char in turned)) % 97 == 1


def _is_number(digits: bytes) -> bool:
    """True if the whole of it is a card number."""
    return len(digits) in _LENGTHS.get(digits[:4], ()) and passes_luhn(digits.decode())


def _begins_with_number(digits: bytes) -> bool:
    lengths = _LENGTHS.get(digits[:4], ())
    return any(_is_number(digits[:n]) for n in lengths if CARD_DIGITS_MIN < n <= len(digits))


def _ends_with_number(digits: bytes) -> bool:
    starts = range(max(0, len(digits) - CARD_DIGITS_MAX), len(digits) - CARD_DIGITS_MIN)
    return any(_is_number(digits[start:]) for start in starts)


def _holds_number(digits: bytes) -> bool:
    """True if some stretch of it is one. A number of 13 counts only as the whole."""
    if len(digits) <= CARD_DIGITS_MIN:
        return _is_number(digits)
    sums: list[list[int]] = []
    for start in range(0, len(digits) - CARD_DIGITS_MIN):
        lengths = _LENGTHS.get(digits[start : start + 4])
        if lengths is None:
            continue
        if not sums:
            values = [byte - 48 for byte in digits]
            sums = [
                list(
                    accumulate(
                        (v if i & 1 == odd else _DOUBLED[v] for i, v in enumerate(values)),
                        initial=0,
                    )
                )
                for odd in (0, 1)
            ]
        for length in lengths:
            end = start + length
            if length == CARD_DIGITS_MIN or end > len(digits):
                continue
            total = sums[(end - 1) & 1]
            if (total[end] - total[start]) % 10 == 0:
                return True
    return False
