"""A firm's columns to our fields, as a YAML file says. Exact: no amount passes through a float.

Works column by column over a batch of rows. A cell that cannot be read makes its row bad and
leaves the others alone; no error repeats a cell's value, which may be a card number.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import resources
from itertools import compress, takewhile
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from sluice.adapters.files.amounts import Amount, LeftOut, minor_units
from sluice.adapters.files.cells import Column, Number, empty_words, is_empty, texts, wrong
from sluice.adapters.files.dialect import Dialect
from sluice.adapters.files.flags import LabelMapping, Meanings, Value, flags, one_of
from sluice.adapters.files.ordinary import TIME_MAX_US, Ordinary
from sluice.adapters.files.row_batch import RowBatch
from sluice.adapters.files.times import AtOnce, Instant, OtherUnit, Skipped, micros, reader
from sluice.adapters.files.tokens import PREFIX_MAX, keyed, token
from sluice.application.publish import BadRow, Mapped
from sluice.domain.clock import DAY_US
from sluice.domain.records.authorization import (
    Authorization,
    check,
    decode_authorization,
    encode,
)
from sluice.domain.records.card_numbers import holds_card_number
from sluice.domain.records.label import Label, label_of
from sluice.domain.records.texts import base_types, kinds_of, optional_fields
from sluice.errors import Misconfigured, Rejected
from sluice.shown import shown
from sluice.yaml_files import decode_as

_DOCS = "docs/reference/mapping.md"
_OF_LABELS = (
    f"{_DOCS}#labels: these are columns of the history's file, and its mapping says how that is "
    "written (delimiter, empty, leave_out); labels in a file of their own come by --label-file"
)
_FIELD = re.compile(r"\$\.(\w+)")
COLUMNS_MAX = 1024
"""Characters of a file's column names in an error."""
LINE = "$line"
"""In place of a column: the row's line, of parquet its number; counted on through a folder."""
PAD_MAX = 64
"""Characters to which zeros may fill a cell: no field takes more."""


Prefix = Annotated[str, Meta(max_length=PREFIX_MAX, pattern="^[!-~]*$")]


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A text: one of column, constant and template."""

    column: Annotated[str | None, Meta(description="where it stands")] = None
    constant: Annotated[str | None, Meta(description="the same for each row")] = None
    template: Annotated[
        str | None,
        Meta(
            description="columns in a text: `card-{customer_id}`. In the braces, behind a colon: "
            "`{mcc:04}` fills with zeros to 4 characters; `{id:integer}` reads a whole number that "
            "went through a float (`70001.0`), `{id:text}` keeps it as it is, and without either "
            "it is refused; `{state:lower}` is in small letters. `{$line}` is the row's line"
        ),
    ] = None
    missing: Annotated[
        str | None,
        Meta(
            description="stands for an empty cell among the columns of a template; without it the "
            "text is empty where one of them is. Where all are, it is empty in any case, and "
            "`default` stands for it"
        ),
    ] = None
    hash: Annotated[
        Prefix | None,
        Meta(
            description="a prefix, as `tok_`: the text becomes the prefix and a keyed hash of it "
            "([tokens](#tokens))",
        ),
    ] = None
    values: Annotated[
        dict[str, str] | None,
        Meta(description="translates each value, and refuses one that it does not list"),
    ] = None
    default: Annotated[
        str | None,
        Meta(
            description="stands for an empty cell. Of a token or an id it makes all such rows one "
            "card, one shop: where a template can name it by its other columns, use `missing`"
        ),
    ] = None

    def __post_init__(self) -> None:
        if sum(x is not None for x in (self.column, self.constant, self.template)) != 1:
            raise ValueError("give one of column, constant and template")
        if self.missing is not None and self.template is None:
            raise ValueError("missing goes with a template; default stands for an empty column")
        if self.hash is not None and (self.values is not None or self.constant is not None):
            raise ValueError("hash goes with column or template, and without values")


class Layout(Dialect, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the file is written, its times and amounts; a :data:`Mapping` has a Text a field too."""

    event_at: Instant
    amount: Amount
    empty: Annotated[
        tuple[str, ...],
        Meta(description="more words that are empty cells, as `unknown`, beside [these](#empty)"),
    ] = ()
    not_empty: Annotated[
        tuple[str, ...], Meta(description="words of that list that are values here")
    ] = ()
    leave_out: Annotated[
        dict[str, tuple[Value, ...]] | None,
        Meta(
            description="by column, the values whose rows are no authorizations: "
            "`{type: [REFUND, REVERSAL]}`. Such rows are counted, and nothing else"
        ),
    ] = None

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
_KINDS = kinds_of(Authorization)
_OF_A_TEXT = {"bad_format", "unknown_value", "unknown_currency", "unknown_country"}
"""Codes of a refused text for which a mapping may have a remedy."""
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


def bundled() -> list[str]:
    """Names of the mappings that come with the package."""
    folder = resources.files("sluice.adapters.files") / "mappings"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[-5:] == ".yaml")


def about(name: str) -> list[str]:
    """What a bundled mapping says of itself, by paragraph: its comment before the first key."""
    lines = _bundled(name).decode().splitlines()
    head = [line.removeprefix("#").strip() for line in takewhile(lambda x: x[:1] == "#", lines)]
    return [text.replace("\n", " ") for text in "\n".join(head).split("\n\n")]


def load_mapping(name: str) -> Layout:
    """Read a mapping: a path, or the name of a bundled one. Raises Misconfigured with the key."""
    found: Layout = decoded(name, Mapping)
    return found


def load_labels(name: str) -> LabelMapping:
    """Read a mapping of labels, likewise. How the file is written stands in the history's."""
    return decoded(name, LabelMapping, fix=_OF_LABELS)


def _bundled(name: str) -> bytes:
    return (resources.files("sluice.adapters.files") / "mappings" / f"{name}.yaml").read_bytes()


def decoded(name: str, kind: type[Any], fix: str = _DOCS) -> Any:
    """A mapping of some kind: a path, or the name of a bundled one. fix: told of what is wrong in
    it. Raises Misconfigured."""
    if name in bundled():
        raw = _bundled(name)
    else:
        try:
            raw = Path(name).read_bytes()
        except OSError as exc:
            raise Misconfigured(
                f"cannot read it: {exc.strerror}",
                where=name,
                fix=f"a file, or one of {', '.join(bundled())}",
            ) from exc
    return decode_as(kind, raw, name, fix=fix)


class Cells:
    """The cells of a batch as text; a column that two fields read is read once."""

    def __init__(self, rows: RowBatch) -> None:
        self.rows, self._read = rows, dict[tuple[str, frozenset[str], Number], Column]()

    def of(self, column: str, empty: frozenset[str], number: Number) -> Column:
        """See :func:`sluice.adapters.files.cells.texts`."""
        if column == LINE:
            return [str(line + self.rows.before) for line in self.rows.lines]
        key = (column, empty, number)
        found = self._read.get(key)
        if found is None:
            found = self._read[key] = texts(self.rows.columns[column], column, empty, number)
        return found


@dataclass(frozen=True)
class Field:
    """One text field: which columns it reads, and n values from a batch."""

    columns: tuple[str, ...]
    read: Callable[[Cells], Column]


class Mapper:
    """Turns batches of rows into encoded authorizations and labels.

    key: of the tokens; None where the mapping makes none. Raises Misconfigured where the table
    lacks a column that the mapping names, or a key is missing.
    """

    def __init__(
        self,
        mapping: Layout,
        labels: LabelMapping | None,
        columns: list[str],
        file: str,
        check: Callable[[Authorization], None] = check,
        key: bytes | None = None,
    ) -> None:
        self._file, self._labels, self._mapping = shown(file), labels, mapping
        self._check = check
        self._seal = _key_needed(mapping, key)
        tables = {name: kind.table for name, kind in _KINDS.items()}
        self._texts = {}
        for name, source in mapping.texts().items():
            table = tables.get(name)
            kept = (*mapping.not_empty, *(source.values or ()), *(table.values if table else ()))
            empty = empty_words(mapping.empty, kept)
            self._texts[name] = field_of(source, name, empty, key, optional=name in _OPTIONAL)
        self._empty = empty_words(mapping.empty, mapping.not_empty)
        self._event = Moments(mapping.event_at, "event_at", self._empty)
        self._known = None
        if labels and labels.known_at:
            self._known = Moments(
                labels.known_at, "known_at", self._empty, optional=True, known=True
            )
        self._leave_out: dict[str, Meanings] = {
            column: one_of(values, self._empty)
            for column, values in (mapping.leave_out or {}).items()
        }
        self._flags = flags(labels, self._empty) if labels else None
        self._ordinary = Ordinary(check, lambda names, values: _authorization(names, values, check))
        self.wanted = {mapping.amount.column, *self._event.columns, *self._leave_out}
        self.wanted.update(*(f.columns for f in self._texts.values()))
        if labels:
            self.wanted.update((labels.column, *(self._known.columns if self._known else ())))
        self.wanted.discard(LINE)
        missing = sorted(self.wanted - set(columns))
        if missing:
            raise Misconfigured(
                f"there is no column {shown(', '.join(missing))}",
                where=self._file,
                fix=f"the columns are {shown(', '.join(columns), COLUMNS_MAX)}",
            )

    def apply(self, rows: RowBatch) -> Mapped:
        """Map one batch. Raises Misconfigured at the first time without a zone."""
        read = self._read(rows)
        mapped = Mapped(rows.first, rows.last, [], [], [], [], list(rows.bad), len(read.left_out))
        for auth, value, label in self._made(rows, read, mapped.bad):
            mapped.keys.append(auth.card_token)
            mapped.values.append(value)
            mapped.event_at.append(auth.event_at)
            if label is not None:
                mapped.labels.append(label)
        mapped.bad[:] = self._sealed(mapped.bad)
        return mapped

    def columns(self, rows: RowBatch) -> MappedColumns:
        """The same as columns, without making a record of each row where that is not needed."""
        read = self._read(rows)
        bad = list(rows.bad)
        good = read.good()
        labels = self._labels_of(good) if self._ordinary.all(good.columns) else None
        if labels is not None:
            bad += [
                self._bad(rows, i, error)
                for i, error in read.wrong.items()
                if i not in read.left_out
            ]
            mapped = MappedColumns(good.columns, labels)
        else:
            names = Authorization.__struct_fields__
            mapped = MappedColumns({name: [] for name in names}, LabelColumns([], [], []))
            for n, (auth, _, label) in enumerate(self._made(rows, read, bad)):
                for name, column in mapped.columns.items():
                    column.append(getattr(auth, name))
                if label is not None:
                    mapped.labels.rows.append(n)
                    mapped.labels.known_at.append(label.known_at)
                    mapped.labels.is_fraud.append(label.is_fraud)
        return mapped._replace(bad=self._sealed(bad), left_out=len(read.left_out))

    def _read(self, rows: RowBatch) -> _Read:
        cells = Cells(rows)
        columns = {name: field.read(cells) for name, field in self._texts.items()}
        columns["event_at"] = self._event.read(cells)
        amount = self._mapping.amount
        columns["amount_minor"] = amounts = minor_units(
            amount, rows.columns[amount.column], columns["currency"], self._empty
        )
        frauds = self._frauds(rows)
        known = self._known.read(cells) if self._known else []
        wrong = _first_wrong({**columns, "is_fraud": frauds})
        return _Read(columns, frauds, known, self._left_out(rows, amounts), wrong)

    def _made(
        self, rows: RowBatch, read: _Read, bad: list[BadRow]
    ) -> Iterator[tuple[Authorization, bytes, Label | None]]:
        """Each row's authorization, as text too, and its label; bad gets the others."""
        names = list(read.columns)
        for i, values in enumerate(zip(*read.columns.values(), strict=True)):
            if i in read.left_out:
                continue
            if i in read.wrong:
                bad.append(self._bad(rows, i, read.wrong[i]))
                continue
            try:
                auth, value = _authorization(names, values, self._check)
                label = None
                if self._is_told(read.frauds, i):
                    known = read.known[i] if read.known else None
                    label = self._label(auth, read.frauds[i], known)
            except MemoryError:
                raise
            except Exception as error:  # whatever it is, the other rows are not to blame
                fields = _fields_of(error, dict(zip(names, values, strict=True)))
                bad.append(self._bad(rows, i, error, fields))
                continue
            yield auth, value, label

    def _sealed(self, bad: list[BadRow]) -> list[BadRow]:
        """By line; a digest of a card number could be tried through, so they are of keyed hashes
        where the mapping hashes."""
        bad = sorted(bad, key=lambda row: row.line)
        if not self._seal:
            return bad
        return [replace(row, raw=keyed(self._seal, row.raw)) for row in bad]

    def _is_told(self, frauds: Column, i: int) -> bool:
        how = self._labels
        return how is not None and (frauds[i] or (how.genuine and frauds[i] is False))

    def _labels_of(self, good: _Read) -> LabelColumns | None:
        """The labels of good rows; None where one of them is not as it should be."""
        how, events, frauds = self._labels, good.columns["event_at"], good.frauds
        if how is None:
            return LabelColumns([], [], [])
        told = [i for i, fraud in enumerate(frauds) if fraud or (how.genuine and fraud is False)]
        if how.delay_days is not None:
            delay = round(how.delay_days * DAY_US)
            if max(events, default=0) + delay > TIME_MAX_US:
                return None
            known = [events[i] + delay for i in told]
            return LabelColumns(told, known, [frauds[i] for i in told])
        told = [i for i in told if frauds[i] or good.known[i] is not None]
        for i in told:
            at = good.known[i]
            if not isinstance(at, int) or not events[i] <= at <= TIME_MAX_US:
                return None
        return LabelColumns(told, [good.known[i] for i in told], [frauds[i] for i in told])

    def _bad(self, rows: RowBatch, i: int, error: Exception, fields: Sequence[str] = ()) -> BadRow:
        """fields: of the authorization, that are at fault where no column was yet."""
        if not isinstance(error, Rejected):  # its text may repeat a cell
            error = Rejected(f"it could not be read ({type(error).__name__})", code="internal")
        what = "; ".join(map(self._source, fields))
        what = f"{what}: {error.what}" if what else error.what
        if error.code in _OF_A_TEXT:
            what += "".join(map(_remedy_of, fields))
        reported = Rejected(what, where=rows.where(i), fix=error.fix, code=error.code)
        return BadRow(rows.lines[i], rows.raw(i), reported, rows.file)

    def _source(self, name: str) -> str:
        """Where a field of the authorization comes from, for a person."""
        if name == "event_at":
            columns = self._event.columns
        elif name == "amount_minor":
            columns = (self._mapping.amount.column,)
        else:
            columns = self._texts[name].columns
        if not columns:
            return f"the mapping's constant {name}"
        return f"column {shown(', '.join(columns))} ({name})"

    def _frauds(self, rows: RowBatch) -> Column:
        if self._labels is None or self._flags is None:
            return []
        return self._flags.of(rows.columns[self._labels.column])

    def _left_out(self, rows: RowBatch, amounts: Column) -> set[int]:
        left: set[int] = set()
        if self._mapping.amount.negative == "left_out":
            left.update(i for i, amount in enumerate(amounts) if isinstance(amount, LeftOut))
        for column, meanings in self._leave_out.items():
            left.update(i for i, yes in enumerate(meanings.of(rows.columns[column])) if yes)
        return left

    def _label(self, auth: Authorization, is_fraud: bool, known: Any) -> Label | None:
        """The label of a row; None where the row is no fraud, and does not say since when that is
        known. Raises Rejected."""
        how = self._labels
        if how is None:
            return None
        if how.delay_days is not None:
            known = auth.event_at + round(how.delay_days * DAY_US)
        elif isinstance(known, Rejected):
            raise known
        elif known is None and not is_fraud:
            return None
        elif known is None or known < auth.event_at:
            named = ", ".join(self._known.columns if self._known else ())
            before = "a fraud known before its authorization"
            raise wrong(named, before if known is not None else "empty, where a fraud was known")
        return label_of(auth, known_at=known, is_fraud=is_fraud, kind=how.kind, source=how.source)


class LabelColumns(NamedTuple):
    """(m,) labels: the row of each one's authorization, and what it says."""

    rows: list[int]
    known_at: list[int]
    is_fraud: list[bool]


class MappedColumns(NamedTuple):
    """(n,) authorizations of a batch by field, and their labels; a field that the mapping does not
    fill may lack. bad, left_out: as of Mapped."""

    columns: dict[str, Column]
    labels: LabelColumns
    bad: Sequence[BadRow] = ()
    left_out: int = 0

    @property
    def good(self) -> int:
        """Rows that became authorizations."""
        return len(self.columns["event_at"])


class _Read(NamedTuple):
    """Cells of a batch as fields. wrong: by row, the first cell that could not be read. known: of
    labels, empty where no column says it."""

    columns: dict[str, Column]
    frauds: Column
    known: Column
    left_out: set[int]
    wrong: dict[int, Rejected]

    def good(self) -> _Read:
        """Without the rows that are left out or wrong."""
        if not self.left_out and not self.wrong:
            return self
        n = len(self.columns["event_at"])
        keep = [i not in self.left_out and i not in self.wrong for i in range(n)]
        return _Read(
            {name: list(compress(column, keep)) for name, column in self.columns.items()},
            list(compress(self.frauds, keep)),
            list(compress(self.known, keep)),
            set(),
            {},
        )


def _remedy_of(name: str) -> str:
    """What in a mapping makes a value of the field from another text, "" where nothing does."""
    kind = _KINDS.get(name)
    if name in _TEXTS and (kind is None or kind.table or kind.few_max):
        small = kind is not None and kind.pattern.startswith("[a-z")
        return "; {column:lower} in a template is in small letters" * small + "; values: translates"
    return "; hash: in the mapping makes an id of any text" if kind and kind.of_ids else ""


def _fields_of(error: Exception, values: dict[str, Any]) -> list[str]:
    """The fields of which a refusal of the record's own check speaks."""
    if not isinstance(error, Rejected):
        return []
    if error.code == "card_number":
        return [
            name
            for name, value in values.items()
            if isinstance(value, str) and holds_card_number(value)
        ]
    named = _FIELD.search(error.where) or _FIELD.search(error.what)
    return [named[1]] if named and named[1] in values else []


def _authorization(
    names: Sequence[str], values: Iterable[Any], check: Callable[[Authorization], None]
) -> tuple[Authorization, bytes]:
    """Build, encode, and check as the entrypoint would. Raises Rejected."""
    raw = encode(Authorization(**dict(zip(names, values, strict=True))))
    return decode_authorization(raw, check), raw


def _key_needed(mapping: Layout, key: bytes | None) -> bytes | None:
    """The key, where the mapping hashes. Raises Misconfigured without one."""
    hashed = [name for name, source in mapping.texts().items() if source.hash is not None]
    if not hashed:
        return None
    if key is None:
        raise Misconfigured(
            f"the mapping hashes {', '.join(hashed)}, and there is no key",
            where="--token-key",
            fix="openssl rand -hex 32 > token.key, once, and keep it: another key makes others",
        )
    return key


@dataclass(frozen=True)
class _Part:
    """Of a template: a text, then a column's cell; None behind the last text."""

    literal: str
    column: str | None
    number: Number = "refused"
    width: int = 0
    lower: bool = False

    def read(self, cells: Cells, empty: frozenset[str]) -> Column:
        """(n,) texts of the column, None for an empty cell."""
        found = cells.of(self.column or "", empty, self.number)
        if self.width:
            found = [v.rjust(self.width, "0") if isinstance(v, str) else v for v in found]
        if self.lower:
            found = [v.lower() if isinstance(v, str) else v for v in found]
        return found


def _columns(parts: list[_Part]) -> tuple[str, ...]:
    return tuple(part.column for part in parts if part.column is not None)


def field_of(
    source: Text, name: str, empty: frozenset[str], key: bytes | None, *, optional: bool
) -> Field:
    """How a text field is read. empty: words that are empty cells. Raises Misconfigured."""
    if source.constant is not None:
        constant = source.constant
        return Field((), lambda cells: [constant] * len(cells.rows.lines))
    if source.column is not None:
        parts = [_Part("", source.column)]
    else:
        parts = _parts(source.template or "", name)
    columns = _columns(parts)
    if source.missing is not None and len(columns) == 1:
        raise Misconfigured(
            "missing fills a part of a template that names several columns, and this one names one",
            where=name,
            fix=f"default: {source.missing}: it stands for the whole text",
        )
    problem: Any = source.default
    if problem is None and not optional:
        of_parts = len(columns) > 1 and source.missing is None
        empty_cell, key_word = ("one is empty", "missing") if of_parts else ("empty", "default")
        problem = wrong(
            ", ".join(columns),
            f"{empty_cell}, and {name} is required; {key_word}: in the mapping stands for it",
        )
    strange = wrong(", ".join(columns), f"a value that the mapping of {name} does not list")
    known: dict[str, Any] | None = dict(source.values) if source.values is not None else None
    prefix = source.hash

    def read(cells: Cells) -> Column:
        found = _filled(parts, cells, empty, source.missing)
        if known is not None:
            found = [known.get(v, strange) if isinstance(v, str) else v for v in found]
        if prefix is not None and key is not None:
            found = [prefix + token(key, v) if isinstance(v, str) else v for v in found]
        return [problem if v is None else v for v in found] if None in found else found

    return Field(columns, read)


class Moments:
    """Reads a time from each row. name: of the field. optional: an empty cell is None, no error.
    known: see :func:`sluice.adapters.files.times.reader`."""

    def __init__(
        self,
        source: Instant,
        name: str,
        empty: frozenset[str],
        *,
        optional: bool = False,
        known: bool = False,
    ) -> None:
        self._optional = optional
        self._source, self._name, self._empty = source, name, empty
        self._reader = reader(source, known=known)
        self._parts = (
            [_Part("", source.column)]
            if source.column is not None
            else _parts(source.template or "", name)
        )
        self._zone = ZoneInfo(source.zone) if source.zone else None
        self._at_once = None
        if self._zone is not None and not known:
            self._at_once = AtOnce(source, self._zone, self._reader)
        self.columns = _columns(self._parts)

    def read(self, cells: Cells) -> Column:
        """(n,) microseconds; a Rejected where there is none. Raises Misconfigured at the first time
        without a zone."""
        rows = cells.rows
        read, named = self._reader, ", ".join(self.columns)
        if self._source.column is not None:
            values = rows.columns[self._source.column]
        else:
            values = _filled(self._parts, cells, self._empty)
        at_once = self._at_once.micros(values) if self._at_once is not None else None
        if at_once is not None and None not in at_once:
            return at_once
        times: Column = []
        for i, value in enumerate(values):
            if at_once is not None and at_once[i] is not None:
                times.append(at_once[i])
                continue
            if isinstance(value, Rejected):
                times.append(value)
                continue
            try:
                found = read(value)
                if not isinstance(found, int):
                    found = self._micros(found, rows, i, named)
                times.append(found)
            except (Misconfigured, MemoryError):
                raise
            except Skipped:
                times.append(wrong(named, "a local time that the clock change skipped"))
            except OtherUnit:
                times.append(
                    wrong(named, f"a time of 1970 by {self._source.format}: is it another unit?")
                )
            except Exception:  # strptime and its like raise what they please
                if self._optional and is_empty(value, self._empty):
                    times.append(None)
                    continue
                empty = ": empty" if is_empty(value, self._empty) else ""
                times.append(wrong(named, f"not a time of format {self._source.format}{empty}"))
        return times

    def _micros(self, moment: datetime, rows: RowBatch, i: int, named: str) -> int:
        if moment.tzinfo is None and self._zone is None:
            raise Misconfigured(
                f"column {shown(named)} has times without a time zone",
                where=rows.where(i),
                fix=f"name it in the mapping: {self._name}: {{zone: Europe/Lisbon}}",
            )
        return micros(moment, self._zone)


def _parts(template: str, name: str) -> list[_Part]:
    """A template's parts. Raises Misconfigured."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as exc:
        raise Misconfigured(f"template: {exc}", where=name) from exc
    parts = []
    for literal, column, form, conversion in parsed:
        if column is not None and (conversion or not column):
            raise Misconfigured(
                "a template holds plain column names", where=name, fix="card-{customer_id}"
            )
        parts.append(_Part(literal, column, *_form(form or "", name)))
    if not _columns(parts):
        raise Misconfigured("the template names no column", where=name, fix="use constant")
    return parts


def _form(form: str, name: str) -> tuple[Number, int, bool]:
    """What stands behind a column's colon: integer or text, 04, lower, or several of them."""
    number, width, lower = "refused", 0, False
    for one in filter(None, form.split(":")):
        if one in {"integer", "text"} and number == "refused":
            number = one
        elif one == "lower":
            lower = True
        elif one.isascii() and one.isdigit() and one[0] == "0" and 0 < int(one) <= PAD_MAX:
            width = int(one)
        else:
            raise Misconfigured(
                "behind a column of a template stands integer, text, lower, or a width as 04",
                where=name,
                fix="{mcc:04}, {customer:integer}, {customer:integer:08}, {state:lower}",
            )
    return cast("Number", number), width, lower


def _filled(
    parts: list[_Part], cells: Cells, empty: frozenset[str], missing: str | None = None
) -> Column:
    """(n,) texts of a template; None where it is empty, a Rejected where a cell is wrong.

    missing: in place of an empty cell, where not all are; None: one makes the text empty.
    """
    columns = [part.read(cells, empty) for part in parts if part.column is not None]
    if len(parts) == 1 and not parts[0].literal:
        return columns[0]
    if missing is not None:
        columns = _with_missing(columns, missing)
    fill = "".join(
        part.literal.replace("{", "{{").replace("}", "}}") + ("{}" if part.column else "")
        for part in parts
    ).format
    if all(set(map(type, column)) == {str} for column in columns):
        return list(map(fill, *columns))
    return [_fill(fill, row) for row in zip(*columns, strict=True)]


def _with_missing(columns: list[Column], missing: str) -> list[Column]:
    """Columns of n cells with the empty ones filled, but for rows where all are."""
    whole = [all(cell is None for cell in row) for row in zip(*columns, strict=True)]
    return [
        [
            missing if cell is None and not none else cell
            for cell, none in zip(column, whole, strict=True)
        ]
        for column in columns
    ]


def _fill(fill: Callable[..., str], cells: tuple[Any, ...]) -> str | Rejected | None:
    for cell in cells:
        if isinstance(cell, Rejected):
            return cell
    return None if None in cells else fill(*cells)


def _first_wrong(columns: dict[str, Column]) -> dict[int, Rejected]:
    """By row: the first cell that could not be read."""
    found: dict[int, Rejected] = {}
    for values in columns.values():
        if Rejected in set(map(type, values)):
            for i, value in enumerate(values):
                if isinstance(value, Rejected):
                    found.setdefault(i, value)
    return found
