"""How a text file of rows is written: what parts its cells, its rows and its bytes."""

from __future__ import annotations

import csv
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

NONE = "none"
"""Of quote and escape: there is no such character."""
Encoding = Literal[
    "utf-8", "utf-16-le", "utf-16-be",
    "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1257",
    "iso-8859-1", "iso-8859-2", "iso-8859-15",
    "gb18030", "shift_jis", "euc-kr", "big5",
]  # fmt: skip


class Dialect(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The part of a mapping that says how its file is written; parquet needs none of it."""

    delimiter: Annotated[
        str, Meta(min_length=1, max_length=1, description="between the cells of a CSV")
    ] = ","
    quote: Annotated[
        str,
        Meta(
            description="the character around a cell, or `none`: quotes are characters like others"
        ),
    ] = '"'
    escape: Annotated[
        str,
        Meta(
            description="the character before a quote inside a quoted cell (Spark, MySQL: "
            '`"\\\\"`), or `none`: such a quote is written twice'
        ),
    ] = NONE
    multiline: Annotated[bool, Meta(description="a quoted cell may hold line ends")] = False
    encoding: Annotated[
        Encoding,
        Meta(description="of a file that is not UTF-8 and does not say so in its first bytes"),
    ] = "utf-8"

    def __post_init__(self) -> None:
        marks = [self.delimiter]
        for key, mark in (("quote", self.quote), ("escape", self.escape)):
            if mark != NONE:
                if len(mark) != 1:
                    raise ValueError(f"{key} is one character, or {NONE}")
                marks.append(mark)
        if any(mark in "\r\n\0" for mark in marks):
            raise ValueError("delimiter, quote and escape are no line ends")
        if len(set(marks)) != len(marks):
            raise ValueError("delimiter, quote and escape are three characters")
        if self.multiline and self.quote == NONE:
            raise ValueError("multiline needs a quote: only a quoted cell may hold line ends")

    def format(self) -> dict[str, Any]:
        """Arguments of :func:`csv.reader`."""
        quoted = self.quote != NONE
        return {
            "delimiter": self.delimiter,
            "quotechar": self.quote if quoted else None,
            "quoting": csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            "escapechar": None if self.escape == NONE else self.escape,
            "strict": True,
        }
