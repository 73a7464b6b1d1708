"""A firm's columns to our fields, as a YAML file says. Exact: no amount passes through a float.

Works column by column over a batch of rows. A cell that cannot be read makes its row bad and
leaves the others alone; no error repeats a cell's value, which may be a card number.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Meta

from sluice.adapters.files.dialect import Dialect
from sluice.adapters.files.row_batch import RowBatch
from sluice.application.publish import BadRow, Mapped
from sluice.domain.clock import DAY_US
from sluice.domain.records.authorization import (
    Authorization,
    GivenName,
    check,
    decode_authorization,
    encode,
)
from sluice.domain.records.currencies import EXPONENTS
from sluice.domain.records.label import Label, LabelKind, label_of
from sluice.domain.records.texts import base_types, optional_fields
from sluice.errors import Misconfigured, Rejected
from sluice.shown import shown
from sluice.yaml_files import decode_as

Column = list[Any]
"""(n,) values of a field; a Rejected among them makes its row bad."""
_DOCS = "docs/how-to/publish-your-history.md"
_LARGEST = 1 << 62
COLUMNS_MAX = 1024
"""Characters of a file's column names in an error."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS_US = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a text comes from: one of column, constant and template.

    template: ``card-{customer_id}`` puts columns into a text. values: translates each value, and
    refuses one that it does not list. default: stands for an empty cell.
    """

    column: str | None = None
    constant: str | None = None
    template: str | None = None
    values: dict[str, str] | None = None
    default: str | None = None

    def __post_init__(self) -> None:
        if sum(x is not None for x in (self.column, self.constant, self.template)) != 1:
            raise ValueError("give one of column, constant and template")


class Instant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the time comes from.

    format: iso, epoch_s, epoch_ms, epoch_us, or a pattern of strptime. zone: an IANA name; for
    times that do not carry their own.
    """

    column: str
    format: str = "iso"
    zone: str | None = None

    def __post_init__(self) -> None:
        if self.zone is not None:
            try:
                ZoneInfo(self.zone)
            except (ZoneInfoNotFoundError, ValueError) as exc:
                raise ValueError(f"zone {self.zone} is not in the time zone database") from exc
        if "%" in self.format:
            if self.zone is None and "%z" not in self.format:
                raise ValueError("the format has no %z, so a zone is needed")
        elif self.format != "iso" and self.format not in _UNITS_US:
            raise ValueError(f"format {self.format} is none of iso, {', '.join(_UNITS_US)}, %…")


class Amount(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the amount comes from. unit: minor (cents) or major (euros, with decimals)."""

    column: str
    unit: Literal["minor", "major"]
    decimal_mark: Literal[".", ","] = "."


class Layout(Dialect, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the file is written, its times and amounts; a :data:`Mapping` has a Text a field too."""

    event_at: Instant
    amount: Amount

    def texts(self) -> dict[str, Text]:
        """By name of the authorization's field; only those that the mapping fills."""
        found = {name: getattr(self, name) for name in _TEXTS}
        return {name: source for name, source in found.items() if source is not None}


_READ_BY_THEMSELVES = {"v", "event_at", "amount_minor"}
_OPTIONAL = optional_fields(Authorization)
_TEXTS = tuple(name for name in Authorization.__struct_fields__ if name not in _READ_BY_THEMSELVES)
for _name in _TEXTS:
    _type = base_types(Authorization)[_name]
    if not (isinstance(_type, type) and issubclass(_type, str)):
        raise AssertionError(  # noqa: TRY004 - our mistake, not a caller's
            f"Authorization.{_name} is no text, so a mapping cannot read it yet: read it by "
            "itself, as event_at and amount_minor are, and name it in _READ_BY_THEMSELVES"
        )
Mapping = cast(
    "type[Layout]",
    msgspec.defstruct(
        "Mapping",
        [(name, Text | None, None) if name in _OPTIONAL else (name, Text) for name in _TEXTS],
        bases=(Layout,),
        frozen=True,
        forbid_unknown_fields=True,
        kw_only=True,
    ),
)
"""A mapping of every field of an authorization, made from its fields."""


class LabelMapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which rows turned out to be fraud, and how long after it was known.

    fraud: the values of the column that mean fraud. genuine: also label the other rows.
    """

    column: str
    fraud: tuple[str, ...] = ("1", "true", "True", "TRUE", "yes", "Y")
    delay_days: Annotated[float, Meta(ge=0, le=400)]
    kind: LabelKind = "chargeback"
    source: GivenName
    genuine: bool = False


def bundled() -> list[str]:
    """Names of the mappings that come with the package."""
    folder = resources.files("sluice.adapters.files") / "mappings"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[-5:] == ".yaml")


def load_mapping(name: str) -> Layout:
    """Read a mapping: a path, or the name of a bundled one. Raises Misconfigured with the key."""
    found: Layout = _load(name, Mapping)
    return found


def load_labels(name: str) -> LabelMapping:
    """Read a mapping of labels, likewise."""
    return _load(name, LabelMapping)


def _load(name: str, kind: type[Any]) -> Any:
    if name in bundled():
        raw = (resources.files("sluice.adapters.files") / "mappings" / f"{name}.yaml").read_bytes()
    else:
        try:
            raw = Path(name).read_bytes()
        except OSError as exc:
            raise Misconfigured(
                f"cannot read it: {exc.strerror}",
                where=name,
                fix=f"a file, or one of {', '.join(bundled())}",
            ) from exc
    return decode_as(kind, raw, name, fix=_DOCS)


@dataclass(frozen=True)
class _Field:
    """One text field: which columns it reads, and n values from a batch."""

    columns: tuple[str, ...]
    read: Callable[[RowBatch], Column]


class Mapper:
    """Turns batches of rows into encoded authorizations and labels.

    Raises Misconfigured where the table lacks a column that the mapping names.
    """

    def __init__(
        self,
        mapping: Layout,
        labels: LabelMapping | None,
        columns: list[str],
        file: str,
        check: Callable[[Authorization], None] = check,
    ) -> None:
        self._file, self._labels, self._mapping = shown(file), labels, mapping
        self._check = check
        self._texts = {
            name: _field(source, name, optional=name in _OPTIONAL)
            for name, source in mapping.texts().items()
        }
        self._zone = ZoneInfo(mapping.event_at.zone) if mapping.event_at.zone else None
        self.wanted = {mapping.event_at.column, mapping.amount.column}
        self.wanted.update(*(f.columns for f in self._texts.values()))
        if labels:
            self.wanted.add(labels.column)
            self._fraud = frozenset(labels.fraud)
        missing = sorted(self.wanted - set(columns))
        if missing:
            raise Misconfigured(
                f"there is no column {shown(', '.join(missing))}",
                where=self._file,
                fix=f"the columns are {shown(', '.join(columns), COLUMNS_MAX)}",
            )

    def apply(self, rows: RowBatch) -> Mapped:
        """Map one batch. Raises Misconfigured at the first time without a zone."""
        columns = {name: field.read(rows) for name, field in self._texts.items()}
        columns["event_at"] = self._times(rows)
        columns["amount_minor"] = self._amounts(rows, columns["currency"])
        mapped = Mapped(rows.first, rows.last, [], [], [], [], list(rows.bad))
        names = list(columns)
        frauds = self._frauds(rows)
        wrong = _first_wrong(columns)
        for i, values in enumerate(zip(*columns.values(), strict=True)):
            if i in wrong:
                mapped.bad.append(self._bad(rows, i, wrong[i]))
                continue
            try:
                auth, value = _authorization(names, values, self._check)
                label = None
                if self._labels and (frauds[i] or self._labels.genuine):
                    label = self._label(self._labels, auth, frauds[i])
            except MemoryError:
                raise
            except Exception as error:  # whatever it is, the other rows are not to blame
                mapped.bad.append(self._bad(rows, i, error))
                continue
            mapped.keys.append(auth.card_token)
            mapped.values.append(value)
            mapped.event_at.append(auth.event_at)
            if label is not None:
                mapped.labels.append(label)
        mapped.bad.sort(key=lambda row: row.line)
        return mapped

    def _bad(self, rows: RowBatch, i: int, error: Exception) -> BadRow:
        if not isinstance(error, Rejected):  # its text may repeat a cell
            error = Rejected(f"it could not be read ({type(error).__name__})", code="internal")
        reported = Rejected(error.what, where=rows.where(i), fix=error.fix, code=error.code)
        return BadRow(rows.lines[i], rows.raw(i), reported, rows.file)

    def _times(self, rows: RowBatch) -> Column:
        source = self._mapping.event_at
        read = _reader(source.format)
        times: Column = []
        for i, value in enumerate(rows.columns[source.column]):
            try:
                found = value if isinstance(value, datetime) else read(_ascii(value))
                times.append(found if isinstance(found, int) else self._micros(found, rows, i))
            except (Misconfigured, MemoryError):
                raise
            except Exception:  # strptime and its like raise what they please
                times.append(_wrong(source.column, f"not a time of format {source.format}"))
        return times

    def _micros(self, moment: datetime, rows: RowBatch, i: int) -> int | Rejected:
        if moment.tzinfo is None:
            if self._zone is None:
                raise Misconfigured(
                    f"column {self._mapping.event_at.column} has times without a time zone",
                    where=rows.where(i),
                    fix="name it in the mapping: event_at: {zone: Europe/Lisbon}",
                )
            moment = moment.replace(tzinfo=self._zone)
            if _in_a_gap(moment, self._zone):
                return _wrong(
                    self._mapping.event_at.column, "a local time that the clock change skipped"
                )
        delta = moment - _EPOCH
        return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds

    def _amounts(self, rows: RowBatch, currencies: Column) -> Column:
        source = self._mapping.amount
        values = rows.columns[source.column]
        if source.unit == "minor":
            return [_minor(value, source) for value in values]
        return [_major(v, c, source) for v, c in zip(values, currencies, strict=True)]

    def _frauds(self, rows: RowBatch) -> list[bool]:
        if not self._labels:
            return []
        return [str(value) in self._fraud for value in rows.columns[self._labels.column]]

    @staticmethod
    def _label(how: LabelMapping, auth: Authorization, is_fraud: bool) -> Label:
        return label_of(
            auth,
            known_at=auth.event_at + round(how.delay_days * DAY_US),
            is_fraud=is_fraud,
            kind=how.kind,
            source=how.source,
        )


def _authorization(
    names: list[str], values: Iterable[Any], check: Callable[[Authorization], None]
) -> tuple[Authorization, bytes]:
    """Build, encode, and check as the entrypoint would. Raises Rejected."""
    raw = encode(Authorization(**dict(zip(names, values, strict=True))))
    return decode_authorization(raw, check), raw


def _field(source: Text, name: str, *, optional: bool) -> _Field:
    if source.constant is not None:
        constant = source.constant
        return _Field((), lambda rows: [constant] * len(rows.lines))
    if source.column is not None:
        parts: list[tuple[str, str | None]] = [("", source.column)]
    else:
        parts = _parts(source.template or "", name)
    columns = tuple(column for _, column in parts if column is not None)
    empty = source.default
    if empty is None and not optional:
        problem: Any = _wrong(", ".join(columns), f"empty, and {name} is required")
    else:
        problem = empty

    def read(rows: RowBatch) -> Column:
        texts = [_texts(rows.columns[column]) for column in columns]
        if source.template is not None and len(columns) == 1:
            before, after = parts[0][0], "".join(literal for literal, _ in parts[1:])
            found = [None if v is None else before + v + after for v in texts[0]]
        elif source.template is not None:
            found = [_fill(parts, cells) for cells in zip(*texts, strict=True)]
        else:
            found = texts[0]
        if source.values is not None:
            strange = _wrong(
                ", ".join(columns), f"a value that the mapping of {name} does not list"
            )
            known: dict[str, Any] = dict(source.values)
            found = [None if v is None else known.get(v, strange) for v in found]
        return [problem if v is None else v for v in found]

    return _Field(columns, read)


def _parts(template: str, name: str) -> list[tuple[str, str | None]]:
    """A template as (literal, column) pairs. Raises Misconfigured."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as exc:
        raise Misconfigured(f"template: {exc}", where=name) from exc
    for _, column, spec, conversion in parsed:
        if column is not None and (spec or conversion or not column):
            raise Misconfigured(
                "a template holds plain column names", where=name, fix="card-{customer_id}"
            )
    if not any(column for _, column, _, _ in parsed):
        raise Misconfigured("the template names no column", where=name, fix="use constant")
    return [(literal, column) for literal, column, _, _ in parsed]


def _fill(parts: list[tuple[str, str | None]], cells: tuple[str | None, ...]) -> str | None:
    if None in cells:
        return None
    left = iter(cells)
    return "".join(
        literal if column is None else f"{literal}{next(left)}" for literal, column in parts
    )


def _texts(values: Column) -> list[str | None]:
    """Cells as text; None for an empty one."""
    return [v or None if isinstance(v, str) else None if v is None else str(v) for v in values]


def _reader(form: str) -> Callable[[Any], datetime | int]:
    if form == "iso":
        return datetime.fromisoformat
    if form in _UNITS_US:
        unit = _UNITS_US[form]
        return lambda value: _whole(_number(value) * unit)
    return lambda value: datetime.strptime(value, form)


def _whole(number: Decimal) -> int:
    # "1e999999999" is a short text and a number that fills the memory.
    if not -_LARGEST < number < _LARGEST:
        raise ValueError("too large")
    if number != (whole := int(number)):
        raise ValueError("not whole")
    return whole


def _ascii(value: Any) -> Any:
    """A cell whose digits, if it is a text, are 0 to 9: Python reads those of every script."""
    if isinstance(value, str) and not value.isascii():
        raise ValueError("other characters than ASCII")
    return value


def _number(value: Any) -> Decimal:
    """Exact. Raises ValueError for other digits than 0 to 9, and for what only Python writes."""
    if isinstance(value, Decimal):
        return value
    text = _ascii(str(value))
    if "_" in text:
        raise ValueError("not a number")
    return Decimal(text)


def _in_a_gap(moment: datetime, zone: tzinfo) -> bool:
    """True for a wall time that never was. One that was twice is taken as the first."""
    if moment.utcoffset() == moment.replace(fold=1).utcoffset():
        return False
    return moment.astimezone(UTC).astimezone(zone).replace(fold=0) != moment


def _minor(value: Any, source: Amount) -> int | Rejected:
    try:
        return _whole(_number(value))
    except (ArithmeticError, ValueError):
        return _wrong(source.column, "not a whole number of minor units")


def _major(value: Any, currency: Any, source: Amount) -> int | Rejected:
    exponent = EXPONENTS.get(currency) if isinstance(currency, str) else None
    if exponent is None:
        return 0  # the currency itself makes the row bad
    try:
        text = str(value)
        if source.decimal_mark == ",":
            if "." in text:
                return _wrong(source.column, "a point, where the decimal mark is a comma")
            text = text.replace(",", ".")
        minor = _number(text).scaleb(exponent)
        if minor.is_finite() and minor % 1:
            return _wrong(source.column, f"more decimals than {currency} has: {exponent}")
        return _whole(minor)
    except (ArithmeticError, ValueError):
        return _wrong(source.column, "not an amount")


def _first_wrong(columns: dict[str, Column]) -> dict[int, Rejected]:
    """By row: the first cell that could not be read."""
    wrong: dict[int, Rejected] = {}
    for values in columns.values():
        if Rejected in set(map(type, values)):
            for i, value in enumerate(values):
                if isinstance(value, Rejected):
                    wrong.setdefault(i, value)
    return wrong


def _wrong(column: str, what: str) -> Rejected:
    return Rejected(f"column {shown(column)}: {what}", code="bad_cell")
