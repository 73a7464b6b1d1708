"""Recompute served vectors and states from the log, bit for bit.

A state is a function of the set of events applied, and a decision names that set: for each entity
the last offset of each source. So a replay gathers the events up to there, in any order, and runs
the kernel once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sluice.domain.features.events import ID, event_row, event_rows, pending_rows
from sluice.domain.features.kernel import Ints, Kernel, scratch, update
from sluice.domain.records.decision import Decision
from sluice.domain.records.entity import ENTITY_KINDS, EntityKind
from sluice.domain.records.identifiers import tag32

Bools = npt.NDArray[np.bool_]
Version = Sequence[tuple[int, int]]
"""Pairs of a source and the last offset of it."""


@dataclass(frozen=True, slots=True)
class EventHistory:
    """All events that states are made of: authorizations with their outcome, and labels.

    events: (n, WIDTH) kernel rows. changes: (n, 4) kind, source, offset, known_us.
    entities: for each of ENTITY_KINDS the entity of each row, as a code; -1 for none.
    codes: for each of them the code of each key.
    decided_us: (n,) when each authorization was decided; 0 for labels and for imported history.
    """

    events: Ints
    changes: Ints
    entities: tuple[Ints, Ints, Ints, Ints]
    codes: tuple[dict[str, int], dict[str, int], dict[str, int], dict[str, int]]
    decided_us: Ints


class Recomputed(NamedTuple):
    """What must have been served, from the log.

    features: (n, catalogue.N). without_pending: the same if no pending entry had been there.
    versions: n times the versions of the states that the log makes, by view; None was missing.
    missing: (n,) masks of views.
    """

    features: Ints
    without_pending: Ints
    versions: list[list[Version | None]]
    missing: Ints

    def of(self, at: Sequence[int]) -> Recomputed:
        """The same of some rows."""
        return Recomputed(
            self.features[at],
            self.without_pending[at],
            [self.versions[i] for i in at],
            self.missing[at],
        )


class Replay:
    """Answers what a state was, and what a vector was, from an event history."""

    def __init__(self, event_history: EventHistory) -> None:
        self._event_history = event_history
        self._work = scratch()
        self._kernel = Kernel()
        self._orders = []
        self._bounds = []
        for codes, keys in zip(event_history.entities, event_history.codes, strict=True):
            order = np.lexsort((event_history.changes[:, 2], codes))
            self._orders.append(order)
            self._bounds.append(np.searchsorted(codes[order], np.arange(len(keys) + 1)))

    def states(
        self, kind: EntityKind, keys: Sequence[str], versions: Sequence[Version | None]
    ) -> list[bytes]:
        """State of each entity of one kind, from the events up to its version; None is all.

        versions: (k,) lists of (source, last offset).
        States asked of one entity are made one from the other where one holds all of the other,
        so that many cost little more than one.
        """
        made = [b""] * len(keys)
        for layer in self._layers(kind, keys, versions):
            rows = [rows for _, _, rows in layer]
            bases = [b"" if base is None else made[base] for _, base, _ in layer]
            chosen = np.concatenate(rows)
            states = update(
                [(kind, keys[i]) for i, _, _ in layer],
                bases,
                np.cumsum([0, *map(len, rows)]).astype(np.int64),
                self._event_history.events[chosen],
                self._event_history.changes[chosen],
                self._work,
            ).states
            for (i, _, mine), base, state in zip(layer, bases, states, strict=True):
                made[i] = state if base or len(mine) else b""  # never written, not empty
        return made

    def features(self, decisions: Sequence[Decision]) -> Ints:
        """(n, catalogue.N) vectors of these decisions, as they must have been served."""
        return self.recompute(decisions).features

    def recompute(self, decisions: Sequence[Decision]) -> Recomputed:
        """Everything of (n,) decisions that can be compared. Holds 4 n states at once."""
        columns: list[list[bytes | None]] = []
        for kind in ENTITY_KINDS:
            versions = [d.states.of(kind) for d in decisions]
            states = self.states(
                kind,
                [d.entity(kind) or "" for d in decisions],
                [[] if version is None else version for version in versions],
            )
            columns.append(
                [
                    None if version is None else state
                    for state, version in zip(states, versions, strict=True)
                ]
            )
        events = event_rows(
            [event_row(d.authorization, d.reference_amount_minor) for d in decisions]
        )
        held = list(zip(*columns, strict=True))
        pending = [pending_rows(d.pending) for d in decisions]
        served = self._kernel.finalise(events, held, pending)
        return Recomputed(
            served.features,
            self._kernel.finalise(events, held, [()] * len(held)).features
            if any(pending)
            else served.features,
            [
                [
                    version if version is None else [(source, offset) for source, offset in version]
                    for version in served.states(i)
                ]
                for i in range(len(decisions))
            ],
            served.missing,
        )

    def behind_us(self, kind: EntityKind, decision: Decision) -> int:
        """How far behind the served state was, in microseconds; 0 if it held all.

        The age, at this decision, of the oldest decision about the same entity that had been made
        before and was neither in the state served nor among the pending entries.
        """
        key, version = decision.entity(kind), decision.states.of(kind)
        if key is None or version is None:
            return 0
        event_history = self._event_history
        mine = self._rows(kind, key)
        decided = event_history.decided_us[mine]
        unseen = (decided > 0) & (decided < decision.decided_at)
        unseen &= ~_up_to(event_history.changes[mine], version)
        if not unseen.any():
            return 0
        mine = mine[unseen]
        if kind == "card" and decision.pending:
            seen = [tag32(p.authorization_id) for p in decision.pending]
            mine = mine[~np.isin(event_history.events[mine, ID], seen)]
        if not len(mine):
            return 0
        return decision.decided_at - int(event_history.decided_us[mine].min())

    def _rows(self, kind: EntityKind, key: str) -> Ints:
        """Rows of one entity. Each source's are in order: versions only rise; sources may mix."""
        view = ENTITY_KINDS.index(kind)
        code = self._event_history.codes[view].get(key)
        if code is None:
            return np.empty(0, np.int64)
        bounds = self._bounds[view]
        return self._orders[view][bounds[code] : bounds[code + 1]]

    def _layers(
        self, kind: EntityKind, keys: Sequence[str], versions: Sequence[Version | None]
    ) -> Iterator[list[tuple[int, int | None, Ints]]]:
        """Requests that can be made together: (request, the request it builds on, rows to add)."""
        of_key: dict[str, list[int]] = {}
        for i in sorted(range(len(keys)), key=lambda i: _size(versions[i])):
            of_key.setdefault(keys[i], []).append(i)
        queues = [(self._rows(kind, key), requests) for key, requests in of_key.items()]
        before: list[Bools | None] = [None] * len(queues)
        for depth in range(max((len(requests) for _, requests in queues), default=0)):
            layer: list[tuple[int, int | None, Ints]] = []
            for q, (rows, requests) in enumerate(queues):
                if depth >= len(requests) or not len(rows):
                    continue
                version = versions[requests[depth]]
                held = (
                    np.ones(len(rows), np.bool_)
                    if version is None
                    else _up_to(self._event_history.changes[rows], version)
                )
                last = before[q]
                if last is not None and not (last & ~held).any():
                    layer.append((requests[depth], requests[depth - 1], rows[held & ~last]))
                else:
                    layer.append((requests[depth], None, rows[held]))
                before[q] = held
            if layer:
                yield layer


def _up_to(changes: Ints, version: Version) -> Bools:
    """(m,) whether a change is in a state of this version."""
    held = np.zeros(len(changes), np.bool_)
    for source, offset in version:
        held |= (changes[:, 1] == source) & (changes[:, 2] <= offset)
    return held


def _size(version: Version | None) -> float:
    """Rises from a version to any that holds all of it."""
    return float("inf") if version is None else sum(offset + 1 for _, offset in version)
