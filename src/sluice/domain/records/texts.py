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
from functools import partial
from operator import attrgetter
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from sluice.domain.records.card_numbers import (
    BOUNDARY,
    CARD_DIGITS_MIN,
    CLASSES,
    GROUP,
    GROUP_D,
    PAIR,
    RUN,
    SEPARATORS,
    STRANGE,
    holds_card_number,
)
from sluice.errors import Rejected

GRAPHIC = "[!-~]"
"""Any visible ASCII character."""
CLEAN_MAX = 16_384
"""Texts that looked like a card number and hold none, remembered in each check: merchants and
cards come again. Some 2 MB; when it is full it begins anew. What holds one is not remembered."""
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
    and so many found good are remembered instead of matched again. not_searched: why no card
    number is looked for; empty, as it should be, if one is.
    """

    pattern: str
    table: Table | None = None
    few_max: int = 0
    not_searched: str = ""
    good: set[str] = field(default_factory=set)

    @property
    def of_ids(self) -> bool:
        """Somebody's ids: a tenant may say how it makes them."""
        return self.graphic and not self.not_searched

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


def checker(
    record: type[msgspec.Struct], *, fix: str, shapes: Mapping[str, re.Pattern[str]] | None = None
) -> Callable[[Any], None]:
    """The check of all texts of a record: shapes, tables, and no card number anywhere.

    It raises Rejected (bad_format, bad_token, card_number, the codes of tables). fix: what an error
    advises. shapes: of fields whose sender has said how it makes them. Such a text must match, and
    is searched as one that is declared.
    Compiled once from the fields' types, it looks at all texts together, and at each only where
    something may be wrong: 2 µs instead of 10. Raises AssertionError, see :func:`kinds_of`.
    """
    kinds = kinds_of(record)
    optional = optional_fields(record)
    shapes = shapes or {}
    scope: dict[str, Any] = {
        "CLASSES": CLASSES,
        "SEPARATORS": SEPARATORS,
        "STRANGE": STRANGE,
        "RUN": RUN,
        "PAIR": PAIR,
        "GROUP": GROUP,
        "GROUP_D": GROUP_D,
        "search": _searcher(holds_card_number),
        "search_declared": _searcher(partial(holds_card_number, declared=True)),
        "each": _one_by_one(kinds, fix, shapes),
    }
    joined: list[str] = []
    suspects: list[str] = []
    declared: list[str] = []
    wrong: list[str] = []
    for name, kind in kinds.items():
        value = f"record.{name}"
        present = f"{value} is not None and " if name in optional else ""
        if name in shapes:
            scope[f"shape_{name}"] = shapes[name].fullmatch
            wrong.append(f"({present}not shape_{name}({value}))")
        if kind.table is not None:
            scope[f"table_{name}"] = kind.table.values
            wrong.append(f"({present}{value} not in table_{name})")
        elif kind.few_max:
            scope[f"good_{name}"] = kind.good
            wrong.append(f"({present}{value} not in good_{name})")
        else:
            if not kind.not_searched:
                joined.append(f"{{{value} or ''}}" if name in optional else f"{{{value}}}")
                (declared if name in shapes else suspects).append(f"{value}, ")
            if kind.not_searched or not kind.graphic:
                scope[f"match_{name}"] = re.compile(kind.pattern).fullmatch
                wrong.append(f"({present}not match_{name}({value}))")
    source = f"""
def check(record):
    joined = f"{BOUNDARY.join(joined)}".encode()
    squeezed = joined.translate(CLASSES, SEPARATORS)
    if (
        RUN in squeezed or PAIR in squeezed or GROUP in squeezed or GROUP_D in squeezed
        or b"%" in joined
    ):
        search(({"".join(suspects)}))
        search_declared(({"".join(declared)}))
    if STRANGE in squeezed or {" or ".join(wrong) or "False"}:
        each(record)
"""
    exec(compile(source, f"<check of {record.__name__}>", "exec"), scope)
    check: Callable[[Any], None] = scope["check"]
    return check


def card_number() -> Rejected:
    """What a card number is refused with, wherever it stood; the number is not repeated."""
    return Rejected(
        "a field holds what looks like a card number",
        fix="send the card's token; of long ids of digits say how they are made: "
        "docs/how-to/keep-card-numbers-out.md",
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


def _searcher(holds: Callable[[str], bool]) -> Callable[[tuple[str | None, ...]], None]:
    """Raises Rejected if one of some texts holds a card number."""
    clean: set[str] = set()

    def search(texts: tuple[str | None, ...]) -> None:
        for one in texts:
            if one is None or len(one) < CARD_DIGITS_MIN or one in clean:
                continue
            if holds(one):
                raise card_number()
            if len(clean) >= CLEAN_MAX:
                clean.clear()
            clean.add(one)

    return search


def _one_by_one(
    kinds: Mapping[str, Kind], fix: str, given: Mapping[str, re.Pattern[str]]
) -> Callable[[Any], None]:
    """Finds the text that is wrong; none is, if only a value of a few was new."""
    texts = attrgetter("__class__", *kinds)  # with one name alone it would give no tuple
    shapes = {name: re.compile(kind.pattern).fullmatch for name, kind in kinds.items()}

    def each(record: Any) -> None:
        held = {k: v for k, v in zip(kinds, texts(record)[1:], strict=True) if v is not None}
        for name, value in held.items():
            declared = name in given and given[name].fullmatch(value) is not None
            if not kinds[name].not_searched and holds_card_number(value, declared=declared):
                raise card_number()
        for name, value in held.items():
            if not shapes[name](value):
                raise Rejected(
                    f"Expected `str` matching regex '^{kinds[name].pattern}$'",
                    where=f"$.{name}",
                    fix=fix,
                    code="bad_format",
                )
            if name in given and not given[name].fullmatch(value):
                raise Rejected(
                    "the tenant's values of this field are made otherwise",
                    where=f"$.{name}",
                    fix="send what decider.grammars says, or have it changed there",
                    code="bad_token",
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
