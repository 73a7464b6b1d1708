"""What the values of a column mean: which rows are fraud, and which are left out.

A value is compared as a word: without regard to capitals, to its type, or to how a number is
written, so that 1, 1.0, "1" and "1.0" are one word, and so are true and "TRUE".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sluice.adapters.files.cells import Column, is_empty, wrong
from sluice.adapters.files.times import Instant
from sluice.domain.records.authorization import GivenName
from sluice.domain.records.card_numbers import holds_card_number
from sluice.domain.records.label import LabelKind
from sluice.errors import Rejected
from sluice.shown import shown

Value = str | int | float | bool
YES, NO = ("1", "true", "t", "yes", "y"), ("0", "false", "f", "no", "n")
"""Words of true and false; in a mapping, a true or false without quotes stands for all of them."""
REMEMBERED_MAX = 1024
"""Distinct values of a column whose meaning is kept; a flag has a handful."""
SHOWN_MAX = 32
DELAY_DAYS_MAX = 400
"""As far as a feature looks back."""
_DIGITS_MAX = 8
"""Characters and digits of a value in an error; a longer one may be somebody's number."""


class LabelMapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which rows turned out to be fraud, and how long after it was known.

    A value that is neither in fraud nor in not_fraud makes a bad row, told with the value and how
    often it came.
    """

    column: Annotated[str, Meta(description="that says it")]
    fraud: Annotated[
        tuple[Value, ...],
        Meta(description=f"values that mean fraud; `true` is {', '.join(f'`{w}`' for w in YES)}"),
    ] = (True,)
    not_fraud: Annotated[
        tuple[Value, ...],
        Meta(description=f"values that mean none; `false` is {', '.join(f'`{w}`' for w in NO)}"),
    ] = (False,)
    empty: Annotated[
        Literal["refused", "unknown", "not_fraud"],
        Meta(
            description="what an empty cell says: nothing yet (`unknown`: the row has no label), "
            "`not_fraud`, or that the row is bad"
        ),
    ] = "refused"
    delay_days: Annotated[
        float | None,
        Meta(
            description="`known_at` is `event_at` and so many days, 0 to 400: one of this and "
            "`known_at`"
        ),
    ] = None
    known_at: Annotated[
        Instant | None,
        Meta(
            description="the column with the time from which it was known, told like `event_at`; a "
            "date alone is the end of its day. Where it is empty a fraud is a bad row, and a row "
            "without fraud has no label"
        ),
    ] = None
    kind: Annotated[LabelKind, Meta(description="of label")] = "chargeback"
    source: Annotated[GivenName, Meta(description="who says so: `a-z`, `0-9`, `-`")]
    genuine: Annotated[
        bool, Meta(description="also send a label for each row that is no fraud")
    ] = False

    def __post_init__(self) -> None:
        both = words(self.fraud) & words(self.not_fraud)
        if both and self.not_fraud != (False,):
            raise ValueError(f"{shown(min(both), SHOWN_MAX)} is in fraud and in not_fraud")
        if (self.delay_days is None) == (self.known_at is None):
            raise ValueError("give one of delay_days and known_at")
        if self.delay_days is not None and not 0 <= self.delay_days <= DELAY_DAYS_MAX:
            raise ValueError(f"delay_days is 0 to {DELAY_DAYS_MAX}")


def words(values: Iterable[Value]) -> frozenset[str]:
    """Values of a mapping as words; a boolean as all the words it has."""
    found: set[str] = set()
    for value in values:
        if isinstance(value, bool):
            found.update(YES if value else NO)
        else:
            found.add(word(value))
    return frozenset(found)


def word(value: Any) -> str:
    """A value as a word, a byte of 0 or 1 (a database's bit) as its number.

    >>> word(" YES"), word(1.0), word("0.00"), word(True), word(b"\\x01")
    ('yes', '1', '0', 'true', '1')
    """
    if isinstance(value, bytes):
        value = value[0] if value in {b"\0", b"\1"} else value.decode("utf-8", "replace")
    text = str(value).strip()
    if text in {"\0", "\1"}:
        text = str(ord(text))
    if text[:1] in "+-.0123456789" and "_" not in text:
        try:
            number = Decimal(text)
        except InvalidOperation:
            return text.casefold()
        if number.is_finite() and abs(number) < 1 << 53 and number == number.to_integral_value():
            return str(int(number))
    return text.casefold()


class Meanings:
    """What each value of a column means; a value is looked at once. A column is of one type."""

    def __init__(self, meaning: Callable[[Any], Any]) -> None:
        self._meaning = meaning
        self._known: dict[Any, Any] = _Known(meaning)

    def of(self, values: Column) -> Column:
        """(n,) meanings."""
        known = self._known
        try:
            return [known[value] for value in values]
        except TypeError:  # a list or a structure cannot be a key
            return list(map(self._meaning, values))


class _Known(dict[Any, Any]):
    def __init__(self, meaning: Callable[[Any], Any]) -> None:
        self._meaning = meaning

    def __missing__(self, value: Any) -> Any:
        meaning = self._meaning(value)
        if len(self) < REMEMBERED_MAX and value == value:  # noqa: PLR0124 - a NaN is never found
            self[value] = meaning
        return meaning


def flags(how: LabelMapping, empty: Collection[str]) -> Meanings:
    """True for fraud, False for none, None for what is not known yet, else a Rejected."""
    fraud = words(how.fraud)
    not_fraud = words(how.not_fraud) - fraud
    of_empty = {"unknown": None, "not_fraud": False}.get(
        how.empty,
        wrong(
            how.column,
            "an empty cell; the labels' mapping says what it means: empty: unknown, or not_fraud",
        ),
    )

    def meaning(value: Any) -> bool | Rejected | None:
        said = word(value)
        if said in fraud:
            return True
        if said in not_fraud:
            return False
        if is_empty(value, empty):
            return of_empty
        return wrong(how.column, f"{quoted(value)} is neither in fraud nor in not_fraud")

    return Meanings(meaning)


def one_of(values: Iterable[Value], empty: Collection[str]) -> Meanings:
    """True where a value is one of them; an empty text among them stands for an empty cell."""
    listed = words(values)
    return Meanings(lambda value: ("" if is_empty(value, empty) else word(value)) in listed)


def quoted(value: Any) -> str:
    """A flag's value, which the firm must see to list it; not what may be somebody's number."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    if sum(map(str.isdecimal, text)) > _DIGITS_MAX or holds_card_number(text):
        return "a long number"
    return f'"{shown(text, SHOWN_MAX)}"'
