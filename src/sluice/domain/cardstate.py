"""The state of a card: its last 64 authorizations one by one, and what came before them by day.

The state is a function of the *set* of events applied, whatever their order. Authorizations of
the newest 35 days (UTC) are kept: the 64 latest by (event_us, id_tag) in ``ring``, sorted; the
rest folded into ``tiles`` by day. What is older than 35 days before the newest is dropped.

Fixed-size integer arrays; numba compiles every function here. Rows of events are
:mod:`sluice.domain.events` rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from sluice.domain.catalogue import (
    CARD_FACTS,
    CARD_SUMS,
    NEVER_S,
    REGISTERS,
    SMALL_MINOR,
    WINDOWS,
)
from sluice.domain.clock import DAY_US, MINUTE_US, SECOND_US
from sluice.domain.countries import distance_km, root
from sluice.domain.events import (
    AMOUNT,
    CHANNEL,
    COUNTRY,
    CURRENCY,
    DECLINED,
    DEVICE,
    EVENT_US,
    ID,
    MCC,
    MERCHANT,
)

Ints = npt.NDArray[np.int64]

RING_MAX = 64
DAYS_KEPT = 35
SOURCES_MAX = 64
"""Partitions of decisions, labels and backfills that one state can come from."""

R_US, R_ID, R_AMOUNT, R_MERCHANT, R_DEVICE, R_COUNTRY, R_CURRENCY, R_MCC, R_CHANNEL, R_DECLINED = (
    range(10)
)
RING_WIDTH = 10
T_DAY, T_COUNT, T_AMOUNT, T_DECLINES = range(4)
APPLIED, N_VERSIONS, N_RING, NEWEST_DAY, FRAUDS, LAST_FRAUD_US = range(6)
HEAD_WIDTH = 6

DONE, REDELIVERED, DUPLICATE, TOO_OLD, FULL = range(5)
"""What became of an event: applied; at or below the version; id already there; older than the
days kept (its version is noted, nothing else); more than SOURCES_MAX sources."""


class CardState(NamedTuple):
    """Scratch of a card: head (6,), versions (64, 2), ring (64, 10), tiles (35, 4) by day % 35."""

    head: Ints
    versions: Ints
    ring: Ints
    tiles: Ints


def empty_card() -> CardState:
    """A card never seen."""
    card = CardState(
        np.zeros(HEAD_WIDTH, np.int64),
        np.zeros((SOURCES_MAX, 2), np.int64),
        np.zeros((RING_MAX, RING_WIDTH), np.int64),
        np.zeros((DAYS_KEPT, 4), np.int64),
    )
    clear_card(card)
    return card


@njit(cache=True, nogil=True)
def clear_card(card):  # type: ignore[no-untyped-def]
    """Back to a card never seen."""
    card.head[:] = 0
    card.head[NEWEST_DAY] = -1
    card.head[LAST_FRAUD_US] = -1
    card.tiles[:, T_DAY] = -1


@njit(cache=True, nogil=True)
def advance(head, versions, source, offset):  # type: ignore[no-untyped-def]
    """Note an event of (source, offset): DONE, or REDELIVERED at or below the version, or FULL.

    Versions stay sorted by source, so that equal sets make equal bytes.
    """
    n = head[N_VERSIONS]
    at = 0
    while at < n and versions[at, 0] < source:
        at += 1
    if at < n and versions[at, 0] == source:
        if offset <= versions[at, 1]:
            return REDELIVERED
        versions[at, 1] = offset
    else:
        if n == SOURCES_MAX:
            return FULL
        for i in range(n, at, -1):
            versions[i, 0] = versions[i - 1, 0]
            versions[i, 1] = versions[i - 1, 1]
        versions[at, 0] = source
        versions[at, 1] = offset
        head[N_VERSIONS] = n + 1
    head[APPLIED] += 1
    return DONE


@njit(cache=True, nogil=True)
def _fold(card, us, amount, declined):  # type: ignore[no-untyped-def]
    """Add an authorization to the tile of its day."""
    day = us // DAY_US
    tile = card.tiles[day % DAYS_KEPT]
    if tile[T_DAY] != day:
        tile[T_DAY] = day
        tile[T_COUNT] = 0
        tile[T_AMOUNT] = 0
        tile[T_DECLINES] = 0
    tile[T_COUNT] += 1
    tile[T_AMOUNT] += amount
    tile[T_DECLINES] += declined


@njit(cache=True, nogil=True)
def _forget(card, newest_day):  # type: ignore[no-untyped-def]
    """Drop what is older than the days kept before newest_day."""
    card.head[NEWEST_DAY] = newest_day
    oldest = newest_day - DAYS_KEPT + 1
    for i in range(DAYS_KEPT):
        if 0 <= card.tiles[i, T_DAY] < oldest:
            card.tiles[i, T_DAY] = -1
    n = card.head[N_RING]
    drop = 0
    while drop < n and card.ring[drop, R_US] // DAY_US < oldest:
        drop += 1
    if drop:
        for i in range(drop, n):
            card.ring[i - drop] = card.ring[i]
        card.head[N_RING] = n - drop


@njit(cache=True, nogil=True)
def add_to_card(card, event):  # type: ignore[no-untyped-def]
    """Add one authorization: DONE, DUPLICATE or TOO_OLD. O(64) at worst, O(1) in time order."""
    us = event[EVENT_US]
    day = us // DAY_US
    if day > card.head[NEWEST_DAY]:
        _forget(card, day)
    elif day <= card.head[NEWEST_DAY] - DAYS_KEPT:
        return TOO_OLD
    n = card.head[N_RING]
    at = n
    while at > 0 and (
        card.ring[at - 1, R_US] > us
        or (card.ring[at - 1, R_US] == us and card.ring[at - 1, R_ID] > event[ID])
    ):
        at -= 1
    if at > 0 and card.ring[at - 1, R_US] == us and card.ring[at - 1, R_ID] == event[ID]:
        return DUPLICATE
    if n == RING_MAX:
        if at == 0:
            _fold(card, us, event[AMOUNT], event[DECLINED])
            return DONE
        _fold(card, card.ring[0, R_US], card.ring[0, R_AMOUNT], card.ring[0, R_DECLINED])
        for i in range(1, at):
            card.ring[i - 1] = card.ring[i]
        at -= 1
    else:
        for i in range(n, at, -1):
            card.ring[i] = card.ring[i - 1]
        card.head[N_RING] = n + 1
    row = card.ring[at]
    row[R_US] = us
    row[R_ID] = event[ID]
    row[R_AMOUNT] = event[AMOUNT]
    row[R_MERCHANT] = event[MERCHANT]
    row[R_DEVICE] = event[DEVICE]
    row[R_COUNTRY] = event[COUNTRY]
    row[R_CURRENCY] = event[CURRENCY]
    row[R_MCC] = event[MCC]
    row[R_CHANNEL] = event[CHANNEL]
    row[R_DECLINED] = event[DECLINED]
    return DONE


@njit(cache=True, nogil=True)
def card_holds(card, us, id_tag):  # type: ignore[no-untyped-def]
    """True if the authorization is among the remembered ones."""
    for i in range(card.head[N_RING] - 1, -1, -1):
        if card.ring[i, R_US] == us and card.ring[i, R_ID] == id_tag:
            return True
    return False


@njit(cache=True, nogil=True)
def add_label_to_card(card, is_fraud, known_us):  # type: ignore[no-untyped-def]
    """Count a reported fraud of the card. A genuine verdict changes nothing here."""
    if is_fraud:
        card.head[FRAUDS] += 1
        card.head[LAST_FRAUD_US] = max(card.head[LAST_FRAUD_US], known_us)


_W = len(WINDOWS)
_SPANS = tuple(span * SECOND_US for span in WINDOWS.values())
_W_1M, _W_5M, _W_1H, _W_6H, _W_1D, _W_7D, _W_30D = range(_W)
_SPAN_1M, _SPAN_5M, _SPAN_1H, _SPAN_6H, _SPAN_1D = _SPANS[:5]
_R = {name: REGISTERS[f"card.{name}.1m"] for name in CARD_SUMS}
_COUNT, _SUM, _DECLINES, _ECOM, _SMALL, _HERE, _HERE_SUM, _MERCHANTS, _DEVICES, _COUNTRIES, _MAX = (
    _R[name] for name in CARD_SUMS
)
_FACTS = REGISTERS[f"card.{CARD_FACTS[0]}"]
(
    _OTHERS,
    _AGE,
    _SINCE_LAST,
    _LAST_AMOUNT,
    _MEAN,
    _DEVIATION,
    _OTHER_MAX,
    _EMA,
    _JUMPS,
    _FIRST_MERCHANT,
    _FIRST_COUNTRY,
    _FIRST_CURRENCY,
    _FIRST_DEVICE,
    _FIRST_MCC,
    _FIRST_CHANNEL,
    _COUNTRY_CHANGED,
    _CURRENCY_CHANGED,
    _DEVICE_CHANGED,
    _SPEED,
    _SINCE_HERE,
    _FRAUDS,
    _SINCE_FRAUD,
    _EXCESS,
) = range(_FACTS, _FACTS + len(CARD_FACTS))
_FIRST_REGISTER = _COUNT
_END_REGISTER = _FACTS + len(CARD_FACTS)
_ECOM_CHANNEL, _MOTO_CHANNEL = 3, 4
_SEEN_SLOTS = 256
_AMOUNT_CAP = 1 << 27
"""1.3 million in the reference currency: keeps 64 squares inside 63 bits."""
SEEN_WIDTH = 3
DEVIATION_MIN = 100
"""One unit of the reference currency: a card that always pays the same has no infinite scores."""
_NEVER_US = NEVER_S * SECOND_US


@njit(cache=True, nogil=True)
def _is_new(seen, column, stamp, tag):  # type: ignore[no-untyped-def]
    """True the first time a tag comes up under this stamp. Open addressing, 256 slots for 64."""
    slot = (tag ^ (tag >> 11)) & (_SEEN_SLOTS - 1)
    while True:
        if seen[column, slot, 0] != stamp:
            seen[column, slot, 0] = stamp
            seen[column, slot, 1] = tag
            return True
        if seen[column, slot, 1] == tag:
            return False
        slot = (slot + 1) & (_SEEN_SLOTS - 1)


def seen_table() -> Ints:
    """(3, 256, 2) scratch that counts distinct tags: merchants, devices, countries."""
    return np.zeros((SEEN_WIDTH, _SEEN_SLOTS, 2), np.int64)


@njit(cache=True, nogil=True)
def card_registers(card, event, seen, stamp, regs):  # type: ignore[no-untyped-def]
    """Fill the card's registers for an authorization that the state already holds.

    card: with the event added. event: (WIDTH,). seen: seen_table(), stamp: not used before.
    regs: (len(REGISTERS),). Looks at what is remembered up to the event's own time only.
    """
    regs[_FIRST_REGISTER:_END_REGISTER] = 0
    t = event[EVENT_US]
    own = event[ID]
    today = t // DAY_US
    n = card.head[N_RING]
    mine = n - 1
    while mine >= 0 and (card.ring[mine, R_US] > t):
        mine -= 1
    # Ties of the same microsecond with a larger id tag come after the event itself; count them.
    merchant = event[MERCHANT]
    amount = event[AMOUNT]
    last_device = np.int64(0)
    others = np.int64(0)
    total = np.int64(0)
    squares = np.int64(0)
    known = np.int64(0)
    previous = np.int64(-1)
    here = np.int64(-1)
    regs[_FIRST_MERCHANT] = 1
    regs[_FIRST_COUNTRY] = 1
    regs[_FIRST_CURRENCY] = 1
    regs[_FIRST_DEVICE] = 1 if event[DEVICE] != 0 else 0
    regs[_FIRST_MCC] = 1
    regs[_FIRST_CHANNEL] = 1
    for i in range(mine, -1, -1):
        row = card.ring[i]
        days = today - row[R_US] // DAY_US
        is_own = row[R_ID] == own and row[R_US] == t
        if not is_own:
            others += 1
            if previous < 0:
                previous = i
            if row[R_MERCHANT] == merchant:
                regs[_FIRST_MERCHANT] = 0
                if here < 0:
                    here = i
            if row[R_COUNTRY] == event[COUNTRY]:
                regs[_FIRST_COUNTRY] = 0
            if row[R_CURRENCY] == event[CURRENCY]:
                regs[_FIRST_CURRENCY] = 0
            if row[R_MCC] == event[MCC]:
                regs[_FIRST_MCC] = 0
            if row[R_CHANNEL] == event[CHANNEL]:
                regs[_FIRST_CHANNEL] = 0
            if row[R_DEVICE] != 0:
                if row[R_DEVICE] == event[DEVICE]:
                    regs[_FIRST_DEVICE] = 0
                if last_device == 0:
                    last_device = row[R_DEVICE]
            if days < 30:
                capped = min(row[R_AMOUNT], _AMOUNT_CAP)
                total += capped
                squares += capped * capped
                known += 1
                regs[_OTHER_MAX] = max(regs[_OTHER_MAX], row[R_AMOUNT])
        if days >= 30:
            continue
        age = t - row[R_US]
        if age < _SPAN_1M:
            w = _W_1M
        elif age < _SPAN_5M:
            w = _W_5M
        elif age < _SPAN_1H:
            w = _W_1H
        elif age < _SPAN_6H:
            w = _W_6H
        elif age < _SPAN_1D:
            w = _W_1D
        elif days < 7:
            w = _W_7D
        else:
            w = _W_30D
        regs[_COUNT + w] += 1
        regs[_SUM + w] += row[R_AMOUNT]
        regs[_DECLINES + w] += row[R_DECLINED]
        if row[R_CHANNEL] == _ECOM_CHANNEL:
            regs[_ECOM + w] += 1
        if row[R_AMOUNT] < SMALL_MINOR:
            regs[_SMALL + w] += 1
        if row[R_MERCHANT] == merchant:
            regs[_HERE + w] += 1
            regs[_HERE_SUM + w] += row[R_AMOUNT]
        if _is_new(seen, 0, stamp, row[R_MERCHANT]):
            regs[_MERCHANTS + w] += 1
        if row[R_DEVICE] != 0 and _is_new(seen, 1, stamp, row[R_DEVICE]):
            regs[_DEVICES + w] += 1
        if _is_new(seen, 2, stamp, row[R_COUNTRY]):
            regs[_COUNTRIES + w] += 1
        regs[_MAX + w] = max(regs[_MAX + w], row[R_AMOUNT])

    for i in range(DAYS_KEPT):
        tile = card.tiles[i]
        if tile[T_DAY] < 0 or tile[T_DAY] > today or today - tile[T_DAY] >= 30:
            continue
        w = _W_7D if today - tile[T_DAY] < 7 else _W_30D
        regs[_COUNT + w] += tile[T_COUNT]
        regs[_SUM + w] += tile[T_AMOUNT]
        regs[_DECLINES + w] += tile[T_DECLINES]

    for w in range(1, _W):
        regs[_COUNT + w] += regs[_COUNT + w - 1]
        regs[_SUM + w] += regs[_SUM + w - 1]
        regs[_DECLINES + w] += regs[_DECLINES + w - 1]
        regs[_ECOM + w] += regs[_ECOM + w - 1]
        regs[_SMALL + w] += regs[_SMALL + w - 1]
        regs[_HERE + w] += regs[_HERE + w - 1]
        regs[_HERE_SUM + w] += regs[_HERE_SUM + w - 1]
        regs[_MERCHANTS + w] += regs[_MERCHANTS + w - 1]
        regs[_DEVICES + w] += regs[_DEVICES + w - 1]
        regs[_COUNTRIES + w] += regs[_COUNTRIES + w - 1]
        regs[_MAX + w] = max(regs[_MAX + w], regs[_MAX + w - 1])

    regs[_OTHERS] = others
    if known > 0:
        mean = total // known
        regs[_MEAN] = mean
        regs[_DEVIATION] = max(root(max(squares // known - mean * mean, 0)), DEVIATION_MIN)
        regs[_EXCESS] = min(amount, _AMOUNT_CAP) - mean
    regs[_SINCE_LAST] = NEVER_S
    regs[_SINCE_HERE] = NEVER_S
    if others:
        regs[_AGE] = (t - card.ring[0, R_US]) // SECOND_US
        last = card.ring[previous]
        regs[_SINCE_LAST] = (t - last[R_US]) // SECOND_US
        regs[_LAST_AMOUNT] = last[R_AMOUNT]
        regs[_COUNTRY_CHANGED] = 1 if last[R_COUNTRY] != event[COUNTRY] else 0
        regs[_CURRENCY_CHANGED] = 1 if last[R_CURRENCY] != event[CURRENCY] else 0
        if last_device != 0 and event[DEVICE] != 0 and last_device != event[DEVICE]:
            regs[_DEVICE_CHANGED] = 1
        if here >= 0:
            regs[_SINCE_HERE] = (t - card.ring[here, R_US]) // SECOND_US
        _pace(card, event, mine, regs)
        _jumps(card, event, mine, regs)
    regs[_FRAUDS] = card.head[FRAUDS]
    regs[_SINCE_FRAUD] = since(card.head[LAST_FRAUD_US], t)


@njit(cache=True, nogil=True)
def since(us, t):  # type: ignore[no-untyped-def]
    """Seconds from us to t, 0 if us lies ahead, NEVER_S if it never was or is longer ago."""
    if us < 0:
        return NEVER_S
    return min(max(t - us, 0), _NEVER_US) // SECOND_US


@njit(cache=True, nogil=True)
def _pace(card, event, mine, regs):  # type: ignore[no-untyped-def]
    """Speed since the last authorization with the card present, if this one is so too."""
    if event[CHANNEL] == _ECOM_CHANNEL or event[CHANNEL] == _MOTO_CHANNEL:
        return
    for i in range(mine, -1, -1):
        row = card.ring[i]
        if row[R_ID] == event[ID] and row[R_US] == event[EVENT_US]:
            continue
        if row[R_CHANNEL] == _ECOM_CHANNEL or row[R_CHANNEL] == _MOTO_CHANNEL:
            continue
        km = distance_km(row[R_COUNTRY], event[COUNTRY])
        minutes = max((event[EVENT_US] - row[R_US]) // MINUTE_US, 1)
        regs[_SPEED] = km * 60 // minutes
        return


@njit(cache=True, nogil=True)
def _jumps(card, event, mine, regs):  # type: ignore[no-untyped-def]
    """Exponential mean of the others' amounts (weight 1/4, in 1/256 units), and jumps above it."""
    ema = np.int64(-1)
    jumps = np.int64(0)
    today = event[EVENT_US] // DAY_US
    for i in range(mine + 1):
        row = card.ring[i]
        if row[R_ID] == event[ID] and row[R_US] == event[EVENT_US]:
            continue
        scaled = row[R_AMOUNT] * 256
        if ema < 0:
            ema = scaled
            continue
        if scaled * 2 > ema * 5 and today - row[R_US] // DAY_US < 7:
            jumps += 1
        ema += (scaled - ema) >> 2
    regs[_EMA] = max(ema, 0) // 256
    regs[_JUMPS] = jumps
