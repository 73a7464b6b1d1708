"""The archive as the consistency check sees it: a sample of decisions, and what they were made
from."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import zip_longest

import numpy as np

from sluice.adapters.arrow import tag_texts
from sluice.adapters.parquet.archive import Archive, File, decoded
from sluice.adapters.parquet.columns import RECORD
from sluice.adapters.parquet.damage import HeldFile
from sluice.adapters.parquet.event_history import ArchiveEventHistory, Keys
from sluice.adapters.storage import AnyPath
from sluice.application.consistency import Drawn
from sluice.application.replay import EventHistory
from sluice.domain.records.decision import Decision
from sluice.errors import Corrupt

MILLION = 1_000_000


class ArchiveSampleSource:
    """See :class:`sluice.application.consistency.Evidence`."""

    def __init__(self, root: AnyPath) -> None:
        self._archive = Archive(root)
        self._event_history = ArchiveEventHistory(root)

    def ends(self) -> dict[int, int]:
        """See the port."""
        return self._event_history.ends()

    def event_history(self, keys: Mapping[str, Collection[str]]) -> EventHistory:
        """See the port."""
        return self._event_history.read(Keys(keys))

    def drawn(
        self, sample_ppm: int, after: Mapping[int, int], upto: Mapping[int, int]
    ) -> Iterator[Drawn]:
        """See the port. Reads three columns of the files that may hold some."""
        files = self._archive.files()
        for file, following in zip_longest(files, files[1:]):
            first, last = after.get(file.partition, -1) + 1, upto.get(file.partition, -1)
            in_same = following is not None and following.partition == file.partition
            if file.first > last or (in_same and following.first <= first):
                continue
            with HeldFile(file.path) as held:
                rows = held.read(["authorization_id", "offset", "decided_at"])
            offsets = rows["offset"].to_numpy()
            chosen = tag_texts(rows["authorization_id"]) % MILLION < sample_ppm
            chosen &= (offsets >= first) & (offsets <= last)
            decided = rows["decided_at"].to_numpy()
            for offset, at in zip(offsets[chosen].tolist(), decided[chosen].tolist(), strict=True):
                yield Drawn(file.partition, offset, at)

    def decisions(self, places: Sequence[Drawn]) -> list[Decision]:
        """See the port. Reads the row groups that hold them. Raises Corrupt if one is gone."""
        files = self._archive.files()
        starts = [(file.partition, file.first) for file in files]
        of_file: dict[int, list[int]] = {}
        for i, place in enumerate(places):
            at = bisect_right(starts, (place.partition, place.offset)) - 1
            of_file.setdefault(at, []).append(i)
        found: dict[int, Decision] = {}
        for at, wanted in of_file.items():
            offsets = [places[i].offset for i in wanted]
            records = _records(files[at], offsets)
            for i, offset, record in zip(wanted, offsets, records, strict=True):
                found[i] = decoded(files[at].path, offset, record)
        return [found[i] for i in range(len(places))]


def _records(file: File, offsets: Sequence[int]) -> list[bytes]:
    """(n,) offsets to the bytes of n records, in that order."""
    with HeldFile(file.path) as held:
        have = held.read(["offset"])["offset"].to_numpy()
        rows = np.searchsorted(have, offsets)
        if (rows == len(have)).any() or (have[rows] != offsets).any():
            raise Corrupt(
                "a decision drawn a moment ago is not there any more",
                where=str(file.path),
                fix="who changes files of the archive? Nothing but the archiver may",
            )
        starts = np.cumsum([0, *held.groups])
        group_of = np.searchsorted(starts, rows, side="right") - 1
        records: dict[int, bytes] = {}
        for group in np.unique(group_of).tolist():
            column = held.read([RECORD], [group])[RECORD].combine_chunks()
            for row in rows[group_of == group].tolist():
                records[row] = column[row - int(starts[group])].as_py()
        return [records[row] for row in rows.tolist()]
