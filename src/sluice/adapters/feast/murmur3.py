"""MurmurHash3 x86 32-bit (Austin Appleby, public domain): Feast hashes field names with it.

Pure Python because it runs a handful of times, at import; the contract test compares with mmh3.
"""

from __future__ import annotations

_MASK = 0xFFFFFFFF
_C1, _C2 = 0xCC9E2D51, 0x1B873593


def _rotate(word: int, by: int) -> int:
    return ((word << by) | (word >> (32 - by))) & _MASK


def _mix(word: int) -> int:
    return (_rotate((word * _C1) & _MASK, 15) * _C2) & _MASK


def murmur3_32(data: bytes) -> int:
    """Unsigned 32-bit hash with seed 0.

    >>> hex(murmur3_32(b"")), hex(murmur3_32(b"hello"))
    ('0x0', '0x248bfa47')
    """
    hashed = 0
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        hashed ^= _mix(int.from_bytes(data[at : at + 4], "little"))
        hashed = (_rotate(hashed, 13) * 5 + 0xE6546B64) & _MASK
    if whole < len(data):
        hashed ^= _mix(int.from_bytes(data[whole:], "little"))
    hashed ^= len(data)
    hashed ^= hashed >> 16
    hashed = (hashed * 0x85EBCA6B) & _MASK
    hashed ^= hashed >> 13
    hashed = (hashed * 0xC2B2AE35) & _MASK
    return hashed ^ (hashed >> 16)
