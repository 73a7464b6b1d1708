"""The archive as the impact of a policy sees it: decisions of a time, and what became of them."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sluice.adapters.parquet.archive import CLOCKS_US, Archive, counting
from sluice.adapters.parquet.columns import RECORD, SUPERSEDED
from sluice.adapters.parquet.damage import HeldFile
from sluice.adapters.parquet.feature_log import FeatureLog, known_frauds
from sluice.adapters.storage import AnyPath
from sluice.application.impact import Piece
from sluice.domain.clock import DAY_US
from sluice.domain.records.decision import Decision

PIECE_ROWS = 10_000
"""Decisions at once: 40 MB decoded."""
AGE_MAX_US = 36 * DAY_US
"""An entrypoint takes no older event: labels are looked for from so long before."""
UNKNOWN = 2**63 - 1
"""The newest of a row group that does not say."""
_DECISION = msgspec.json.Decoder(Decision)


class ArchiveImpactLog:
    """Decisions made in [since, until), microseconds UTC."""

    def __init__(self, root: AnyPath) -> None:
        self._root = root
        self._archive = Archive(root)

    def newest_us(self) -> int:
        """When the newest decision was made; 0 without one. Reads footers of the newest days."""
        newest = 0
        for file in self._archive.newest(days=2):
            with HeldFile(file.path) as held:
                for group in range(len(held.groups)):
                    newest = max(newest, _decided(held, group)[1])
        return newest if newest < UNKNOWN else 0

    def pieces(self, since: int, until: int) -> Iterator[Piece]:
        """The decisions that count, a file's row group at a time. Raises Corrupt for a file that is
        damaged."""
        ids, frauds = self._known(since - AGE_MAX_US, until)
        for held in self._archive.opened(since_us=since - CLOCKS_US):
            for group in range(len(held.groups)):
                first_us, last_us = _decided(held, group)
                if last_us < since or first_us >= until:
                    continue
                columns = ["authorization_id", "decided_at", SUPERSEDED, RECORD]
                rows = counting(held.read(columns, [group]))
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


def _decided(held: HeldFile, group: int) -> tuple[int, int]:
    """The first and last decided_at of a row group; 0 and UNKNOWN where it does not say."""
    told = held.footer.row_group(group).column(held.names.index("decided_at")).statistics
    return (told.min, told.max) if told is not None and told.has_min_max else (0, UNKNOWN)
