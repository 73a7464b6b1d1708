"""The entities that keep a state, and which of them an authorization or a label names.

A *view* is the state of one of them, as Feast calls it. Sets of views are masks: bit i is
``ENTITY_KINDS[i]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Literal, Protocol, get_args

EntityKind = Literal["card", "terminal", "merchant", "device"]
ENTITY_KINDS: tuple[EntityKind, ...] = get_args(EntityKind)
KEY_FIELDS: dict[EntityKind, str] = {
    "card": "card_token",
    "terminal": "terminal_id",
    "merchant": "merchant_id",
    "device": "device_id",
}
"""The field that names the entity; of a label, too."""
ALL_VIEWS = (1 << len(ENTITY_KINDS)) - 1


class Naming(Protocol):
    """An authorization or a label. A label may lack any of them, an authorization its device."""

    @property
    def card_token(self) -> str | None:
        """The card."""
        ...

    @property
    def terminal_id(self) -> str | None:
        """The terminal."""
        ...

    @property
    def merchant_id(self) -> str | None:
        """The merchant."""
        ...

    @property
    def device_id(self) -> str | None:
        """The device."""
        ...


_key_of: dict[EntityKind, Callable[[Naming], str | None]] = {
    kind: attrgetter(field) for kind, field in KEY_FIELDS.items()
}


def key_of(naming: Naming, kind: EntityKind) -> str | None:
    """Key of one entity; None where it has none."""
    return _key_of[kind](naming)


def mask_of(views: Iterable[str]) -> int:
    """The mask of these views. What is no view has no bit.

    >>> mask_of(["terminal", "context"])
    2
    >>> mask_of(view for view in ("card", "device"))
    9
    """
    named = set(views)
    return sum(1 << i for i, kind in enumerate(ENTITY_KINDS) if kind in named)


_VIEWS_IN: tuple[tuple[EntityKind, ...], ...] = tuple(
    tuple(kind for i, kind in enumerate(ENTITY_KINDS) if mask >> i & 1)
    for mask in range(ALL_VIEWS + 1)
)


def views_in(mask: int) -> tuple[EntityKind, ...]:
    """The views of a mask, in order.

    >>> views_in(0b1001)
    ('card', 'device')
    """
    return _VIEWS_IN[mask]
