"""Labels in a file of their own: chargebacks as they came, each with the time it became known.

Joined to a history by the authorization's id, which a mapping makes of the file's columns as the
history's mapping makes it of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Meta

from sluice.adapters.files.cells import Column, empty_words
from sluice.adapters.files.dialect import Dialect
from sluice.adapters.files.flags import LabelMapping, Value, flags
from sluice.adapters.files.mapping import Cells, Moments, Text, decoded, field_of
from sluice.adapters.files.row_batch import RowBatch
from sluice.adapters.files.tables import Table
from sluice.adapters.files.times import Instant
from sluice.adapters.files.tokens import keyed
from sluice.application.publish import BadRow, watched
from sluice.domain.records.authorization import GivenName
from sluice.domain.records.label import LabelKind
from sluice.errors import Misconfigured, Rejected
from sluice.shown import shown


class LabelFile(Dialect, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the rows of a file of labels say, for `sluice backfill --label-file`.

    Each belongs to the authorization of its id, of which it takes everything else; those of no
    authorization are counted and left out. Keys that say how a CSV is written stand beside these.
    """

    authorization_id: Annotated[
        Text, Meta(description="made of the file's columns as the history's mapping makes it")
    ]
    known_at: Annotated[
        Instant,
        Meta(
            description="since when it is known, told like `event_at`; a date alone is the end of "
            "its day. One before its authorization is a bad row"
        ),
    ]
    column: Annotated[
        str | None, Meta(description="that says it; without it every row is a fraud")
    ] = None
    fraud: Annotated[tuple[Value, ...], Meta(description="values that mean fraud")] = (True,)
    not_fraud: Annotated[tuple[Value, ...], Meta(description="values that mean none")] = (False,)
    empty: Annotated[
        Literal["refused", "unknown", "not_fraud"],
        Meta(description="what an empty cell says: that the row is bad, nothing, or none"),
    ] = "refused"
    kind: Annotated[LabelKind, Meta(description="of label")] = "chargeback"
    source: Annotated[GivenName, Meta(description="who says so: `a-z`, `0-9`, `-`")]


class Labels(NamedTuple):
    """by_id: authorization_id, known_at, is_fraud, kind, source. bad: rows that could not be
    read."""

    by_id: pa.Table
    bad: int


def read_labels(
    path: Path,
    mapping: str,
    bad_row: Callable[[BadRow], None],
    key: bytes | None,
    bad_share: float,
) -> Labels:
    """Rows of a file by its mapping. Raises Misconfigured, Rejected, Unavailable."""
    how: LabelFile = decoded(mapping, LabelFile)
    table = Table(path, how)
    reader = _Reader(how, table.columns, path.name, key)
    parts, bad = [reader.columns([], [], [])], 0
    with closing(table.batches(reader.wanted)) as batches:
        for some in watched(map(reader.read, batches), bad_share):
            parts.append(some.by_id)
            bad += len(some.bad)
            for row in some.bad:
                bad_row(row)
    return Labels(pa.concat_tables(parts), bad)


class _Some(NamedTuple):
    """Labels of a batch of rows, and its bad rows."""

    by_id: pa.Table
    bad: list[BadRow]

    @property
    def good(self) -> int:
        """Rows that are labels."""
        return len(self.by_id)


class _Reader:
    def __init__(self, how: LabelFile, columns: list[str], file: str, key: bytes | None) -> None:
        empty = empty_words()
        if how.authorization_id.hash is not None and key is None:
            raise Misconfigured(
                "the mapping hashes authorization_id, and there is no key",
                where="--token-key",
                fix="the key that the history was mapped with",
            )
        self._how, self._key = how, key if how.authorization_id.hash is not None else None
        self._id = field_of(how.authorization_id, "authorization_id", empty, key, optional=False)
        self._known = Moments(how.known_at, "known_at", empty, known=True)
        self._flags = None
        if how.column is not None:
            self._flags = flags(
                LabelMapping(
                    column=how.column, fraud=how.fraud, not_fraud=how.not_fraud, empty=how.empty,
                    delay_days=0, source=how.source,
                ),
                empty,
            )  # fmt: skip
        self.wanted = {*self._id.columns, *self._known.columns}
        if how.column is not None:
            self.wanted.add(how.column)
        if missing := sorted(self.wanted - set(columns)):
            raise Misconfigured(
                f"there is no column {shown(', '.join(missing))}",
                where=shown(file),
                fix=f"the columns are {shown(', '.join(columns), 1024)}",
            )

    def read(self, rows: RowBatch) -> _Some:
        """Map one batch."""
        cells = Cells(rows)
        ids, known = self._id.read(cells), self._known.read(cells)
        frauds: Column = [True] * len(rows.lines)
        if self._flags is not None and self._how.column is not None:
            frauds = self._flags.of(rows.columns[self._how.column])
        bad = list(rows.bad)
        good: list[int] = []
        for i, cell in enumerate(zip(ids, known, frauds, strict=True)):
            error = next((one for one in cell if isinstance(one, Rejected)), None)
            if error is None:
                good += [i] if frauds[i] is not None else []
                continue
            told = Rejected(error.what, where=rows.where(i), fix=error.fix, code=error.code)
            raw = keyed(self._key, rows.raw(i)) if self._key else rows.raw(i)
            bad.append(BadRow(rows.lines[i], raw, told, rows.file))
        bad.sort(key=lambda row: row.line)
        return _Some(self.columns(*([held[i] for i in good] for held in (ids, known, frauds))), bad)

    def columns(self, ids: list[Any], known: list[Any], frauds: list[Any]) -> pa.Table:
        n = len(ids)
        return pa.table(
            {
                "authorization_id": pa.array(ids, pa.large_string()),
                "known_at": pa.array(known, pa.int64()),
                "is_fraud": pa.array(frauds, pa.bool_()),
                "kind": pa.array([self._how.kind] * n, pa.string()),
                "source": pa.array([self._how.source] * n, pa.string()),
            }
        )


class Joined(NamedTuple):
    """labels: with the fields of their authorizations. unknown: how many have none. bad: how many
    were known before their authorization, and are left out."""

    labels: pa.Table
    unknown: int
    bad: int


def join_labels(
    by_id: pa.Table,
    authorizations: pa.Table,
    names: tuple[str, ...],
    file: str,
    bad_row: Callable[[BadRow], None],
    bad_share: float,
) -> Joined:
    """Labels with what their authorizations say. names: of a label's fields.

    Raises Rejected where more than bad_share, 0 to 1, are known before their authorization: another
    time zone, or column.
    """
    places = pc.index_in(
        by_id["authorization_id"].cast(pa.large_string()),
        authorizations["authorization_id"].cast(pa.large_string()).combine_chunks(),
    )
    found = by_id.filter(pc.is_valid(places))
    unknown = len(by_id) - len(found)
    rows = authorizations.take(pc.drop_null(places))
    early = found["known_at"].to_numpy() < rows["event_at"].to_numpy()
    if bad := int(early.sum()):
        fix = "is known_at the right column, in the right time zone?"
        early_ids = found["authorization_id"].filter(pa.array(early))
        if bad > bad_share * len(found):
            raise Rejected(
                f"{bad:,} of {len(found):,} labels are known before their authorization",
                where=f"{file}, authorization {early_ids[0]}",
                fix=f"{fix} Or --bad-share, if the file is like that",
                code="out_of_range",
            )
        what = "known before its authorization"
        for one in early_ids.to_pylist():
            where = f"{file}, authorization {one}"
            bad_row(BadRow(0, b"", Rejected(what, where=where, fix=fix, code="out_of_range")))
        found, rows = (table.filter(pa.array(~early)) for table in (found, rows))
    held = {name: rows[name] for name in names if name in rows.column_names}
    held |= {name: found[name] for name in found.column_names}
    return Joined(pa.table({name: held[name] for name in names if name in held}), unknown, bad)
