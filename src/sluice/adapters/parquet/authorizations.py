"""What was decided or backfilled, by id: what a label needs of its authorization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sluice.adapters.parquet.archive import Archive
from sluice.adapters.parquet.damage import reading, source
from sluice.adapters.storage import AnyPath
from sluice.domain.clock import from_datetime, to_datetime
from sluice.domain.records.report import Named
from sluice.errors import Rejected

DAYS_AFTER = 2
"""An authorization is decided on its day, or while a backlog of the next two is worked off."""
FILES_MAX = 20_000
"""Opened for one look-up: some ten seconds."""
_COLUMNS = (
    *("tenant", "authorization_id", "event_at"),
    *("card_token", "merchant_id", "terminal_id", "device_id", "channel"),
)
_FOLDERS = ("decisions", "history")

Id = tuple[str, str]


class ArchivedAuthorizations:
    """See :class:`sluice.application.label.Authorizations`. Reads the archive under a folder."""

    def __init__(self, root: AnyPath, *, files_max: int = FILES_MAX) -> None:
        self._root = root
        self._files_max = files_max

    def find(self, wanted: Mapping[Id, int | None]) -> dict[Id, Named]:
        """See the port. Days are those of the records' writing: a history that was published later
        than it happened is found without a time alone. Raises Rejected
        (missing_field), and Corrupt for a damaged file."""
        days = self._days(wanted)
        ids = pa.array([one for _, one in wanted], pa.string())
        found: dict[Id, Named] = {}
        for path in self._files(days):
            with reading(path):
                rows = pq.read_table(
                    source(path),
                    columns=list(_COLUMNS),
                    # By the file's statistics first: ids of one time lie together.
                    filters=pc.field("authorization_id").isin(ids),
                    partitioning=None,
                    page_checksum_verification=True,
                )
            for row in rows.to_pylist():
                of = row.pop("tenant"), row.pop("authorization_id")
                if of in wanted:
                    found.setdefault(of, Named(**row))
            if len(found) == len(wanted):
                break
        return found

    @staticmethod
    def _days(wanted: Mapping[Id, int | None]) -> set[str] | None:
        """Folders in which they may lie; None for all."""
        days: set[str] = set()
        for event_at in wanted.values():
            if event_at is None:
                return None
            first = to_datetime(event_at).date()
            days |= {f"date={first + timedelta(days=n)}" for n in range(DAYS_AFTER + 1)}
        return days

    def _files(self, days: set[str] | None) -> Iterator[AnyPath]:
        archive = Archive(self._root)
        bounds = (_midnight(min(days)), _midnight(max(days))) if days else (None, None)
        files = [
            file.path
            for folder in _FOLDERS
            for file in archive.files(folder, *bounds)
            if days is None or file.path.parent.name in days
        ]
        if len(files) > self._files_max:
            raise Rejected(
                f"{len(files)} files would have to be searched, at most {self._files_max} are",
                fix="send event_at with the report, or what the archive would be asked for",
                code="missing_field",
            )
        return iter(files)


def _midnight(day: str) -> int:
    return from_datetime(datetime.fromisoformat(day.removeprefix("date=")).replace(tzinfo=UTC))
