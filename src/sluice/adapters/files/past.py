"""The past as two tables: authorizations by event_at, labels by known_at.

Columns are named as fields of an authorization (and ``declined``) and of a label, or a mapping says
how to make them of a firm's own, as for ``sluice publish``. Texts are kept as codes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sluice.adapters.arrow import COLUMNS, OPTIONAL, arrow_types
from sluice.adapters.files.cells import Column
from sluice.adapters.files.flags import NO, YES, LabelMapping, quoted, word
from sluice.adapters.files.history import LABEL_COLUMNS, SAYS_MAX, UNREADABLE, need, unreadable
from sluice.adapters.files.label_file import join_labels, read_labels
from sluice.adapters.files.mapping import LabelColumns, Mapper, load_labels, load_mapping
from sluice.adapters.files.tables import Table, part_files
from sluice.application.publish import BAD_SHARE_MAX, BadRow, watched
from sluice.domain.records.authorization import Authorization, check
from sluice.domain.records.label import Label
from sluice.errors import Rejected
from sluice.shown import shown

TIMES = ("event_at", "known_at")
TIME_MAX_US = 4_102_444_800_000_000
"""2100: what an authorization may say (see its type)."""
PROMOTED = {"promote_options": "default"}
"""A part may lack an optional column that another has."""
MAPPED_ROWS = 32_768
"""Rows mapped at once: some 50 MB."""
Mask = npt.NDArray[np.bool_]

_TYPES = {**arrow_types(Authorization), **arrow_types(Label), "declined": pa.bool_()}
_AUTHORIZATION = tuple(arrow_types(Authorization))
_LABEL = tuple(arrow_types(Label))
_OF_A_LABEL_FILE = ("authorization_id", "known_at", "is_fraud")


class Past(NamedTuple):
    """authorizations: by event_at, ties as they lay in the file. labels: by known_at.

    bad: rows that a mapping could not read. left_out: those that it says are no authorizations.
    """

    authorizations: pa.Table
    labels: pa.Table
    bad: int = 0
    left_out: int = 0

    @property
    def counts(self) -> tuple[int, int]:
        """Authorizations and labels."""
        return len(self.authorizations), len(self.labels)

    def between(
        self, from_us: int | None, until_us: int | None, *, later_labels: bool = False
    ) -> Past:
        """Authorizations of from <= event_at < until, and their labels as known by its end.

        Without an until, that is the time of the last authorization. later_labels: also those known
        afterwards, of authorizations before it.
        """
        table, labels = self.authorizations, self.labels
        at = table["event_at"].to_numpy()
        first = 0 if from_us is None else int(np.searchsorted(at, from_us, side="left"))
        last = len(at) if until_us is None else int(np.searchsorted(at, until_us, side="left"))
        known = labels["known_at"].to_numpy()
        if later_labels:
            keep: Mask = labels["event_at"].to_numpy() <= (at[last - 1] if last > first else -1)
        elif until_us is not None:
            keep = known < until_us
        else:
            keep = known <= (at[last - 1] if last > first else -1)
        if from_us is not None:
            keep &= labels["event_at"].to_numpy() >= from_us
        return Past(
            table.slice(first, max(last - first, 0)),
            labels.filter(pa.array(keep)),
            self.bad,
            self.left_out,
        )


def read_past(path: Path, labels: Path | None) -> Past:
    """Read parquet with our own names, one file or a folder of parts, rows in any order. Raises
    Rejected: what is missing or damaged."""
    authorizations = _read(path, COLUMNS, (*_AUTHORIZATION, *OPTIONAL))
    if labels is None:
        return _past(authorizations, _no_labels())
    return _past(authorizations, _read(labels, LABEL_COLUMNS, _LABEL))


def read_labels_alone(path: Path) -> pa.Table:
    """Labels of one file of :func:`read_past`, by known_at."""
    return _sorted(_read(path, LABEL_COLUMNS, _LABEL), "known_at")


def column_types() -> tuple[dict[str, pa.DataType], dict[str, pa.DataType]]:
    """What columns of authorizations and of labels there may be, texts as texts."""
    return (
        {name: _TYPES[name] for name in dict.fromkeys((*_AUTHORIZATION, *OPTIONAL))},
        {name: _TYPES[name] for name in _LABEL},
    )


def map_past(
    path: Path,
    mapping: str,
    labels: str | None,
    bad_row: Callable[[BadRow], None],
    check: Callable[[Authorization], None] = check,
    key: bytes | None = None,
    bad_share: float = BAD_SHARE_MAX,
) -> Past:
    """Read a firm's own CSV or parquet by mappings (see :mod:`sluice.adapters.files.mapping`).

    mapping, labels: YAML files or names of bundled ones. bad_row: told of each row that is no
    authorization; it is left out. check: with the tenants' grammars. key: of the tokens. bad_share:
    see :func:`sluice.application.publish.watched`. Raises Misconfigured, Rejected, Unavailable.
    """
    how = load_mapping(mapping)
    reported = load_labels(labels) if labels else None
    table = Table(path, how)
    mapper = Mapper(how, reported, table.columns, path.name, check, key)
    parts, labels_of = [_columns([], _AUTHORIZATION)], _LabelRows([], [], [])
    rows = bad = left_out = 0
    with closing(table.batches(mapper.wanted, size=MAPPED_ROWS)) as batches:
        for mapped in watched(map(mapper.columns, batches), bad_share):
            parts.append(_part_of(mapped.columns))
            labels_of.add(mapped.labels, rows)
            rows += len(parts[-1])
            bad += len(mapped.bad)
            left_out += mapped.left_out
            for row in mapped.bad:
                bad_row(row)
    authorizations = pa.concat_tables(parts).unify_dictionaries()
    past = _past(authorizations, labels_of.table(authorizations, reported))
    return past._replace(bad=bad, left_out=left_out)


class _LabelRows(NamedTuple):
    """Labels by the row of their authorization."""

    rows: list[npt.NDArray[np.int64]]
    known: list[npt.NDArray[np.int64]]
    frauds: list[npt.NDArray[np.bool_]]

    def add(self, labels: LabelColumns, first: int) -> None:
        """first: row at which their batch begins."""
        self.rows.append(np.array(labels.rows, np.int64) + first)
        self.known.append(np.array(labels.known_at, np.int64))
        self.frauds.append(np.array(labels.is_fraud, np.bool_))

    def table(self, authorizations: pa.Table, how: LabelMapping | None) -> pa.Table:
        """With all fields of a label."""
        if how is None or not self.rows:
            return _no_labels()
        mine = pa.array(np.concatenate(self.rows))
        n = len(mine)
        told = {
            "known_at": pa.array(np.concatenate(self.known)),
            "is_fraud": pa.array(np.concatenate(self.frauds)),
            "kind": _constant(how.kind, n),
            "source": _constant(how.source, n),
        }
        shared = [name for name in _LABEL if name in _AUTHORIZATION]
        told |= zip(shared, authorizations.select(shared).take(mine).columns, strict=True)
        return pa.table({name: told.get(name, pa.nulls(n, _type(name))) for name in _LABEL})


def _constant(text: str, n: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([text]))


def _part_of(columns: dict[str, Column]) -> pa.Table:
    n = len(columns["event_at"])
    return pa.table(
        {
            name: pa.array(columns[name], _type(name))
            if name in columns
            else pa.nulls(n, _type(name))
            for name in _AUTHORIZATION
        }
    )


def with_label_file(
    past: Past,
    path: Path,
    mapping: str | None,
    bad_row: Callable[[BadRow], None],
    key: bytes | None = None,
    bad_share: float = BAD_SHARE_MAX,
) -> tuple[Past, int]:
    """A past with the labels of a file of their own beside those it has, and how many belong to no
    authorization of it, which are left out.

    mapping: of the file; None for parquet with the fields of a label, of which authorization_id,
    known_at and is_fraud are needed. Raises Misconfigured, Rejected, Unavailable.
    """
    if mapping is None:
        by_id, bad = _read(path, _OF_A_LABEL_FILE, (*_OF_A_LABEL_FILE, "kind", "source")), 0
        for name, usual in (("kind", "chargeback"), ("source", "file")):
            if name not in by_id.column_names:
                by_id = by_id.append_column(name, pa.array([usual] * len(by_id), pa.string()))
    else:
        by_id, bad = read_labels(path, mapping, bad_row, key, bad_share)
    labels, unknown, early = join_labels(
        by_id, past.authorizations, _LABEL, path.name, bad_row, bad_share
    )
    coded = pa.table(
        {name: _as(labels[name], _type(name), str(path)) for name in labels.column_names}
    )
    every = pa.concat_tables([past.labels, coded], **PROMOTED)
    return past._replace(labels=_sorted(every, "known_at"), bad=past.bad + bad + early), unknown


def _past(authorizations: pa.Table, labels: pa.Table) -> Past:
    return Past(_sorted(authorizations, "event_at"), _sorted(labels, "known_at"))


def _sorted(table: pa.Table, by: str) -> pa.Table:
    order = np.argsort(table[by].cast(pa.int64()).to_numpy(), kind="stable")
    table = table.unify_dictionaries()
    if (order[1:] > order[:-1]).all():
        return table.combine_chunks()
    return table.take(pa.array(order)).combine_chunks()


def _columns(rows: Iterable[Any], names: tuple[str, ...]) -> pa.Table:
    held = list(rows)
    columns = {}
    for name in names:
        values = list(map(attrgetter(name), held))
        columns[name] = pa.array(values, _type(name))
    return pa.table(columns)


def _type(name: str) -> pa.DataType:
    if not pa.types.is_string(_TYPES[name]):
        return _TYPES[name]
    if name == "authorization_id":
        return pa.large_string()
    return pa.dictionary(pa.int32(), pa.string())


def _no_labels() -> pa.Table:
    return _columns([], _LABEL)


def _read(path: Path, needed: tuple[str, ...], known: tuple[str, ...]) -> pa.Table:
    """One file, or the part files of a folder."""
    parts = part_files(path) if path.is_dir() else [path]
    return pa.concat_tables([_read_part(part, needed, known) for part in parts], **PROMOTED)


def _read_part(path: Path, needed: tuple[str, ...], known: tuple[str, ...]) -> pa.Table:
    names = need(path, needed)
    wanted = [name for name in dict.fromkeys(known) if name in names]
    texts = [n for n in wanted if pa.types.is_dictionary(_type(n))]
    try:
        table = pq.read_table(
            path,
            columns=wanted,
            read_dictionary=texts,
            partitioning=None,
            page_checksum_verification=True,
        )
    except UNREADABLE as exc:
        raise unreadable(exc, path) from exc
    columns = {name: _cast(table[name], name, path) for name in wanted}
    empty = Counter({name: columns[name].null_count for name in needed})
    if empty.total():
        raise Rejected(
            f"{empty.total():,} empty cells in {', '.join(n for n, k in empty.items() if k)}",
            where=str(path),
            fix="every authorization has these fields: docs/reference/authorization.md",
            code="missing_field",
        )
    for name in TIMES:
        if name in columns:
            _check_times(columns[name], name, path)
    return pa.table(columns)


def _cast(column: pa.ChunkedArray, name: str, path: Path) -> pa.ChunkedArray:
    try:
        if name in TIMES and pa.types.is_timestamp(column.type):
            safe = column.type.unit != "ns"  # of which the last three digits are cut off
            column = column.cast(pa.timestamp("us", column.type.tz), safe=safe)
        return _as(column, _type(name), f"{path}: {name}")
    except UNREADABLE as exc:
        raise Rejected(
            f"column {name} of type {column.type} cannot be read as {_type(name)}: "
            f"{shown(str(exc), SAYS_MAX)}",
            where=str(path),
            fix="docs/reference/authorization.md lists every field with its type",
            code="wrong_type",
        ) from exc


def _check_times(column: pa.ChunkedArray, name: str, path: Path) -> None:
    times = column.to_numpy()
    wrong = np.flatnonzero((times < 0) | (times > TIME_MAX_US))
    if len(wrong):
        raise Rejected(
            f"column {name}: {len(wrong):,} times out of range, in row {wrong[0] + 1:,} first",
            where=str(path),
            fix="microseconds since 1970 UTC, up to the year 2100; or timestamps",
            code="out_of_range",
        )


def _as(column: pa.ChunkedArray, kind: pa.DataType, where: str) -> pa.ChunkedArray:
    """As one of our types. Raises Rejected for what Arrow would make something else of."""
    if pa.types.is_boolean(kind) and not pa.types.is_boolean(column.type):
        return _flags(column, where)
    if not pa.types.is_integer(kind) and pa.types.is_floating(column.type):
        raise Rejected(
            "a column of floats, where ids are: 70001 would become 70001.0",
            where=where,
            fix="write it as text or as whole numbers",
            code="wrong_type",
        )
    if not pa.types.is_dictionary(kind) or column.type == kind:
        return column.cast(kind)
    return pc.dictionary_encode(column.cast(pa.string())).cast(kind)


def _flags(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """True and false in whatever type. Raises Rejected with the first other value and its count."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    meanings: dict[Any, bool | None] = {None: None}
    for counted in pc.value_counts(column).to_pylist():
        value, said = counted["values"], word(counted["values"])
        if value is not None and said not in (*YES, *NO):
            raise Rejected(
                f"{quoted(value)} is neither true nor false, in {counted['counts']:,} rows",
                where=where,
                fix="write true and false, or 1 and 0",
                code="bad_format",
            )
        meanings[value] = None if value is None else said in YES
    return pa.chunked_array([pa.array([meanings[v] for v in column.to_pylist()], pa.bool_())])
