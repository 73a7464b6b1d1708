"""Past authorizations and labels from parquet, as the backfill wants them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sluice.application.backfill import Coded, History, Ints, PastLabels
from sluice.domain.features.events import tag_each
from sluice.errors import Rejected

OPTIONAL = ("device_id", "three_ds", "declined")
COLUMNS = (
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
LABEL_COLUMNS = ("event_at", "known_at", "is_fraud", "card_token", "terminal_id", "merchant_id")


def read_history(path: Path) -> History:
    """Read parquet whose columns are fields of an authorization, in any order of rows.

    Raises Rejected naming the columns that are missing.
    """
    return history_from(_read(path, COLUMNS, OPTIONAL))


def read_labels(path: Path) -> PastLabels:
    """Read parquet whose columns are fields of a label. Raises Rejected."""
    return labels_from(_read(path, LABEL_COLUMNS, ("device_id",)))


def history_from(table: pa.Table) -> History:
    """Arrow columns to a history, sorted by event_at; ties keep their order."""
    return unsorted_history(
        table.take(pa.array(np.argsort(_ints(table, "event_at"), kind="stable")))
    )


def unsorted_history(table: pa.Table) -> History:
    """Arrow columns to a history in the order in which they lie, whatever their times."""
    return History(
        id_tag=tag_texts(table.column("authorization_id")),
        event_at=_ints(table, "event_at"),
        amount_minor=_ints(table, "amount_minor"),
        **{name: _coded(table, name) for name in (*COLUMNS[3:], "device_id", "three_ds")},
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


def tag_texts(column: pa.ChunkedArray) -> Ints:
    """(n,) texts to the tag of each (:func:`sluice.domain.records.identifiers.tag32`)."""
    texts = column.cast(pa.large_string()).combine_chunks()
    if isinstance(texts, pa.ChunkedArray):
        texts = pa.concat_arrays(texts.chunks) if texts.num_chunks else pa.array([], texts.type)
    out = np.empty(len(texts), np.int64)
    _, ends, data = texts.buffers()
    if len(texts):
        offsets = np.frombuffer(ends, np.int64)[texts.offset : texts.offset + len(texts) + 1]
        tag_each(np.frombuffer(data or b"", np.uint8), offsets, out)
    return out


def need(path: Path, columns: tuple[str, ...]) -> list[str]:
    """Names of a parquet file's columns. Raises Rejected naming those of ours that it lacks."""
    try:
        names: list[str] = pq.read_schema(path).names
    except (OSError, pa.ArrowInvalid) as exc:
        raise Rejected(f"not a readable parquet file: {exc}", where=str(path)) from exc
    missing = [name for name in columns if name not in names]
    if missing:
        raise Rejected(
            f"no column {', '.join(missing)}",
            where=str(path),
            fix="--mapping maps foreign columns; see docs/how-to/publish-your-history.md",
            code="missing_field",
        )
    return names


def _read(path: Path, needed: tuple[str, ...], optional: tuple[str, ...]) -> pa.Table:
    names = need(path, needed)
    return pq.read_table(path, columns=[*needed, *(o for o in optional if o in names)])


def _ints(table: pa.Table, name: str) -> Ints:
    if name not in table.column_names:
        return np.zeros(len(table), np.int64)
    column = table.column(name).cast(pa.int64())
    return (column.fill_null(0) if name in OPTIONAL else column).to_numpy()


def _coded(table: pa.Table, name: str) -> Coded:
    if name not in table.column_names:
        return Coded(np.full(len(table), -1, np.int64), [])
    return code_texts(table.column(name))


def code_texts(column: pa.ChunkedArray) -> Coded:
    """(n,) texts as codes, null -1. Texts read as a dictionary may hold values that no row has."""
    codes, values = dictionary(column)
    return Coded(codes, values.to_pylist())


def dictionary(column: pa.ChunkedArray) -> tuple[Ints, pa.StringArray]:
    """(n,) codes, -1 for null, and the texts that they stand for."""
    if not pa.types.is_dictionary(column.type):
        column = pc.dictionary_encode(column.cast(pa.string()))
    whole = column.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = whole.chunk(0) if whole.num_chunks else pa.array([], column.type)
    codes = whole.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    return codes, whole.dictionary.cast(pa.string())
