"""The kernel: states in, features out; events in, states out. Four users, one code.

Decider and replay call :meth:`Kernel.finalise`, the featurizer :func:`update`, training
:func:`backfill_entity`. Everything is 64-bit integers, so every machine makes the same bits.

An authorization is judged before its outcome is known: its windows count it, but never as
declined, and whether or not a state already holds it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sluice.domain.clock import DAY_US, HOUR_US
from sluice.domain.compiled import entry, part
from sluice.domain.features import cardstate as cs
from sluice.domain.features import tilestate as ts
from sluice.domain.features.cardstate import (
    DONE,
    DUPLICATE,
    FULL,
    REDELIVERED,
    SOURCES_MAX,
    TOO_OLD,
    CardState,
    add_label_to_card,
    add_pending,
    add_to_card,
    advance,
    card_registers,
    clear_card,
    withdraw_from_card,
)
from sluice.domain.features.catalogue import (
    COPY,
    DIFFERENCE,
    ENTITIES,
    FEATURES,
    MCC_RISK,
    MEAN,
    MILLI,
    NOW_FACTS,
    REGISTERS,
    N,
    plan,
)
from sluice.domain.features.codec import (
    SLACK,
    STATE_BYTES_MAX,
    decode_card,
    decode_tiles,
    encode_card,
    encode_tiles,
)
from sluice.domain.features.events import (
    AMOUNT,
    CARD_COUNTRY,
    CHANNEL,
    COUNTRY,
    DEVICE,
    EVENT_US,
    MCC,
    THREE_DS,
    WIDTH,
)
from sluice.domain.features.tilestate import (
    BASES,
    TileState,
    add_label_to_tiles,
    add_to_tiles,
    clear_tiles,
    tile_registers,
    withdraw_from_tiles,
)
from sluice.domain.records.codes import CHANNEL_INDEX, THREE_DS_INDEX
from sluice.domain.records.entity import EntityKind
from sluice.errors import Corrupt

Ints = npt.NDArray[np.int64]

_PLAN: Ints = plan()
_NOW = REGISTERS[f"now.{NOW_FACTS[0]}"]
_POS, _CONTACTLESS, _ECOM, _MOTO, _ATM = (
    CHANNEL_INDEX[channel] for channel in ("pos", "contactless", "ecom", "moto", "atm")
)
_FAILED = THREE_DS_INDEX["failed"]
_RISK: npt.NDArray[np.uint8] = np.zeros(10_000, np.uint8)
for _mcc, _class in MCC_RISK.items():
    _RISK[_mcc] = _class


def _of_entity(entity: int) -> tuple[int, int]:
    """First feature of an entity, and the one after its last: they stand together."""
    mine = np.flatnonzero(_PLAN[:, 3] == entity)
    return int(mine[0]), int(mine[-1]) + 1


_FIRST: Ints = np.array([_of_entity(i)[0] for i in range(len(ENTITIES))], np.int64)
_END: Ints = np.array([_of_entity(i)[1] for i in range(len(ENTITIES))], np.int64)
_CONTEXT = ENTITIES.index("context")
if (_END - _FIRST).sum() != len(FEATURES):
    raise AssertionError("the features of an entity do not stand together")

ABSENT = -1
"""A length: the view could not be read. Length 0 is an entity never written."""
# Kinds of update; ``observations.v1`` holds the first three of these numbers.
AUTHORIZATION = 0
"""A decided authorization: it counts."""
FRAUD = 1
"""A reported fraud: it counts, by the time at which it became known."""
GENUINE = 2
"""A verdict that it was none: terminals, merchants and devices note its time, a card nothing."""
WITHDRAWN = 3
"""The same of one that was counted as a fraud, which it takes back: its event's time is that since
which the fraud was known. It comes behind that fraud, from the same source."""
# Columns of an update, beside its event.
U_KIND = 0
"""One of the four above."""
U_SOURCE = 1
"""The source partition (:func:`sluice.domain.features.states.source`)."""
U_OFFSET = 2
"""Its place there."""
U_KNOWN_US = 3
"""Of a label: when it became known. 0 of an authorization."""
UPDATE_WIDTH = 4

Scratch = Ints
"""Work space of one thread: one flat array, which numba takes faster than many."""


def _layout() -> list[tuple[int, int]]:
    """Where each part of the work space begins and ends."""
    sizes = (
        cs.HEAD_WIDTH,
        SOURCES_MAX * 2,
        cs.RING_MAX * cs.RING_WIDTH,
        cs.DAYS_KEPT * cs.TILE_WIDTH,
        ts.HEAD_WIDTH,
        SOURCES_MAX * 2,
        ts.MINUTES_KEPT * ts.TILE_WIDTH,
        ts.HOURS_KEPT * ts.TILE_WIDTH,
        ts.DAYS_KEPT * ts.TILE_WIDTH,
        ts.DAYS_KEPT * ts.REPORT_WIDTH,
        cs.SEEN_COLUMNS * cs.SEEN_SLOTS * 2,
        len(REGISTERS),
        1,
    )
    return list(itertools.pairwise((0, *itertools.accumulate(sizes))))


_C_HEAD, _C_VERSIONS, _C_RING, _C_TILES, *_REST = (begin for begin, _ in _layout())
_T_HEAD, _T_VERSIONS, _T_MINUTES, _T_HOURS, _T_DAYS, _T_REPORTS, _SEEN, _REGS, _STAMP = _REST
_SCRATCH_WIDTH = _STAMP + 1


def scratch() -> Scratch:
    """Fresh work space. Not shared between threads."""
    return np.zeros(_SCRATCH_WIDTH, np.int64)


@part
def _card(work):  # type: ignore[no-untyped-def]
    return CardState(
        work[_C_HEAD:_C_VERSIONS],
        work[_C_VERSIONS:_C_RING].reshape((SOURCES_MAX, 2)),
        work[_C_RING:_C_TILES].reshape((cs.RING_MAX, cs.RING_WIDTH)),
        work[_C_TILES:_T_HEAD].reshape((cs.DAYS_KEPT, cs.TILE_WIDTH)),
    )


@part
def _tiles(work):  # type: ignore[no-untyped-def]
    return TileState(
        work[_T_HEAD:_T_VERSIONS],
        work[_T_VERSIONS:_T_MINUTES].reshape((SOURCES_MAX, 2)),
        work[_T_MINUTES:_T_HOURS].reshape((ts.MINUTES_KEPT, ts.TILE_WIDTH)),
        work[_T_HOURS:_T_DAYS].reshape((ts.HOURS_KEPT, ts.TILE_WIDTH)),
        work[_T_DAYS:_T_REPORTS].reshape((ts.DAYS_KEPT, ts.TILE_WIDTH)),
        work[_T_REPORTS:_SEEN].reshape((ts.DAYS_KEPT, ts.REPORT_WIDTH)),
    )


@part
def _seen(work):  # type: ignore[no-untyped-def]
    """The table, and a stamp never used before on it."""
    work[_STAMP] += 1
    return work[_SEEN:_REGS].reshape((cs.SEEN_COLUMNS, cs.SEEN_SLOTS, 2)), work[_STAMP]


@part
def _now_registers(event, regs):  # type: ignore[no-untyped-def]
    amount = event[AMOUNT]
    channel = event[CHANNEL]
    regs[_NOW] = amount
    regs[_NOW + 1] = channel == _POS
    regs[_NOW + 2] = channel == _CONTACTLESS
    regs[_NOW + 3] = channel == _ECOM
    regs[_NOW + 4] = channel == _MOTO
    regs[_NOW + 5] = channel == _ATM
    regs[_NOW + 6] = event[THREE_DS] != 0
    regs[_NOW + 7] = event[THREE_DS] == _FAILED
    regs[_NOW + 8] = event[COUNTRY] != event[CARD_COUNTRY]
    regs[_NOW + 9] = event[DEVICE] != 0
    regs[_NOW + 10] = _RISK[event[MCC]] if 0 <= event[MCC] < len(_RISK) else 0
    regs[_NOW + 11] = amount > 0 and amount % 1000 == 0
    days = event[EVENT_US] // DAY_US
    regs[_NOW + 12] = event[EVENT_US] // HOUR_US % 24
    regs[_NOW + 13] = (days + 3) % 7
    # Day of the month from days since 1970 (Hinnant, "Low-level date algorithms").
    of_era = (days + 719_468) % 146_097
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    regs[_NOW + 14] = of_year - (153 * ((5 * of_year + 2) // 153) + 2) // 5 + 1


@part
def _evaluate(first, end, regs, out):  # type: ignore[no-untyped-def]
    """Run the plan of some features over the registers."""
    for f in range(first, end):
        operation = _PLAN[f, 0]
        a = regs[_PLAN[f, 1]]
        if operation == COPY:
            out[f] = a
            continue
        b = regs[_PLAN[f, 2]]
        if operation == DIFFERENCE:
            out[f] = a - b
        elif b == 0:
            out[f] = 0
        elif operation == MEAN:
            out[f] = a // b
        else:
            out[f] = a * (1000 if operation == MILLI else 1_000_000) // b


@part
def _note_versions(head, versions, notes, at):  # type: ignore[no-untyped-def]
    for i in range(head[cs.N_VERSIONS]):
        notes[at] = versions[i, 0]
        notes[at + 1] = versions[i, 1]
        at += 2
    return at


@entry
def _finalise(raw, lengths, events, pending, work, out, notes):  # type: ignore[no-untyped-def]
    """Fill out (n, N) and notes: n masks of missing views, 4 n + 1 ends of versions, a flag for
    each pending entry, the versions. lengths: of 4 n states, then of n lists of pending.
    """
    n = len(events)
    missing = notes[:n]
    versions_at = notes[n : 5 * n + 1]
    used = notes[5 * n + 1 : 5 * n + 1 + len(pending)]
    noted = 5 * n + 1 + len(pending)
    start = noted
    card, tiles, regs = _card(work), _tiles(work), work[_REGS:_STAMP]
    at = 0
    entry_at = 0
    versions_at[0] = 0
    for i in range(n):
        event = events[i]
        lost = 0
        _now_registers(event, regs)

        length = lengths[4 * i]
        if length != ABSENT and decode_card(raw, at, at + length, card):
            noted = _note_versions(card.head, card.versions, notes, noted)
        else:
            clear_card(card)
            lost = 1
        at += max(length, 0)
        versions_at[4 * i + 1] = (noted - start) // 2
        entries = lengths[4 * n + i]
        add_pending(card, pending, entry_at, entry_at + entries, event, used)
        entry_at += entries
        seen, stamp = _seen(work)
        card_registers(card, event, seen, stamp, regs)

        for view in range(1, 4):
            length = lengths[4 * i + view]
            if length != ABSENT and decode_tiles(raw, at, at + length, tiles):
                noted = _note_versions(tiles.head, tiles.versions, notes, noted)
            else:
                clear_tiles(tiles)
                lost |= 1 << view
            at += max(length, 0)
            versions_at[4 * i + view + 1] = (noted - start) // 2
            tile_registers(tiles, event, BASES[view - 1], regs)
        _evaluate(0, N, regs, out[i])
        missing[i] = lost


@dataclass(frozen=True, slots=True)
class Served:
    """What the decision pipeline gets from the kernel.

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

    def states(self, i: int) -> list[list[list[int]] | None]:
        """By view, the versions of the states that row i was served from; None was missing."""
        versions = self.versions
        a, b, c, d, e = self.versions_at[4 * i : 4 * i + 5]
        views: list[list[list[int]] | None]
        views = [versions[a:b], versions[b:c], versions[c:d], versions[d:e]]
        if missing := self.missing[i]:
            return [None if missing >> v & 1 else view for v, view in enumerate(views)]
        return views


_NO_ROWS: Ints = np.zeros((0, WIDTH), np.int64)
_SLACK = bytes(SLACK)


class Kernel:
    """Finalises batches, reusing its buffers. One a thread."""

    def __init__(self) -> None:
        self._scratch = scratch()
        self._notes: Ints = np.zeros(0, np.int64)

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
        lengths = np.zeros(5 * n, np.int64)
        lengths[: 4 * n] = [ABSENT if state is None else len(state) for state in flat]
        raw = np.frombuffer(b"".join([*filter(None, flat), _SLACK]), np.uint8)
        rows = [row for entries in pending for row in entries]
        entries = _NO_ROWS
        if rows:
            lengths[4 * n :] = [len(of_card) for of_card in pending]
            entries = np.array(rows, np.int64)
        versions_start = 5 * n + 1 + len(rows)
        most = versions_start + n * 4 * SOURCES_MAX * 2
        if len(self._notes) < most:
            self._notes = np.zeros(most, np.int64)
        notes = self._notes
        out = np.empty((n, N), np.int64)
        _finalise(raw, lengths, events, entries, self._scratch, out, notes)
        versions_at: list[int] = notes[n : 5 * n + 1].tolist()
        versions_end = versions_start + 2 * versions_at[-1]
        versions: list[list[int]] = notes[versions_start:versions_end].reshape(-1, 2).tolist()
        used: list[list[int]] = [[] for _ in range(n)]
        if rows:
            flags = iter(notes[5 * n + 1 : versions_start].tolist())
            used = [[p for p in range(len(row)) if next(flags)] for row in pending]
        return Served(out, notes[:n].copy(), versions, versions_at, used)

    def registers(self) -> Ints:
        """(len(REGISTERS),) what the last authorization finalised was computed from."""
        return self._scratch[_REGS:_STAMP].copy()


@part
def _update_card(card, event, change):  # type: ignore[no-untyped-def]
    status = advance(card.head, card.versions, change[U_SOURCE], change[U_OFFSET])
    if status != DONE:
        return status
    if change[U_KIND] == AUTHORIZATION:
        return add_to_card(card, event)
    if change[U_KIND] == WITHDRAWN:
        withdraw_from_card(card)
    else:
        add_label_to_card(card, change[U_KIND] == FRAUD, change[U_KNOWN_US])
    return DONE


@part
def _update_tiles(state, event, change):  # type: ignore[no-untyped-def]
    status = advance(state.head, state.versions, change[U_SOURCE], change[U_OFFSET])
    if status != DONE:
        return status
    if change[U_KIND] == AUTHORIZATION:
        return add_to_tiles(state, event)
    if change[U_KIND] == WITHDRAWN:
        withdraw_from_tiles(state, event[EVENT_US])
    return add_label_to_tiles(state, change[U_KIND] == FRAUD, change[U_KNOWN_US])


@part
def _newest_of_card(card):  # type: ignore[no-untyped-def]
    ring = card.head[cs.N_RING]
    return card.ring[ring - 1, cs.R_US] if ring else card.head[cs.LAST_FRAUD_US]


@part
def _newest_of_tiles(tiles):  # type: ignore[no-untyped-def]
    return max(tiles.head[ts.LAST_SEEN_US], tiles.head[ts.LAST_FRAUD_US])


@entry
def _update_all(raw, lengths, is_card, at_change, events, changes, work, out, ends, newest, status):  # type: ignore[no-untyped-def]
    """Returns -1, or the index of the first state that cannot be read."""
    card, tiles = _card(work), _tiles(work)
    start = 0
    at = 0
    for i in range(len(lengths)):
        end = start + lengths[i]
        if is_card[i]:
            if not decode_card(raw, start, end, card):
                return i
            for j in range(at_change[i], at_change[i + 1]):
                status[j] = _update_card(card, events[j], changes[j])
            at = encode_card(card, out, at)
            newest[i] = _newest_of_card(card)
        else:
            if not decode_tiles(raw, start, end, tiles):
                return i
            for j in range(at_change[i], at_change[i + 1]):
                status[j] = _update_tiles(tiles, events[j], changes[j])
            at = encode_tiles(tiles, out, at)
            newest[i] = _newest_of_tiles(tiles)
        ends[i] = at
        start = end
    return -1


def _refuse_full(statuses: Ints) -> None:
    if (statuses == FULL).any():
        raise Corrupt(
            f"a state comes from more than {SOURCES_MAX} source partitions",
            fix="use fewer partitions for decisions.v1 and labels.v1",
            code="too_many_sources",
        )


def _cut(blob: npt.NDArray[np.uint8], ends: Ints) -> list[bytes]:
    whole = blob[: ends[-1]].tobytes() if len(ends) else b""
    return [whole[a:b] for a, b in itertools.pairwise([0, *ends.tolist()])]


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
    lengths = np.array([len(s) for s in states], np.int64)
    raw = np.frombuffer(b"".join([*states, _SLACK]), np.uint8)
    is_card = np.array([kind == "card" for kind, _ in entities], np.bool_)
    out = np.empty(len(raw) + len(changes) * _CHANGE_BYTES_MAX + k * SLACK, np.uint8)
    ends = np.zeros(k, np.int64)
    newest = np.zeros(k, np.int64)
    statuses = np.zeros(len(changes), np.int64)
    bad = _update_all(
        raw, lengths, is_card, changes_at, events, changes, work, out, ends, newest, statuses
    )
    if bad >= 0:
        kind, _ = entities[bad]
        raise Corrupt(
            f"the stored state of a {kind} cannot be read ({len(states[bad])} bytes)",
            fix="docs/runbooks/rebuild-states.md",
            code="corrupt_state",
        )
    _refuse_full(statuses)
    return Updated(_cut(out, ends), newest.tolist(), statuses)


_CHANGE_BYTES_MAX = 256
"""Above what one event adds to a state: a version (18), three tiles (37 each) and the times of
the head, or one slot of the ring (58) and what its neighbour no longer shares (26)."""


_UNREADABLE = -1


@entry
def _backfill_card(arrivals, ends_at, events, changes, work, out, raw, lengths, blob, ends, newest):  # type: ignore[no-untyped-def]
    """Returns DONE, FULL or _UNREADABLE."""
    card, regs = _card(work), work[_REGS:_STAMP]
    start = 0
    at = 0
    for e in range(len(ends_at) - 1):
        if not decode_card(raw, start, start + lengths[e], card):
            return _UNREADABLE
        start += lengths[e]
        for j in range(ends_at[e], ends_at[e + 1]):
            i = arrivals[j]
            event = events[i]
            if changes[i, U_KIND] == AUTHORIZATION:
                seen, stamp = _seen(work)
                card_registers(card, event, seen, stamp, regs)
                regs[_NOW] = event[AMOUNT]
                _evaluate(_FIRST[0], _END[0], regs, out[i])
            if _update_card(card, event, changes[i]) == FULL:
                return FULL
        if len(blob):
            at = encode_card(card, blob, at)
            ends[e] = at
            newest[e] = _newest_of_card(card)
    return DONE


@entry
def _backfill_tiles(  # type: ignore[no-untyped-def]
    arrivals, ends_at, events, changes, work, out, raw, lengths, blob, ends, newest, view
):
    """Returns DONE, FULL or _UNREADABLE."""
    tiles, regs = _tiles(work), work[_REGS:_STAMP]
    start = 0
    at = 0
    for e in range(len(ends_at) - 1):
        if not decode_tiles(raw, start, start + lengths[e], tiles):
            return _UNREADABLE
        start += lengths[e]
        for j in range(ends_at[e], ends_at[e + 1]):
            i = arrivals[j]
            event = events[i]
            if changes[i, U_KIND] == AUTHORIZATION:
                tile_registers(tiles, event, BASES[view - 1], regs)
                regs[_NOW] = event[AMOUNT]
                _evaluate(_FIRST[view], _END[view], regs, out[i])
            if _update_tiles(tiles, event, changes[i]) == FULL:
                return FULL
        if len(blob):
            at = encode_tiles(tiles, blob, at)
            ends[e] = at
            newest[e] = _newest_of_tiles(tiles)
    return DONE


@entry
def _backfill_cold_starts(rows, events, work, out, view):  # type: ignore[no-untyped-def]
    regs = work[_REGS:_STAMP]
    card, tiles = _card(work), _tiles(work)
    clear_card(card)
    clear_tiles(tiles)
    for i in rows:
        if view == 0:
            seen, stamp = _seen(work)
            card_registers(card, events[i], seen, stamp, regs)
        else:
            tile_registers(tiles, events[i], BASES[view - 1], regs)
        regs[_NOW] = events[i, AMOUNT]
        _evaluate(_FIRST[view], _END[view], regs, out[i])


@entry
def _context_features(events, rows, work, out):  # type: ignore[no-untyped-def]
    regs = work[_REGS:_STAMP]
    for i in rows:
        _now_registers(events[i], regs)
        _evaluate(_FIRST[_CONTEXT], _END[_CONTEXT], regs, out[i])


def context_features(events: Ints, rows: Ints, out: Ints) -> None:
    """Write the features of the authorizations themselves: events[i] into out[i], i of rows."""
    _context_features(events, rows, scratch(), out)


def backfill_cold_starts(view: int, rows: Ints, events: Ints, out: Ints) -> None:
    """Write the features of one view for events that have no such entity: never seen, as online.

    events[i] into out[i], i of rows.
    """
    _backfill_cold_starts(rows, events, scratch(), out, view)


class Run(NamedTuple):
    """Final states of entities, and the time of each one's newest event."""

    states: list[bytes]
    newest_us: list[int]


def backfill_entity(
    view: int,
    arrivals: Ints,
    entities_at: Ints,
    events: Ints,
    changes: Ints,
    out: Ints,
    work: Scratch,
    *,
    keep_states: bool,
    before: Sequence[bytes] | None = None,
) -> Run:
    """Features of one view over whole histories, one entity after the other.

    view: index into VIEWS. events: (m, WIDTH), changes: (m, 4). arrivals: rows of both, entity e's
    are arrivals[entities_at[e] : entities_at[e + 1]], in the order in which they would have
    arrived. Features of event i go to out[i] (only AUTHORIZATION rows write). before: (k,) states
    to go on from; None is entities never seen. Returns the final states if asked, else none.
    Same bits as the stream: each event's windows are read, then it is applied with its outcome.
    Raises Corrupt for more than SOURCES_MAX sources, or for bytes that are no state.
    """
    k = len(entities_at) - 1
    given = before or []
    lengths = np.array([len(s) for s in given], np.int64) if given else np.zeros(k, np.int64)
    raw = np.frombuffer(b"".join([*given, _SLACK]), np.uint8)
    bound = min(k * SLACK + len(arrivals) * _CHANGE_BYTES_MAX + len(raw), k * STATE_BYTES_MAX)
    blob = np.empty(bound if keep_states else 0, np.uint8)
    ends = np.zeros(k if keep_states else 0, np.int64)
    newest = np.zeros_like(ends)
    if view == 0:
        status = _backfill_card(
            arrivals, entities_at, events, changes, work, out, raw, lengths, blob, ends, newest
        )
    else:
        status = _backfill_tiles(
            arrivals, entities_at, events, changes, work, out, raw, lengths, blob, ends, newest,
            view,
        )  # fmt: skip
    if status == FULL:
        _refuse_full(np.array([FULL]))
    if status == _UNREADABLE:
        raise Corrupt("a state that the backfill made cannot be read", code="corrupt_state")
    return Run(_cut(blob, ends), newest.tolist())


__all__ = [
    "ABSENT",
    "AUTHORIZATION",
    "DONE",
    "DUPLICATE",
    "FRAUD",
    "GENUINE",
    "REDELIVERED",
    "TOO_OLD",
    "UPDATE_WIDTH",
    "U_KIND",
    "U_KNOWN_US",
    "U_OFFSET",
    "U_SOURCE",
    "WITHDRAWN",
    "Kernel",
    "Run",
    "Served",
    "Updated",
    "backfill_cold_starts",
    "backfill_entity",
    "context_features",
    "scratch",
    "update",
]
