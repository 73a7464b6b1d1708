"""Identifiers: one NewType a kind, tags for the kernel, and the refusal of card numbers."""

from __future__ import annotations

import re
import zlib

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
CARD_DIGITS_MIN = 13
"""Of a card number; the longest has 19 (ISO/IEC 7812-1)."""
_DIGIT_RUN = re.compile(r"(?<![0-9A-Za-z])[0-9](?:[ -]?[0-9]){12,18}(?![0-9A-Za-z])")
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def tag32(identifier: str) -> int:
    """A stable 32-bit tag of an identifier (CRC-32), never 0; 0 stands for "none".

    States hold tags, not identifiers. Two of one card's 64 remembered merchants share a tag
    with probability 5e-7, and any language can compute it.

    >>> tag32("merchant-1") == tag32("merchant-1"), tag32("")
    (True, 1)
    """
    return zlib.crc32(identifier.encode()) or 1


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


def holds_card_number(value: str) -> bool:
    """True if the text contains 13 to 19 digits, plain or in groups, that pass Luhn.

    Only the digits 0 to 9 count: others are refused as characters. A canonical UUID is exempt: its
    digit groups pass by chance.

    >>> holds_card_number("4111 1111 1111 1111"), holds_card_number("term-00042")
    (True, False)
    """
    if len(value) < CARD_DIGITS_MIN or _UUID.match(value):
        return False
    return any(passes_luhn(re.sub(r"[ -]", "", run.group())) for run in _DIGIT_RUN.finditer(value))
