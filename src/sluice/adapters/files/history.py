"""Past authorizations and labels from parquet, as the backfill wants them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sluice.application.backfill import Coded, History, Ints, PastLabels
from sluice.errors import Rejected

_OPTIONAL = ("device_id", "three_ds", "declined")
_COLUMNS = (
    "authorization_id",
    "event_at",
    "amount_minor",
    "currency",
    "mcc",
    "channel",
    "merchant_country",
    "card_country",
    "card_token",
    "terminal_id",
    "merchant_id",
)
_LABEL_COLUMNS = ("event_at", "known_at", "is_fraud", "card_token", "terminal_id", "merchant_id")


def read_history(path: Path) -> History:
    """Read parquet whose columns are fields of an authorization, in any order of rows.

    Raises Rejected naming the columns that are missing.
    """
    return history_from(_read(path, _COLUMNS, _OPTIONAL))


def read_labels(path: Path) -> PastLabels:
    """Read parquet whose columns are fields of a label. Raises Rejected."""
    return labels_from(_read(path, _LABEL_COLUMNS, ("device_id",)))


def history_from(table: pa.Table) -> History:
    """Arrow columns to a history, sorted by event_at; ties keep their order."""
    table = table.take(pa.array(np.argsort(_ints(table, "event_at"), kind="stable")))
    return History(
        authorization_id=table.column("authorization_id").to_pylist(),
        event_at=_ints(table, "event_at"),
        amount_minor=_ints(table, "amount_minor"),
        **{name: _coded(table, name) for name in (*_COLUMNS[3:], "device_id", "three_ds")},
        declined=_ints(table, "declined"),
    )


def labels_from(table: pa.Table) -> PastLabels:
    """Arrow columns to labels, sorted by known_at."""
    table = table.take(pa.array(np.argsort(_ints(table, "known_at"), kind="stable")))
    return PastLabels(
        event_at=_ints(table, "event_at"),
        known_at=_ints(table, "known_at"),
        is_fraud=_ints(table, "is_fraud"),
        **{
            name: _coded(table, name)
            for name in ("card_token", "terminal_id", "merchant_id", "device_id")
        },
    )


def _read(path: Path, needed: tuple[str, ...], optional: tuple[str, ...]) -> pa.Table:
    try:
        names = pq.read_schema(path).names
        missing = [name for name in needed if name not in names]
        if missing:
            raise Rejected(
                f"no column {', '.join(missing)}",
                where=str(path),
                fix="sluice publish maps foreign columns; see docs/how-to/publish-your-history.md",
                code="missing_field",
            )
        return pq.read_table(path, columns=[*needed, *(o for o in optional if o in names)])
    except (OSError, pa.ArrowInvalid) as exc:
        raise Rejected(f"not a readable parquet file: {exc}", where=str(path)) from exc


def _ints(table: pa.Table, name: str) -> Ints:
    if name not in table.column_names:
        return np.zeros(len(table), np.int64)
    return table.column(name).cast(pa.int64()).to_numpy()


def _coded(table: pa.Table, name: str) -> Coded:
    if name not in table.column_names:
        return Coded(np.full(len(table), -1, np.int64), [])
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.string())
    if not pa.types.is_dictionary(column.type):
        column = pc.dictionary_encode(column)
    codes = column.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    return Coded(codes, column.dictionary.cast(pa.string()).to_pylist())
