"""Identifiers that say nothing: keyed hashes spelled with letters, and UUIDv7.

Letters only, so that no identifier ever looks like a card number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

U64 = npt.NDArray[np.uint64]
_LETTERS = np.frombuffer(b"bcdfghjkmnpqrstv", np.uint8)
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_LENGTH = 14
"""Letters: 56 bits; a million cards collide with probability 7e-6."""
CARD, CUSTOMER, MERCHANT, TERMINAL, DEVICE, PHONE, TRIP, TOUR, HOME, PREFIX = range(1, 11)
EXEMPTION = 11


def mix(*parts: Any) -> U64:
    """A 64-bit hash of integers or integer arrays, which broadcast (splitmix64 finaliser)."""
    state = np.zeros(np.broadcast_shapes(*(np.shape(p) for p in parts)), np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            state = state + np.asarray(part).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def unit(hashed: U64) -> npt.NDArray[np.float64]:
    """Hashes to [0, 1)."""
    return (hashed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def letters(prefix: str, hashed: U64, absent: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """(n,) hashes to strings such as ``card_bcdfghjkmnpqrs``; null where absent."""
    head = np.frombuffer(prefix.encode(), np.uint8)
    text = np.empty((len(hashed), len(head) + _LENGTH), np.uint8)
    text[:, : len(head)] = head
    for place in range(_LENGTH):
        text[:, len(head) + place] = _LETTERS[(hashed >> np.uint64(4 * place)) & np.uint64(15)]
    return fixed_strings(text, absent)


def uuid7(event_us: npt.NDArray[np.int64], high: U64, low: U64) -> pa.Array:
    """(n,) canonical UUIDv7: milliseconds of the event, 74 given bits (RFC 9562, 5.7).

    Of the last four bits a letter is made: of 50,000 random ones one ends with what passes for a
    card number, and would be refused.
    """
    first = (event_us // 1000).astype(np.uint64) << np.uint64(16)
    first |= np.uint64(0x7000) | (high & np.uint64(0xFFF))
    second = np.uint64(1 << 63) | (low & np.uint64((1 << 62) - 16))
    second |= np.uint64(10) + (low & np.uint64(15)) % np.uint64(6)
    text = np.full((len(event_us), 36), ord("-"), np.uint8)
    places = [p for p in range(36) if p not in (8, 13, 18, 23)]
    for nibble, place in enumerate(places):
        word, shift = (first, 60 - 4 * nibble) if nibble < 16 else (second, 124 - 4 * nibble)
        text[:, place] = _HEX[(word >> np.uint64(shift)) & np.uint64(15)]
    return fixed_strings(text)


def prefixes(ip: npt.NDArray[np.uint32]) -> pa.Array:
    """(n,) 20-bit numbers from 1 to /24 prefixes inside 240.0.0.0/4; null for 0.

    That block is reserved (RFC 1112), so no real network ever plays the thief.
    """
    return _PREFIXES.take(pa.array(ip.astype(np.int32)))


def fixed_strings(
    text: npt.NDArray[np.uint8], absent: npt.NDArray[np.bool_] | None = None
) -> pa.Array:
    """(n, width) ASCII bytes to n strings."""
    rows, width = text.shape
    offsets = np.arange(rows + 1, dtype=np.int32) * np.int32(width)
    strings = pa.StringArray.from_buffers(
        rows, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(text))
    )
    if absent is None or not absent.any():
        return strings
    return pc.if_else(pa.array(absent), pa.scalar(None, pa.string()), strings)


def _all_prefixes() -> pa.Array:
    numbers = range(1 << 16)
    return pa.array(
        [None] + [f"{240 + (n >> 12)}.{(n >> 4) & 255}.{(n & 15) * 16}.0/24" for n in numbers[1:]],
        pa.string(),
    )


_PREFIXES = _all_prefixes()
IP_SPACE = len(_PREFIXES) - 1
"""Prefixes in the world, numbered from 1."""
