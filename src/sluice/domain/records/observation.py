"""The parts of decisions or labels that update entities, version 1 of ``observations.v1``."""

from __future__ import annotations

from typing import Literal

import msgspec

from sluice.domain.records.entity import EntityKind

ROWS_MAX = 2000
"""Updates of one record: at most 0.5 MB, with keys of 64 characters and numbers of 19 digits."""


class Observations(msgspec.Struct, frozen=True, kw_only=True):
    """Updates of entities of one partition, as a table: each field is a column of as many rows.

    An entity's partition is tag32(key) modulo the partitions of the topic, so that each entity has
    one writer. source and offset: where the decision or label lies (see States); those of one
    source and entity come in rising order. kind: 0 an authorization, 1 a fraud, 2 a purchase found
    genuine. at_us: the authorization's own time, or since when the label was known. The next
    three are 0 for labels. withdrawn_us: of a purchase found genuine after all, since when the
    fraud was known that is taken back; 0 of any other row, None where all are.
    """

    v: Literal[1] = 1
    entity: list[EntityKind]
    key: list[str]
    source: list[int]
    offset: list[int]
    kind: list[Literal[0, 1, 2]]
    at_us: list[int]
    amount_minor: list[int]
    card_tag: list[int]
    declined: list[Literal[0, 1]]
    withdrawn_us: list[int] | None = None

    def __post_init__(self) -> None:
        """Decoding reports a ValueError as its own."""
        rows = len(self.key)
        columns = [getattr(self, name) for name in COLUMNS]
        # None: a column added later, as an optional one, that an older writer did not have.
        if any(len(column) != rows for column in columns if column is not None):
            raise ValueError("the columns are not of one length")


COLUMNS = Observations.__struct_fields__[1:]
