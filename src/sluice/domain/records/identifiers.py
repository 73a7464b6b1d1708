"""Identifiers: the tags by which states hold them."""

from __future__ import annotations

import zlib


def tag32(identifier: str) -> int:
    """A stable 32-bit tag of an identifier (CRC-32), never 0; 0 stands for "none".

    States hold tags, not identifiers. Two of one card's 64 remembered merchants share a tag
    with probability 5e-7, and any language can compute it.

    >>> tag32("merchant-1") == tag32("merchant-1"), tag32("")
    (True, 1)
    """
    return zlib.crc32(identifier.encode()) or 1
