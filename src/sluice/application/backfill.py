"""History through the kernel: features of every authorization, and the states it leaves behind.

The same code as the stream, entity by entity instead of hour by hour: each entity's history runs
through one small scratch that stays in the processor's cache, so cores share nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sluice.application.ports import StateUpdate
from sluice.domain import catalogue, states
from sluice.domain.authorization import CHANNEL_INDEX, THREE_DS_INDEX
from sluice.domain.countries import COUNTRY_INDEX
from sluice.domain.currencies import CURRENCY_INDEX
from sluice.domain.events import (
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
from sluice.domain.fx import Fx
from sluice.domain.identifiers import tag32
from sluice.domain.observation import EntityKind
from sluice.domain.windows import (
    AUTHORIZATION,
    FRAUD,
    GENUINE,
    backfill_entity,
    context_features,
    scratch,
)

Ints = npt.NDArray[np.int64]

HISTORY = states.source(states.BACKFILL, 0)
HISTORY_LABELS = states.source(states.BACKFILL, 1)
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
        return (self.card_token, self.terminal_id, self.merchant_id, self.device_id)[view]


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

    def known_by(self, moment_us: int) -> PastLabels:
        """Those known at a moment."""
        n = int(np.searchsorted(self.known_at, moment_us, side="right"))
        return PastLabels(
            self.event_at[:n],
            self.known_at[:n],
            self.is_fraud[:n],
            *(Coded(self.entity(v).codes[:n], self.entity(v).values) for v in range(4)),
        )

    def entity(self, view: int) -> Coded:
        """The column of a view, by index into catalogue.VIEWS."""
        return (self.card_token, self.terminal_id, self.merchant_id, self.device_id)[view]


@dataclass(frozen=True, slots=True)
class Backfilled:
    """features: (n, catalogue.N) int64, row i of the history. states: what it leaves behind."""

    features: Ints
    states: list[StateUpdate] = field(default_factory=list)


def reference_amounts(history: History, fx: Fx) -> Ints:
    """(n,) amounts in the reference currency. Raises Rejected for a currency without a rate."""
    out = np.zeros(len(history.event_at), np.int64)
    for code, currency in enumerate(history.currency.values):
        rows = history.currency.codes == code
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


def backfill(
    history: History,
    fx: Fx,
    labels: PastLabels | None = None,
    *,
    threads: int = 1,
    keep_states: bool = False,
) -> Backfilled:
    """Run a history through the kernel as if it had streamed by, each label at its known_at.

    Takes about 1.3 kB of memory a row; O(n log n).
    """
    events = kernel_rows(history, reference_amounts(history, fx))
    n = len(events)
    features = np.empty((n, catalogue.N), np.int64)
    context_features(events, np.arange(n), features)
    rows, merged, changes = _merge(history, labels, events)
    kept: list[StateUpdate] = []
    with ThreadPoolExecutor(threads) as pool:
        for view, name in enumerate(catalogue.VIEWS):
            codes, values = _entity_codes(history, labels, view)
            states_of = _run_view(
                view, codes[rows], rows, merged, changes, features, pool, threads, keep_states
            )
            kind: EntityKind = name  # type: ignore[assignment]
            kept += [
                StateUpdate(kind, values[code], b"", state, newest)
                for code, newest, state in states_of
                if code < len(values)
            ]
    return Backfilled(features, kept)


def _merge(history: History, labels: PastLabels | None, events: Ints) -> tuple[Ints, Ints, Ints]:
    """Authorizations and labels in order of arrival.

    Returns (row of the history, or n + row of the labels; kernel rows; changes). A label known
    at the very time of an authorization comes before it.
    """
    n = len(events)
    changes = np.zeros((n, 4), np.int64)
    changes[:, 0] = AUTHORIZATION
    changes[:, 1] = HISTORY
    changes[:, 2] = np.arange(n)
    if labels is None or not len(labels.known_at):
        return np.arange(n), events, changes
    m = len(labels.known_at)
    told = np.zeros((m, 4), np.int64)
    told[:, 0] = np.where(labels.is_fraud != 0, FRAUD, GENUINE)
    told[:, 1] = HISTORY_LABELS
    told[:, 2] = np.arange(m)
    told[:, 3] = labels.known_at
    times = np.concatenate([history.event_at, labels.known_at])
    is_event = np.concatenate([np.ones(n, np.int8), np.zeros(m, np.int8)])
    order = np.lexsort((is_event, times))
    padded = np.zeros((m, WIDTH), np.int64)
    padded[:, EVENT_US] = labels.event_at
    return (
        order,
        np.concatenate([events, padded])[order],
        np.concatenate([changes, told])[order],
    )


def _entity_codes(
    history: History, labels: PastLabels | None, view: int
) -> tuple[Ints, Sequence[str]]:
    """Entity code of each authorization, then of each label; -1 where there is none.

    An authorization without this entity gets a code of its own behind the real ones: it is
    judged against an entity never seen, as online.
    """
    own = history.entity(view)
    codes = own.codes.copy()
    absent = np.flatnonzero(codes < 0)
    codes[absent] = len(own.values) + np.arange(len(absent))
    if labels is None:
        return codes, own.values
    known = {value: i for i, value in enumerate(own.values)}
    told = labels.entity(view)
    table = np.array([known.get(v, -1) for v in told.values] + [-1], np.int64)
    return np.concatenate([codes, table[told.codes]]), own.values


def _run_view(
    view: int,
    codes: Ints,
    rows: Ints,
    events: Ints,
    changes: Ints,
    features: Ints,
    pool: ThreadPoolExecutor,
    threads: int,
    keep_states: bool,
) -> list[tuple[int, int, bytes]]:
    order = np.argsort(codes, kind="stable")
    order = order[np.searchsorted(codes[order], 0) :]
    if not len(order):
        return []
    grouped = codes[order]
    starts = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]])
    bounds = np.r_[starts, len(order)]
    pieces = min(len(starts), threads * CHUNKS_PER_THREAD if threads > 1 else 1)
    cuts = np.searchsorted(bounds, np.linspace(0, len(order), pieces + 1)).tolist()
    cuts[-1] = len(starts)

    newest = np.maximum.reduceat(events[order, EVENT_US], starts)

    def run(first: int, last: int) -> list[tuple[int, int, bytes]]:
        mine = order[bounds[first] : bounds[last]]
        found = backfill_entity(
            view,
            rows[mine],
            bounds[first : last + 1] - bounds[first],
            events[mine],
            changes[mine],
            features,
            scratch(),
            keep_states=keep_states,
        )
        if not keep_states:
            return []
        codes_here = grouped[starts[first:last]].tolist()
        return list(zip(codes_here, newest[first:last].tolist(), found, strict=True))

    jobs = [pool.submit(run, a, b) for a, b in itertools.pairwise(cuts) if b > a]
    return [pair for job in jobs for pair in job.result()]
