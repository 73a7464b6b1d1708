"""Events of chosen entities from the archive, as a replay wants them.

Reads the four columns that name entities first, and of what they point at only the row groups and
columns needed: choosing few entities costs little more than the scan of those four.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sluice.adapters.arrow import code_texts, dictionary, tag_texts, unsorted_history
from sluice.adapters.parquet.archive import Archive
from sluice.adapters.parquet.columns import SUPERSEDED, UNCOUNTED
from sluice.adapters.parquet.damage import HeldFile
from sluice.adapters.storage import AnyPath
from sluice.application.backfill import kernel_rows
from sluice.application.consistency import TOO_MANY
from sluice.application.replay import EventHistory
from sluice.domain.features import catalogue, states
from sluice.domain.features.events import DECLINED, EVENT_US, WIDTH
from sluice.domain.features.kernel import AUTHORIZATION, FRAUD, GENUINE, WITHDRAWN
from sluice.domain.records.outcome import Outcome
from sluice.errors import Rejected

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

EVENTS_MAX = 5_000_000
"""Events of one event history. 184 bytes each: 0.9 GB, and twice that while it is put together."""
ENTITY_COLUMNS = ("card_token", "terminal_id", "merchant_id", "device_id")
"""By view, as in catalogue.VIEWS."""
_EVENT_COLUMNS = (
    "partition", "offset", "authorization_id", "event_at", "decided_at", "amount_minor", "currency",
    "mcc", "channel", "three_ds", "merchant_country", "card_country", "reference_amount_minor",
    "outcome", "declined", *ENTITY_COLUMNS,
)  # fmt: skip
_LABEL_COLUMNS = ("partition", "offset", "event_at", "known_at", "is_fraud", "withdraws")


class Keep(Protocol):
    """Says which entities an event history is about."""

    def __call__(self, view: int, keys: pa.StringArray) -> Mask:
        """(k,) different keys of one view, index into catalogue.VIEWS, to k answers."""
        ...


class Keys:
    """Keeps named entities. keys: by view's name; a view without any is left out."""

    def __init__(self, keys: Mapping[str, Collection[str]]) -> None:
        self._keys = [pa.array(list(keys.get(view, ())), pa.string()) for view in catalogue.VIEWS]

    def __call__(self, view: int, keys: pa.StringArray) -> Mask:
        """See Keep."""
        found: Mask = pc.is_in(keys, self._keys[view]).to_numpy(zero_copy_only=False)
        return found


@dataclass(frozen=True, slots=True)
class Bucket:
    """Keeps entities by hash: those of bucket ``number`` of ``of``. All buckets are all entities.

    An event of four entities is read in up to four buckets.
    """

    number: int
    of: int

    def __call__(self, view: int, keys: pa.StringArray) -> Mask:
        """See Keep."""
        return tag_texts(pa.chunked_array([keys])) % self.of == self.number


class _Kind(NamedTuple):
    """One folder of the archive: what its rows are, and the source of partition 0."""

    folder: str
    source: int
    columns: tuple[str, ...]


_KINDS = (
    _Kind("decisions", states.source(states.DECISIONS, 0), _EVENT_COLUMNS),
    _Kind("labels", states.source(states.LABELS, 0), _LABEL_COLUMNS),
    _Kind("history", states.source(states.BACKFILL, 0), _EVENT_COLUMNS),
    _Kind("history_labels", states.source(states.BACKFILL, 0), _LABEL_COLUMNS),
)


class _Part(NamedTuple):
    """What one file gives to an event history."""

    events: Ints
    changes: Ints
    entities: list[Ints]
    decided_us: Ints


class ArchiveEventHistory:
    """Reads event histories from the archive under a folder."""

    def __init__(self, root: AnyPath, *, events_max: int = EVENTS_MAX) -> None:
        self._archive = Archive(root)
        self._events_max = events_max

    def ends(self) -> dict[int, int]:
        """Last offset that the archive holds of each source; read afterwards, an event history has
        it."""
        return {
            kind.source + partition: last
            for kind in _KINDS
            for partition, last in self._archive.ends(kind.folder).items()
        }

    def events(self) -> int:
        """Rows of the whole archive, from the files' footers."""
        return sum(
            held.footer.num_rows for kind in _KINDS for held in self._archive.opened(kind.folder)
        )

    def read(self, keep: Keep) -> EventHistory:
        """All events of the entities kept; of other entities it knows nothing. What a superseded
        record says happened is no event, nor is a label that changes nothing.

        Raises Rejected (too_many_events) before it takes more memory than events_max allows.
        """
        codes: tuple[dict[str, int], ...] = tuple({} for _ in catalogue.VIEWS)
        parts: list[_Part] = []
        count = 0
        for kind in _KINDS:
            for held in self._archive.opened(kind.folder, dictionary=ENTITY_COLUMNS):
                part = _part(kind, held, keep, codes)
                if part is None:
                    continue
                parts.append(part)
                count += len(part.events)
                if count > self._events_max:
                    raise Rejected(
                        f"the entities chosen have more than {self._events_max:,} events",
                        where=kind.folder,
                        fix="choose fewer entities: a smaller sample, or more buckets",
                        code=TOO_MANY,
                    )
        return EventHistory(
            np.concatenate([np.empty((0, WIDTH), np.int64), *(p.events for p in parts)]),
            np.concatenate([np.empty((0, 4), np.int64), *(p.changes for p in parts)]),
            tuple(  # type: ignore[arg-type]
                np.concatenate([np.empty(0, np.int64), *(p.entities[view] for p in parts)])
                for view in range(len(catalogue.VIEWS))
            ),
            codes,  # type: ignore[arg-type]
            np.concatenate([np.empty(0, np.int64), *(p.decided_us for p in parts)]),
        )


def _part(kind: _Kind, held: HeldFile, keep: Keep, codes: Sequence[dict[str, int]]) -> _Part | None:
    """Rows of one file that count and that any kept entity is in; enters new keys into codes."""
    named = held.read([*ENTITY_COLUMNS, SUPERSEDED, UNCOUNTED])
    counts = _ints(named, SUPERSEDED) == 0
    if UNCOUNTED in named.column_names:
        counts &= named[UNCOUNTED].is_null().to_numpy()
    chosen = np.zeros(len(named), np.bool_)
    entities = []
    for view, column in enumerate(ENTITY_COLUMNS):
        of_row, keys = dictionary(named[column])
        # A last place for "no such entity", which code -1 points at.
        kept = np.append(keep(view, keys), np.False_)[of_row] & counts
        table = np.full(len(keys) + 1, -1, np.int64)
        seen = np.unique(of_row[kept])
        for at, key in zip(seen.tolist(), keys.take(pa.array(seen)).to_pylist(), strict=True):
            table[at] = codes[view].setdefault(key, len(codes[view]))
        entities.append(table[of_row])
        chosen |= kept
    if not chosen.any():
        return None
    group_of = np.repeat(np.arange(len(held.groups)), held.groups)
    groups = np.unique(group_of[chosen])
    rows = held.read(kind.columns, groups.tolist())
    rows = rows.filter(pa.array(chosen[np.isin(group_of, groups)]))
    n = len(rows)
    changes = np.zeros((n, 4), np.int64)
    changes[:, 1] = kind.source + _ints(rows, "partition")
    changes[:, 2] = _ints(rows, "offset")
    if kind.columns is _LABEL_COLUMNS:
        changes[:, 0] = np.where(_ints(rows, "is_fraud") != 0, FRAUD, GENUINE)
        changes[:, 3] = _ints(rows, "known_at")
        events = np.zeros((n, WIDTH), np.int64)
        taken_back = _ints(rows, "withdraws")
        changes[taken_back > 0, 0] = WITHDRAWN
        events[:, EVENT_US] = np.where(taken_back > 0, taken_back, _ints(rows, "event_at"))
    else:
        changes[:, 0] = AUTHORIZATION
        events = kernel_rows(unsorted_history(rows), _ints(rows, "reference_amount_minor"))
        events[:, DECLINED] = _declined(rows)
    return _Part(events, changes, [view[chosen] for view in entities], _ints(rows, "decided_at"))


def _declined(rows: pa.Table) -> Ints:
    """By our own outcome, or for imported history by what the issuer said."""
    if "outcome" in rows.column_names:
        return code_texts(rows["outcome"]).mapped({Outcome.DECLINE: 1})
    return _ints(rows, "declined")


def _ints(rows: pa.Table, name: str) -> Ints:
    if name not in rows.column_names:
        return np.zeros(len(rows), np.int64)
    return rows[name].cast(pa.int64()).fill_null(0).to_numpy()
