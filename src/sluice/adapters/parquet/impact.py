"""The archive as the impact of a policy sees it: decisions of a time, and what became of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sluice.adapters.parquet.archive import Archive, counting
from sluice.adapters.parquet.columns import RECORD, SUPERSEDED
from sluice.adapters.parquet.damage import reading
from sluice.adapters.parquet.feature_log import FeatureLog, known_frauds
from sluice.application.impact import Piece
from sluice.domain.clock import DAY_US
from sluice.domain.records.decision import Decision

PIECE_ROWS = 10_000
"""Decisions at once: 40 MB decoded."""
AGE_MAX_US = 36 * DAY_US
"""An entrypoint takes no older event: labels are looked for from so long before."""
_DECISION = msgspec.json.Decoder(Decision)


class ArchiveImpactLog:
    """Decisions made in [since, until), microseconds UTC."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._archive = Archive(root)

    def newest_us(self) -> int:
        """When the newest decision was made; 0 without one. Reads footers alone."""
        newest = 0
        for held in self._archive.opened():
            column = held.schema_arrow.names.index("decided_at")
            for group in range(held.num_row_groups):
                told = held.metadata.row_group(group).column(column).statistics
                if told is not None and told.has_min_max:
                    newest = max(newest, int(told.max))
        return newest

    def pieces(self, since: int, until: int) -> Iterator[Piece]:
        """The decisions that count, a file's row group at a time. Raises Corrupt for a file that is
        damaged."""
        ids, frauds = self._known(since - AGE_MAX_US, until)
        for file, held in zip(self._archive.files(), self._archive.opened(), strict=True):
            column = held.schema_arrow.names.index("decided_at")
            for group in range(held.num_row_groups):
                told = held.metadata.row_group(group).column(column).statistics
                known = told is not None and told.has_min_max
                if known and (told.max < since or told.min >= until):
                    continue
                wanted = ["authorization_id", "decided_at", SUPERSEDED, RECORD]
                have = [name for name in wanted if name in held.schema_arrow.names]
                with reading(file.path):
                    rows = counting(held.read_row_group(group, have))
                rows = rows.filter(
                    pc.and_(
                        pc.greater_equal(rows["decided_at"], since),
                        pc.less(rows["decided_at"], until),
                    )
                ).combine_chunks()
                for first in range(0, len(rows), PIECE_ROWS):
                    some = rows.slice(first, PIECE_ROWS)
                    found = pc.fill_null(
                        pc.index_in(some["authorization_id"], value_set=ids), -1
                    ).to_numpy()
                    labelled = found >= 0
                    fraud = labelled.copy()
                    fraud[labelled] = frauds[found[labelled]]
                    yield Piece(
                        [_DECISION.decode(raw) for raw in some[RECORD].to_pylist()],
                        fraud,
                        labelled,
                    )

    def _known(self, since: int, until: int) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
        """Ids of which something is known, and whether the label in force says fraud."""
        return known_frauds(FeatureLog(self._root, since, until).labels(since, until))
