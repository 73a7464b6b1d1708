"""Amounts of a firm's table as minor units. Exact: none passes a float, or is rounded unasked."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sluice.adapters.files.cells import (
    FLOATS,
    Column,
    all_digits,
    exact,
    is_empty,
    number_of,
    whole_number,
    wrong,
)
from sluice.domain.records.currencies import EXPONENTS

Mark = Literal[".", ",", " ", "'"]
_BLANK = "[ \u00a0\u2009\u202f]"
_MARKS = {".": r"\.", ",": ",", " ": _BLANK, "'": "['\u2019]"}
_MINUS = "[-\u2212]"


class LeftOut:
    """Stands for a value whose row is no authorization, and no error either."""


LEFT_OUT = LeftOut()


class Amount(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The amount. Read as decimals, exactly: 12.345 EUR is a bad row, unless it may be rounded."""

    column: Annotated[str, Meta(description="where it stands")]
    unit: Annotated[
        Literal["minor", "major"],
        Meta(description="`minor`: cents; `major`: euros, with decimals"),
    ]
    decimal_mark: Annotated[
        Literal[".", ","], Meta(description="between the whole units and their parts")
    ] = "."
    thousands_marks: Annotated[
        tuple[Mark, ...],
        Meta(
            description='between groups of digits, `1,234,567` or `12,34,567`; `" "` is any '
            "blank, also a narrow or protected one. Other groups are refused: `12.34` is not 1234"
        ),
    ] = ()
    currency_sign: Annotated[
        str, Meta(max_length=8, description="that may stand before or behind: `$`, `€`, `EUR`")
    ] = ""
    negative: Annotated[
        Literal["refused", "left_out"],
        Meta(
            description="`-12`, `12-` or `(12)`: a bad row, or `left_out` as a refund, which is "
            "no authorization; such rows are counted"
        ),
    ] = "refused"
    finer: Annotated[
        Literal["refused", "rounded"],
        Meta(
            description="more decimals than the currency has, as amounts that were converted or "
            "computed have: a bad row, or `rounded` to the nearest minor unit, halves to even"
        ),
    ] = "refused"

    def __post_init__(self) -> None:
        if self.finer == "rounded" and self.unit == "minor":
            raise ValueError("finer: rounded goes with unit: major")
        if self.decimal_mark in self.thousands_marks:
            raise ValueError("the decimal mark is a thousands mark too")


def minor_units(
    source: Amount, values: Column, currencies: Column, empty: Collection[str]
) -> Column:
    """(n,) integers; Rejected for what is no amount, LEFT_OUT for what the mapping leaves out."""
    if source.unit == "minor" and set(map(type, values)) == {int}:
        found = list(values)
    else:
        found = _read(source, values, currencies, empty)
    if source.negative == "left_out":
        return [LEFT_OUT if isinstance(minor, int) and minor < 0 else minor for minor in found]
    return found


def _read(source: Amount, values: Column, currencies: Column, empty: Collection[str]) -> Column:
    parse, major = _parser(source), source.unit == "major"
    found: Column = []
    for value, currency in zip(values, currencies, strict=True):
        try:
            number = parse(value)
            found.append(_major(number, value, currency, source) if major else whole_number(number))
        except (ArithmeticError, ValueError):
            found.append(wrong(source.column, _why(value, source, empty)))
    return found


def _major(number: Decimal, value: Any, currency: Any, source: Amount) -> Any:
    exponent = EXPONENTS.get(currency) if isinstance(currency, str) else None
    if exponent is None:
        return 0  # the currency itself makes the row bad
    if isinstance(value, FLOATS):
        exact(value, 10.0**-exponent)
    minor = number.scaleb(exponent)
    if source.finer == "rounded" and minor.is_finite():
        minor = minor.to_integral_value(ROUND_HALF_EVEN)
    try:
        return whole_number(minor)
    except ValueError:
        if minor.is_finite() and minor % 1:
            return wrong(source.column, f"more decimals than {currency} has: {exponent}; see finer")
        raise


def _parser(source: Amount) -> Callable[[Any], Decimal]:
    """Reads a text by the marks of a mapping; what is a number already, as it is."""
    if source.thousands_marks or source.currency_sign or source.negative == "left_out":
        pattern = _pattern(source)
        return lambda value: (
            _matched(pattern, value) if isinstance(value, str) else number_of(value)
        )
    mark = source.decimal_mark

    def parse(value: Any) -> Decimal:
        if not isinstance(value, str):
            return number_of(value)
        if mark == ",":
            if "." in value:
                raise ValueError("a point")
            value = value.replace(",", ".")
        if not value.isascii() or "_" in value:
            raise ValueError("not a number")
        number = Decimal(value)
        if "e" in value or "E" in value:
            all_digits(number)
        return number

    return parse


def _pattern(source: Amount) -> re.Pattern[str]:
    sign = re.escape(source.currency_sign)
    beside = f"(?:{sign}{_BLANK}*)?" if sign else ""
    behind = f"(?:{_BLANK}*{sign})?" if sign else ""
    marks = "".join(_MARKS[mark].strip("[]") for mark in source.thousands_marks)
    whole = "[0-9]*"
    if marks:
        three, two = f"(?:[{marks}][0-9]{{3}})", f"(?:[{marks}][0-9]{{2}})"
        whole = f"[0-9]{{1,3}}{three}+|[0-9]{{1,2}}{two}+{three}|[0-9]*"
    return re.compile(
        rf"(?P<before>\(|{_MINUS}?){_BLANK}*{beside}(?P<inside>{_MINUS}?)"
        rf"(?P<whole>{whole})(?:{_MARKS[source.decimal_mark]}(?P<parts>[0-9]*))?"
        rf"{behind}(?P<behind>\)|{_MINUS}?)"
    )


def _matched(pattern: re.Pattern[str], value: str) -> Decimal:
    found = pattern.fullmatch(value)
    if found is None:
        raise ValueError("not an amount")
    before, inside, whole, parts, behind = found.groups()
    signs = before + inside + behind
    if len(signs) > 1 and signs != "()":
        raise ValueError("more than one sign")
    if signs in {"(", ")"}:
        raise ValueError("half of a pair")
    digits = whole if whole.isdigit() else "".join(filter(str.isdigit, whole))
    number = Decimal(f"{digits}.{parts or ''}")
    return -number if signs else number


def _why(value: Any, source: Amount, empty: Collection[str]) -> str:
    """What is wrong with a cell that is no amount, without repeating it."""
    if is_empty(value, empty):
        return "not an amount: empty"
    if not isinstance(value, str):
        return "not an amount, or a float too large to be exact"
    if source.decimal_mark == "," and "." in value and "." not in source.thousands_marks:
        return "a point, where the decimal mark is a comma: see thousands_marks"
    if source.unit == "minor":
        return "not a whole number of minor units"
    if any(map(str.isdigit, value)):
        return "not an amount: see decimal_mark, thousands_marks, currency_sign"
    return "not an amount"
