"""Cells of a firm's table, whatever type they have: as text, as an exact number, or as empty.

A cell that is neither becomes a Rejected naming its column. No error repeats what a cell holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from datetime import date, time
from decimal import Decimal
from typing import Any, Literal

import numpy as np

from sluice.errors import Rejected
from sluice.shown import shown

Column = list[Any]
"""(n,) values of a field; a Rejected among them makes its row bad."""
Number = Literal["refused", "integer", "text"]
"""What becomes of a whole number that went through a float."""

EMPTY_WORDS = (
    *("NULL", "(null)", "<null>", "[null]", "nil", "None", "undefined", "\\N"),
    *("NaN", "-NaN", "NaT", "N/A", "N.A.", "NA", "<NA>", "#N/A", "#NA"),
    *("-", "--", "\u2013", "\u2014", "?", "''", '""'),
    *("#NULL!", "#VALUE!", "#REF!", "#DIV/0!", "#NAME?", "#NUM!"),
)
"""What databases, pandas, R, Spark and spreadsheets write where there is nothing."""
_LARGEST = 1 << 62
FLOATS = (float, np.float32, np.float16)
_SCALARS = (str, int, Decimal, date, time, *FLOATS)
_AS_A_FLOAT = re.compile(r"[+-]?[0-9]+\.0+|[+-]?[0-9](?:\.[0-9]+)?[eE]\+[0-9]+")
"""How a text file has a whole number of a float column: 70001.0, 7.0001E+4."""
_WHOLE = re.compile(r"[+-]?[0-9]+")


def wrong(column: str, what: str) -> Rejected:
    """What stands in place of a cell that cannot be read."""
    return Rejected(f"column {shown(column)}: {what}", code="bad_cell")


def empty_words(more: Iterable[str] = (), kept: Iterable[str] = ()) -> frozenset[str]:
    """Texts that are empty cells: the usual ones and more, without those that are kept.

    Each as it is written, in small letters, in capitals and with capitals at the start.
    """
    words = {"", *(word.strip() for word in (*EMPTY_WORDS, *more))}
    every = {form for w in words for form in (w, w.lower(), w.upper(), w.capitalize(), w.title())}
    return frozenset(every.difference(kept))


def is_empty(value: Any, empty: Collection[str]) -> bool:
    """True for None, for NaN of any float, and for a text that stands for nothing."""
    if isinstance(value, str):
        return value in empty
    return value is None or bool(value != value)  # noqa: PLR0124 - only NaN differs from itself


def texts(
    values: Column, column: str, empty: Collection[str], number: Number = "refused"
) -> Column:
    """Cells as text, None for an empty one.

    number: of a whole number that went through a float, which would make an id 70001.0 of 70001.
    """
    kinds = set(map(type, values)) - {type(None)}
    if kinds == {int}:
        return [None if value is None else str(value) for value in values]
    if kinds == {str}:
        found: Column = [None if value is None or value in empty else value for value in values]
        if number == "text":
            return found
        if number == "refused":
            joined = "\n".join(filter(None, found))
            if ".0" not in joined and "E+" not in joined and "e+" not in joined:
                return found
    return [_text(value, column, empty, number) for value in values]


def _text(value: Any, column: str, empty: Collection[str], number: Number) -> str | Rejected | None:
    if is_empty(value, empty):
        return None
    if isinstance(value, bytes):
        return wrong(column, "bytes that are no UTF-8 text")
    if not isinstance(value, _SCALARS):
        return wrong(column, f"a {type(value).__name__}, where a text is needed")
    if number == "integer":
        return _integer(value, column)
    text = str(value)
    if number == "refused" and (
        isinstance(value, FLOATS)
        or (isinstance(value, Decimal) and not _WHOLE.fullmatch(text))
        or (isinstance(value, str) and _AS_A_FLOAT.fullmatch(text))
    ):
        how = f"{{{shown(column)}:integer}}"
        return wrong(column, f"a number as a float has it, {how} in a template reads a whole one")
    return text


def _integer(value: Any, column: str) -> str | Rejected:
    """A whole number without zeros in front; a float's as long as floats tell it from the next."""
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return f"{'-' * (value[0] == '-')}{value.lstrip('+-').lstrip('0') or '0'}"
    try:
        number = number_of(value)
        if isinstance(value, str):
            exact(float(number))
            all_digits(number)
        return str(whole_number(number))
    except (ArithmeticError, ValueError):
        return wrong(column, "not a whole number, or a float too large to tell it from the next")


def ascii_only(text: str) -> str:
    """Raises ValueError for others: Python reads the digits of every script."""
    if not text.isascii():
        raise ValueError("other characters than ASCII")
    return text


def number_of(value: Any) -> Decimal:
    """Exact; a float's is the shortest that is that float.

    Raises ValueError for other digits than 0 to 9, for what only Python writes, and for a float
    that :func:`exact` refuses.
    """
    if isinstance(value, Decimal):
        return value
    if isinstance(value, FLOATS):
        exact(value)
    text = ascii_only(str(value))
    if "_" in text or isinstance(value, bool):
        raise ValueError("not a number")
    return Decimal(text)


def exact(value: Any, step: float = 1.0) -> None:
    """Raises ValueError for a float so large that its type leaves out multiples of the step: the
    source may have had another number. 200000.01 is 200000.02 in 32 bits."""
    ulp = math.ulp(value) if isinstance(value, float) else float(np.spacing(abs(value)))
    if ulp > step:
        raise ValueError("not exact")


def all_digits(number: Decimal) -> None:
    """Raises ValueError for a text like 1.23E+15, from which a spreadsheet took digits away."""
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or exponent > 0:
        raise ValueError("not all digits")


def whole_number(number: Decimal) -> int:
    """Raises ValueError or ArithmeticError for a fraction, an infinity, and 2^62 and more."""
    # "1e999999999" is a short text and a number that fills the memory.
    if not -_LARGEST < number < _LARGEST:
        raise ValueError("too large")
    if number != (whole := int(number)):
        raise ValueError("not whole")
    return whole
