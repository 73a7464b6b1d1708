"""Rows of CSV: by Python's own reader, a row a line unless the mapping says otherwise.

A quote that nobody closed is the way in which a reader loses a thousand rows and says one. Here a
row ends with its line; where the mapping lets rows span lines, one that cannot be read is bad by
its first line alone, and reading goes on with the next.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeGuard, cast

from sluice.adapters.files.dialect import Dialect
from sluice.adapters.files.opened import LINE_MAX, Lines, opened, unreadable_text
from sluice.adapters.files.row_batch import BATCH_ROWS, RowBatch, each_once, raw_bytes, rows_of
from sluice.application.publish import BadRow
from sluice.errors import Misconfigured, Rejected
from sluice.shown import shown

ROW_LINES_MAX = 100
"""Lines of one row, where rows may span some: a stray quote is looked at so far."""
_SEP = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
_BOM = "\ufeff"
_QUOTES = "the quotes of the row do not match, or a cell is longer than 128 KiB"
_QUOTES_FIX = (
    "in the mapping: `quote: none` if quotes mean nothing in this file, `escape` if one is put "
    "before them, `multiline: true` if a quoted cell may hold line ends"
)
_ENCODING_FIX = "`encoding` in the mapping; Excel's plain CSV is often cp1252"
_TOO_LONG = f"the line has over {LINE_MAX:,} characters"
_ROWS_IN_A_CELL = "each line of the row is a row by itself, so its quote is a stray one"

Cells = list[str]


@dataclass(slots=True)
class _Block:
    """n rows: their first lines, their text, and their cells; or what is wrong with one."""

    lines: list[int]
    raws: list[str]
    rows: list[Cells | Rejected]
    first: int
    last: int


class CsvTable:
    """A CSV file. Raises Unavailable, Misconfigured for what is no table, Rejected for one that is
    damaged before its first row."""

    def __init__(self, path: Path, dialect: Dialect) -> None:
        self.path, self.name, self._dialect = path, path.name, dialect
        self._format = dialect.format()
        with opened(path, dialect) as (lines, _):
            header = [name.strip() for name in self._header(lines)]
            if lines.damage is not None and not any(header):
                raise lines.damage
        self._head = self.lines = lines.number
        if not any(header):
            raise Misconfigured(
                "there is no header",
                where=f"{path}:{max(self._head, 1)}",
                fix="the first line names the columns",
            )
        self.columns = header
        named = [i for i, name in enumerate(self.columns) if name]
        self._least, self._width = named[-1] + 1, len(header)
        each_once([name for name in self.columns if name], f"{path}:{self._head}")

    def batches(
        self,
        wanted: set[str],
        *,
        from_line: int = 1,
        limit: int | None = None,
        size: int = BATCH_ROWS,
    ) -> Generator[RowBatch, None, None]:
        """See the port."""
        places = [(name, i) for i, name in enumerate(self.columns) if name in wanted]
        left = rows_of(limit)
        with opened(self.path, self._dialect, verified=True) as (lines, encoding):
            lines.skip(max(self._head, from_line - 1))
            blocks = self._blocks(lines, min(size, left))
            while left > 0:
                block = next(blocks, None)
                if block is None:
                    break
                batch = self._batch(block, places, encoding, left)
                left -= len(batch.lines) + len(batch.bad)
                if batch.lines or batch.bad:
                    yield batch
            self.lines = lines.number
            if left > 0 and lines.damage is not None:
                raise lines.damage

    def _header(self, lines: Lines) -> Cells:
        text = [line.removeprefix(_BOM) for line in lines.take(1)]
        said = _SEP.fullmatch("".join(text))
        if said:  # what Excel writes, and obeys: the file knows what parts its cells
            self._format["delimiter"] = said[1]
            text = lines.take(1)
        if not text:
            return []
        for _ in range(ROW_LINES_MAX if self._dialect.multiline else 1):
            try:
                (found,) = csv.reader(text, **self._format)
            except (csv.Error, ValueError):
                text += lines.take(1)
            else:
                return found
        raise Misconfigured(
            f"the header is no row of CSV: {_QUOTES}", where=f"{self.path}:1", fix=_QUOTES_FIX
        )

    def _blocks(self, lines: Lines, size: int) -> Iterator[_Block]:
        split = self._spanning if self._dialect.multiline else self._single
        held: list[str] = []
        while not lines.ended:
            first = lines.number + 1 - len(held)
            text = held + lines.take(size)
            if not text:
                return
            whole = lines.ended and lines.damage is None
            block, used = split(text, first, lines.too_long, whole=whole)
            held = text[used:]
            yield block

    def _single(
        self, text: list[str], first: int, too_long: set[int], *, whole: bool
    ) -> tuple[_Block, int]:
        """A row a line. Those of a whole block at once; one by one where some row spans lines."""
        rows: list[Cells | Rejected]
        try:
            rows = list(self._reader(text))
        except csv.Error:
            rows = []
        if len(rows) != len(text):
            rows = list(map(self._row, text))
        last = first + len(text) - 1
        for number in too_long & set(range(first, last + 1)):
            rows[number - first] = Rejected(_TOO_LONG, code="bad_row")
        return _Block(list(range(first, last + 1)), text, rows, first, last), len(text)

    def _reader(self, text: Iterable[str]) -> Iterator[Cells]:
        """Rows of lines. A cell that is ``\\N`` alone, a database's NULL, stays it: where a
        backslash escapes, it would be the text N."""
        if self._dialect.escape == "\\":
            mark = re.escape(self._format["delimiter"])
            null = re.compile(rf"(?:(?<={mark})|^)\\N(?={mark}|[\r\n]|$)")
            text = map(partial(null.sub, r"\\\\N"), text)  # goes on after a window's end
        return csv.reader(text, **self._format)

    def _row(self, line: str) -> Cells | Rejected:
        try:
            (row,) = self._reader((line,))
        except (csv.Error, ValueError):
            return _no_row()
        return row

    def _spanning(
        self, text: list[str], first: int, too_long: set[int], *, whole: bool
    ) -> tuple[_Block, int]:
        """Rows of up to ROW_LINES_MAX lines. whole: the file ends here; else the last lines are
        left where more may belong to their row."""
        block = _Block([], [], [], first, first - 1)
        window = _Window(text)
        reader = self._reader(window)
        start = 0
        while start < len(text):
            window.at, window.end = start, min(start + ROW_LINES_MAX, len(text))
            row: Cells | Rejected
            try:
                row = next(reader)
            except (csv.Error, StopIteration):
                row = _no_row()
            end = window.at
            if isinstance(row, Rejected):
                if end == len(text) < start + ROW_LINES_MAX and not whole:
                    break
                end = start + 1
            elif not too_long.isdisjoint(range(first + start, first + end)):
                row, end = Rejected(_TOO_LONG, code="bad_row"), start + 1
            elif end - start > 1:
                wrong = self._stray(row, text[start:end])
                if wrong is not None:
                    row, end = wrong, start + 1
            block.lines.append(first + start)
            block.raws.append("".join(text[start:end]))
            block.rows.append(row)
            start = end
        block.last = first + start - 1
        return block, start

    def _stray(self, row: Cells, text: list[str]) -> Rejected | None:
        """Whether a row over some lines was made of several by a stray quote."""
        if not self._fits(row):
            return _no_row()
        mark = self._format["delimiter"]
        if self._width > 1 and all(line.count(mark) == self._width - 1 for line in text):
            return Rejected(_ROWS_IN_A_CELL, fix=_QUOTES_FIX, code="bad_row")
        return None

    def _fits(self, row: Cells) -> bool:
        return self._least <= len(row) and not any(row[self._width :])

    def _batch(
        self, block: _Block, places: list[tuple[str, int]], encoding: str, left: int
    ) -> RowBatch:
        """Up to so many rows of a block, in columns. A line without a value is no row; cells
        behind the header's are cut off where they are empty, and taken as empty where they lack
        only under columns without a name."""
        lines, raws, rows = block.lines, block.raws, block.rows
        bad: list[BadRow] = []
        last = block.last
        cells: list[Cells] = []
        if len(rows) <= left and self._plain(rows):
            cells = rows
        else:
            lines, raws = [], []
            for line, raw, row in zip(block.lines, block.raws, block.rows, strict=True):
                if len(lines) + len(bad) >= left:
                    last = line - 1
                    break
                if isinstance(row, Rejected):
                    bad.append(self._bad(line, raw, row, encoding))
                elif not any(row) or raw.isspace():
                    continue
                elif self._fits(row):
                    lines.append(line)
                    raws.append(raw)
                    cells.append((row + [""] * self._width)[: self._width])
                else:
                    bad.append(self._bad(line, raw, self._ragged(row, raw), encoding))
        columns = {name: [row[i].strip() for row in cells] for name, i in places}
        batch = RowBatch(
            lines, columns, raws, bad, block.first, last, file=self.name, encoding=encoding
        )
        if all(map(str.isascii, raws)):
            return batch
        wrong: dict[int, Rejected] = {}
        called = encoding.removesuffix("-sig").upper()
        for name, values in columns.items():
            for i, value in enumerate(values):
                if not value.isascii() and unreadable_text(value):
                    what = f"column {shown(name)}: not {called}"
                    wrong.setdefault(i, Rejected(what, fix=_ENCODING_FIX, code="bad_cell"))
        return batch.without(wrong)

    def _plain(self, rows: list[Cells | Rejected]) -> TypeGuard[list[Cells]]:
        """Whether all of them are rows as the header says. In C: most blocks are."""
        if Rejected in set(map(type, rows)):
            return False
        cells = cast("list[Cells]", rows)
        return set(map(len, cells)) == {self._width} and all(map(any, cells))

    def _ragged(self, row: Cells, raw: str) -> Rejected:
        what = f"the row has {len(row)} cells, the header {self._width}"
        return Rejected(what + (", and holds NUL bytes" if "\0" in raw else ""), code="bad_row")

    def _bad(self, line: int, raw: str, wrong: Rejected, encoding: str) -> BadRow:
        where = f"{self.name}:{line}"
        error = Rejected(wrong.what, where=where, fix=wrong.fix, code=wrong.code)
        return BadRow(line, raw_bytes(raw, encoding), error, self.name)


class _Window:
    """Some of a list, for a reader that may be told to stop."""

    def __init__(self, text: list[str]) -> None:
        self._text = text
        self.at = self.end = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.at >= self.end:
            raise StopIteration
        self.at += 1
        return self._text[self.at - 1]


def _no_row() -> Rejected:
    return Rejected(_QUOTES, fix=_QUOTES_FIX, code="bad_row")
