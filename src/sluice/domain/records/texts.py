"""What the fields of a record may hold: said once, in each field's type, and checked together.

A text's type carries its kind, ``Annotated[str, text(...)]``. :func:`checker` makes the check of a
whole record from the types of its fields, so that a new field is checked like the others or stops
the import: there is no list of fields to forget it in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from operator import attrgetter
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from sluice.domain.records.identifiers import CARD_DIGITS_MIN, holds_card_number
from sluice.errors import Rejected

GRAPHIC = "[!-~]"
"""Any visible ASCII character."""
_DIGITS = b"0123456789"
_GRAPHIC = bytes(range(ord("!"), ord("~") + 1))
_KIND, _NOT_SEARCHED = "sluice.text", "sluice.not_searched"


@dataclass(frozen=True, eq=False)
class Table:
    """A closed list of values: ``code`` and ``what`` refuse one that is not in it."""

    values: Mapping[str, Any]
    what: str
    code: str


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of text. Two fields of one kind share what is remembered of it.

    pattern: of the whole value, in ASCII. table: the only values there are. few_max: values repeat,
    and so many found good are remembered instead of matched again. alone: full of digits by nature
    (a UUID), so it is searched for a card number by itself and makes no other text suspect.
    not_searched: why no card number is looked for; empty, as it should be, if one is.
    """

    pattern: str
    table: Table | None = None
    few_max: int = 0
    alone: bool = False
    not_searched: str = ""
    good: set[str] = field(default_factory=set)

    @property
    def graphic(self) -> bool:
        """Any visible characters will do, so many texts can be looked at as one."""
        return re.fullmatch(re.escape(GRAPHIC) + r"\{[0-9,]+\}", self.pattern) is not None


def text(kind: Kind, least: int, most: int) -> Meta:
    """Length for the decoder, pattern for the schema, kind for :func:`checker`.

    Thirteen patterns one by one, as msgspec checks them, would double the time of decoding.
    """
    return Meta(
        min_length=least,
        max_length=most,
        extra_json_schema={"pattern": f"^{kind.pattern}$"},
        extra={_KIND: kind},
    )


def matched_text(kind: Kind, least: int, most: int) -> Meta:
    """The same, with the pattern checked by the decoder: for records that are few."""
    return Meta(min_length=least, max_length=most, pattern=f"^{kind.pattern}$", extra={_KIND: kind})


def not_searched(because: str) -> dict[str, Any]:
    """``Meta(extra=...)`` of a number long enough to be a card's that is none."""
    return {_NOT_SEARCHED: because}


def kinds_of(record: type[msgspec.Struct]) -> dict[str, Kind]:
    """Kind of each text field of a record.

    Raises AssertionError naming a field that no rule covers: a text without a kind, a number
    without bounds or as long as a card's, anything that is no text, number, enum or literal.
    """
    kinds = {}
    for one in msgspec.structs.fields(record):
        base, metas = _base(one.type)
        where = f"{record.__name__}.{one.name}"
        extra: dict[str, Any] = {k: v for meta in metas for k, v in (meta.extra or {}).items()}
        if base is str:
            if _KIND not in extra:
                raise AssertionError(
                    f"{where} is a text without a kind, so nothing would check it: give it a type "
                    "like Id or Name, or a new one made with sluice.domain.records.texts.text"
                )
            kinds[one.name] = extra[_KIND]
        elif base is int:
            _check_number(where, metas, extra)
        elif get_origin(base) is not Literal and not (
            isinstance(base, type) and issubclass(base, (Enum, bool))
        ):
            raise AssertionError(
                f"{where} is of type {base!r}, which no rule covers: use a text with a kind, a "
                "bounded int, bool, an enum or a Literal, or add the rule to kinds_of"
            )
    return kinds


def optional_fields(record: type[msgspec.Struct]) -> set[str]:
    """Fields that a message may leave out, ``v`` aside."""
    fields = msgspec.structs.fields(record)
    return {one.name for one in fields if not one.required and one.name != "v"}


def base_types(record: type[msgspec.Struct]) -> dict[str, Any]:
    """What each field holds where it holds something: str, int, bool, an enum, a Literal."""
    return {one.name: _base(one.type)[0] for one in msgspec.structs.fields(record)}


def checker(record: type[msgspec.Struct], *, fix: str) -> Callable[[Any], None]:
    """The check of all texts of a record: shapes, tables, and no card number anywhere.

    It raises Rejected (bad_format, card_number, the codes of tables). fix: what an error advises.
    Compiled once from the fields' types, it looks at all texts together, and at each only where
    something may be wrong: 2 µs instead of 10. Raises AssertionError, see :func:`kinds_of`.
    """
    kinds = kinds_of(record)
    optional = optional_fields(record)
    scope: dict[str, Any] = {
        "DIGITS": _DIGITS,
        "GRAPHIC": _GRAPHIC,
        "holds_card_number": holds_card_number,
        "found": card_number,
        "each": _one_by_one(kinds, fix),
    }
    joined, suspects, alone, wrong = [], [], [], []
    for name, kind in kinds.items():
        value = f"record.{name}"
        present = f"{value} is not None and " if name in optional else ""
        long_enough = f"{present}len({value}) >= {CARD_DIGITS_MIN} and "
        if kind.table is not None:
            scope[f"table_{name}"] = kind.table.values
            wrong.append(f"({present}{value} not in table_{name})")
        elif kind.few_max:
            scope[f"good_{name}"] = kind.good
            wrong.append(f"({present}{value} not in good_{name})")
        elif kind.alone:
            alone.append(f"({long_enough}holds_card_number({value}))")
            wrong.append(f"({present}{value}.encode().translate(None, GRAPHIC))")
        else:
            if not kind.not_searched:
                joined.append(f"{{{value} or ''}}" if name in optional else f"{{{value}}}")
                suspects.append(f"({long_enough}holds_card_number({value}))")
            if kind.not_searched or not kind.graphic:
                scope[f"match_{name}"] = re.compile(kind.pattern).fullmatch
                wrong.append(f"({present}not match_{name}({value}))")
    source = f"""
def check(record):
    joined = f"{"".join(joined)}".encode()
    if (
        {" or ".join(alone) or "False"}
        or len(joined) - len(joined.translate(None, DIGITS)) >= {CARD_DIGITS_MIN}
        and ({" or ".join(suspects) or "False"})
    ):
        raise found()
    if (joined.translate(None, GRAPHIC) or {" or ".join(wrong) or "False"}):
        each(record)
"""
    exec(compile(source, f"<check of {record.__name__}>", "exec"), scope)
    made: Callable[[Any], None] = scope["check"]
    return made


def card_number() -> Rejected:
    """What a card number is refused with, wherever it stood; the number is not repeated."""
    return Rejected(
        "a field holds what looks like a card number",
        fix="send the card's token; numbers never enter",
        code="card_number",
    )


def _base(of: Any) -> tuple[Any, list[Meta]]:
    """A field's type without None and annotations, and what annotated it."""
    metas: list[Meta] = []
    while True:
        if get_origin(of) is Annotated:
            of, *more = get_args(of)
            metas += [meta for meta in more if isinstance(meta, Meta)]
        elif get_origin(of) in (Union, UnionType):
            left = [one for one in get_args(of) if one is not NoneType]
            if len(left) > 1:
                return of, metas
            (of,) = left
        else:
            return of, metas


def _check_number(where: str, metas: list[Meta], extra: Mapping[str, Any]) -> None:
    least = [meta.ge for meta in metas if meta.ge is not None]
    most = [meta.le for meta in metas if meta.le is not None]
    if not least or not most:
        raise AssertionError(f"{where} is a number without bounds: give it Meta(ge=..., le=...)")
    if max(most) >= 10 ** (CARD_DIGITS_MIN - 1) and not extra.get(_NOT_SEARCHED):
        raise AssertionError(
            f"{where} is a number as long as a card's, in which none is looked for: lower its "
            "bound, or say with not_searched(...) why that is safe"
        )


def _one_by_one(kinds: Mapping[str, Kind], fix: str) -> Callable[[Any], None]:
    """Finds the text that is wrong; none is, if only a value of a few was new."""
    texts = attrgetter("__class__", *kinds)  # with one name alone it would give no tuple
    shapes = {name: re.compile(kind.pattern).fullmatch for name, kind in kinds.items()}

    def each(record: Any) -> None:
        held = {k: v for k, v in zip(kinds, texts(record)[1:], strict=True) if v is not None}
        for name, value in held.items():
            if not kinds[name].not_searched and holds_card_number(value):
                raise card_number()
        for name, value in held.items():
            if not shapes[name](value):
                raise Rejected(
                    f"Expected `str` matching regex '^{kinds[name].pattern}$'",
                    where=f"$.{name}",
                    fix=fix,
                    code="bad_format",
                )
        for name, value in held.items():
            table = kinds[name].table
            if table is not None and value not in table.values:
                raise Rejected(table.what, where=f"$.{name}", code=table.code)
        for name, value in held.items():
            kind = kinds[name]
            if len(kind.good) < kind.few_max:
                kind.good.add(value)

    return each
