"""The state of a terminal, merchant or device: 60 minute, 48 hour and 35 day tiles.

A tile holds count, amount, declines, a 64-bit sketch of distinct cards (linear counting,
Whang et al. 1990) and reported frauds by ``known_at``. Each resolution keeps the tiles within its
span of the newest one, so the state is a function of the set of events applied.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from sluice.domain.cardstate import DONE, SOURCES_MAX, TOO_OLD, since
from sluice.domain.catalogue import NEVER_S, REGISTERS, TILE_SUMS, VIEWS, WINDOWS
from sluice.domain.clock import DAY_US, HOUR_US, MINUTE_US, SECOND_US
from sluice.domain.events import AMOUNT, CARD, DECLINED, EVENT_US

Ints = npt.NDArray[np.int64]

MINUTES_KEPT, HOURS_KEPT, DAYS_KEPT = 60, 48, 35
TILE, COUNT, SUM, DECLINES, CARDS, FRAUDS = range(6)
TILE_WIDTH = 6
(
    APPLIED,
    N_VERSIONS,
    NEWEST_MINUTE,
    NEWEST_HOUR,
    NEWEST_DAY,
    FIRST_SEEN_US,
    FIRST_FRAUD_US,
    LAST_FRAUD_US,
    LAST_GENUINE_US,
    LAST_SEEN_US,
) = range(10)
HEAD_WIDTH = 10


class TileState(NamedTuple):
    """Scratch of one entity: head (10,), versions (64, 2), tiles (n, 6) by number % n."""

    head: Ints
    versions: Ints
    minutes: Ints
    hours: Ints
    days: Ints


def empty_tiles() -> TileState:
    """An entity never seen."""
    state = TileState(
        np.zeros(HEAD_WIDTH, np.int64),
        np.zeros((SOURCES_MAX, 2), np.int64),
        np.zeros((MINUTES_KEPT, TILE_WIDTH), np.int64),
        np.zeros((HOURS_KEPT, TILE_WIDTH), np.int64),
        np.zeros((DAYS_KEPT, TILE_WIDTH), np.int64),
    )
    clear_tiles(state)
    return state


@njit(cache=True, nogil=True)
def clear_tiles(state):  # type: ignore[no-untyped-def]
    """Back to an entity never seen."""
    state.head[:] = -1
    state.head[APPLIED] = 0
    state.head[N_VERSIONS] = 0
    state.minutes[:, TILE] = -1
    state.hours[:, TILE] = -1
    state.days[:, TILE] = -1


@njit(cache=True, nogil=True)
def _forget(tiles, newest, number):  # type: ignore[no-untyped-def]
    """Clear the tiles that fall out of the span when number becomes the newest."""
    kept = len(tiles)
    if newest < 0 or number - newest >= kept:
        tiles[:, TILE] = -1
    else:
        for gone in range(newest + 1, number + 1):
            tiles[gone % kept, TILE] = -1


@njit(cache=True, nogil=True)
def _tile(tiles, head, newest, number):  # type: ignore[no-untyped-def]
    """Row of the tile of this number, made if need be; -1 if it is older than the span."""
    kept = len(tiles)
    if number > head[newest]:
        _forget(tiles, head[newest], number)
        head[newest] = number
    elif number <= head[newest] - kept:
        return -1
    at = number % kept
    if tiles[at, TILE] != number:
        tiles[at, :] = 0
        tiles[at, TILE] = number
    return at


@njit(cache=True, nogil=True)
def card_bit(card_tag):  # type: ignore[no-untyped-def]
    """One of 64 bits for a card: the top bits of a Fibonacci hash."""
    return np.int64(1) << np.int64((np.uint64(card_tag) * np.uint64(0x9E3779B97F4A7C15)) >> 58)


@njit(cache=True, nogil=True)
def _count(tiles, at, event, bit):  # type: ignore[no-untyped-def]
    if at >= 0:
        tiles[at, COUNT] += 1
        tiles[at, SUM] += event[AMOUNT]
        tiles[at, DECLINES] += event[DECLINED]
        tiles[at, CARDS] |= bit


@njit(cache=True, nogil=True)
def add_to_tiles(state, event):  # type: ignore[no-untyped-def]
    """Add one authorization: DONE, or TOO_OLD if it is older than even the day tiles."""
    us = event[EVENT_US]
    bit = card_bit(event[CARD])
    head = state.head
    minute = _tile(state.minutes, head, NEWEST_MINUTE, us // MINUTE_US)
    hour = _tile(state.hours, head, NEWEST_HOUR, us // HOUR_US)
    day = _tile(state.days, head, NEWEST_DAY, us // DAY_US)
    if head[FIRST_SEEN_US] < 0 or us < head[FIRST_SEEN_US]:
        head[FIRST_SEEN_US] = us
    head[LAST_SEEN_US] = max(head[LAST_SEEN_US], us)
    _count(state.minutes, minute, event, bit)
    _count(state.hours, hour, event, bit)
    _count(state.days, day, event, bit)
    return DONE if day >= 0 else TOO_OLD


@njit(cache=True, nogil=True)
def decline_in_tiles(state, us):  # type: ignore[no-untyped-def]
    """Turn an authorization added a moment ago, at time us, into a declined one."""
    if state.head[NEWEST_MINUTE] - us // MINUTE_US < MINUTES_KEPT:
        state.minutes[us // MINUTE_US % MINUTES_KEPT, DECLINES] += 1
    if state.head[NEWEST_HOUR] - us // HOUR_US < HOURS_KEPT:
        state.hours[us // HOUR_US % HOURS_KEPT, DECLINES] += 1
    if state.head[NEWEST_DAY] - us // DAY_US < DAYS_KEPT:
        state.days[us // DAY_US % DAYS_KEPT, DECLINES] += 1


@njit(cache=True, nogil=True)
def add_label_to_tiles(state, is_fraud, known_us):  # type: ignore[no-untyped-def]
    """Count a report at the day it became known: DONE or TOO_OLD."""
    head = state.head
    if not is_fraud:
        head[LAST_GENUINE_US] = max(head[LAST_GENUINE_US], known_us)
        return DONE
    if head[FIRST_FRAUD_US] < 0 or known_us < head[FIRST_FRAUD_US]:
        head[FIRST_FRAUD_US] = known_us
    head[LAST_FRAUD_US] = max(head[LAST_FRAUD_US], known_us)
    day = _tile(state.days, head, NEWEST_DAY, known_us // DAY_US)
    if day < 0:
        return TOO_OLD
    state.days[day, FRAUDS] += 1
    return DONE


DISTINCT: Ints = np.array(
    [round(-64 * math.log((64 - ones) / 64)) for ones in range(64)] + [round(64 * math.log(128))],
    np.int64,
)
"""(65,) distinct cards estimated from the bits set. All 64 set reads 310: "310 or more"."""

_W = len(WINDOWS)
_STRIDE = REGISTERS["merchant.count.1m"] - REGISTERS["terminal.count.1m"]
_BASE = tuple(REGISTERS[f"{view}.count.1m"] for view in VIEWS[1:])
_FACTS = len(TILE_SUMS) * _W
SECTION_WIDTH = _STRIDE


@njit(cache=True, nogil=True)
def _ones(bits):  # type: ignore[no-untyped-def]
    rest = np.uint64(bits)
    count = 0
    while rest:
        rest &= rest - np.uint64(1)
        count += 1
    return count


@njit(cache=True, nogil=True)
def _window(tiles, newest, number, width, w, base, regs):  # type: ignore[no-untyped-def]
    """Sum the tiles (number - width, number] into window w of the section at base."""
    bits = np.int64(0)
    kept = len(tiles)
    first = max(number - width + 1, newest - kept + 1, 0)
    for wanted in range(first, min(number, newest) + 1):
        tile = tiles[wanted % kept]
        if tile[TILE] == wanted:
            regs[base + w] += tile[COUNT]
            regs[base + _W + w] += tile[SUM]
            regs[base + 2 * _W + w] += tile[DECLINES]
            regs[base + 4 * _W + w] += tile[FRAUDS]
            bits |= tile[CARDS]
    regs[base + 3 * _W + w] = DISTINCT[_ones(bits)]


@njit(cache=True, nogil=True)
def tile_registers(state, event, last_seen_us, base, regs):  # type: ignore[no-untyped-def]
    """Fill one entity's registers for an authorization that the state already holds.

    last_seen_us: newest event before this one was added, -1 for none. base: first register.
    """
    regs[base : base + SECTION_WIDTH] = 0
    t = event[EVENT_US]
    head = state.head
    minute, hour, day = t // MINUTE_US, t // HOUR_US, t // DAY_US
    _window(state.minutes, head[NEWEST_MINUTE], minute, 1, 0, base, regs)
    _window(state.minutes, head[NEWEST_MINUTE], minute, 5, 1, base, regs)
    _window(state.minutes, head[NEWEST_MINUTE], minute, 60, 2, base, regs)
    _window(state.hours, head[NEWEST_HOUR], hour, 6, 3, base, regs)
    _window(state.hours, head[NEWEST_HOUR], hour, 24, 4, base, regs)
    _window(state.days, head[NEWEST_DAY], day, 7, 5, base, regs)
    _window(state.days, head[NEWEST_DAY], day, 30, 6, base, regs)
    today = state.days[day % DAYS_KEPT]
    regs[base + 4 * _W + 4] = today[FRAUDS] if today[TILE] == day else 0
    facts = base + _FACTS
    regs[facts] = min(max(t - head[FIRST_SEEN_US], 0) // SECOND_US, NEVER_S)
    regs[facts + 1] = since(last_seen_us, t)
    regs[facts + 2] = since(head[FIRST_FRAUD_US], t)
    regs[facts + 3] = since(head[LAST_FRAUD_US], t)
    regs[facts + 4] = since(head[LAST_GENUINE_US], t)


BASES: Ints = np.array(_BASE, np.int64)
