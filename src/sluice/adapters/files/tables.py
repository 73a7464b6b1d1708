"""A file of rows, or a folder of part files as Spark, Hive and database exports leave them."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

from sluice.adapters.files.csv_rows import CsvTable
from sluice.adapters.files.dialect import Dialect
from sluice.adapters.files.opened import is_parquet
from sluice.adapters.files.parquet_rows import ParquetTable
from sluice.adapters.files.row_batch import BATCH_ROWS, RowBatch, Source, rows_of
from sluice.errors import Misconfigured
from sluice.shown import shown

PARTS_MAX = 100_000
"""Files of a folder. Each is looked at before the first is read: a millisecond."""
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


class Table:
    """CSV or parquet: one file, or a folder of part files. columns: their names, in order."""

    def __init__(self, path: Path, dialect: Dialect | None = None) -> None:
        """Look at the head of a file, of a folder at its first one. Raises Unavailable,
        Misconfigured for what is no table, Rejected for one damaged before its first row."""
        how = dialect or Dialect()
        self._source: Source = _Folder(path, how) if path.is_dir() else _file(path, how)
        self.columns = self._source.columns

    def batches(
        self,
        wanted: set[str],
        *,
        from_line: int = 1,
        limit: int | None = None,
        size: int = BATCH_ROWS,
    ) -> Generator[RowBatch, None, None]:
        """Up to limit rows from a line on, with the wanted columns. Parquet rows count from 1.

        Raises Rejected (damaged_file) where a file cannot be read on, after all before it, and
        Unavailable; Misconfigured, before the first row, if a part lacks a column.
        """
        return self._source.batches(wanted, from_line=from_line, limit=limit, size=size)


def part_files(folder: Path) -> list[Path]:
    """The files of a folder and its folders in the order of their names, numbers by value. What
    begins with ``_`` or ``.`` says something about them (``_SUCCESS``), and empty ones hold
    nothing. Raises Misconfigured if none is left."""
    found = sorted(
        islice(
            (
                path
                for path in folder.rglob("*")
                if not any(name[0] in "_." for name in path.relative_to(folder).parts)
                and path.is_file()
                and path.stat().st_size
            ),
            PARTS_MAX + 1,
        ),
        key=lambda path: _in_order(path.relative_to(folder)),
    )
    if not found or len(found) > PARTS_MAX:
        raise Misconfigured(
            f"the folder holds over {PARTS_MAX:,} files" if found else "the folder holds no file",
            where=str(folder),
            fix="give a folder of CSV or parquet files, or one such file",
        )
    return found


class _Folder:
    """Part files as one table: lines count on from file to file. Folders named ``key=value`` are
    columns, as Hive and Spark write them."""

    def __init__(self, folder: Path, dialect: Dialect) -> None:
        self.path, self.name, self._dialect = folder, folder.name, dialect
        self._parts = part_files(folder)
        first = _file(self._parts[0], dialect)
        self.columns = [*first.columns, *(n for n in self._keys(0) if n not in first.columns)]

    def batches(
        self,
        wanted: set[str],
        *,
        from_line: int = 1,
        limit: int | None = None,
        size: int = BATCH_ROWS,
    ) -> Generator[RowBatch, None, None]:
        """See the port. Raises Misconfigured before the first row if a part lacks a column."""
        for number, path in enumerate(self._parts):
            table = _file(path, self._dialect)
            missing = wanted - set(table.columns) - set(self._keys(number))
            if missing:
                raise Misconfigured(
                    f"there is no column {shown(', '.join(sorted(missing)))}, as the first file "
                    f"({self._label(0)}) has it",
                    where=str(path),
                    fix="put only parts of one table into a folder",
                )
        return self._batches(wanted, from_line, rows_of(limit), size)

    def _batches(
        self, wanted: set[str], from_line: int, left: int, size: int
    ) -> Generator[RowBatch, None, None]:
        before = 0
        for number, path in enumerate(self._parts):
            if left <= 0:
                return
            table, label = _file(path, self._dialect), self._label(number)
            table.name = label
            if isinstance(table, ParquetTable):
                table.before = before
            keys = {k: v for k, v in self._keys(number).items() if k in wanted}
            start = max(1, from_line - before)
            own = wanted - (keys.keys() - set(table.columns))
            for rows in table.batches(own, from_line=start, limit=left, size=size):
                left -= len(rows.lines) + len(rows.bad)
                for key, value in keys.items():
                    rows.columns.setdefault(key, [value] * len(rows.lines))
                first, last = rows.first + before, rows.last + before
                yield replace(rows, first=first, last=last, before=before)
            before += table.lines

    def _label(self, number: int) -> str:
        return str(self._parts[number].relative_to(self.path))

    def _keys(self, number: int) -> dict[str, str]:
        """Columns that the names of its folders hold."""
        pairs = [
            part.partition("=") for part in self._parts[number].relative_to(self.path).parts[:-1]
        ]
        return {
            unquote(key): "" if value == HIVE_NULL else unquote(value)
            for key, sign, value in pairs
            if sign
        }


def _file(path: Path, dialect: Dialect) -> CsvTable | ParquetTable:
    return ParquetTable(path) if is_parquet(path) else CsvTable(path, dialect)


def _in_order(path: Path) -> list[tuple[int, str]]:
    pieces = re.split(r"(\d+)", str(path))
    return [(int(piece), "") if i % 2 else (-1, piece) for i, piece in enumerate(pieces)]
