"""Past authorizations and labels from parquet, as the backfill wants them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sluice.adapters.arrow import ints, unsorted_history, unsorted_labels
from sluice.application.backfill import History, PastLabels
from sluice.errors import Rejected
from sluice.shown import shown

SAYS_MAX = 200
"""Characters of what a library says of a file."""
UNREADABLE = (OSError, ValueError, pa.ArrowException)
"""What reading damaged parquet raises; ValueError for a name that is no UTF-8."""
LABEL_COLUMNS = ("event_at", "known_at", "is_fraud", "card_token", "terminal_id", "merchant_id")


def history_from(table: pa.Table) -> History:
    """Arrow columns to a history, sorted by event_at; ties keep their order."""
    return unsorted_history(
        table.take(pa.array(np.argsort(ints(table, "event_at"), kind="stable")))
    )


def labels_from(table: pa.Table) -> PastLabels:
    """Arrow columns to labels, sorted by known_at."""
    order = np.argsort(ints(table, "known_at"), kind="stable")
    return unsorted_labels(table.take(pa.array(order)))


def unreadable(exc: Exception, path: Path) -> Rejected:
    """What a file is refused with that is no parquet, or damaged."""
    return Rejected(
        f"not a readable parquet file: {shown(str(exc), SAYS_MAX)}",
        where=str(path),
        fix="copy it again if it was cut or damaged on the way; CSV needs --mapping",
        code="damaged_file",
    )


def need(path: Path, columns: tuple[str, ...]) -> list[str]:
    """Names of a parquet file's columns. Raises Rejected naming those of ours that it lacks."""
    try:
        names: list[str] = pq.read_schema(path).names
    except UNREADABLE as exc:
        raise unreadable(exc, path) from exc
    missing = [name for name in columns if name not in names]
    if missing:
        raise Rejected(
            f"no column {', '.join(missing)}",
            where=str(path),
            fix="--mapping maps foreign columns; see docs/how-to/publish-your-history.md",
            code="missing_field",
        )
    return names
