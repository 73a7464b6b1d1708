"""Small numbers that stand for names in kernel rows, states, pending entries and records.

They are stored, so a number never changes its meaning: a table only grows, at its end. The tables
of countries and currencies have modules of their own.
"""

from __future__ import annotations

from collections.abc import Iterable


def numbered(names: Iterable[str]) -> dict[str, int]:
    """Number of each name by its place, from 1 on; 0 is left for "none" or "unknown".

    Raises ValueError for a name that comes twice, which would move all behind it.

    >>> numbered(["b", "a"])
    {'b': 1, 'a': 2}
    """
    given = list(names)
    table = {name: number for number, name in enumerate(given, start=1)}
    if len(table) != len(given):
        raise ValueError("a name comes twice")
    return table


CHANNEL_INDEX: dict[str, int] = {"pos": 1, "contactless": 2, "ecom": 3, "moto": 4, "atm": 5}
"""Of :class:`sluice.domain.records.authorization.Channel`. A state has three bits for it."""
CHANNELS_MAX = 7
THREE_DS_INDEX: dict[str, int] = {"frictionless": 1, "challenged": 2, "attempted": 3, "failed": 4}
"""Of :class:`sluice.domain.records.authorization.ThreeDs`. In kernel rows only."""
