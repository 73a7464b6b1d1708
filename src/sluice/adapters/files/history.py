"""Past authorizations and labels from parquet, as the backfill wants them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sluice.application.backfill import Coded, History, Ints, PastLabels, kernel_rows
from sluice.application.replay import Journal
from sluice.domain import states
from sluice.domain.events import DECLINED, WIDTH, tag_each
from sluice.domain.outcome import Outcome
from sluice.domain.windows import FRAUD, GENUINE
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
    return _history(table.take(pa.array(np.argsort(_ints(table, "event_at"), kind="stable"))))


def _history(table: pa.Table) -> History:
    return History(
        id_tag=_tags(table.column("authorization_id")),
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


def journal_from(decisions: pa.Table, labels: pa.Table | None = None) -> Journal:
    """The archive's columns as a replay wants them.

    decisions: fields of the authorization, ``partition``, ``offset``, ``reference_amount_minor``,
    ``outcome``. labels: fields of a label, ``partition``, ``offset``.
    """
    n = len(decisions)
    declined = _coded(decisions, "outcome").mapped({Outcome.DECLINE: 1})
    amounts = _ints(decisions, "reference_amount_minor")
    rows = kernel_rows(_history(decisions), amounts)
    rows[:, DECLINED] = declined
    changes = np.zeros((n, 4), np.int64)
    changes[:, 1] = states.source(states.DECISIONS, 0) + _ints(decisions, "partition")
    changes[:, 2] = _ints(decisions, "offset")
    m = 0 if labels is None else len(labels)
    if labels is not None and m:
        told = np.zeros((m, 4), np.int64)
        told[:, 0] = np.where(_ints(labels, "is_fraud") != 0, FRAUD, GENUINE)
        told[:, 1] = states.source(states.LABELS, 0) + _ints(labels, "partition")
        told[:, 2] = _ints(labels, "offset")
        told[:, 3] = _ints(labels, "known_at")
        changes = np.concatenate([changes, told])
        rows = np.concatenate([rows, np.zeros((m, WIDTH), np.int64)])
    entities, codes = [], []
    for name in ("card_token", "terminal_id", "merchant_id", "device_id"):
        column = _texts(decisions, name)
        if labels is not None and m:
            column = pa.chunked_array([*column.chunks, *_texts(labels, name).chunks])
        coded = _code(column)
        entities.append(coded.codes)
        codes.append({value: i for i, value in enumerate(coded.values)})
    return Journal(rows, changes, tuple(entities), tuple(codes))  # type: ignore[arg-type]


def _tags(column: pa.ChunkedArray) -> Ints:
    texts = column.cast(pa.large_string()).combine_chunks()
    if isinstance(texts, pa.ChunkedArray):
        texts = pa.concat_arrays(texts.chunks) if texts.num_chunks else pa.array([], texts.type)
    out = np.empty(len(texts), np.int64)
    _, ends, data = texts.buffers()
    if len(texts):
        offsets = np.frombuffer(ends, np.int64)[texts.offset : texts.offset + len(texts) + 1]
        tag_each(np.frombuffer(data or b"", np.uint8), offsets, out)
    return out


def _texts(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(len(table), pa.string())])
    return table.column(name).cast(pa.string())


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
    return _code(table.column(name))


def _code(column: pa.ChunkedArray) -> Coded:
    if not pa.types.is_dictionary(column.type):
        column = pc.dictionary_encode(column.cast(pa.string()))
    whole = column.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = whole.chunk(0) if whole.num_chunks else pa.array([], column.type)
    codes = whole.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    return Coded(codes, whole.dictionary.cast(pa.string()).to_pylist())
