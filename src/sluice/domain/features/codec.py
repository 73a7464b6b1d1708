"""States as bytes: what is empty takes none. Equal states make equal bytes.

Layout, version 1: byte 0 the format; bytes 1-8 the number of events applied, little endian (the
etag); then LEB128 varints unless said otherwise.
Card: versions; frauds; newest day + 1; newest fraud report + 1; ring oldest first, each: flags,
microseconds since the one before, id tag (4 bytes), amount, and what differs from the one before
(country and currency; merchant tag, 4 bytes, and mcc; device tag, 4 bytes); tiles newest first.
Terminal, merchant, device: versions; head values + 1; for each resolution its tiles newest first:
one byte with the gap to the tile before and two flags, count, amount, declines if any, the sketch
of cards (a list of bit numbers, or all 8 bytes); days of fraud reports newest first: age, count.

Damaged bytes make a decoder say False or read a state of some kind, never look outside: every
number is below 2^63 by construction, every index is checked, and the caller leaves SLACK bytes
after the last state, so that one check a record is enough.
"""

from __future__ import annotations

import numpy as np

from sluice.domain.compiled import part
from sluice.domain.features import cardstate as c
from sluice.domain.features import tilestate as t
from sluice.domain.features.cardstate import clear_card
from sluice.domain.features.stateformat import LAYOUT
from sluice.domain.features.tilestate import clear_tiles
from sluice.domain.records.codes import CHANNELS_MAX

STATE_BYTES_MAX = 12_288
"""Above the largest possible state: 64 versions and 143 full tiles take 7.5 kB."""
PREFIX = 9
SLACK = 128
"""Above the longest record: the head of a tile state takes up to 91 bytes."""
SPARSE_BITS_MAX = 6
"""Cards in a tile up to which bit numbers are shorter than the sketch."""

_CHANNEL_BITS = CHANNELS_MAX
_F_DECLINED, _F_DEVICE, _F_SAME_PLACE, _F_SAME_MERCHANT, _F_SAME_DEVICE = 8, 16, 32, 64, 128
_GAP_BITS, _F_DECLINES, _F_SKETCH = 63, 64, 128


@part
def _put(out, at, value):  # type: ignore[no-untyped-def]
    while value >= 128:
        out[at] = np.uint8((value & 127) | 128)
        value >>= 7
        at += 1
    out[at] = np.uint8(value)
    return at + 1


@part
def _get(raw, at):  # type: ignore[no-untyped-def]
    """(value below 2^63, next). Reads 9 bytes at most."""
    byte = np.int64(raw[at])
    if byte < 128:
        return byte, at + 1
    value = byte & 127
    for i in range(1, 9):
        byte = np.int64(raw[at + i])
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value, at + i + 1
    return value, at + 9


@part
def _put4(out, at, value):  # type: ignore[no-untyped-def]
    for i in range(4):
        out[at + i] = np.uint8((value >> (8 * i)) & 255)
    return at + 4


@part
def _get4(raw, at):  # type: ignore[no-untyped-def]
    value = np.int64(raw[at])
    value |= np.int64(raw[at + 1]) << 8
    value |= np.int64(raw[at + 2]) << 16
    value |= np.int64(raw[at + 3]) << 24
    return value, at + 4


@part
def _put8(out, at, value):  # type: ignore[no-untyped-def]
    return _put4(out, _put4(out, at, value), value >> 32)


@part
def _get8(raw, at):  # type: ignore[no-untyped-def]
    low, at = _get4(raw, at)
    high, at = _get4(raw, at)
    return low | (high << 32), at


@part
def _put_start(out, at, head, versions):  # type: ignore[no-untyped-def]
    out[at] = LAYOUT
    at = _put8(out, at + 1, head[c.APPLIED])
    at = _put(out, at, head[c.N_VERSIONS])
    for i in range(head[c.N_VERSIONS]):
        at = _put(out, at, versions[i, 0])
        at = _put(out, at, versions[i, 1])
    return at


@part
def _get_start(raw, at, end, head, versions):  # type: ignore[no-untyped-def]
    """Where the content begins; past the end if this is no state of this format."""
    wrong = end + 1
    if end - at < PREFIX or raw[at] != LAYOUT:
        return wrong
    head[c.APPLIED], at = _get8(raw, at + 1)
    n, at = _get(raw, at)
    if n > c.SOURCES_MAX:
        return wrong
    head[c.N_VERSIONS] = n
    for i in range(n):
        if at >= end:
            return wrong
        versions[i, 0], at = _get(raw, at)
        versions[i, 1], at = _get(raw, at)
    return at


@part
def encode_card(card, out, at):  # type: ignore[no-untyped-def]
    """Write a card's state at out[at:]; returns the end."""
    head, ring, tiles = card.head, card.ring, card.tiles
    at = _put_start(out, at, head, card.versions)
    at = _put(out, at, head[c.FRAUDS])
    at = _put(out, at, head[c.NEWEST_DAY] + 1)
    at = _put(out, at, head[c.LAST_FRAUD_US] + 1)
    n = head[c.N_RING]
    at = _put(out, at, n)
    us = np.int64(0)
    for i in range(n):
        flags = ring[i, c.R_CHANNEL] & _CHANNEL_BITS
        if ring[i, c.R_DECLINED]:
            flags |= _F_DECLINED
        if ring[i, c.R_DEVICE] != 0:
            flags |= _F_DEVICE
        if i > 0:
            if (
                ring[i - 1, c.R_COUNTRY] == ring[i, c.R_COUNTRY]
                and ring[i - 1, c.R_CURRENCY] == ring[i, c.R_CURRENCY]
            ):
                flags |= _F_SAME_PLACE
            if (
                ring[i - 1, c.R_MERCHANT] == ring[i, c.R_MERCHANT]
                and ring[i - 1, c.R_MCC] == ring[i, c.R_MCC]
            ):
                flags |= _F_SAME_MERCHANT
            if ring[i - 1, c.R_DEVICE] == ring[i, c.R_DEVICE]:
                flags |= _F_SAME_DEVICE
        out[at] = np.uint8(flags)
        at = _put(out, at + 1, ring[i, c.R_US] - us)
        us = ring[i, c.R_US]
        at = _put4(out, at, ring[i, c.R_ID])
        at = _put(out, at, ring[i, c.R_AMOUNT])
        if not flags & _F_SAME_PLACE:
            at = _put(out, at, ring[i, c.R_COUNTRY])
            at = _put(out, at, ring[i, c.R_CURRENCY])
        if not flags & _F_SAME_MERCHANT:
            at = _put4(out, at, ring[i, c.R_MERCHANT])
            at = _put(out, at, ring[i, c.R_MCC])
        if flags & _F_DEVICE and not flags & _F_SAME_DEVICE:
            at = _put4(out, at, ring[i, c.R_DEVICE])
    for age in range(min(c.DAYS_KEPT, head[c.NEWEST_DAY] + 1)):
        day = head[c.NEWEST_DAY] - age
        i = day % c.DAYS_KEPT
        if tiles[i, c.T_DAY] == day:
            at = _put(out, at, age)
            at = _put(out, at, tiles[i, c.T_COUNT])
            at = _put(out, at, tiles[i, c.T_AMOUNT])
            at = _put(out, at, tiles[i, c.T_DECLINES])
    return at


@part
def decode_card(raw, at, end, card):  # type: ignore[no-untyped-def]
    """Read raw[at:end] into a card's scratch; nothing at all is a card never seen.

    False if the bytes are not a card's state of this format; the scratch is then cleared.
    """
    clear_card(card)
    if at == end or _read_card(raw, at, end, card):
        return True
    clear_card(card)
    return False


@part
def _read_card(raw, at, end, card):  # type: ignore[no-untyped-def]
    head, ring, tiles = card.head, card.ring, card.tiles
    at = _get_start(raw, at, end, head, card.versions)
    if at >= end:
        return False
    head[c.FRAUDS], at = _get(raw, at)
    day, at = _get(raw, at)
    head[c.NEWEST_DAY] = day - 1
    us, at = _get(raw, at)
    head[c.LAST_FRAUD_US] = us - 1
    n, at = _get(raw, at)
    if n > c.RING_MAX:
        return False
    head[c.N_RING] = n
    us = np.int64(0)
    country = np.int64(0)
    currency = np.int64(0)
    merchant = np.int64(0)
    mcc = np.int64(0)
    device = np.int64(0)
    for i in range(n):
        if at >= end:
            return False
        flags = np.int64(raw[at])
        if i == 0 and flags & (_F_SAME_PLACE | _F_SAME_MERCHANT | _F_SAME_DEVICE):
            return False
        step, at = _get(raw, at + 1)
        us += step
        if us < 0:
            return False
        ring[i, c.R_US] = us
        ring[i, c.R_ID], at = _get4(raw, at)
        ring[i, c.R_AMOUNT], at = _get(raw, at)
        if not flags & _F_SAME_PLACE:
            country, at = _get(raw, at)
            currency, at = _get(raw, at)
        if not flags & _F_SAME_MERCHANT:
            merchant, at = _get4(raw, at)
            mcc, at = _get(raw, at)
        if not flags & _F_SAME_DEVICE:
            device = np.int64(0)
            if flags & _F_DEVICE:
                device, at = _get4(raw, at)
        ring[i, c.R_COUNTRY] = country
        ring[i, c.R_CURRENCY] = currency
        ring[i, c.R_MERCHANT] = merchant
        ring[i, c.R_MCC] = mcc
        ring[i, c.R_DEVICE] = device
        ring[i, c.R_CHANNEL] = flags & _CHANNEL_BITS
        ring[i, c.R_DECLINED] = 1 if flags & _F_DECLINED else 0
    while at < end:
        age, at = _get(raw, at)
        day = head[c.NEWEST_DAY] - age
        if age >= c.DAYS_KEPT or day < 0:
            return False
        i = day % c.DAYS_KEPT
        tiles[i, c.T_DAY] = day
        tiles[i, c.T_COUNT], at = _get(raw, at)
        tiles[i, c.T_AMOUNT], at = _get(raw, at)
        tiles[i, c.T_DECLINES], at = _get(raw, at)
    return at == end


@part
def _put_tiles(out, at, tiles, newest):  # type: ignore[no-untyped-def]
    kept = len(tiles)
    count_at = at
    count = 0
    at += 1
    previous = newest + 1
    i = newest % kept
    for number in range(newest, max(newest - kept, -1), -1):
        if tiles[i, t.TILE] == number:
            bits = tiles[i, t.CARDS]
            set_bits = t.ones(bits)
            flags = previous - number - 1
            previous = number
            if tiles[i, t.DECLINES]:
                flags |= _F_DECLINES
            if set_bits > SPARSE_BITS_MAX or set_bits > tiles[i, t.COUNT]:
                flags |= _F_SKETCH
            out[at] = np.uint8(flags)
            at = _put(out, at + 1, tiles[i, t.COUNT])
            at = _put(out, at, tiles[i, t.SUM])
            if flags & _F_DECLINES:
                at = _put(out, at, tiles[i, t.DECLINES])
            if flags & _F_SKETCH:
                at = _put8(out, at, bits)
            else:
                if tiles[i, t.COUNT] > 1:
                    out[at] = np.uint8(set_bits)
                    at += 1
                for bit in range(64):
                    if (bits >> bit) & 1:
                        out[at] = np.uint8(bit)
                        at += 1
            count += 1
        i = i - 1 if i > 0 else kept - 1
    out[count_at] = np.uint8(count)
    return at


@part
def _get_tiles(raw, at, end, tiles, newest):  # type: ignore[no-untyped-def]
    """Where the next part begins; past the end if this is no list of tiles."""
    wrong = end + 1
    if at >= end:
        return wrong
    kept = len(tiles)
    left = np.int64(raw[at])
    at += 1
    number = newest + 1
    oldest = max(newest - kept + 1, 0)
    i = number % kept
    for _ in range(left):
        if at >= end:
            return wrong
        flags = np.int64(raw[at])
        step = (flags & _GAP_BITS) + 1
        number -= step
        if number < oldest:
            return wrong
        i = i - step if i >= step else i - step + kept
        tiles[i, t.TILE] = number
        count, at = _get(raw, at + 1)
        tiles[i, t.COUNT] = count
        tiles[i, t.SUM], at = _get(raw, at)
        declines = np.int64(0)
        if flags & _F_DECLINES:
            declines, at = _get(raw, at)
        tiles[i, t.DECLINES] = declines
        if flags & _F_SKETCH:
            tiles[i, t.CARDS], at = _get8(raw, at)
        else:
            bits = np.int64(0)
            if count > 1:
                count = np.int64(raw[at])
                at += 1
                if count > SPARSE_BITS_MAX:
                    return wrong
            for k in range(count):
                bits |= np.int64(1) << np.int64(raw[at + k] & 63)
            at += count
            tiles[i, t.CARDS] = bits
    return at


@part
def encode_tiles(state, out, at):  # type: ignore[no-untyped-def]
    """Write a terminal's, merchant's or device's state at out[at:]; returns the end."""
    head = state.head
    at = _put_start(out, at, head, state.versions)
    for i in range(t.NEWEST_MINUTE, t.HEAD_WIDTH):
        at = _put(out, at, head[i] + 1)
    at = _put_tiles(out, at, state.minutes, head[t.NEWEST_MINUTE])
    at = _put_tiles(out, at, state.hours, head[t.NEWEST_HOUR])
    at = _put_tiles(out, at, state.days, head[t.NEWEST_DAY])
    newest = head[t.NEWEST_REPORT]
    for age in range(min(t.DAYS_KEPT, newest + 1)):
        i = (newest - age) % t.DAYS_KEPT
        if state.reports[i, t.TILE] == newest - age:
            at = _put(out, at, age)
            at = _put(out, at, state.reports[i, t.COUNT])
    return at


@part
def decode_tiles(raw, at, end, state):  # type: ignore[no-untyped-def]
    """Read raw[at:end]; nothing at all is an entity never seen.

    False if it is no such state of this format; the scratch is then cleared.
    """
    clear_tiles(state)
    if at == end:
        return True
    head = state.head
    at = _get_start(raw, at, end, head, state.versions)
    if at < end:
        for i in range(t.NEWEST_MINUTE, t.HEAD_WIDTH):
            value, at = _get(raw, at)
            head[i] = value - 1
        at = _get_tiles(raw, at, end, state.minutes, head[t.NEWEST_MINUTE])
        at = _get_tiles(raw, at, end, state.hours, head[t.NEWEST_HOUR])
        at = _get_tiles(raw, at, end, state.days, head[t.NEWEST_DAY])
        while at < end:
            age, at = _get(raw, at)
            day = head[t.NEWEST_REPORT] - age
            if age >= t.DAYS_KEPT or day < 0:
                at = end + 1
                break
            state.reports[day % t.DAYS_KEPT, t.TILE] = day
            state.reports[day % t.DAYS_KEPT, t.COUNT], at = _get(raw, at)
        if at == end:
            return True
    clear_tiles(state)
    return False
