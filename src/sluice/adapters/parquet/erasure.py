"""Erasure in the archive, which is the feature log too: rows stay, and nobody's they are.

A file is rewritten whole, under its own name, or not at all; run again after a kill it does the
rest. Files that were put together to others are rewritten too, as long as they lie there. Of a row
that is erased, what names a person or a device goes: card token, customer, device, address, and
from its record the features, the pending entries and the card state's version besides. The token
becomes a random one of each row's own, so that rows of a card cannot be put together again; it sets
the same bit in a terminal's sketch of distinct cards, six bits of a hash of the old one, so that
what was decided about others at that terminal can still be recomputed. An earlier erasure's tokens
are known by how they begin, and are left alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sluice.adapters.parquet.archive import COMPRESSION_LEVEL, Archive, encoded
from sluice.adapters.parquet.columns import RECORD, SCHEMAS
from sluice.adapters.parquet.damage import reading, source
from sluice.adapters.storage import AnyPath, Folder, folder
from sluice.application.sealing import period_of
from sluice.domain.records.decision import Decision
from sluice.domain.records.identifiers import tag32
from sluice.domain.records.label import Label

Through = Callable[[str, str], str]
"""Tenant and card token to the last quarter that is erased of it, like 2026Q4; "" for none."""
ERASED = "erased-"
"""How the token of an erased row begins; and, without the dash, the catalogue of its record."""
FOLDERS = ("decisions", "labels", "history", "history_labels")
_GONE = ("customer_id", "device_id", "ip_prefix")
_WHO = ("tenant", "card_token", "event_at")
_DECISION = msgspec.json.Decoder(Decision)
_LABEL = msgspec.json.Decoder(Label)


def erase_rows(root: AnyPath, through: Through) -> int:
    """Erase what ``through`` names from all files below a root. Returns the rows rewritten.

    Reads three columns of each file, and rewrites those that hold a row. Raises Unavailable,
    Corrupt.
    """
    archive, files = Archive(root), folder(root)
    rewritten = 0
    for kind in FOLDERS:
        seen: set[AnyPath] = set()
        # Until a listing has none that is new: one may be put together from others meanwhile.
        while fresh := [f.path for f in archive.files(kind, covered=True) if f.path not in seen]:
            rewritten += sum(_erase_from(kind, files, path, through) for path in fresh)
            seen.update(fresh)
    return rewritten


def unlike(token: str) -> str:
    """A random token that sets the same bit as another in a sketch of distinct cards."""
    bit = sketch_bit(token)
    while True:
        made = ERASED + secrets.token_hex(16)
        if sketch_bit(made) == bit:
            return made


def sketch_bit(token: str) -> int:
    """Number of the bit that a card sets in a sketch, as ``tilestate.card_bit`` has it; here
    without numba, which takes seconds to load."""
    return (tag32(token) * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 58


def _erase_from(kind: str, files: Folder, path: AnyPath, through: Through) -> int:
    with reading(path):
        version = files.version(path)
        schema = pq.read_schema(source(path))
        columns = [n for n in _WHO if n in schema.names]
        # partitioning: what stands in a file, not in the names of folders.
        who = pq.read_table(source(path), columns=columns, partitioning=None)
        mine = _mine(who, through)
        if not mine:
            return 0
        rows = pq.read_table(source(path), partitioning=None)
    for name in _GONE:
        if name in rows.column_names:
            rows = _set(rows, name, mine, dict.fromkeys(mine))
    tokens = {i: unlike(rows["card_token"][i].as_py()) for i in mine}
    rows = _set(rows, "card_token", mine, tokens)
    if RECORD in rows.column_names:
        again = _decision if kind == "decisions" else _label
        records = {i: again(rows[RECORD][i].as_py(), tokens[i]) for i in mine}
        rows = _set(rows, RECORD, mine, records)
    files.replace(path, _encoded(kind, rows), version)
    return len(mine)


def _mine(who: pa.Table, through: Through) -> list[int]:
    """Numbers of the rows to erase."""
    tokens = who["card_token"].cast(pa.string())
    tenants = who["tenant"].cast(pa.string())
    fresh = pc.invert(pc.starts_with(pc.fill_null(tokens, ERASED), ERASED))
    found: dict[tuple[str, str], str] = {}
    mine = []
    times = who["event_at"].to_numpy()
    for i in pc.indices_nonzero(fresh).to_pylist():
        pair = tenants[i].as_py() or "", tokens[i].as_py()
        if pair not in found:
            found[pair] = through(*pair)
        if found[pair] and period_of(int(times[i])) <= found[pair]:
            mine.append(i)
    return mine


def _set(rows: pa.Table, name: str, mine: list[int], values: dict[int, Any]) -> pa.Table:
    """The column with other values in some rows."""
    column = rows[name]
    kept = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    mask = pa.array(_flags(len(rows), set(mine)))
    fresh = pa.array([values[i] for i in mine], kept.type)
    made = pc.replace_with_mask(kept.combine_chunks(), mask, fresh)
    return rows.set_column(
        rows.column_names.index(name), rows.field(name).with_type(kept.type), made
    )


def _flags(n: int, mine: set[int]) -> Iterator[bool]:
    return (i in mine for i in range(n))


def _decision(raw: bytes, token: str) -> bytes:
    """A decision's record without what is personal. Its catalogue is none, so that nobody computes
    its features again."""
    held = _DECISION.decode(raw)
    authorization = msgspec.structs.replace(
        held.authorization, card_token=token, **dict.fromkeys(_GONE)
    )
    states = msgspec.structs.replace(held.states, card=None)
    return msgspec.json.encode(
        msgspec.structs.replace(
            held,
            authorization=authorization,
            catalogue=ERASED[:-1],
            features=[],
            pending=[],
            states=states,
        )
    )


def _label(raw: bytes, token: str) -> bytes:
    held = _LABEL.decode(raw)
    return msgspec.json.encode(msgspec.structs.replace(held, card_token=token, device_id=None))


def _encoded(kind: str, rows: pa.Table) -> bytes:
    texts = [field.name for field in SCHEMAS[kind] if pa.types.is_string(field.type)]
    return encoded(
        rows,
        compression_level=COMPRESSION_LEVEL,
        use_dictionary=texts if kind.startswith("history") else True,
    )
