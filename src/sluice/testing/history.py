"""An event history from decisions and labels in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sluice.application.replay import EventHistory
from sluice.domain.features.events import WIDTH, event_row, event_rows
from sluice.domain.records.decision import Decision
from sluice.domain.records.entity import ENTITY_KINDS
from sluice.domain.records.superseded import Superseded


def event_history_of(
    decisions: Sequence[tuple[int, int, Decision]],
    labels: Sequence[tuple[int, int, bool, int, tuple[str | None, ...]]] = (),
) -> EventHistory:
    """An event history from (source, offset, decision) and (source, offset, is_fraud, known_us,
    keys). A superseded record is left out.

    :mod:`sluice.adapters.parquet.event_history` makes one from the archive.
    """
    decisions = _counting(decisions)
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
    for view, kind in enumerate(ENTITY_KINDS):
        table: dict[str, int] = {}
        keys = [d.entity(kind) for _, _, d in decisions] + [label[4][view] for label in labels]
        entities.append(
            np.array(
                [-1 if key is None else table.setdefault(key, len(table)) for key in keys],
                np.int64,
            )
        )
        codes.append(table)
    decided = np.array([d.decided_at for _, _, d in decisions] + [0] * len(labels), np.int64)
    return EventHistory(events, changes, tuple(entities), tuple(codes), decided)  # type: ignore[arg-type]


def _counting(decisions: Sequence[tuple[int, int, Decision]]) -> list[tuple[int, int, Decision]]:
    windows: dict[int, Superseded] = {}
    return [
        (source, offset, decision)
        for source, offset, decision in sorted(decisions, key=lambda one: one[:2])
        if not windows.setdefault(source, Superseded()).read(
            offset,
            decision.authorization.tenant,
            decision.authorization.authorization_id,
        )
    ]
