"""Rows that need not be made one by one: of values that were all found good before.

An authorization is good if each of its fields is, whatever the others hold, but for what its
amount, currency and time say of each other. So a value that stood in an authorization which passed
every check is good in the next row too, and only rows with a new one are made and checked. Where
anything is not as it mostly is, the answer is no, and all rows of the batch are made and checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sluice.adapters.files.cells import Column
from sluice.domain.records.authorization import Authorization, check
from sluice.domain.records.card_numbers import holds_card_number, none_suspect
from sluice.domain.records.currencies import AMOUNT_MIN_MAX_MINOR, ENDED_US

REMEMBERED_MAX = 1 << 20
"""Good values of a field, some 100 MB; when there are more it begins anew."""
ID_MAX = 64
TIME_MAX_US = 4_102_444_800_000_000
"""2100, as an authorization's type has it."""
_BY_THEMSELVES = {"authorization_id", "event_at", "amount_minor"}
"""Mostly new in every row."""


class Ordinary:
    """Remembers good values. make: makes and checks an authorization of a row's values, or raises.

    own_check: an authorization is checked as the entrypoint checks it without grammars: a grammar
    depends on the tenant.
    """

    def __init__(
        self,
        own_check: Callable[[Authorization], None],
        make: Callable[[list[str], Sequence[object]], object],
    ) -> None:
        self._make = make
        self._plain = own_check is check
        self._good: dict[str, set[object]] = {}

    def all(self, columns: Mapping[str, Column]) -> bool:
        """Whether (n,) rows would all be good authorizations; False says nothing."""
        if not self._plain or not columns["event_at"]:
            return False
        if not _numbers(columns["event_at"], TIME_MAX_US):
            return False
        if not _numbers(columns["amount_minor"], AMOUNT_MIN_MAX_MINOR):
            return False
        if not _ids(columns["authorization_id"]):
            return False
        new = {name: self._new(name, column) for name, column in columns.items()}
        if not ENDED_US.keys().isdisjoint(new.get("currency", ())):
            return False
        rows = _first_rows(columns, {name: values for name, values in new.items() if values})
        names = list(columns)
        try:
            for i in sorted(rows):
                self._make(names, [column[i] for column in columns.values()])
        except MemoryError:
            raise
        except Exception:  # who makes them one by one will say which, and why
            return False
        for name, values in new.items():
            good = self._good.setdefault(name, set())
            if len(good) + len(values) > REMEMBERED_MAX:
                good.clear()
            good |= values
        return True

    def _new(self, name: str, column: Column) -> set[object]:
        if name in _BY_THEMSELVES:
            return set()
        return set(column) - self._good.get(name, set())


def _numbers(column: Column, most: int) -> bool:
    return set(map(type, column)) == {int} and min(column) >= 0 and max(column) <= most


def _ids(column: Column) -> bool:
    """Whether these are visible ASCII without a card number, of a length that an id may have."""
    if set(map(type, column)) != {str}:
        return False
    lengths = set(map(len, column))
    if min(lengths) < 1 or max(lengths) > ID_MAX:
        return False
    if none_suspect(column):
        return True
    return all(none_suspect((one,)) or _searched(one) for one in column)


def _searched(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text and not holds_card_number(text)


def _first_rows(columns: Mapping[str, Column], new: Mapping[str, set[object]]) -> set[int]:
    """Rows in which each new value stands first."""
    rows: set[int] = set()
    for name, values in new.items():
        left = set(values)
        for i, value in enumerate(columns[name]):
            if value in left:
                rows.add(i)
                left.discard(value)
                if not left:
                    break
    return rows
