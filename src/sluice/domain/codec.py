"""States as bytes: what is empty takes none. Equal states make equal bytes.

Layout, version 1: byte 0 the format; bytes 1-8 the number of events applied, little endian (the
etag); then LEB128 varints unless said otherwise.
Card: versions; frauds; newest day + 1; newest fraud report + 1; ring oldest first, each: flags,
microseconds since the one before, id tag (4 bytes), amount, mcc, and what differs from the one
before (country and currency; merchant tag, 4 bytes; device tag, 4 bytes); tiles by age.
Terminal, merchant, device: versions; head values + 1; for each resolution its tiles by age:
distance to the newest, count, amount, declines, frauds, sketch (a list of bit numbers, or whole).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sluice.domain import cardstate as c
from sluice.domain import tilestate as t
from sluice.domain.cardstate import clear_card
from sluice.domain.tilestate import clear_tiles

FORMAT = 1
STATE_BYTES_MAX = 12_288
"""Above the largest possible state: 64 versions and 143 full tiles take 6.4 kB."""
PREFIX = 9
SPARSE_BITS_MAX = 6
"""Cards in a tile up to which bit numbers are shorter than the sketch."""

_CHANNEL_BITS = 7
_F_DECLINED, _F_DEVICE, _F_SAME_PLACE, _F_SAME_MERCHANT, _F_SAME_DEVICE = 8, 16, 32, 64, 128


@njit(cache=True, nogil=True)
def _put(out, at, value):  # type: ignore[no-untyped-def]
    rest = np.uint64(value)
    while rest >= np.uint64(128):
        out[at] = np.uint8((rest & np.uint64(127)) | np.uint64(128))
        rest >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(rest)
    return at + 1


@njit(cache=True, nogil=True)
def _get(raw, at, end):  # type: ignore[no-untyped-def]
    """(value, next); next is -1 if the bytes end or the number is longer than 64 bits."""
    value = np.uint64(0)
    shift = np.uint64(0)
    while 0 <= at < end and shift < np.uint64(64):
        byte = np.uint64(raw[at])
        value |= (byte & np.uint64(127)) << shift
        at += 1
        if byte < np.uint64(128):
            return np.int64(value), at
        shift += np.uint64(7)
    return np.int64(0), np.int64(-1)


@njit(cache=True, nogil=True)
def _put_fixed(out, at, value, width):  # type: ignore[no-untyped-def]
    for i in range(width):
        out[at + i] = np.uint8((value >> (8 * i)) & 255)
    return at + width


@njit(cache=True, nogil=True)
def _get_fixed(raw, at, end, width):  # type: ignore[no-untyped-def]
    if at < 0 or at + width > end:
        return np.int64(0), np.int64(-1)
    value = np.int64(0)
    for i in range(width):
        value |= np.int64(raw[at + i]) << np.int64(8 * i)
    return value, at + width


@njit(cache=True, nogil=True)
def _put_versions(out, at, head, versions):  # type: ignore[no-untyped-def]
    at = _put_fixed(out, at, head[c.APPLIED], 8)
    at = _put(out, at, head[c.N_VERSIONS])
    for i in range(head[c.N_VERSIONS]):
        at = _put(out, at, versions[i, 0])
        at = _put(out, at, versions[i, 1])
    return at


@njit(cache=True, nogil=True)
def _get_versions(raw, at, end, head, versions):  # type: ignore[no-untyped-def]
    head[c.APPLIED], at = _get_fixed(raw, at, end, 8)
    n, at = _get(raw, at, end)
    if at < 0 or n > c.SOURCES_MAX:
        return np.int64(-1)
    head[c.N_VERSIONS] = n
    for i in range(n):
        versions[i, 0], at = _get(raw, at, end)
        versions[i, 1], at = _get(raw, at, end)
    return at


@njit(cache=True, nogil=True)
def encode_card(card, out, at):  # type: ignore[no-untyped-def]
    """Write a card's state at out[at:]; returns the end."""
    out[at] = FORMAT
    head = card.head
    at = _put_versions(out, at + 1, head, card.versions)
    at = _put(out, at, head[c.FRAUDS])
    at = _put(out, at, head[c.NEWEST_DAY] + 1)
    at = _put(out, at, head[c.LAST_FRAUD_US] + 1)
    n = head[c.N_RING]
    at = _put(out, at, n)
    us = np.int64(0)
    for i in range(n):
        row = card.ring[i]
        flags = row[c.R_CHANNEL] & _CHANNEL_BITS
        if row[c.R_DECLINED]:
            flags |= _F_DECLINED
        if row[c.R_DEVICE] != 0:
            flags |= _F_DEVICE
        if i > 0:
            before = card.ring[i - 1]
            if (
                before[c.R_COUNTRY] == row[c.R_COUNTRY]
                and before[c.R_CURRENCY] == row[c.R_CURRENCY]
            ):
                flags |= _F_SAME_PLACE
            if before[c.R_MERCHANT] == row[c.R_MERCHANT]:
                flags |= _F_SAME_MERCHANT
            if before[c.R_DEVICE] == row[c.R_DEVICE]:
                flags |= _F_SAME_DEVICE
        out[at] = np.uint8(flags)
        at = _put(out, at + 1, row[c.R_US] - us)
        us = row[c.R_US]
        at = _put_fixed(out, at, row[c.R_ID], 4)
        at = _put(out, at, row[c.R_AMOUNT])
        at = _put(out, at, row[c.R_MCC])
        if not flags & _F_SAME_PLACE:
            at = _put(out, at, row[c.R_COUNTRY])
            at = _put(out, at, row[c.R_CURRENCY])
        if not flags & _F_SAME_MERCHANT:
            at = _put_fixed(out, at, row[c.R_MERCHANT], 4)
        if flags & _F_DEVICE and not flags & _F_SAME_DEVICE:
            at = _put_fixed(out, at, row[c.R_DEVICE], 4)
    for age in range(c.DAYS_KEPT):
        day = head[c.NEWEST_DAY] - age
        if day < 0:
            break
        tile = card.tiles[day % c.DAYS_KEPT]
        if tile[c.T_DAY] == day and tile[c.T_COUNT] > 0:
            at = _put(out, at, age)
            at = _put(out, at, tile[c.T_COUNT])
            at = _put(out, at, tile[c.T_AMOUNT])
            at = _put(out, at, tile[c.T_DECLINES])
    return at


@njit(cache=True, nogil=True)
def decode_card(raw, at, end, card):  # type: ignore[no-untyped-def]
    """Read raw[at:end] into a card's scratch; nothing at all is a card never seen.

    False if the bytes are not a card's state of this format.
    """
    clear_card(card)
    if at == end:
        return True
    if raw[at] != FORMAT:
        return False
    head = card.head
    at = _get_versions(raw, at + 1, end, head, card.versions)
    head[c.FRAUDS], at = _get(raw, at, end)
    day, at = _get(raw, at, end)
    head[c.NEWEST_DAY] = day - 1
    us, at = _get(raw, at, end)
    head[c.LAST_FRAUD_US] = us - 1
    n, at = _get(raw, at, end)
    if at < 0 or n > c.RING_MAX:
        return False
    head[c.N_RING] = n
    us = np.int64(0)
    for i in range(n):
        if at >= end:
            return False
        row = card.ring[i]
        flags = np.int64(raw[at])
        step, at = _get(raw, at + 1, end)
        us += step
        row[c.R_US] = us
        row[c.R_ID], at = _get_fixed(raw, at, end, 4)
        row[c.R_AMOUNT], at = _get(raw, at, end)
        row[c.R_MCC], at = _get(raw, at, end)
        row[c.R_CHANNEL] = flags & _CHANNEL_BITS
        row[c.R_DECLINED] = 1 if flags & _F_DECLINED else 0
        if i == 0 and flags & (_F_SAME_PLACE | _F_SAME_MERCHANT | _F_SAME_DEVICE):
            return False
        before = card.ring[i - 1]
        if flags & _F_SAME_PLACE:
            row[c.R_COUNTRY] = before[c.R_COUNTRY]
            row[c.R_CURRENCY] = before[c.R_CURRENCY]
        else:
            row[c.R_COUNTRY], at = _get(raw, at, end)
            row[c.R_CURRENCY], at = _get(raw, at, end)
        if flags & _F_SAME_MERCHANT:
            row[c.R_MERCHANT] = before[c.R_MERCHANT]
        else:
            row[c.R_MERCHANT], at = _get_fixed(raw, at, end, 4)
        if flags & _F_SAME_DEVICE:
            row[c.R_DEVICE] = before[c.R_DEVICE]
        elif flags & _F_DEVICE:
            row[c.R_DEVICE], at = _get_fixed(raw, at, end, 4)
        else:
            row[c.R_DEVICE] = 0
        if at < 0:
            return False
    while at < end:
        age, at = _get(raw, at, end)
        if at < 0 or age >= c.DAYS_KEPT or age > head[c.NEWEST_DAY]:
            return False
        day = head[c.NEWEST_DAY] - age
        tile = card.tiles[day % c.DAYS_KEPT]
        tile[c.T_DAY] = day
        tile[c.T_COUNT], at = _get(raw, at, end)
        tile[c.T_AMOUNT], at = _get(raw, at, end)
        tile[c.T_DECLINES], at = _get(raw, at, end)
        if at < 0:
            return False
    return at == end


@njit(cache=True, nogil=True)
def _put_tiles(out, at, tiles, newest):  # type: ignore[no-untyped-def]
    kept = len(tiles)
    count = 0
    for i in range(kept):
        if tiles[i, t.TILE] >= 0:
            count += 1
    at = _put(out, at, count)
    for age in range(kept):
        if count == 0:
            break
        number = newest - age
        if number < 0:
            break
        tile = tiles[number % kept]
        if tile[t.TILE] != number:
            continue
        count -= 1
        at = _put(out, at, age)
        at = _put(out, at, tile[t.COUNT])
        at = _put(out, at, tile[t.SUM])
        at = _put(out, at, tile[t.DECLINES])
        at = _put(out, at, tile[t.FRAUDS])
        bits = np.uint64(tile[t.CARDS])
        ones = t._ones(tile[t.CARDS])
        at = _put(out, at, ones)
        if ones <= SPARSE_BITS_MAX:
            for bit in range(64):
                if (bits >> np.uint64(bit)) & np.uint64(1):
                    out[at] = np.uint8(bit)
                    at += 1
        else:
            for i in range(8):
                out[at + i] = np.uint8((bits >> np.uint64(8 * i)) & np.uint64(255))
            at += 8
    return at


@njit(cache=True, nogil=True)
def _get_tiles(raw, at, end, tiles, newest):  # type: ignore[no-untyped-def]
    kept = len(tiles)
    count, at = _get(raw, at, end)
    if at < 0 or count > kept:
        return np.int64(-1)
    for _ in range(count):
        age, at = _get(raw, at, end)
        if at < 0 or age >= kept or age > newest:
            return np.int64(-1)
        number = newest - age
        tile = tiles[number % kept]
        tile[t.TILE] = number
        tile[t.COUNT], at = _get(raw, at, end)
        tile[t.SUM], at = _get(raw, at, end)
        tile[t.DECLINES], at = _get(raw, at, end)
        tile[t.FRAUDS], at = _get(raw, at, end)
        ones, at = _get(raw, at, end)
        if at < 0 or ones > 64:
            return np.int64(-1)
        bits = np.uint64(0)
        width = ones if ones <= SPARSE_BITS_MAX else 8
        if at + width > end:
            return np.int64(-1)
        for i in range(width):
            if ones <= SPARSE_BITS_MAX:
                bits |= np.uint64(1) << np.uint64(raw[at + i] & 63)
            else:
                bits |= np.uint64(raw[at + i]) << np.uint64(8 * i)
        at += width
        tile[t.CARDS] = np.int64(bits)
    return at


@njit(cache=True, nogil=True)
def encode_tiles(state, out, at):  # type: ignore[no-untyped-def]
    """Write a terminal's, merchant's or device's state at out[at:]; returns the end."""
    out[at] = FORMAT
    head = state.head
    at = _put_versions(out, at + 1, head, state.versions)
    for i in range(t.NEWEST_MINUTE, t.HEAD_WIDTH):
        at = _put(out, at, head[i] + 1)
    at = _put_tiles(out, at, state.minutes, head[t.NEWEST_MINUTE])
    at = _put_tiles(out, at, state.hours, head[t.NEWEST_HOUR])
    return _put_tiles(out, at, state.days, head[t.NEWEST_DAY])


@njit(cache=True, nogil=True)
def decode_tiles(raw, at, end, state):  # type: ignore[no-untyped-def]
    """Read raw[at:end]; nothing at all is an entity never seen. False if it is no such state."""
    clear_tiles(state)
    if at == end:
        return True
    if raw[at] != FORMAT:
        return False
    head = state.head
    at = _get_versions(raw, at + 1, end, head, state.versions)
    for i in range(t.NEWEST_MINUTE, t.HEAD_WIDTH):
        value, at = _get(raw, at, end)
        head[i] = value - 1
    at = _get_tiles(raw, at, end, state.minutes, head[t.NEWEST_MINUTE])
    at = _get_tiles(raw, at, end, state.hours, head[t.NEWEST_HOUR])
    at = _get_tiles(raw, at, end, state.days, head[t.NEWEST_DAY])
    return at == end
