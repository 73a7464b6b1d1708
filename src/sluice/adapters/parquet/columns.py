"""Columns of the archive: flat fields to search and learn from, and the record's own bytes.

What a backfill leaves is no record of a topic: ``history`` and ``history_labels`` have no bytes of
their own, and their place is the backfill's partition and row. (``states.source(states.BACKFILL,
partition)``, ``offset``) is what a state's version names.

Adding a column is safe, readers fill it with null; a column never changes its type or meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from sluice.adapters.arrow import arrow_types
from sluice.application.ports import Message
from sluice.domain.records.authorization import Authorization
from sluice.domain.records.decision import Decision
from sluice.domain.records.label import Label
from sluice.domain.records.rollout import ShadowScores
from sluice.errors import Corrupt

DECODED_MAX = 2_000
"""Records that are decoded at once: a decision with 143 features takes 8 kB then, 30,000 of a file
would take 250 MB."""


class Column(NamedTuple):
    """One column: its type, and what it takes from the decoded record."""

    name: str
    kind: pa.DataType
    take: Callable[[Any], Any]


_AUTHORIZATION_TYPES = arrow_types(Authorization)
AUTHORIZATION = tuple(_AUTHORIZATION_TYPES)

DECISION: tuple[Column, ...] = (
    *(
        Column(name, kind, attrgetter(f"authorization.{name}"))
        for name, kind in _AUTHORIZATION_TYPES.items()
    ),
    Column("entrypoint", pa.string(), attrgetter("entrypoint")),
    Column("origin_topic", pa.string(), lambda d: d.origin and d.origin.topic),
    Column("origin_partition", pa.int32(), lambda d: d.origin and d.origin.partition),
    Column("origin_offset", pa.int64(), lambda d: d.origin and d.origin.offset),
    Column("emitter", pa.string(), attrgetter("emitter")),
    Column("sequence", pa.int64(), attrgetter("sequence")),
    Column("received_at", pa.int64(), attrgetter("received_at")),
    Column("decided_at", pa.int64(), attrgetter("decided_at")),
    Column("reference_amount_minor", pa.int64(), attrgetter("reference_amount_minor")),
    Column("reference_currency", pa.string(), attrgetter("reference_currency")),
    Column("catalogue", pa.string(), attrgetter("catalogue")),
    # Not a fixed-size list: two catalogues of different length may meet in one file.
    Column("features", pa.list_(pa.int64()), attrgetter("features")),
    Column("release", pa.string(), attrgetter("release")),
    Column("score_ppm", pa.int64(), attrgetter("score_ppm")),
    Column("policy", pa.string(), attrgetter("policy")),
    Column("outcome", pa.string(), attrgetter("outcome")),
    Column("reasons", pa.list_(pa.string()), attrgetter("reasons")),
    Column("degradation_level", pa.string(), attrgetter("degradation_level")),
    Column("degraded", pa.list_(pa.string()), attrgetter("degraded")),
    Column("silenced", pa.list_(pa.string()), attrgetter("silenced")),
    Column("let_through_ppm", pa.int64(), attrgetter("let_through_ppm")),
)
LABEL: tuple[Column, ...] = tuple(
    Column(name, kind, attrgetter(name)) for name, kind in arrow_types(Label).items()
)
SHADOW_SCORES: tuple[Column, ...] = tuple(
    Column(name, kind, attrgetter(name))
    for kind, names in (
        (pa.int64(), ("at", "epoch")),
        (pa.string(), ("emitter", "release", "digest")),
        (pa.list_(pa.string()), ("tenants", "authorization_ids")),
        (pa.list_(pa.int64()), ("event_at", "score_ppm", "served_ppm")),
        (pa.list_(pa.int64()), ("outcomes", "served_outcomes")),
    )
    for name in names
)
"""A row is a record, which says it of many decisions: lists of one length."""
ONLY_IN_THE_RECORD = {"v", "states", "pending", "fired", "made_by", "settled", "given_up"}
"""Fields of a decision that are no column: nobody searches by them, a replay reads the record."""
PLACE = (("partition", pa.int32()), ("offset", pa.int64()), ("written_ms", pa.int64()))
SUPERSEDED = "superseded"
"""Of decisions: an earlier record of the id counts (:mod:`sluice.domain.records.superseded`). Null
in files of a release that did not look."""
UNCOUNTED = "uncounted"
"""Of labels: why one does not count. Null of one that does, and where nothing says so."""
RECORD = "record"
"""The exact bytes of the value, so that nothing is lost and a replay needs only this column."""


class Kind(NamedTuple):
    """What one topic's files hold."""

    columns: tuple[Column, ...]
    decoder: msgspec.json.Decoder[Any]
    by_archive: tuple[tuple[str, pa.DataType], ...] = ()
    """What the archive adds of its own."""

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of a file."""
        taken = ((c.name, c.kind) for c in self.columns)
        return pa.schema([*PLACE, *taken, *self.by_archive, (RECORD, pa.binary())])


KINDS: dict[str, Kind] = {
    "decisions": Kind(DECISION, msgspec.json.Decoder(Decision), ((SUPERSEDED, pa.bool_()),)),
    "labels": Kind(LABEL, msgspec.json.Decoder(Label)),
    "shadow_scores": Kind(SHADOW_SCORES, msgspec.json.Decoder(ShadowScores)),
}
"""Of topics, by folder of the archive."""

_BACKFILLED = ("partition", pa.int32()), ("offset", pa.int64())
_OF_DECISIONS = {column.name: column.kind for column in DECISION}
SCHEMAS: dict[str, pa.Schema] = {
    **{folder: kind.schema for folder, kind in KINDS.items()},
    "history": pa.schema(
        [
            *_BACKFILLED,
            *((name, _OF_DECISIONS[name]) for name in AUTHORIZATION),
            *(
                (name, _OF_DECISIONS[name])
                for name in ("reference_amount_minor", "reference_currency")
            ),
            ("declined", pa.bool_()),
            *((name, _OF_DECISIONS[name]) for name in ("catalogue", "features")),
        ]
    ),
    "history_labels": pa.schema([*_BACKFILLED, *((c.name, c.kind) for c in LABEL)]),
}
"""Of all files, by folder of the archive. history: what an authorization and its outcome were, and
the features that it had then; partition 0. history_labels: partition 1. A field that the history
did not have is null."""


def fit(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The schema's columns of a table, cast; null where an older file or a history has none."""
    return pa.table(
        [
            rows[field.name].cast(field.type)
            if field.name in rows.column_names
            else pa.nulls(len(rows), field.type)
            for field in schema
        ],
        schema=schema,
    )


def table(kind: Kind, rows: Sequence[Message]) -> pa.Table:
    """(n,) records to a table of n rows. Raises Corrupt naming the first that does not decode."""
    parts = [_part(kind, rows[at : at + DECODED_MAX]) for at in range(0, len(rows), DECODED_MAX)]
    return pa.concat_tables([kind.schema.empty_table(), *parts])


def _part(kind: Kind, rows: Sequence[Message]) -> pa.Table:
    decoded = []
    for row in rows:
        try:
            decoded.append(kind.decoder.decode(row.value))
        except MemoryError:
            raise
        except Exception as exc:  # text that is no UTF-8, brackets too deep
            raise Corrupt(
                f"a record that this release cannot read: {exc}",
                where=f"{row.topic}/{row.partition}@{row.offset}",
                fix="run the release that wrote it, or a newer one; nothing was skipped",
            ) from exc
    columns: dict[str, Any] = {
        "partition": [row.partition for row in rows],
        "offset": [row.offset for row in rows],
        "written_ms": [row.written_ms for row in rows],
    }
    for name, _, take in kind.columns:
        columns[name] = [take(one) for one in decoded]
    for name, of_type in kind.by_archive:
        columns[name] = pa.nulls(len(rows), of_type)
    columns[RECORD] = [row.value for row in rows]
    return pa.table(columns, schema=kind.schema)
