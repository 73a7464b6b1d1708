"""A file of reports, as case management or a network gives it out: a row is one for the labeller.

Columns are named like the fields of a report, or told which field they are; what is the same in
every row is told once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from sluice.adapters.files.cells import empty_words, is_empty
from sluice.adapters.files.flags import NO, YES, word
from sluice.adapters.files.tables import Table
from sluice.domain.clock import from_datetime
from sluice.domain.records.report import Report, decode_report
from sluice.errors import Misconfigured, Rejected
from sluice.shown import shown

FIELDS = tuple(name for name in Report.__struct_fields__ if name != "v")
TIMES = ("known_at", "event_at")
REQUIRED = tuple(
    field.name for field in msgspec.structs.fields(Report) if field.required and field.name != "v"
)
_EMPTY = empty_words()
_DIGITS_OF_MICROS = 15
"""A number with as many digits is microseconds since 1970, one with fewer than that no time."""


class Row(NamedTuple):
    """One row: where it stands, and its report or why it is none."""

    where: str
    line: int
    report: Report | Rejected


class ReportFile:
    """CSV or parquet. columns: field to the column that holds it. constants: field to its text.

    Raises Misconfigured for columns and fields that do not fit together, naming them; Unavailable,
    Rejected for what is no table.
    """

    def __init__(
        self, path: Path, columns: Mapping[str, str], constants: Mapping[str, str]
    ) -> None:
        self._table = Table(path)
        self._path = path
        self._constants = constants
        have = self._table.columns
        unknown = sorted({*columns, *constants} - set(FIELDS))
        if unknown:
            raise Misconfigured(
                f"a report has no {', '.join(unknown)}",
                where="--column, --set",
                fix=f"one of {', '.join(FIELDS)}",
            )
        absent = sorted(set(columns.values()) - set(have))
        if absent:
            raise Misconfigured(
                f"the file has no column {', '.join(map(shown, absent))}",
                where=str(path),
                fix=f"it has {', '.join(map(shown, have))}",
            )
        renamed = set(columns.values())
        self._columns = {
            name: columns.get(name, name)
            for name in FIELDS
            if name not in constants and (name in columns or (name in have and name not in renamed))
        }
        missing = [name for name in REQUIRED if name not in {*self._columns, *constants}]
        if missing:
            raise Misconfigured(
                f"nothing says {', '.join(missing)} of a report",
                where=f"{path}, whose columns are {', '.join(map(shown, have))}",
                fix="--column FIELD=COLUMN for what stands in a column of another name, --set "
                "FIELD=VALUE for what is the same in every row",
            )

    def rows(self, from_line: int = 1) -> Iterator[Row]:
        """Every row from a line on, the bad ones too. Raises Rejected where the file is damaged."""
        wanted = set(self._columns.values())
        for batch in self._table.batches(wanted, from_line=from_line):
            found = [
                Row(batch.where(i), line, self._report(batch.columns, i))
                for i, line in enumerate(batch.lines)
            ]
            found += [Row(f"{batch.file}:{bad.line}", bad.line, bad.error) for bad in batch.bad]
            yield from sorted(found, key=lambda row: row.line)

    def _report(self, columns: Mapping[str, Sequence[Any]], i: int) -> Report | Rejected:
        told: dict[str, Any] = {}
        try:
            for name, column in self._columns.items():
                if not is_empty(columns[column][i], _EMPTY):
                    told[name] = _value(name, columns[column][i], column)
            for name, text in self._constants.items():
                told[name] = _value(name, text, f"--set {name}")
            return decode_report(msgspec.json.encode(told))
        except Rejected as error:
            return error


def _value(name: str, value: Any, where: str) -> Any:
    """A cell as the field's value; texts stay what they are. Raises Rejected."""
    if name == "is_fraud":
        said = word(value)
        if said in YES or said in NO:
            return said in YES
        raise Rejected(
            "is_fraud is neither yes nor no",
            where=where,
            fix=f"one of {', '.join((*YES, *NO))}",
            code="wrong_type",
        )
    if name in TIMES:
        return _micros(value, where)
    return str(value).strip()


def _micros(value: Any, where: str) -> int:
    """Microseconds of an ISO 8601 time, of a parquet time, or of a number of them."""
    if isinstance(value, datetime):
        return from_datetime(value if value.tzinfo else value.replace(tzinfo=UTC))
    text = str(value).strip()
    if text.isdecimal() and len(text) >= _DIGITS_OF_MICROS:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Rejected(
            "no time",
            where=where,
            fix="2026-10-16T00:00:00Z (UTC without a zone), or microseconds since 1970",
            code="bad_format",
        ) from None
    return from_datetime(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
