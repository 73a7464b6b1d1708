"""Records and Arrow columns: what the firm's files and the archive read and write alike.

A column for each field of a flat record, so that a new field has its column; texts as tags and
codes; and a table of past authorizations as the history that the kernel counts.
"""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sluice.application.backfill import Coded, History, Ints, PastLabels
from sluice.domain.features.events import tag_each
from sluice.domain.records.texts import base_types

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


def arrow_types(record: type[msgspec.Struct]) -> dict[str, pa.DataType]:
    """Column type of each field of a flat record, in its order; ``v`` is no column.

    Raises AssertionError naming a field that fits into no column.
    """
    return {
        name: _arrow_type(f"{record.__name__}.{name}", kind)
        for name, kind in base_types(record).items()
        if name != "v"
    }


def _arrow_type(where: str, kind: Any) -> pa.DataType:
    values = get_args(kind) if get_origin(kind) is Literal else ()
    if kind is bool:
        return pa.bool_()
    if kind is int:
        return pa.int64()
    if (values and all(isinstance(value, str) for value in values)) or (
        isinstance(kind, type) and issubclass(kind, str)
    ):
        return pa.string()
    raise AssertionError(f"{where} is of type {kind!r}, for which no column is known")


def unsorted_history(table: pa.Table) -> History:
    """Arrow columns to a history in the order in which they lie, whatever their times."""
    return History(
        id_tag=tag_texts(table.column("authorization_id")),
        event_at=ints(table, "event_at"),
        amount_minor=ints(table, "amount_minor"),
        **{name: coded(table, name) for name in (*COLUMNS[3:], "device_id", "three_ds")},
        declined=ints(table, "declined"),
    )


def unsorted_labels(table: pa.Table) -> PastLabels:
    """Arrow columns to labels in the order in which they lie; the kernel wants them by known_at."""
    return PastLabels(
        event_at=ints(table, "event_at"),
        known_at=ints(table, "known_at"),
        is_fraud=ints(table, "is_fraud"),
        **{
            name: coded(table, name)
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


def ints(table: pa.Table, name: str) -> Ints:
    """(n,) whole numbers; 0 where there is no such column, or a null in one of OPTIONAL."""
    if name not in table.column_names:
        return np.zeros(len(table), np.int64)
    column = table.column(name).cast(pa.int64())
    return (column.fill_null(0) if name in OPTIONAL else column).to_numpy()


def coded(table: pa.Table, name: str) -> Coded:
    """(n,) a column of texts as codes; all null where there is no such column."""
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
