"""Recompute served vectors and states from the log, bit for bit.

A state is a function of the set of events applied, and a decision names that set: for each entity
the last offset of each source. So a replay gathers the events up to there, in any order, and runs
the kernel once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sluice.domain import catalogue
from sluice.domain.decision import Decision, States
from sluice.domain.events import WIDTH, event_row, event_rows, pending_rows
from sluice.domain.observation import EntityKind
from sluice.domain.windows import Ints, Kernel, scratch, update

SAMPLE_BATCH = 256
"""Decisions recomputed together: bounds the memory for their states' events."""


@dataclass(frozen=True, slots=True)
class Journal:
    """All events that states are made of: authorizations with their outcome, and labels.

    events: (n, WIDTH) kernel rows. changes: (n, 4) kind, source, offset, known_us.
    entities: for each of catalogue.VIEWS the entity of each row, as a code; -1 for none.
    codes: for each view the code of each key.
    decided_us: (n,) when each authorization was decided; 0 for labels and for imported history.
    """

    events: Ints
    changes: Ints
    entities: tuple[Ints, Ints, Ints, Ints]
    codes: tuple[dict[str, int], dict[str, int], dict[str, int], dict[str, int]]
    decided_us: Ints


class Replay:
    """Answers what a state was, and what a vector was, from a journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._work = scratch()
        self._kernel = Kernel()
        self._orders = []
        self._bounds = []
        for codes, keys in zip(journal.entities, journal.codes, strict=True):
            order = np.argsort(codes, kind="stable")
            self._orders.append(order)
            self._bounds.append(np.searchsorted(codes[order], np.arange(len(keys) + 1)))

    def states(
        self, view: int, keys: Sequence[str], versions: Sequence[Sequence[Sequence[int]] | None]
    ) -> list[bytes]:
        """State of each entity of one view, from the events up to its version; None is all.

        view: index into catalogue.VIEWS. versions: (k,) lists of [source, last offset].
        """
        journal = self._journal
        rows = [self._rows(view, key, version) for key, version in zip(keys, versions, strict=True)]
        ends = np.cumsum([0, *(len(r) for r in rows)]).astype(np.int64)
        chosen = np.concatenate(rows) if rows else np.empty(0, np.int64)
        kind: EntityKind = catalogue.VIEWS[view]  # type: ignore[assignment]
        if not len(chosen):
            return [b""] * len(keys)
        made = update(
            [(kind, key) for key in keys],
            [b""] * len(keys),
            ends,
            journal.events[chosen],
            journal.changes[chosen],
            self._work,
        ).states
        return [state if len(mine) else b"" for state, mine in zip(made, rows, strict=True)]

    def features(self, decisions: Sequence[Decision]) -> Ints:
        """(n, catalogue.N) vectors of these decisions, as they must have been served."""
        out = np.empty((len(decisions), catalogue.N), np.int64)
        for at in range(0, len(decisions), SAMPLE_BATCH):
            some = decisions[at : at + SAMPLE_BATCH]
            out[at : at + len(some)] = self._features(some)
        return out

    def _features(self, decisions: Sequence[Decision]) -> Ints:
        columns: list[list[bytes | None]] = []
        for view in range(len(catalogue.VIEWS)):
            keys = [_key(d, view) for d in decisions]
            versions = [_version(d.states, view) for d in decisions]
            states = self.states(
                view, [k or "" for k in keys], [[] if v is None else v for v in versions]
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
        return self._kernel.finalise(
            events,
            list(zip(*columns, strict=True)),
            [pending_rows(d.pending) for d in decisions],
        ).features

    def _rows(self, view: int, key: str, version: Sequence[Sequence[int]] | None) -> Ints:
        code = self._journal.codes[view].get(key)
        if code is None:
            return np.empty(0, np.int64)
        bounds = self._bounds[view]
        mine = self._orders[view][bounds[code] : bounds[code + 1]]
        changes = self._journal.changes[mine]
        if version is not None:
            keep = np.zeros(len(mine), np.bool_)
            for source, offset in version:
                keep |= (changes[:, 1] == source) & (changes[:, 2] <= offset)
            mine, changes = mine[keep], changes[keep]
        # Versions only rise, so each source's events must come in order; sources may mix.
        return mine[np.argsort(changes[:, 2], kind="stable")]


def _key(decision: Decision, view: int) -> str | None:
    auth = decision.authorization
    return (auth.card_token, auth.terminal_id, auth.merchant_id, auth.device_id)[view]


def _version(states: States, view: int) -> list[tuple[int, int]] | None:
    return (states.card, states.terminal, states.merchant, states.device)[view]


def journal_of(
    decisions: Sequence[tuple[int, int, Decision]],
    labels: Sequence[tuple[int, int, bool, int, tuple[str | None, ...]]] = (),
) -> Journal:
    """A journal from (source, offset, decision) and (source, offset, is_fraud, known_us, keys).

    For small logs and tests; :mod:`sluice.adapters.parquet.journal` makes one from the archive.
    """
    rows = [
        event_row(d.authorization, d.reference_amount_minor, declined=d.outcome == "decline")
        for _, _, d in decisions
    ]
    events = event_rows([*rows, *([(0,) * WIDTH] * len(labels))])
    changes = np.array(
        [(0, source, offset, 0) for source, offset, _ in decisions]
        + [(1 if fraud else 2, s, o, known) for s, o, fraud, known, _ in labels],
        np.int64,
    ).reshape(-1, 4)
    entities = []
    codes: list[dict[str, int]] = []
    for view in range(len(catalogue.VIEWS)):
        table: dict[str, int] = {}
        keys = [_key(d, view) for _, _, d in decisions] + [label[4][view] for label in labels]
        entities.append(
            np.array(
                [-1 if key is None else table.setdefault(key, len(table)) for key in keys],
                np.int64,
            )
        )
        codes.append(table)
    decided = np.array([d.decided_at for _, _, d in decisions] + [0] * len(labels), np.int64)
    return Journal(events, changes, tuple(entities), tuple(codes), decided)  # type: ignore[arg-type]
