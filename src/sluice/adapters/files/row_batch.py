"""Rows in bounded batches: columns of values, with the line that each row came from."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any, Protocol

import msgspec

from sluice.application.publish import BadRow
from sluice.errors import Misconfigured, Rejected
from sluice.shown import shown

BATCH_ROWS = 4096
"""Rows in memory at once: a few MB, and a progress line several times a second."""


@dataclass(slots=True)
class RowBatch:
    """(n,) rows: their lines, and a list of n values for each column.

    Values of a CSV are text without white space around it; those of parquet are what they are.
    raws: text of row i as it lies in the file. bad: rows that could not be read at all. first,
    last: lines covered, counted through all files of a folder. file: which one this is. before:
    lines of the files before it.
    """

    lines: list[int]
    columns: dict[str, list[Any]]
    raws: list[str] | None = None
    bad: list[BadRow] = field(default_factory=list)
    first: int = 0
    last: int = 0
    file: str = ""
    before: int = 0
    encoding: str = "utf-8"

    def raw(self, i: int) -> bytes:
        """What a digest of row i is taken of: the line, or JSON of a parquet row."""
        if self.raws is not None:
            return raw_bytes(self.raws[i], self.encoding)
        row = {name: values[i] for name, values in self.columns.items()}
        try:
            return msgspec.json.encode(row, enc_hook=str)
        except (ValueError, OverflowError, TypeError):  # an integer of over 64 bits, for example
            return repr(row).encode("utf-8", "surrogateescape")

    def where(self, i: int) -> str:
        """File and line of row i."""
        return f"{self.file}:{self.lines[i]}"

    def without(self, wrong: dict[int, Rejected]) -> RowBatch:
        """The same with some rows among the bad ones. wrong: by row, what is wrong with it."""
        if not wrong:
            return self
        bad = list(self.bad)
        for i, said in wrong.items():
            error = Rejected(said.what, where=self.where(i), fix=said.fix, code=said.code)
            bad.append(BadRow(self.lines[i], self.raw(i), error, self.file))
        bad.sort(key=lambda row: row.line)
        keep = [i not in wrong for i in range(len(self.lines))]
        return replace(
            self,
            lines=list(compress(self.lines, keep)),
            columns={name: list(compress(held, keep)) for name, held in self.columns.items()},
            raws=None if self.raws is None else list(compress(self.raws, keep)),
            bad=bad,
        )


class Source(Protocol):
    """A file of rows, or a folder of such files. columns: their names, in order."""

    columns: list[str]

    def batches(
        self,
        wanted: set[str],
        *,
        from_line: int = 1,
        limit: int | None = None,
        size: int = BATCH_ROWS,
    ) -> Generator[RowBatch, None, None]:
        """Up to limit rows from a line on, with the wanted columns. Parquet rows count from 1.

        Raises Rejected (damaged_file) where the file cannot be read on, after all before it, and
        Unavailable.
        """
        ...


def each_once(columns: Sequence[str], where: str) -> None:
    """Raise Misconfigured if a name comes twice: nobody could say which column is meant."""
    twice = {name for name in columns if columns.count(name) > 1}
    if twice:
        raise Misconfigured(
            f"column {shown(min(twice))} occurs twice",
            where=where,
            fix="give each column a name of its own",
        )


def rows_of(limit: int | None) -> int:
    """A limit as a number."""
    return sys.maxsize if limit is None else limit


def raw_bytes(raw: str, encoding: str) -> bytes:
    """A row as it lies in the file."""
    escaped = encoding.startswith(("utf-8", "cp", "iso"))
    encoding = "utf-8" if encoding == "utf-8-sig" else encoding
    return raw.encode(encoding, "surrogateescape" if escaped else "replace")
