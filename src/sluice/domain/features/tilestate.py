"""The state of a terminal, merchant or device: 60 minute, 48 hour and 35 day tiles.

A tile holds count, amount, declines and a 64-bit sketch of distinct cards (linear counting,
Whang et al. 1990). Reported frauds have 35 day tiles of their own, by ``known_at``: a report about
last month, or one with a wrong date, must not push out what authorizations are counted. Each
resolution keeps the tiles within its span of its own newest one, so the state is a function of
the set of events applied.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sluice.domain.clock import DAY_US, HOUR_US, MINUTE_US
from sluice.domain.compiled import part
from sluice.domain.features.cardstate import DONE, TOO_OLD, since
from sluice.domain.features.catalogue import REGISTERS, TILE_SUMS, VIEWS, WINDOWS
from sluice.domain.features.events import AMOUNT, CARD, DECLINED, EVENT_US

Ints = npt.NDArray[np.int64]

MINUTES_KEPT, HOURS_KEPT, DAYS_KEPT = 60, 48, 35
# Columns of a tile.
TILE = 0
"""Its number: minutes, hours or days since 1970."""
COUNT = 1
"""Authorizations; in a tile of reports, frauds."""
SUM = 2
"""Their amounts in the reference currency, in minor units."""
DECLINES = 3
"""Those declined."""
CARDS = 4
"""Sketch of their distinct cards, a bit each."""
TILE_WIDTH = 5
REPORT_WIDTH = 2
"""A tile of reports is TILE and COUNT."""
(
    APPLIED,
    N_VERSIONS,
    NEWEST_MINUTE,
    NEWEST_HOUR,
    NEWEST_DAY,
    NEWEST_REPORT,
    FIRST_SEEN_US,
    FIRST_FRAUD_US,
    LAST_FRAUD_US,
    LAST_GENUINE_US,
    LAST_SEEN_US,
) = range(11)
HEAD_WIDTH = 11


class TileState(NamedTuple):
    """Scratch of one entity: head (11,), versions (64, 2), tiles (n, 5) by number % n,
    reports (35, 2) likewise."""

    head: Ints
    versions: Ints
    minutes: Ints
    hours: Ints
    days: Ints
    reports: Ints


@part
def clear_tiles(state):  # type: ignore[no-untyped-def]
    """Back to an entity never seen."""
    state.head[:] = -1
    state.head[APPLIED] = 0
    state.head[N_VERSIONS] = 0
    state.minutes[:, TILE] = -1
    state.hours[:, TILE] = -1
    state.days[:, TILE] = -1
    state.reports[:, TILE] = -1


@part
def _forget(tiles, newest, number):  # type: ignore[no-untyped-def]
    """Clear the tiles that fall out of the span when number becomes the newest."""
    kept = len(tiles)
    if newest < 0 or number - newest >= kept:
        tiles[:, TILE] = -1
        return
    at = newest % kept
    for _ in range(number - newest):
        at = at + 1 if at + 1 < kept else 0
        tiles[at, TILE] = -1


@part
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
        for column in range(tiles.shape[1]):
            tiles[at, column] = 0
        tiles[at, TILE] = number
    return at


@part
def card_bit(card_tag):  # type: ignore[no-untyped-def]
    """One of 64 bits for a card: the top bits of a Fibonacci hash."""
    return np.int64(1) << np.int64((np.uint64(card_tag) * np.uint64(0x9E3779B97F4A7C15)) >> 58)


@part
def _count(tiles, at, event, bit):  # type: ignore[no-untyped-def]
    if at >= 0:
        tiles[at, COUNT] += 1
        tiles[at, SUM] += event[AMOUNT]
        tiles[at, DECLINES] += event[DECLINED]
        tiles[at, CARDS] |= bit


@part
def add_to_tiles(state, event):  # type: ignore[no-untyped-def]
    """Add one authorization: DONE, or TOO_OLD if it is older than even the day tiles."""
    us = event[EVENT_US]
    bit = card_bit(event[CARD])
    head = state.head
    if head[FIRST_SEEN_US] < 0 or us < head[FIRST_SEEN_US]:
        head[FIRST_SEEN_US] = us
    head[LAST_SEEN_US] = max(head[LAST_SEEN_US], us)
    minute = _tile(state.minutes, head, NEWEST_MINUTE, us // MINUTE_US)
    hour = _tile(state.hours, head, NEWEST_HOUR, us // HOUR_US)
    day = _tile(state.days, head, NEWEST_DAY, us // DAY_US)
    _count(state.minutes, minute, event, bit)
    _count(state.hours, hour, event, bit)
    _count(state.days, day, event, bit)
    return DONE if day >= 0 else TOO_OLD


@part
def add_label_to_tiles(state, is_fraud, known_us):  # type: ignore[no-untyped-def]
    """Count a report at the day it became known: DONE or TOO_OLD."""
    head = state.head
    if not is_fraud:
        head[LAST_GENUINE_US] = max(head[LAST_GENUINE_US], known_us)
        return DONE
    if head[FIRST_FRAUD_US] < 0 or known_us < head[FIRST_FRAUD_US]:
        head[FIRST_FRAUD_US] = known_us
    head[LAST_FRAUD_US] = max(head[LAST_FRAUD_US], known_us)
    at = _tile(state.reports, head, NEWEST_REPORT, known_us // DAY_US)
    if at < 0:
        return TOO_OLD
    state.reports[at, COUNT] += 1
    return DONE


@part
def withdraw_from_tiles(state, counted_us):  # type: ignore[no-untyped-def]
    """Take back a report from the day on which it became known, if that is still kept. When the
    first and the last one came stays: of a sum nobody can say what was in it."""
    number = counted_us // DAY_US
    at = number % DAYS_KEPT
    if state.reports[at, TILE] == number and state.reports[at, COUNT] > 0:
        state.reports[at, COUNT] -= 1


DISTINCT: Ints = np.array(
    [round(-64 * math.log((64 - ones) / 64)) for ones in range(64)] + [round(64 * math.log(128))],
    np.int64,
)
"""(65,) distinct cards estimated from the bits set. All 64 set reads 310: "310 or more"."""

_W = len(WINDOWS)
BASES = tuple(REGISTERS[f"{view}.count.1m"] for view in VIEWS[1:])
"""First register of terminal, merchant and device."""
_FACTS = len(TILE_SUMS) * _W


@part
def ones(bits):  # type: ignore[no-untyped-def]
    """Bits set in a sketch."""
    rest = np.uint64(bits)
    count = np.int64(0)
    while rest:
        rest &= rest - np.uint64(1)
        count += 1
    return count


@part
def _add(tiles, newest, first, last, sums):  # type: ignore[no-untyped-def]
    """Add the tiles first..last to the sums: count, amount, declines, sketch."""
    kept = len(tiles)
    count, amount, declines, cards = sums
    last = min(last, newest)
    at = last % kept
    for number in range(last, max(first, newest - kept + 1) - 1, -1):
        if tiles[at, TILE] == number:
            count += tiles[at, COUNT]
            amount += tiles[at, SUM]
            declines += tiles[at, DECLINES]
            cards |= tiles[at, CARDS]
        at = at - 1 if at > 0 else kept - 1
    return count, amount, declines, cards


@part
def _reported(reports, newest, first, last):  # type: ignore[no-untyped-def]
    frauds = np.int64(0)
    kept = len(reports)
    for number in range(max(first, newest - kept + 1), min(last, newest) + 1):
        if reports[number % kept, TILE] == number:
            frauds += reports[number % kept, COUNT]
    return frauds


@part
def _write(regs, at, sums):  # type: ignore[no-untyped-def]
    count, amount, declines, cards = sums
    regs[at] = count
    regs[at + _W] = amount
    regs[at + 2 * _W] = declines
    regs[at + 3 * _W] = DISTINCT[ones(cards)]
    regs[at + 4 * _W] = 0


@part
def tile_registers(state, event, base, regs):  # type: ignore[no-untyped-def]
    """Fill one entity's registers for an authorization that the state does not hold yet.

    It counts in each window, its outcome not. base: the entity's first register. Frauds have
    tiles of a day only, so windows below stay 0.
    """
    t = event[EVENT_US]
    head = state.head
    own = (np.int64(1), event[AMOUNT], np.int64(0), card_bit(event[CARD]))

    newest, now = head[NEWEST_MINUTE], t // MINUTE_US
    sums = _add(state.minutes, newest, now, now, own)
    _write(regs, base, sums)
    sums = _add(state.minutes, newest, now - 4, now - 1, sums)
    _write(regs, base + 1, sums)
    sums = _add(state.minutes, newest, now - 59, now - 5, sums)
    _write(regs, base + 2, sums)

    newest, now = head[NEWEST_HOUR], t // HOUR_US
    sums = _add(state.hours, newest, now - 5, now, own)
    _write(regs, base + 3, sums)
    sums = _add(state.hours, newest, now - 23, now - 6, sums)
    _write(regs, base + 4, sums)

    newest, now = head[NEWEST_DAY], t // DAY_US
    sums = _add(state.days, newest, now - 6, now, own)
    _write(regs, base + 5, sums)
    sums = _add(state.days, newest, now - 29, now - 7, sums)
    _write(regs, base + 6, sums)

    newest = head[NEWEST_REPORT]
    if newest >= 0:
        regs[base + 4 * _W + 4] = _reported(state.reports, newest, now, now)
        regs[base + 4 * _W + 5] = _reported(state.reports, newest, now - 6, now)
        regs[base + 4 * _W + 6] = _reported(state.reports, newest, now - 29, now)

    facts = base + _FACTS
    first_seen = head[FIRST_SEEN_US]
    regs[facts] = 0 if first_seen < 0 else since(first_seen, t)
    regs[facts + 1] = since(head[LAST_SEEN_US], t)
    regs[facts + 2] = since(head[FIRST_FRAUD_US], t)
    regs[facts + 3] = since(head[LAST_FRAUD_US], t)
    regs[facts + 4] = since(head[LAST_GENUINE_US], t)
