"""The part of a decision or label that updates one entity, version 1 of ``observations.v1``."""

from __future__ import annotations

from typing import Literal

import msgspec

EntityKind = Literal["card", "terminal", "merchant", "device"]
ENTITY_KINDS: tuple[EntityKind, ...] = ("card", "terminal", "merchant", "device")


class Observation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One update of one entity. Keyed by entity, so that each entity has one writer.

    source and offset: where the decision or label lies (see States). For a label, kind is
    "fraud" or "genuine", event_us is its authorization's time and known_us when it was known.
    """

    v: Literal[1] = 1
    entity: EntityKind
    key: str
    source: int
    offset: int
    kind: Literal["authorization", "fraud", "genuine"]
    event_us: int
    known_us: int = 0
    amount_minor: int = 0
    card_tag: int = 0
    declined: bool = False
