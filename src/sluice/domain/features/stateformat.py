"""What the bytes of stored states mean: their layout, and the tables that their numbers point into.

A store notes it as one line (:data:`NOTE`): the layout, then for each table its length and a
digest of its entries. Tables only grow, so states of a store whose tables are the beginning of ours
can be read; those of any other store must not be (:func:`why_not`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

from sluice.domain.features.states import BACKFILL, DECISIONS, LABELS, source
from sluice.domain.records.codes import CHANNEL_INDEX
from sluice.domain.records.countries import COUNTRY_INDEX
from sluice.domain.records.currencies import CURRENCY_INDEX

LAYOUT = 1
"""Byte 0 of a state, described in :mod:`~sluice.domain.features.codec`. A new table comes with a
new one."""
DIGEST_HEX = 12

Table = Mapping[str, int]

TABLES: dict[str, Table] = {
    "channel": CHANNEL_INDEX,
    "country": COUNTRY_INDEX,
    "currency": CURRENCY_INDEX,
    "source": {
        "decisions": source(DECISIONS, 0),
        "labels": source(LABELS, 0),
        "backfill": source(BACKFILL, 0),
    },
}
"""By name, the numbers that lie in states and what each stands for."""


def digest(table: Table, length: int) -> str:
    """Of the first so many entries of a table, names and numbers, in the order of the numbers.

    >>> digest({"a": 1, "b": 2}, 2) == digest({"b": 2, "a": 1, "c": 3}, 2)
    True
    """
    entries = sorted((number, name) for name, number in table.items())[:length]
    lines = "\n".join(f"{number} {name}" for number, name in entries)
    return hashlib.sha256(lines.encode()).hexdigest()[:DIGEST_HEX]


def note(tables: Mapping[str, Table], layout: int = LAYOUT) -> str:
    """What a store says of states made with these tables."""
    words = [f"{name}={len(table)}:{digest(table, len(table))}" for name, table in tables.items()]
    return " ".join((str(layout), *words))


NOTE: str = note(TABLES)
"""Ours."""


class _Held(NamedTuple):
    """The note of a store: its layout, and length and digest of each table."""

    layout: int
    tables: dict[str, tuple[int, str]]


def _read(text: str) -> _Held:
    """Raises ValueError for what is no note."""
    layout, *words = text.split(" ")
    tables = {}
    for word in words:
        name, _, rest = word.partition("=")
        length, _, told = rest.partition(":")
        tables[name] = int(length), told
    return _Held(int(layout), tables)


def why_not(text: str) -> str:
    """Why states of a store with this note cannot be read by us, and what to do; "" if they can.

    They can if the layout is ours, and every table is ours or the beginning of ours.

    >>> why_not(NOTE)
    ''
    """
    if text == NOTE:
        return ""
    if not text:
        return f"the store does not say what its states mean; {_REBUILD}"
    try:
        held = _read(text)
    except ValueError:
        return f"the store's note on what its states mean cannot be read; {_REBUILD}"
    if held.layout > LAYOUT:
        return f"its states have layout {held.layout}, ours is {LAYOUT}; {_NEWER}"
    if held.layout != LAYOUT or held.tables.keys() != TABLES.keys():
        return f"its states have another layout than ours, {LAYOUT}; {_REBUILD}"
    for name, (length, told) in held.tables.items():
        ours = len(TABLES[name])
        if length > ours:
            return f"its table of {name} has {length} entries, ours has {ours}; {_NEWER}"
        if digest(TABLES[name], length) != told:
            return f"the {length} entries of its table of {name} are not ours; {_REBUILD}"
    return ""


_REBUILD = "run `sluice states rebuild`"
_NEWER = "a newer version wrote them: run that one, or `sluice states rebuild` with this one"
