"""The state of a card: its last 64 authorizations one by one, and what came before them by day.

The state is a function of the *set* of events applied, whatever their order. Authorizations of
the newest 35 days (UTC) are kept: the 64 latest by (event_us, id_tag) in ``ring``, sorted; the
rest folded into ``tiles`` by day. What is older than 35 days before the newest is dropped.
An authorization recorded twice (equal event_us and id_tag) counts once, as long as its first
record is in the ring. If the records differ, content decides and not which came first: see
:func:`add_to_card`.

Fixed-size integer arrays; numba compiles every function here. Rows of events are
:mod:`sluice.domain.features.events` rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sluice.domain.clock import DAY_US, MINUTE_US, SECOND_US
from sluice.domain.compiled import part
from sluice.domain.features.catalogue import (
    CARD_FACTS,
    CARD_SUMS,
    NEVER_S,
    REGISTERS,
    SMALL_MINOR,
    WINDOWS,
)
from sluice.domain.features.distance import distance_km, root
from sluice.domain.features.events import (
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
from sluice.domain.records.codes import CHANNEL_INDEX

Ints = npt.NDArray[np.int64]

RING_MAX = 64
DAYS_KEPT = 35
SOURCES_MAX = 64
"""Partitions of decisions, labels and backfills that one state can come from."""

R_US, R_ID, R_AMOUNT, R_MERCHANT, R_DEVICE, R_COUNTRY, R_CURRENCY, R_MCC, R_CHANNEL, R_DECLINED = (
    range(10)
)
RING_WIDTH = 10
CONTENT = (AMOUNT, MERCHANT, DEVICE, COUNTRY, CURRENCY, MCC, CHANNEL)
"""Columns of an event that the ring keeps beside its key and outcome, from R_AMOUNT on; in this
order they tell which of two records of one authorization stays."""
T_DAY, T_COUNT, T_AMOUNT, T_DECLINES = range(4)
TILE_WIDTH = 4
APPLIED, N_VERSIONS, N_RING, NEWEST_DAY, FRAUDS, LAST_FRAUD_US = range(6)
HEAD_WIDTH = 6

# What became of an event.
DONE = 0
"""Applied."""
REDELIVERED = 1
"""At or below the version of its source: nothing changed."""
DUPLICATE = 2
"""Already in the ring: its version is noted, and the two records made one."""
TOO_OLD = 3
"""Older than the days kept: noted are its version, and what has no window (a terminal's first
time)."""
FULL = 4
"""Of one source more than SOURCES_MAX: nothing changed."""


class CardState(NamedTuple):
    """Scratch of a card: head (6,), versions (64, 2), ring (64, 10), tiles (35, 4) by day % 35."""

    head: Ints
    versions: Ints
    ring: Ints
    tiles: Ints


@part
def clear_card(card):  # type: ignore[no-untyped-def]
    """Back to a card never seen."""
    card.head[:] = 0
    card.head[NEWEST_DAY] = -1
    card.head[LAST_FRAUD_US] = -1
    card.tiles[:, T_DAY] = -1


@part
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


@part
def _fold(tiles, us, amount, declined):  # type: ignore[no-untyped-def]
    """Add an authorization to the tile of its day."""
    day = us // DAY_US
    at = day % DAYS_KEPT
    if tiles[at, T_DAY] != day:
        tiles[at, T_DAY] = day
        tiles[at, T_COUNT] = 0
        tiles[at, T_AMOUNT] = 0
        tiles[at, T_DECLINES] = 0
    tiles[at, T_COUNT] += 1
    tiles[at, T_AMOUNT] += amount
    tiles[at, T_DECLINES] += declined


@part
def _move(ring, source, target):  # type: ignore[no-untyped-def]
    for column in range(RING_WIDTH):
        ring[target, column] = ring[source, column]


@part
def _forget(card, newest_day):  # type: ignore[no-untyped-def]
    """Drop what is older than the days kept before newest_day."""
    card.head[NEWEST_DAY] = newest_day
    oldest = newest_day - DAYS_KEPT + 1
    tiles, ring = card.tiles, card.ring
    for i in range(DAYS_KEPT):
        if tiles[i, T_DAY] < oldest:
            tiles[i, T_DAY] = -1
    n = card.head[N_RING]
    drop = 0
    while drop < n and ring[drop, R_US] // DAY_US < oldest:
        drop += 1
    if drop:
        for i in range(drop, n):
            _move(ring, i, i - drop)
        card.head[N_RING] = n - drop


@part
def comes_before(ring, i, us, id_tag):  # type: ignore[no-untyped-def]
    """True if slot i of the ring holds what comes before (us, id_tag)."""
    return ring[i, R_US] < us or (ring[i, R_US] == us and ring[i, R_ID] < id_tag)


@part
def slot_of(ring, n, us, id_tag):  # type: ignore[no-untyped-def]
    """Slot that holds (us, id_tag) among the first n of the ring; -1 if none does."""
    at = n - 1
    while at >= 0 and ring[at, R_US] > us:
        at -= 1
    while at >= 0 and ring[at, R_US] == us:
        if ring[at, R_ID] == id_tag:
            return at
        at -= 1
    return -1


@part
def outweighs(event, other):  # type: ignore[no-untyped-def]
    """True if the first of two rows has the greater content: amount, then merchant, ..."""
    for column in CONTENT:
        if event[column] != other[column]:
            return event[column] > other[column]
    return False


@part
def _replaces(event, ring, at):  # type: ignore[no-untyped-def]
    """True if an event has greater content than slot ``at`` of the ring."""
    for k in range(len(CONTENT)):
        if event[CONTENT[k]] != ring[at, R_AMOUNT + k]:
            return event[CONTENT[k]] > ring[at, R_AMOUNT + k]
    return False


@part
def _write_content(ring, at, event):  # type: ignore[no-untyped-def]
    for k in range(len(CONTENT)):
        ring[at, R_AMOUNT + k] = event[CONTENT[k]]


@part
def add_to_card(card, event):  # type: ignore[no-untyped-def]
    """Add one authorization: DONE, DUPLICATE or TOO_OLD. O(64) at worst, O(1) in time order.

    Of two records of one authorization the ring keeps the one of greater CONTENT, compared column
    by column; it is declined if either is. So the order in which they come does not matter. They
    differ where an id was decided twice (its amount by two tables of rates, its outcome), and
    where two ids of one microsecond share a tag.
    """
    us, id_tag = event[EVENT_US], event[ID]
    day = us // DAY_US
    if day > card.head[NEWEST_DAY]:
        _forget(card, day)
    elif day <= card.head[NEWEST_DAY] - DAYS_KEPT:
        return TOO_OLD
    ring = card.ring
    n = card.head[N_RING]
    at = n
    while at > 0 and not comes_before(ring, at - 1, us, id_tag):
        at -= 1
    if at < n and ring[at, R_US] == us and ring[at, R_ID] == id_tag:
        if _replaces(event, ring, at):
            _write_content(ring, at, event)
        ring[at, R_DECLINED] |= event[DECLINED]
        return DUPLICATE
    if n == RING_MAX:
        if at == 0:
            _fold(card.tiles, us, event[AMOUNT], event[DECLINED])
            return DONE
        _fold(card.tiles, ring[0, R_US], ring[0, R_AMOUNT], ring[0, R_DECLINED])
        for i in range(1, at):
            _move(ring, i, i - 1)
        at -= 1
    else:
        for i in range(n, at, -1):
            _move(ring, i - 1, i)
        card.head[N_RING] = n + 1
    ring[at, R_US] = us
    ring[at, R_ID] = id_tag
    _write_content(ring, at, event)
    ring[at, R_DECLINED] = event[DECLINED]
    return DONE


_NEW, _REPLACES = 1, 2


@part
def add_pending(card, entries, first, end, own, counts):  # type: ignore[no-untyped-def]
    """Add the authorizations judged moments ago, entries[first:end], and say which changed the
    card: counts[first:end] is filled with 1 or 0.

    Any order of the list gives the same card and the same choice. Left out are: ``own``, the row
    that is judged; what comes before the oldest of a full ring, since it cannot be told from what
    the tiles already hold; what is older than the days kept before the newest of all; of several
    records of one authorization all but that of the greatest content; and what the state holds
    with content as great. Their rows say nothing of an outcome.
    """
    ring, n = card.ring, card.head[N_RING]
    newest = card.head[NEWEST_DAY]
    floor_us, floor_id = np.int64(-1), np.int64(-1)
    if n == RING_MAX:
        floor_us, floor_id = ring[0, R_US], ring[0, R_ID]
    for p in range(first, end):
        us, id_tag = entries[p, EVENT_US], entries[p, ID]
        counts[p] = 0
        if us < floor_us or (us == floor_us and id_tag < floor_id):
            continue
        if us == own[EVENT_US] and id_tag == own[ID]:
            continue
        if _outdone(entries, first, end, p):
            continue
        at = slot_of(ring, n, us, id_tag)
        if at < 0:
            counts[p] = _NEW
            newest = max(newest, us // DAY_US)
        elif _replaces(entries[p], ring, at):
            _write_content(ring, at, entries[p])
            counts[p] = _REPLACES
    # Only now, because each new one may push the oldest out of the ring that was served.
    for p in range(first, end):
        if entries[p, EVENT_US] // DAY_US <= newest - DAYS_KEPT:
            counts[p] = 0
        elif counts[p] == _REPLACES:
            counts[p] = 1
        elif counts[p] == _NEW:
            counts[p] = add_to_card(card, entries[p]) == DONE


@part
def _outdone(entries, first, end, p):  # type: ignore[no-untyped-def]
    """True if the list has another record of entry p of greater content, or as great and before."""
    for q in range(first, end):
        if entries[q, ID] == entries[p, ID] and entries[q, EVENT_US] == entries[p, EVENT_US]:
            if outweighs(entries[q], entries[p]):
                return True
            if q < p and not outweighs(entries[p], entries[q]):
                return True
    return False


@part
def add_label_to_card(card, is_fraud, known_us):  # type: ignore[no-untyped-def]
    """Count a reported fraud of the card. A genuine verdict changes nothing here."""
    if is_fraud:
        card.head[FRAUDS] += 1
        card.head[LAST_FRAUD_US] = max(card.head[LAST_FRAUD_US], known_us)


@part
def withdraw_from_card(card):  # type: ignore[no-untyped-def]
    """Take back a fraud that was counted. When the last one was reported is known as long as any is
    left. Where the report is gone from the log there is nothing to take back."""
    if card.head[FRAUDS] > 0:
        card.head[FRAUDS] -= 1


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
_ECOM_CHANNEL, _MOTO_CHANNEL = CHANNEL_INDEX["ecom"], CHANNEL_INDEX["moto"]
_AMOUNT_CAP = 1 << 27
"""1.3 million in the reference currency: keeps 64 squares inside 63 bits."""
SEEN_COLUMNS, SEEN_SLOTS = 3, 256
"""Of the table that counts distinct merchants, devices and countries."""
DEVIATION_MIN = 100
"""One unit of the reference currency: a card that always pays the same has no infinite scores."""
_NEVER_US = NEVER_S * SECOND_US


@part
def _is_new(seen, column, stamp, tag):  # type: ignore[no-untyped-def]
    """True the first time a tag comes up under this stamp. Open addressing, 256 slots for 64."""
    slot = (tag ^ (tag >> 11)) & (SEEN_SLOTS - 1)
    while True:
        if seen[column, slot, 0] != stamp:
            seen[column, slot, 0] = stamp
            seen[column, slot, 1] = tag
            return True
        if seen[column, slot, 1] == tag:
            return False
        slot = (slot + 1) & (SEEN_SLOTS - 1)


@part
def card_registers(card, event, seen, stamp, regs):  # type: ignore[no-untyped-def]
    """Fill the card's registers for an authorization, counted whether the state holds it or not.

    event: (WIDTH,); its outcome is not looked at. seen: (3, 256, 2), stamp: not used on it before.
    regs: (len(REGISTERS),). Looks at what is remembered up to the event's own time only.
    """
    regs[_FIRST_REGISTER:_END_REGISTER] = 0
    ring, tiles = card.ring, card.tiles
    t, own = event[EVENT_US], event[ID]
    today = t // DAY_US
    amount, merchant, device = event[AMOUNT], event[MERCHANT], event[DEVICE]
    country, currency = event[COUNTRY], event[CURRENCY]
    mcc, channel = event[MCC], event[CHANNEL]

    regs[_COUNT] = 1
    regs[_SUM] = amount
    regs[_ECOM] = channel == _ECOM_CHANNEL
    regs[_SMALL] = amount < SMALL_MINOR
    regs[_HERE] = 1
    regs[_HERE_SUM] = amount
    regs[_MERCHANTS] = 1
    regs[_DEVICES] = device != 0
    regs[_COUNTRIES] = 1
    regs[_MAX] = amount
    _is_new(seen, 0, stamp, merchant)
    _is_new(seen, 1, stamp, device)
    _is_new(seen, 2, stamp, country)

    mine = card.head[N_RING] - 1
    while mine >= 0 and ring[mine, R_US] > t:
        mine -= 1
    others = np.int64(0)
    total = np.int64(0)
    squares = np.int64(0)
    known = np.int64(0)
    other_max = np.int64(0)
    last = np.int64(-1)
    last_device = np.int64(0)
    here = np.int64(-1)
    new_merchant, new_country, new_currency, new_mcc, new_channel = 1, 1, 1, 1, 1
    new_device = 1 if device != 0 else 0
    for i in range(mine, -1, -1):
        us = ring[i, R_US]
        if us == t and ring[i, R_ID] == own:
            continue
        others += 1
        if last < 0:
            last = i
        its_amount, its_merchant, its_device = (
            ring[i, R_AMOUNT],
            ring[i, R_MERCHANT],
            ring[i, R_DEVICE],
        )
        if its_merchant == merchant:
            new_merchant = 0
            if here < 0:
                here = i
        if ring[i, R_COUNTRY] == country:
            new_country = 0
        if ring[i, R_CURRENCY] == currency:
            new_currency = 0
        if ring[i, R_MCC] == mcc:
            new_mcc = 0
        if ring[i, R_CHANNEL] == channel:
            new_channel = 0
        if its_device != 0:
            if its_device == device:
                new_device = 0
            if last_device == 0:
                last_device = its_device
        days = today - us // DAY_US
        if days >= 30:
            continue
        capped = min(its_amount, _AMOUNT_CAP)
        total += capped
        squares += capped * capped
        known += 1
        other_max = max(other_max, its_amount)
        age = t - us
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
        regs[_SUM + w] += its_amount
        regs[_DECLINES + w] += ring[i, R_DECLINED]
        regs[_ECOM + w] += ring[i, R_CHANNEL] == _ECOM_CHANNEL
        regs[_SMALL + w] += its_amount < SMALL_MINOR
        if its_merchant == merchant:
            regs[_HERE + w] += 1
            regs[_HERE_SUM + w] += its_amount
        elif _is_new(seen, 0, stamp, its_merchant):
            regs[_MERCHANTS + w] += 1
        if its_device != 0 and _is_new(seen, 1, stamp, its_device):
            regs[_DEVICES + w] += 1
        if _is_new(seen, 2, stamp, ring[i, R_COUNTRY]):
            regs[_COUNTRIES + w] += 1
        regs[_MAX + w] = max(regs[_MAX + w], its_amount)

    for i in range(DAYS_KEPT):
        days = today - tiles[i, T_DAY]
        if tiles[i, T_DAY] >= 0 and 0 <= days < 30:
            w = _W_7D if days < 7 else _W_30D
            regs[_COUNT + w] += tiles[i, T_COUNT]
            regs[_SUM + w] += tiles[i, T_AMOUNT]
            regs[_DECLINES + w] += tiles[i, T_DECLINES]

    for first in range(_COUNT, _MAX, _W):
        for w in range(first + 1, first + _W):
            regs[w] += regs[w - 1]
    for w in range(_MAX + 1, _MAX + _W):
        regs[w] = max(regs[w], regs[w - 1])

    regs[_OTHERS] = others
    regs[_OTHER_MAX] = other_max
    regs[_FIRST_MERCHANT] = new_merchant
    regs[_FIRST_COUNTRY] = new_country
    regs[_FIRST_CURRENCY] = new_currency
    regs[_FIRST_DEVICE] = new_device
    regs[_FIRST_MCC] = new_mcc
    regs[_FIRST_CHANNEL] = new_channel
    regs[_FRAUDS] = card.head[FRAUDS]
    regs[_SINCE_FRAUD] = since(card.head[LAST_FRAUD_US], t) if card.head[FRAUDS] > 0 else NEVER_S
    regs[_SINCE_LAST] = NEVER_S
    regs[_SINCE_HERE] = NEVER_S
    if known > 0:
        mean = total // known
        regs[_MEAN] = mean
        regs[_DEVIATION] = max(root(max(squares // known - mean * mean, 0)), DEVIATION_MIN)
        regs[_EXCESS] = min(amount, _AMOUNT_CAP) - mean
    if others > 0:
        regs[_AGE] = since(ring[0, R_US], t)
        regs[_SINCE_LAST] = since(ring[last, R_US], t)
        regs[_LAST_AMOUNT] = ring[last, R_AMOUNT]
        regs[_COUNTRY_CHANGED] = ring[last, R_COUNTRY] != country
        regs[_CURRENCY_CHANGED] = ring[last, R_CURRENCY] != currency
        regs[_DEVICE_CHANGED] = last_device != 0 and device not in (0, last_device)
        if here >= 0:
            regs[_SINCE_HERE] = since(ring[here, R_US], t)
        _pace(ring, event, mine, regs)
        _jumps(ring, event, mine, regs)


@part
def since(us, t):  # type: ignore[no-untyped-def]
    """Seconds from us to t, 0 if us lies ahead, NEVER_S if it never was or is longer ago."""
    if us < 0:
        return NEVER_S
    return min(max(t - us, 0), _NEVER_US) // SECOND_US


@part
def _pace(ring, event, mine, regs):  # type: ignore[no-untyped-def]
    """Speed since the last authorization with the card present, if this one is so too."""
    if event[CHANNEL] == _ECOM_CHANNEL or event[CHANNEL] == _MOTO_CHANNEL:
        return
    for i in range(mine, -1, -1):
        if ring[i, R_ID] == event[ID] and ring[i, R_US] == event[EVENT_US]:
            continue
        if ring[i, R_CHANNEL] == _ECOM_CHANNEL or ring[i, R_CHANNEL] == _MOTO_CHANNEL:
            continue
        km = distance_km(ring[i, R_COUNTRY], event[COUNTRY])
        minutes = max((event[EVENT_US] - ring[i, R_US]) // MINUTE_US, 1)
        regs[_SPEED] = km * 60 // minutes
        return


@part
def _jumps(ring, event, mine, regs):  # type: ignore[no-untyped-def]
    """Exponential mean of the others' amounts (weight 1/4, in 1/256 units), and jumps above it."""
    ema = np.int64(-1)
    jumps = np.int64(0)
    today = event[EVENT_US] // DAY_US
    for i in range(mine + 1):
        if ring[i, R_ID] == event[ID] and ring[i, R_US] == event[EVENT_US]:
            continue
        scaled = ring[i, R_AMOUNT] * 256
        if ema < 0:
            ema = scaled
            continue
        if scaled * 2 > ema * 5 and today - ring[i, R_US] // DAY_US < 7:
            jumps += 1
        ema += (scaled - ema) >> 2
    regs[_EMA] = max(ema, 0) // 256
    regs[_JUMPS] = jumps
