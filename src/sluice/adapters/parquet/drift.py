"""The archive as the drift report sees it: rows of a time with what has become known of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sluice.adapters.arrow import ints, tag_texts
from sluice.adapters.parquet.feature_log import FeatureLog, known_frauds
from sluice.adapters.storage import AnyPath
from sluice.application.drift import Piece
from sluice.application.judging.measures import Bools
from sluice.domain.features import catalogue
from sluice.domain.records.outcome import Outcome
from sluice.domain.reference import MILLION

PIECE_ROWS = 65_536
"""At once: 80 MB of features."""
_COLUMNS = ("authorization_id", "event_at", "card_token", "reference_amount_minor", "catalogue",
            "features", "outcome", "let_through_ppm")  # fmt: skip


class ArchiveDriftLog:
    """See :class:`sluice.application.drift.DriftLog`.

    mature_before: event time before which a row is old enough for its labels. segments: columns
    that cut the traffic. Rows with another catalogue's features are passed over, and counted.
    """

    def __init__(
        self, root: AnyPath, since: int, until: int, mature_before: int, segments: Sequence[str]
    ) -> None:
        self._log = FeatureLog(root, since, until)
        self._since, self._until = since, until
        self._mature_before = mature_before
        self._segments = tuple(segments)
        self.other_catalogue = 0

    def pieces(self) -> Iterator[Piece]:
        """See the port. Raises Corrupt for a file that cannot be read."""
        ids, frauds = self._known()
        for table in self._log.each((*_COLUMNS, *self._segments)):
            ours = table.filter(pc.equal(table["catalogue"], catalogue.DIGEST))
            self.other_catalogue += len(table) - len(ours)
            for first in range(0, len(ours), PIECE_ROWS):
                yield self._piece(ours.slice(first, PIECE_ROWS), ids, frauds)

    def _known(self) -> tuple[pa.Array, Bools]:
        """Ids of which something is known, and whether the label in force says fraud."""
        return known_frauds(self._log.labels(self._since, self._until))

    def _piece(self, rows: pa.Table, ids: pa.Array, frauds: Bools) -> Piece:
        rows = rows.combine_chunks()
        found = pc.fill_null(pc.index_in(rows["authorization_id"], value_set=ids), -1).to_numpy()
        labelled = found >= 0
        fraud = labelled.copy()
        fraud[labelled] = frauds[found[labelled]]
        features = rows["features"].combine_chunks().flatten().to_numpy()
        declined = pc.fill_null(pc.equal(rows["outcome"], Outcome.DECLINE), False).to_numpy()
        drawn_ppm = pc.fill_null(rows["let_through_ppm"], 0).to_numpy()
        weight = np.where(drawn_ppm > 0, MILLION / np.maximum(drawn_ppm, 1), 1.0)
        event_us = ints(rows, "event_at")
        return Piece(
            features=features.reshape(len(rows), catalogue.N),
            segments={name: rows[name].to_pylist() for name in self._segments},
            event_us=event_us,
            card=tag_texts(rows["card_token"]),
            amount_minor=ints(rows, "reference_amount_minor"),
            fraud=fraud,
            weight=np.where(declined & ~labelled & (drawn_ppm == 0), 0.0, weight),
            mature=event_us < self._mature_before,
        )
