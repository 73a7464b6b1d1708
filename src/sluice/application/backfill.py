"""History through the kernel: features of every authorization, and the states it leaves behind.

The same code as the stream, entity by entity instead of hour by hour: each entity's history runs
through one small scratch that stays in the processor's cache, so cores share nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sluice.application.ports import StateUpdate
from sluice.domain.features import catalogue, states
from sluice.domain.features.events import (
    AMOUNT,
    CARD,
    CARD_COUNTRY,
    CHANNEL,
    COUNTRY,
    CURRENCY,
    DECLINED,
    DEVICE,
    EVENT_US,
    ID,
    MCC,
    MERCHANT,
    TERMINAL,
    THREE_DS,
    WIDTH,
)
from sluice.domain.features.kernel import (
    AUTHORIZATION,
    FRAUD,
    GENUINE,
    U_KIND,
    U_KNOWN_US,
    U_OFFSET,
    U_SOURCE,
    UPDATE_WIDTH,
    backfill_cold_starts,
    backfill_entity,
    context_features,
    scratch,
)
from sluice.domain.policy.fx import Fx
from sluice.domain.records.codes import CHANNEL_INDEX, THREE_DS_INDEX
from sluice.domain.records.countries import COUNTRY_INDEX
from sluice.domain.records.currencies import CURRENCY_INDEX
from sluice.domain.records.entity import ENTITY_KINDS, KEY_FIELDS
from sluice.domain.records.identifiers import tag32

Ints = npt.NDArray[np.int64]

HISTORY = states.source(states.BACKFILL, 0)
HISTORY_LABELS = states.source(states.BACKFILL, 1)
PIECE_ROWS = 131_072
"""Rows of a piece: 150 MB of features. Smaller ones read and write each state more often."""
CHUNKS_PER_THREAD = 4
"""Pieces of work a thread: enough to even out busy and idle entities."""
_VIEW_COLUMNS = (CARD, TERMINAL, MERCHANT, DEVICE)


@dataclass(frozen=True, slots=True)
class Coded:
    """A column of text: codes (n,) int64 into values; -1 is null."""

    codes: Ints
    values: Sequence[str]

    def mapped(self, numbers: Mapping[str, int], *, null: int = 0) -> Ints:
        """(n,) numbers of the texts; 0 for a text that has none."""
        table = np.array([numbers.get(v, 0) for v in self.values] + [null], np.int64)
        return table[self.codes]

    def tagged(self) -> Ints:
        """(n,) tags of the texts, 0 for null."""
        table = np.array([tag32(v) for v in self.values] + [0], np.int64)
        return table[self.codes]


@dataclass(frozen=True, slots=True)
class History:
    """Columns of n past authorizations, ordered by event_at.

    id_tag: of the authorization id. declined: what the issuer said.
    """

    id_tag: Ints
    event_at: Ints
    amount_minor: Ints
    currency: Coded
    mcc: Coded
    channel: Coded
    three_ds: Coded
    merchant_country: Coded
    card_country: Coded
    card_token: Coded
    terminal_id: Coded
    merchant_id: Coded
    device_id: Coded
    declined: Ints

    def entity(self, view: int) -> Coded:
        """The column of a view, by index into catalogue.VIEWS."""
        return getattr(self, KEY_FIELDS[ENTITY_KINDS[view]])


@dataclass(frozen=True, slots=True)
class PastLabels:
    """Columns of m labels, ordered by known_at."""

    event_at: Ints
    known_at: Ints
    is_fraud: Ints
    card_token: Coded
    terminal_id: Coded
    merchant_id: Coded
    device_id: Coded

    def entity(self, view: int) -> Coded:
        """The column of a view, by index into catalogue.VIEWS."""
        return getattr(self, KEY_FIELDS[ENTITY_KINDS[view]])


def reference_amounts(history: History, fx: Fx) -> Ints:
    """(n,) amounts in the reference currency. Raises Rejected for a currency without a rate."""
    out = np.zeros(len(history.event_at), np.int64)
    for code in np.unique(history.currency.codes).tolist():
        rows = history.currency.codes == code
        currency = history.currency.values[code]
        out[rows] = fx.column_to_reference(history.amount_minor[rows], currency)
    return out


def kernel_rows(history: History, amounts: Ints) -> Ints:
    """(n, WIDTH) kernel rows. amounts: (n,) in the reference currency."""
    n = len(history.event_at)
    events = np.zeros((n, WIDTH), np.int64)
    events[:, EVENT_US] = history.event_at
    events[:, ID] = history.id_tag
    events[:, AMOUNT] = amounts
    for view, column in enumerate(_VIEW_COLUMNS):
        events[:, column] = history.entity(view).tagged()
    events[:, COUNTRY] = history.merchant_country.mapped(COUNTRY_INDEX)
    events[:, CARD_COUNTRY] = history.card_country.mapped(COUNTRY_INDEX)
    events[:, CURRENCY] = history.currency.mapped(CURRENCY_INDEX)
    events[:, MCC] = history.mcc.mapped({v: int(v) for v in history.mcc.values})
    events[:, CHANNEL] = history.channel.mapped(CHANNEL_INDEX)
    events[:, THREE_DS] = history.three_ds.mapped(THREE_DS_INDEX)
    events[:, DECLINED] = history.declined
    return events


def authorization_changes(offsets: Ints) -> Ints:
    """(n, UPDATE_WIDTH) what authorizations do to the states. offsets: (n,) rows of the history."""
    changes = np.zeros((len(offsets), UPDATE_WIDTH), np.int64)
    changes[:, U_KIND] = AUTHORIZATION
    changes[:, U_SOURCE] = HISTORY
    changes[:, U_OFFSET] = offsets
    return changes


def label_changes(offsets: Ints, known_us: Ints, fraud: npt.NDArray[np.bool_]) -> Ints:
    """(l, UPDATE_WIDTH) what labels do to the states. offsets: (l,) places by known_at."""
    changes = np.zeros((len(offsets), UPDATE_WIDTH), np.int64)
    changes[:, U_KIND] = np.where(fraud, FRAUD, GENUINE)
    changes[:, U_SOURCE] = HISTORY_LABELS
    changes[:, U_OFFSET] = offsets
    changes[:, U_KNOWN_US] = known_us
    return changes


@dataclass(frozen=True, slots=True)
class Backfilled:
    """features: (n, catalogue.N) int64, row i of the history. states: what it leaves behind."""

    features: Ints
    states: list[StateUpdate] = field(default_factory=list)


def backfill(
    history: History,
    fx: Fx,
    labels: PastLabels | None = None,
    *,
    threads: int = 1,
    keep_states: bool = False,
) -> Backfilled:
    """Run a history through the kernel as if it had streamed by, each label at its known_at.

    Takes about 1.4 kB of memory a row; O(n log n). :class:`Backfill` takes 0.25. Raises Rejected
    for a currency without a rate.
    """
    n = len(history.event_at)
    features = np.empty((n, catalogue.N), np.int64)
    amounts = reference_amounts(history, fx)
    run = Backfill(history, amounts, labels, threads=threads, keep_states=keep_states)
    run.write(features)
    return Backfilled(features, run.states())


class _View:
    """Entities of one view: codes of authorizations and labels, -1 for none; their states."""

    def __init__(self, history: History, labels: PastLabels | None, view: int) -> None:
        own = history.entity(view)
        self.kind = ENTITY_KINDS[view]
        self.codes = own.codes
        self.label_codes: Ints = np.zeros(0, np.int64)
        self.keys = list(own.values)
        if labels is not None:
            known = {value: i for i, value in enumerate(self.keys)}
            reported = labels.entity(view)
            used = np.unique(reported.codes[reported.codes >= 0])
            table = np.full(len(reported.values) + 1, -1, np.int64)
            for code in used.tolist():
                table[code] = known.setdefault(reported.values[code], len(known))
            self.label_codes = table[reported.codes]
            self.keys = list(known)
        self.states = [b""] * len(self.keys)
        self.newest_us = [0] * len(self.keys)


class Backfill:
    """A history on its way through the kernel, in order of time, piece by piece.

    An entity's state is carried from piece to piece, encoded, as the store would hold it; so only
    one piece has its features in memory.
    """

    def __init__(
        self,
        history: History,
        amounts: Ints,
        labels: PastLabels | None = None,
        *,
        threads: int = 1,
        keep_states: bool = False,
    ) -> None:
        """amounts: (n,) in the reference currency, see :func:`reference_amounts`."""
        self._events = kernel_rows(history, amounts)
        self._labels = labels if labels is not None and len(labels.known_at) else None
        self._views = [_View(history, self._labels, v) for v in range(len(catalogue.VIEWS))]
        self._threads = threads
        self._keep = keep_states

    def pieces(self, rows: int = PIECE_ROWS) -> Iterator[tuple[int, Ints]]:
        """(first row, (k, catalogue.N) features) of each piece; overwritten by the next one."""
        n = len(self._events)
        out = np.empty((min(rows, n), catalogue.N), np.int64)
        for first in range(0, max(n, 1), rows):
            last = min(first + rows, n)
            self._run(first, last, out[: last - first])
            yield first, out[: last - first]

    def write(self, out: Ints) -> None:
        """Fill (n, catalogue.N) features; in pieces too, which the processor's cache likes."""
        n = len(self._events)
        for first in range(0, max(n, 1), PIECE_ROWS):
            last = min(first + PIECE_ROWS, n)
            self._run(first, last, out[first:last])

    def states(self) -> list[StateUpdate]:
        """After the last piece: every entity's state, if they were to be kept."""
        return [
            StateUpdate(view.kind, key, b"", state, max(newest, 0))
            for view in self._views
            for key, state, newest in zip(view.keys, view.states, view.newest_us, strict=True)
            if state and self._keep
        ]

    def _run(self, first: int, last: int, out: Ints) -> None:
        """Rows first:last and the labels known by then, after those of the piece before."""
        events = self._events[first:last]
        keep = self._keep or last < len(self._events)
        k = len(events)
        reported = self._reported(first, last)
        order: Ints = np.arange(k)
        if len(reported):
            # A label known at the very time of an authorization comes before it.
            at = np.searchsorted(events[:, EVENT_US], reported[:, U_KNOWN_US], side="left")
            order = np.insert(order, at, k + np.arange(len(reported)))
            events = np.concatenate([events, np.zeros((len(reported), WIDTH), np.int64)])
        changes = np.concatenate([authorization_changes(np.arange(first, last)), reported])
        with ThreadPoolExecutor(self._threads) as pool:
            jobs = [
                pool.submit(context_features, events, rows, out)
                for rows in np.array_split(np.arange(k), self._threads)
            ]
            for number, view in enumerate(self._views):
                codes = np.concatenate([view.codes[first:last], self._of_labels(view, reported)])
                jobs += self._run_view(
                    number, codes[order], order, events, changes, out, pool, keep
                )
            for job in jobs:
                job.result()

    def _reported(self, first: int, last: int) -> Ints:
        """(l, UPDATE_WIDTH) labels known in a piece; the last piece has all that are left."""
        labels, at = self._labels, self._events[:, EVENT_US]
        if labels is None:
            return np.zeros((0, UPDATE_WIDTH), np.int64)
        known = labels.known_at
        begin = int(np.searchsorted(known, at[first - 1], side="right")) if first else 0
        end = (
            int(np.searchsorted(known, at[last - 1], side="right"))
            if last < len(at)
            else len(known)
        )
        return label_changes(
            np.arange(begin, end), known[begin:end], labels.is_fraud[begin:end] != 0
        )

    @staticmethod
    def _of_labels(view: _View, reported: Ints) -> Ints:
        return view.label_codes[reported[:, U_OFFSET]] if len(reported) else reported[:, 0]

    def _run_view(
        self,
        number: int,
        codes: Ints,
        order: Ints,
        events: Ints,
        changes: Ints,
        out: Ints,
        pool: ThreadPoolExecutor,
        keep: bool,
    ) -> list[Future[None]]:
        """codes: (k + l,) of what arrives, order: (k + l,) its row of events and changes."""
        by_entity = np.argsort(codes, kind="stable")
        grouped = codes[by_entity]
        absent = int(np.searchsorted(grouped, 0))
        cold_starts = order[by_entity[:absent]]
        jobs = [
            pool.submit(backfill_cold_starts, number, rows, events, out)
            for rows in np.array_split(cold_starts[cold_starts < len(out)], self._threads)
            if len(rows)
        ]
        grouped, arrivals = grouped[absent:], order[by_entity[absent:]]
        if not len(arrivals):
            return jobs
        starts = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]])
        bounds = np.r_[starts, len(arrivals)]
        mine = grouped[starts].tolist()
        pieces = min(len(starts), self._threads * CHUNKS_PER_THREAD if self._threads > 1 else 1)
        cuts = np.searchsorted(bounds, np.linspace(0, len(arrivals), pieces + 1)).tolist()
        cuts[-1] = len(starts)
        view = self._views[number]

        def run(begin: int, end: int) -> None:
            some = mine[begin:end]
            done = backfill_entity(
                number,
                arrivals[bounds[begin] : bounds[end]],
                bounds[begin : end + 1] - bounds[begin],
                events,
                changes,
                out,
                scratch(),
                before=[view.states[code] for code in some],
                keep_states=keep,
            )
            if keep:
                for code, state, newest in zip(some, *done, strict=True):
                    view.states[code], view.newest_us[code] = state, newest

        return jobs + [pool.submit(run, a, b) for a, b in itertools.pairwise(cuts) if b > a]
