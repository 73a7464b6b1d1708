"""CSV and parquet in bounded batches: columns of values, with the line that each row came from."""

from __future__ import annotations

import csv
import gzip
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from sluice.application.publish import BadRow
from sluice.errors import Misconfigured, Rejected, Unavailable

BATCH_ROWS = 4096
"""Rows in memory at once: a few MB, and a progress line several times a second."""


@dataclass(slots=True)
class RowBatch:
    """(n,) rows: their lines, and a list of n values for each column.

    Values of a CSV are text without white space around it; those of parquet are what they are.
    raw: bytes of row i as it lies in the file. bad: rows that could not be read at all.
    """

    lines: list[int]
    columns: dict[str, list[Any]]
    raws: list[str] | None = None
    bad: list[BadRow] = field(default_factory=list)
    first: int = 0
    last: int = 0

    def raw(self, i: int) -> bytes:
        """What a digest of row i is taken of: the line, or JSON of a parquet row."""
        if self.raws is not None:
            return self.raws[i].encode("utf-8", "surrogateescape")
        row = {name: values[i] for name, values in self.columns.items()}
        try:
            return msgspec.json.encode(row, enc_hook=str)
        except (ValueError, OverflowError, TypeError):  # an integer of over 64 bits, for example
            return repr(row).encode("utf-8", "surrogateescape")


class Table:
    """One file of rows. columns: their names, in order."""

    def __init__(self, path: Path, delimiter: str = ",") -> None:
        """Look at the head of a file. Raises Unavailable, or Misconfigured for what is no table."""
        self.path, self._delimiter = path, delimiter
        self._parquet = path.suffix in {".parquet", ".pq"}
        try:
            self.columns = self._parquet_columns() if self._parquet else self._csv_columns()
        except OSError as exc:
            raise Unavailable(f"cannot read it: {exc.strerror or exc}", where=str(path)) from exc
        twice = {name for name in self.columns if self.columns.count(name) > 1}
        if twice:
            raise Misconfigured(f"column {min(twice)} occurs twice", where=f"{path}:1")

    def batches(
        self,
        wanted: set[str],
        *,
        from_line: int = 1,
        limit: int | None = None,
        size: int = BATCH_ROWS,
    ) -> Iterator[RowBatch]:
        """Up to limit rows from a line on, with the wanted columns. Parquet rows count from 1."""
        reader = self._parquet_batches if self._parquet else self._csv_batches
        left = sys.maxsize if limit is None else limit
        return reader(wanted, from_line, left, size)

    def _parquet_columns(self) -> list[str]:
        try:
            return list(pq.read_schema(self.path).names)
        except pa.ArrowInvalid as exc:
            raise Misconfigured(f"not parquet: {exc}", where=str(self.path)) from exc

    def _csv_columns(self) -> list[str]:
        with self._open() as file:
            try:
                head = next(csv.reader(file, delimiter=self._delimiter), [])
            except csv.Error as exc:
                raise Misconfigured(f"not CSV: {exc}", where=f"{self.path}:1") from exc
        if not any(head):
            raise Misconfigured("there is no header", where=f"{self.path}:1")
        return [name.strip() for name in head]

    def _open(self) -> TextIO:
        # Bytes that are not UTF-8 survive as surrogates, so that only their own row is refused.
        if self.path.suffix == ".gz":
            return gzip.open(
                self.path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline=""
            )
        return self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")

    def _csv_batches(
        self, wanted: set[str], from_line: int, left: int, size: int
    ) -> Iterator[RowBatch]:
        places = [(name, i) for i, name in enumerate(self.columns) if name in wanted]
        with self._open() as file:
            rows = _Numbered(file, self._delimiter)
            next(rows)
            while left:
                lines: list[int] = []
                raws: list[str] = []
                cells: list[list[str]] = []
                bad: list[BadRow] = []
                first = last = 0
                for line, raw, row in rows:
                    last = line
                    if line < from_line or not raw.strip():
                        continue
                    first = first or line
                    trouble = _trouble(row, raw, len(self.columns))
                    if row is None or trouble:
                        error = Rejected(trouble, where=f"{self.path.name}:{line}", code="bad_row")
                        bad.append(BadRow(line, raw.encode("utf-8", "surrogateescape"), error))
                    else:
                        lines.append(line)
                        raws.append(raw)
                        cells.append(row)
                    if len(lines) + len(bad) >= min(size, left):
                        break
                if not lines and not bad:
                    return
                left -= len(lines) + len(bad)
                columns = {name: [row[i].strip() for row in cells] for name, i in places}
                yield RowBatch(lines, columns, raws, bad, first, last)

    def _parquet_batches(
        self, wanted: set[str], from_line: int, left: int, size: int
    ) -> Iterator[RowBatch]:
        file = pq.ParquetFile(self.path)
        row = 1
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row + rows <= from_line:
                row += rows
                continue
            for part in file.iter_batches(size, row_groups=[group], columns=sorted(wanted)):
                start = max(row, from_line)
                batch = part.slice(min(start - row, len(part)), left)
                row += len(part)
                left -= len(batch)
                if len(batch):
                    columns = {
                        name: _values(batch.column(i)) for i, name in enumerate(batch.schema.names)
                    }
                    lines = list(range(start, start + len(batch)))
                    yield RowBatch(lines, columns, first=lines[0], last=lines[-1])
                if not left:
                    return


class _Numbered:
    """Iterates (line on which the row starts, its raw text, its cells); None for what is no row."""

    def __init__(self, file: TextIO, delimiter: str) -> None:
        self._file = file
        self._taken: list[str] = []
        self._reader = csv.reader(self._keep(), delimiter=delimiter, strict=True)
        self._line = 1

    def _keep(self) -> Iterator[str]:
        for text in self._file:
            self._taken.append(text)
            yield text

    def __iter__(self) -> Iterator[tuple[int, str, list[str] | None]]:
        return self

    def __next__(self) -> tuple[int, str, list[str] | None]:
        row: list[str] | None
        try:
            row = next(self._reader)
        except csv.Error:
            row = None
        line, raw = self._line, "".join(self._taken)
        self._line += len(self._taken)
        self._taken.clear()
        return line, raw, row


def _trouble(row: list[str] | None, raw: str, expected: int) -> str:
    if row is None:
        return "the quotes of the row do not match, or a cell is longer than 128 KiB"
    if len(row) != expected:
        return f"the row has {len(row)} cells, the header {expected}"
    if not raw.isascii():
        try:
            raw.encode()
        except UnicodeEncodeError:
            return "the row is not UTF-8"
    return ""


def _values(column: pa.Array) -> list[Any]:
    """Python values; times to the microsecond."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return list(column.to_pylist())
