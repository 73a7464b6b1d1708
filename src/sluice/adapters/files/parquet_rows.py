"""Rows of parquet: a cell that Python cannot hold makes its row bad, a broken page ends it all."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sluice.adapters.files.history import SAYS_MAX, UNREADABLE
from sluice.adapters.files.opened import DAMAGED, head
from sluice.adapters.files.row_batch import BATCH_ROWS, RowBatch, each_once, rows_of
from sluice.errors import Misconfigured, Rejected, Unavailable
from sluice.shown import shown


class ParquetTable:
    """A parquet file. Raises Unavailable, Misconfigured for what is no parquet."""

    def __init__(self, path: Path) -> None:
        self.path, self.name, self.before = path, path.name, 0
        head(path)
        try:
            with pq.ParquetFile(path) as file:
                self.columns = list(file.schema_arrow.names)
                self.lines = file.metadata.num_rows
        except (ValueError, pa.ArrowException) as exc:  # ArrowInvalid is both
            raise Misconfigured(
                f"not parquet: {shown(str(exc), SAYS_MAX)}",
                where=str(path),
                fix="its index lies at its end: if the copy was cut, copy it again",
            ) from exc
        except OSError as exc:
            raise _broken(exc, path, "") from exc
        each_once(self.columns, str(path))

    def batches(
        self,
        wanted: set[str],
        *,
        from_line: int = 1,
        limit: int | None = None,
        size: int = BATCH_ROWS,
    ) -> Generator[RowBatch, None, None]:
        """See the port."""
        left, row = rows_of(limit), 1
        with pq.ParquetFile(self.path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if row + rows <= from_line or left <= 0:
                    row += rows
                    continue
                after = row + rows
                parts = self._parts(file, group, sorted(wanted), size)
                while True:
                    try:
                        part = next(parts, None)
                    except UNREADABLE as exc:
                        where = f"rows {row:,} to {after - 1:,} (row group {group}) are lost"
                        raise _broken(exc, self.path, where, self.before + after) from exc
                    if part is None:
                        break
                    start = max(row, from_line)
                    batch = part.slice(min(start - row, len(part)), left)
                    row += len(part)
                    left -= len(batch)
                    if len(batch):
                        yield self._batch(batch, start)
                    if left <= 0:
                        return

    @staticmethod
    def _parts(
        file: pq.ParquetFile, group: int, columns: list[str], size: int
    ) -> Iterator[pa.RecordBatch]:
        yield from file.iter_batches(size, row_groups=[group], columns=columns)

    def _batch(self, batch: pa.RecordBatch, start: int) -> RowBatch:
        columns: dict[str, list[Any]] = {}
        wrong: dict[int, Rejected] = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            columns[name], strange = _values(column)
            for i in strange:
                what = f"column {shown(name)}: {_what(column.type)}"
                wrong.setdefault(i, Rejected(what, code="bad_cell"))
        lines = list(range(start, start + len(batch)))
        whole = RowBatch(lines, columns, first=lines[0], last=lines[-1], file=self.name)
        return whole.without(wrong)


def _broken(exc: Exception, path: Path, what: str, after: int = 0) -> Rejected | Unavailable:
    if isinstance(exc, OSError) and exc.errno is not None:
        return Unavailable(f"cannot read it: {exc.strerror or exc}", where=str(path))
    said = shown(str(exc), SAYS_MAX)
    return Rejected(
        f"it is damaged, {what}: {said}" if what else f"it is damaged: {said}",
        where=str(path),
        fix="copy it again from where it came"
        + (f"; what lies behind the damage begins at --from-line {after}" if after else ""),
        code=DAMAGED,
    )


def _values(column: pa.Array) -> tuple[list[Any], list[int]]:
    """Python values; and the places of those that Python cannot hold.

    Times to the microsecond, texts without white space around them. Bytes that are UTF-8 are
    texts, others stay bytes. Floats of 32 and 16 bits stay numpy's, which print as few digits as
    they have.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        return list(column.to_numpy(zero_copy_only=False)), []
    try:
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return list(pc.utf8_trim_whitespace(column).to_pylist()), []
        values = list(column.to_pylist())
    except (ValueError, OverflowError, pa.ArrowException):  # UnicodeDecodeError is the first
        return _one_by_one(column)
    return ([_text_of(value) for value in values] if _holds_bytes(kind) else values), []


def _holds_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def _text_of(value: bytes | None) -> Any:
    try:
        return None if value is None else value.decode().strip()
    except UnicodeDecodeError:
        return value


def _one_by_one(column: pa.Array) -> tuple[list[Any], list[int]]:
    values: list[Any] = []
    strange: list[int] = []
    for i, cell in enumerate(column):
        read: Callable[[], Any] = cell.as_py
        try:
            values.append(read())
        except (ValueError, OverflowError, pa.ArrowException):
            values.append(None)
            strange.append(i)
    return values, strange


def _what(kind: pa.DataType) -> str:
    if pa.types.is_temporal(kind):
        return "a time out of range: years are 1 to 9999"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "not UTF-8"
    return f"no {kind} that can be read"
