"""The kernel: states in, features out; events in, states out. Four users, one code.

Decider and replay call :func:`finalise`, the featurizer :func:`update`, training
:func:`backfill_entity`. Everything is 64-bit integers, so every machine makes the same bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from sluice.domain import cardstate as cs
from sluice.domain import tilestate as ts
from sluice.domain.cardstate import (
    DONE,
    DUPLICATE,
    FULL,
    REDELIVERED,
    SOURCES_MAX,
    TOO_OLD,
    CardState,
    add_label_to_card,
    add_to_card,
    advance,
    card_holds,
    card_registers,
    clear_card,
    empty_card,
    seen_table,
)
from sluice.domain.catalogue import (
    COPY,
    DIFFERENCE,
    ENTITIES,
    MCC_RISK,
    MEAN,
    MILLI,
    NOW_FACTS,
    PPM,
    REGISTERS,
    VIEWS,
    N,
    plan,
)
from sluice.domain.clock import DAY_US, HOUR_US
from sluice.domain.codec import (
    STATE_BYTES_MAX,
    decode_card,
    decode_tiles,
    encode_card,
    encode_tiles,
)
from sluice.domain.events import (
    AMOUNT,
    CARD_COUNTRY,
    CHANNEL,
    COUNTRY,
    DECLINED,
    DEVICE,
    EVENT_US,
    ID,
    MCC,
    THREE_DS,
    WIDTH,
)
from sluice.domain.observation import EntityKind
from sluice.domain.tilestate import (
    BASES,
    TileState,
    add_label_to_tiles,
    add_to_tiles,
    clear_tiles,
    decline_in_tiles,
    empty_tiles,
    tile_registers,
)
from sluice.errors import Corrupt

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

PLAN: Ints = plan()
N_REGISTERS = len(REGISTERS)
_BY_ENTITY: tuple[Ints, ...] = tuple(
    np.flatnonzero(PLAN[:, 3] == i).astype(np.int64) for i in range(len(ENTITIES))
)
_NOW = REGISTERS[f"now.{NOW_FACTS[0]}"]
_RISK = np.zeros(10_000, np.int64)
for _mcc, _class in MCC_RISK.items():
    _RISK[_mcc] = _class

ABSENT = -1
"""In a table of spans: the view could not be read. An empty span is an entity never written."""
AUTHORIZATION, FRAUD, GENUINE = range(3)
"""Kinds of update."""
U_KIND, U_SOURCE, U_OFFSET, U_KNOWN_US = range(4)
UPDATE_WIDTH = 4


@njit(cache=True, nogil=True)
def _now_registers(event, risk, regs):  # type: ignore[no-untyped-def]
    amount = event[AMOUNT]
    channel = event[CHANNEL]
    regs[_NOW] = amount
    regs[_NOW + 1] = channel == 1
    regs[_NOW + 2] = channel == 2
    regs[_NOW + 3] = channel == 3
    regs[_NOW + 4] = channel == 4
    regs[_NOW + 5] = channel == 5
    regs[_NOW + 6] = event[THREE_DS] != 0
    regs[_NOW + 7] = event[THREE_DS] == 4
    regs[_NOW + 8] = event[COUNTRY] != event[CARD_COUNTRY]
    regs[_NOW + 9] = event[DEVICE] != 0
    regs[_NOW + 10] = risk[event[MCC]] if 0 <= event[MCC] < len(risk) else 0
    regs[_NOW + 11] = amount > 0 and amount % 1000 == 0
    days = event[EVENT_US] // DAY_US
    regs[_NOW + 12] = event[EVENT_US] // HOUR_US % 24
    regs[_NOW + 13] = (days + 3) % 7
    # Day of the month from days since 1970 (Hinnant, "Low-level date algorithms").
    of_era = (days + 719_468) % 146_097
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    regs[_NOW + 14] = of_year - (153 * ((5 * of_year + 2) // 153) + 2) // 5 + 1


@njit(cache=True, nogil=True)
def _evaluate(plan, features, regs, out):  # type: ignore[no-untyped-def]
    """Run the plan of some features over the registers."""
    for f in features:
        a = regs[plan[f, 1]]
        b = regs[plan[f, 2]]
        operation = plan[f, 0]
        if operation == COPY:
            out[f] = a
        elif operation == MILLI:
            out[f] = a * 1000 // max(b, 1)
        elif operation == PPM:
            out[f] = a * 1_000_000 // max(b, 1)
        elif operation == MEAN:
            out[f] = a // max(b, 1)
        elif operation == DIFFERENCE:
            out[f] = a - b


class Scratch(NamedTuple):
    """Work space of one thread."""

    card: CardState
    terminal: TileState
    merchant: TileState
    device: TileState
    seen: Ints
    regs: Ints
    stamp: Ints


def scratch() -> Scratch:
    """Fresh work space. Not shared between threads."""
    return Scratch(
        empty_card(),
        empty_tiles(),
        empty_tiles(),
        empty_tiles(),
        seen_table(),
        np.zeros(N_REGISTERS, np.int64),
        np.zeros(1, np.int64),
    )


@njit(cache=True, nogil=True)
def _note_versions(head, versions, note, at):  # type: ignore[no-untyped-def]
    n = head[cs.N_VERSIONS]
    note[at : at + n] = versions[:n]
    return at + n


@njit(cache=True, nogil=True)
def _finalise_tiles(raw, span, event, view, state, s, plan, features, out):  # type: ignore[no-untyped-def]
    """One terminal, merchant or device; False if it is absent or its bytes cannot be read."""
    known = span[0] != ABSENT and decode_tiles(raw, span[0], span[1], state)
    if not known:
        clear_tiles(state)
    last_seen = state.head[ts.LAST_SEEN_US]
    add_to_tiles(state, event)
    tile_registers(state, event, last_seen, BASES[view - 1], s.regs)
    _evaluate(plan, features, s.regs, out)
    return known


@njit(cache=True, nogil=True)
def _finalise(  # type: ignore[no-untyped-def]
    raw, spans, events, pending, pending_at, s, plan, sets, risk, out, note, note_at, used, missing
):
    f_card, f_terminal, f_merchant, f_device, f_context = sets
    noted = 0
    for i in range(len(events)):
        event = events[i]
        row = out[i]
        lost = 0
        s.stamp[0] += 1
        _now_registers(event, risk, s.regs)
        _evaluate(plan, f_context, s.regs, row)

        start, end = spans[i, 0]
        if start != ABSENT and decode_card(raw, start, end, s.card):
            noted = _note_versions(s.card.head, s.card.versions, note, noted)
        else:
            clear_card(s.card)
            lost |= 1
        note_at[4 * i + 1] = noted
        for p in range(pending_at[i], pending_at[i + 1]):
            entry = pending[p]
            if entry[ID] == event[ID] and entry[EVENT_US] == event[EVENT_US]:
                continue
            if not card_holds(s.card, entry[EVENT_US], entry[ID]):
                used[p] = add_to_card(s.card, entry) == DONE
        add_to_card(s.card, event)
        card_registers(s.card, event, s.seen, s.stamp[0], s.regs)
        _evaluate(plan, f_card, s.regs, row)

        if _finalise_tiles(raw, spans[i, 1], event, 1, s.terminal, s, plan, f_terminal, row):
            noted = _note_versions(s.terminal.head, s.terminal.versions, note, noted)
        else:
            lost |= 2
        note_at[4 * i + 2] = noted
        if _finalise_tiles(raw, spans[i, 2], event, 2, s.merchant, s, plan, f_merchant, row):
            noted = _note_versions(s.merchant.head, s.merchant.versions, note, noted)
        else:
            lost |= 4
        note_at[4 * i + 3] = noted
        if _finalise_tiles(raw, spans[i, 3], event, 3, s.device, s, plan, f_device, row):
            noted = _note_versions(s.device.head, s.device.versions, note, noted)
        else:
            lost |= 8
        note_at[4 * i + 4] = noted
        missing[i] = lost


@dataclass(frozen=True, slots=True)
class Served:
    """What the walk gets from the kernel.

    features: (n, N) int64. missing: (n,) bit i set where VIEWS[i] was absent or damaged.
    versions: all [source, offset] pairs; those of row i and view v are
    versions[versions_at[4 i + v] : versions_at[4 i + v + 1]].
    used: per row, indices of the pending entries that counted, into the row's own list.
    """

    features: Ints
    missing: Ints
    versions: list[list[int]]
    versions_at: list[int]
    used: list[list[int]]


class Kernel:
    """Finalises batches, reusing its buffers. One a thread."""

    def __init__(self) -> None:
        self._scratch = scratch()
        self._note = np.zeros((4 * SOURCES_MAX, 2), np.int64)

    def finalise(
        self,
        events: Ints,
        states: Sequence[Sequence[bytes | None]],
        pending: Sequence[Sequence[tuple[int, ...]]],
    ) -> Served:
        """Features of each authorization at its own time, itself and its card's pending included.

        events: (n, WIDTH). states: n times the states of VIEWS, None absent, b"" never written.
        pending: n lists of rows of the same card. An authorization without a device has no
        device state: its device features are those of a device never seen.
        """
        n = len(events)
        flat = [state for row in states for state in row]
        lengths = np.array([ABSENT if state is None else len(state) for state in flat], np.int64)
        ends = np.cumsum(np.maximum(lengths, 0))
        spans = np.empty((n, 4, 2), np.int64)
        spans[:, :, 1] = ends.reshape(n, 4)
        spans[:, :, 0] = np.where(lengths < 0, ABSENT, ends - lengths).reshape(n, 4)
        raw = np.frombuffer(b"".join(filter(None, flat)) or b"\0", np.uint8)
        pending_at = np.zeros(n + 1, np.int64)
        rows: list[tuple[int, ...]] = []
        for i, entries in enumerate(pending):
            rows.extend(entries)
            pending_at[i + 1] = len(rows)
        table = np.array(rows, np.int64) if rows else _NO_ROWS
        used = np.zeros(len(rows) + 1, np.bool_)
        if len(self._note) < n * 4 * SOURCES_MAX:
            self._note = np.zeros((n * 4 * SOURCES_MAX, 2), np.int64)
        versions_at = np.zeros(4 * n + 1, np.int64)
        out = np.empty((n, N), np.int64)
        missing = np.zeros(n, np.int64)
        _finalise(
            raw, spans, events, table, pending_at, self._scratch, PLAN, _SETS, _RISK,
            out, self._note, versions_at, used, missing,
        )  # fmt: skip
        chosen: list[list[int]] = [[] for _ in range(n)]
        if rows:
            for i in range(n):
                low, high = int(pending_at[i]), int(pending_at[i + 1])
                if high > low:
                    chosen[i] = np.flatnonzero(used[low:high]).tolist()
        noted = self._note[: versions_at[-1]].tolist()
        return Served(out, missing, noted, versions_at.tolist(), chosen)


_NO_ROWS: Ints = np.zeros((1, WIDTH), np.int64)
_SETS = tuple(_BY_ENTITY[ENTITIES.index(view)] for view in (*VIEWS, "context"))


@njit(cache=True, nogil=True)
def _update_card(card, event, change):  # type: ignore[no-untyped-def]
    status = advance(card.head, card.versions, change[U_SOURCE], change[U_OFFSET])
    if status != DONE:
        return status
    if change[U_KIND] == AUTHORIZATION:
        return add_to_card(card, event)
    add_label_to_card(card, change[U_KIND] == FRAUD, change[U_KNOWN_US])
    return DONE


@njit(cache=True, nogil=True)
def _update_tiles(state, event, change):  # type: ignore[no-untyped-def]
    status = advance(state.head, state.versions, change[U_SOURCE], change[U_OFFSET])
    if status != DONE:
        return status
    if change[U_KIND] == AUTHORIZATION:
        return add_to_tiles(state, event)
    return add_label_to_tiles(state, change[U_KIND] == FRAUD, change[U_KNOWN_US])


@njit(cache=True, nogil=True)
def _update_all(raw, spans, is_card, changes_at, events, changes, s, out, ends, newest, statuses):  # type: ignore[no-untyped-def]
    """Returns -1, or the index of the first state that cannot be read."""
    at = 0
    for i in range(len(spans)):
        if is_card[i]:
            if not decode_card(raw, spans[i, 0], spans[i, 1], s.card):
                return i
            for j in range(changes_at[i], changes_at[i + 1]):
                statuses[j] = _update_card(s.card, events[j], changes[j])
            at = encode_card(s.card, out, at)
            ring = s.card.head[cs.N_RING]
            newest[i] = s.card.ring[ring - 1, cs.R_US] if ring else s.card.head[cs.LAST_FRAUD_US]
        else:
            if not decode_tiles(raw, spans[i, 0], spans[i, 1], s.terminal):
                return i
            for j in range(changes_at[i], changes_at[i + 1]):
                statuses[j] = _update_tiles(s.terminal, events[j], changes[j])
            at = encode_tiles(s.terminal, out, at)
            newest[i] = max(s.terminal.head[ts.LAST_SEEN_US], s.terminal.head[ts.LAST_FRAUD_US])
        ends[i] = at
    return -1


class Updated(NamedTuple):
    """New states, the time of each one's newest event, and what became of each change."""

    states: list[bytes]
    newest_us: list[int]
    statuses: Ints


def update(
    entities: Sequence[tuple[EntityKind, str]],
    states: Sequence[bytes],
    changes_at: Ints,
    events: Ints,
    changes: Ints,
    work: Scratch,
) -> Updated:
    """Apply changes to states.

    entities, states: (k,). Changes of entity i are rows changes_at[i]:changes_at[i+1] of events
    (m, WIDTH) and of changes (m, 4): kind, source, offset, known_us. A redelivery changes nothing.
    Raises Corrupt for bytes that are no state, or for more than SOURCES_MAX sources.
    """
    k = len(entities)
    ends = np.cumsum([len(s) for s in states])
    spans = np.stack([ends - [len(s) for s in states], ends], axis=1).astype(np.int64)
    raw = np.frombuffer(b"".join(states) or b"\0", np.uint8)
    is_card = np.array([kind == "card" for kind, _ in entities], np.bool_)
    grown = len(raw) + len(changes) * 256 + k * 128
    out = np.empty(min(grown, k * STATE_BYTES_MAX) + STATE_BYTES_MAX, np.uint8)
    out_ends = np.zeros(k, np.int64)
    newest = np.zeros(k, np.int64)
    statuses = np.zeros(len(changes), np.int64)
    bad = _update_all(
        raw, spans, is_card, changes_at, events, changes, work, out, out_ends, newest, statuses
    )
    if bad >= 0:
        kind, _ = entities[bad]
        raise Corrupt(
            f"the stored state of a {kind} cannot be read ({len(states[bad])} bytes)",
            fix="docs/runbooks/rebuild-states.md",
            code="corrupt_state",
        )
    if (statuses == FULL).any():
        raise Corrupt(
            f"a state comes from more than {SOURCES_MAX} source partitions",
            fix="use fewer partitions for decisions.v1 and labels.v1",
            code="too_many_sources",
        )
    whole = out.tobytes()
    starts = [0, *out_ends.tolist()]
    return Updated([whole[a:b] for a, b in itertools.pairwise(starts)], newest.tolist(), statuses)


@njit(cache=True, nogil=True)
def _backfill_card(first, rows_at, events, changes, s, plan, features, out, stamp0, blob, ends):  # type: ignore[no-untyped-def]
    at = 0
    stamp = stamp0
    for e in range(len(rows_at) - 1):
        clear_card(s.card)
        for i in range(rows_at[e], rows_at[e + 1]):
            status = advance(
                s.card.head, s.card.versions, changes[i, U_SOURCE], changes[i, U_OFFSET]
            )
            if status != DONE:
                continue
            if changes[i, U_KIND] != AUTHORIZATION:
                add_label_to_card(s.card, changes[i, U_KIND] == FRAUD, changes[i, U_KNOWN_US])
                continue
            event = events[i]
            declined = event[DECLINED]
            event[DECLINED] = 0
            stamp += 1
            add_to_card(s.card, event)
            card_registers(s.card, event, s.seen, stamp, s.regs)
            s.regs[_NOW] = event[AMOUNT]
            _evaluate(plan, features, s.regs, out[first[i]])
            if declined:
                _decline_card(s.card, event)
                event[DECLINED] = 1
        if len(blob):
            at = encode_card(s.card, blob, at)
            ends[e] = at
    return stamp


@njit(cache=True, nogil=True)
def _decline_card(card, event):  # type: ignore[no-untyped-def]
    for j in range(card.head[cs.N_RING] - 1, -1, -1):
        if card.ring[j, cs.R_US] == event[EVENT_US] and card.ring[j, cs.R_ID] == event[ID]:
            card.ring[j, cs.R_DECLINED] = 1
            return
    day = event[EVENT_US] // DAY_US
    tile = card.tiles[day % cs.DAYS_KEPT]
    if tile[cs.T_DAY] == day:
        tile[cs.T_DECLINES] += 1


@njit(cache=True, nogil=True)
def _backfill_tiles(first, rows_at, events, changes, s, plan, features, out, view, blob, ends):  # type: ignore[no-untyped-def]
    at = 0
    state = s.terminal
    for e in range(len(rows_at) - 1):
        clear_tiles(state)
        for i in range(rows_at[e], rows_at[e + 1]):
            status = advance(state.head, state.versions, changes[i, U_SOURCE], changes[i, U_OFFSET])
            if status != DONE:
                continue
            if changes[i, U_KIND] != AUTHORIZATION:
                add_label_to_tiles(state, changes[i, U_KIND] == FRAUD, changes[i, U_KNOWN_US])
                continue
            event = events[i]
            declined = event[DECLINED]
            event[DECLINED] = 0
            last_seen = state.head[ts.LAST_SEEN_US]
            add_to_tiles(state, event)
            tile_registers(state, event, last_seen, BASES[view - 1], s.regs)
            s.regs[_NOW] = event[AMOUNT]
            _evaluate(plan, features, s.regs, out[first[i]])
            if declined:
                decline_in_tiles(state, event[EVENT_US])
                event[DECLINED] = 1
        if len(blob):
            at = encode_tiles(state, blob, at)
            ends[e] = at


@njit(cache=True, nogil=True)
def _context(events, rows, risk, plan, features, regs, out):  # type: ignore[no-untyped-def]
    for i in range(len(events)):
        _now_registers(events[i], risk, regs)
        _evaluate(plan, features, regs, out[rows[i]])


def context_features(events: Ints, rows: Ints, out: Ints) -> None:
    """Write the features of the authorizations themselves: event i into out[rows[i]]."""
    _context(events, rows, _RISK, PLAN, _SETS[4], np.zeros(N_REGISTERS, np.int64), out)


def backfill_entity(
    view: int,
    rows: Ints,
    entities_at: Ints,
    events: Ints,
    changes: Ints,
    out: Ints,
    work: Scratch,
    *,
    keep_states: bool,
) -> list[bytes]:
    """Features of one view over whole histories, one entity after the other.

    view: index into VIEWS. Entity e owns rows entities_at[e]:entities_at[e+1] of events (m, WIDTH)
    and changes (m, 4), in the order in which they would have arrived. Features of event i go to
    out[rows[i]] (only AUTHORIZATION rows write). Returns the final states if asked, else [].
    Same bits as the stream: the event is added, then its windows are read, then its outcome noted.
    """
    k = len(entities_at) - 1
    bound = k * 256 + len(events) * 96 + STATE_BYTES_MAX if keep_states else 0
    bound = min(bound, (k + 1) * STATE_BYTES_MAX) if keep_states else 0
    blob = np.empty(bound, np.uint8)
    ends = np.zeros(k, np.int64)
    if view == 0:
        work.stamp[0] = _backfill_card(
            rows, entities_at, events, changes, work, PLAN, _SETS[0], out, work.stamp[0], blob, ends
        )
    else:
        _backfill_tiles(
            rows, entities_at, events, changes, work, PLAN, _SETS[view], out, view, blob, ends
        )
    if not keep_states:
        return []
    whole = blob[: ends[-1]].tobytes() if k else b""
    starts = [0, *ends.tolist()]
    return [whole[a:b] for a, b in itertools.pairwise(starts)]


__all__ = [
    "ABSENT",
    "AUTHORIZATION",
    "DONE",
    "DUPLICATE",
    "FRAUD",
    "GENUINE",
    "REDELIVERED",
    "TOO_OLD",
    "Kernel",
    "Served",
    "Updated",
    "backfill_entity",
    "context_features",
    "scratch",
    "update",
]
