"""Small files of the archive put together: those of a day and partition to one.

The new file names its first and last offset, and from the moment that it appears the files of those
offsets count no more (:func:`sluice.adapters.parquet.archive.standing`). They are deleted by a run
that begins ``keep_s`` later, so that who listed before still finds them. A kill leaves either the
old files, or both, or a part of the old ones beside the new: each is a whole archive.

A file that an erasure rewrote meanwhile is put together again: the new one says which versions of
which files it was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

import pyarrow as pa

from sluice.adapters.parquet.archive import (
    COMPRESSION_LEVEL,
    Archive,
    File,
    encoded,
    standing,
)
from sluice.adapters.parquet.columns import KINDS, fit
from sluice.adapters.parquet.damage import LAST, HeldFile
from sluice.adapters.storage import AnyPath, Folder, folder
from sluice.domain.clock import DAY_US, SECOND_US, to_datetime
from sluice.faultpoints import kill_at

ROWS_MAX = 1_000_000
"""Of a file that is put together: about 300 MB of parquet, 3 GB of memory."""
OPEN_DAYS = 1
"""A day that ended less long ago may still get files."""
MADE_FROM = b"sluice.made_from"
_SEPARATOR = "\n"


class Compacted(NamedTuple):
    """What a run did."""

    made: int
    """Files that were put together."""
    of: int
    """From so many."""
    deleted: int
    """Of those of an earlier run."""


def compact(
    root: AnyPath, now_us: int, keep_s: int, progress: Callable[[str], None] = lambda _: None
) -> Compacted:
    """Put the files of days that are over together, and delete what earlier runs did. Raises
    Unavailable, Corrupt."""
    total = Compacted(0, 0, 0)
    for kind in KINDS:
        every = Archive(root).files(kind, covered=True)
        for _, files in groupby(every, key=lambda file: file.partition):
            did = _Partition(root, kind, list(files), progress).run(now_us, keep_s)
            total = Compacted(*(a + b for a, b in zip(total, did, strict=True)))
    return total


class _Partition:
    """Files of one kind and partition by first offset, covered ones among them."""

    def __init__(
        self, root: AnyPath, kind: str, files: list[File], progress: Callable[[str], None]
    ) -> None:
        self._folder: Folder = folder(root)
        self._kind = kind
        self._files = files
        self._progress = progress

    def run(self, now_us: int, keep_s: int) -> Compacted:
        """See :func:`compact`."""
        counting = standing([file.path for file in self._files])
        whole = [file for file in counting if file.last is not None]
        deleted = sum(self._delete_covered(one, now_us, keep_s) for one in whole)
        over = to_datetime(now_us - (1 + OPEN_DAYS) * DAY_US).date().isoformat()
        made = of = 0
        for some in _runs(counting):
            if _day(some[0]) > over:
                continue
            for fitting in _cut(some):
                if len(fitting) > 1:
                    self._put_together(fitting)
                    made, of = made + 1, of + len(fitting)
                    self._progress(
                        f"{self._kind} {_day(some[0])} partition {some[0].partition}: "
                        f"{len(fitting):,} files to 1"
                    )
        return Compacted(made, of, deleted)

    def _put_together(self, some: list[File]) -> None:
        schema = KINDS[self._kind].schema
        versions = {file.path.name: self._folder.version(file.path) for file in some}
        tables, last, about = [], 0, {}
        for file in some:
            with HeldFile(file.path) as held:
                tables.append(fit(held.read(), schema))
                last, about = held.last, held.about
        kept = {key: value for key, value in about.items() if key.startswith(b"sluice.")}
        told = _SEPARATOR.join(f"{name} {version}" for name, version in versions.items())
        table = pa.concat_tables(tables).replace_schema_metadata(
            {**kept, LAST: str(last), MADE_FROM: told}
        )
        first = some[0]
        path = first.path.parent / f"{first.path.stem}-{last:020}.parquet"
        raw = encoded(table, compression_level=COMPRESSION_LEVEL)
        if self._folder.create(path, raw):
            kill_at("compact.after_create")
            return
        self._folder.replace(path, raw, self._folder.version(path))

    def _delete_covered(self, one: File, now_us: int, keep_s: int) -> int:
        """The files that a file was put together from, if it is old enough and they are still what
        it was made from."""
        assert one.last is not None
        covered = [
            file for file in self._files if file != one and one.first <= file.first <= one.last
        ]
        if not covered or now_us - self._folder.written_us(one.path) < keep_s * SECOND_US:
            return 0
        with HeldFile(one.path) as held:
            told = held.about.get(MADE_FROM, b"").decode()
        made_from = dict(line.split(" ", 1) for line in told.splitlines())
        sources = [file for file in covered if file.path.name in made_from]
        changed = any(
            made_from[file.path.name] != self._folder.version(file.path) for file in sources
        )
        if changed and len(sources) == len(made_from):
            self._put_together(sources)
            return 0
        for file in covered:
            self._folder.remove(file.path)
            kill_at("compact.after_delete")
        return len(covered)


def _day(file: File) -> str:
    return file.path.parent.name.removeprefix("date=")


def _runs(files: Iterable[File]) -> Iterator[list[File]]:
    """Files of one day to put together, in order of offset: cut where one of another day lies
    between, or one that was put together, whose offsets a name over both would claim."""
    for (_, whole), some in groupby(files, key=lambda file: (_day(file), file.last is not None)):
        if not whole and len(run := list(some)) > 1:
            yield run


def _cut(files: Iterable[File]) -> list[list[File]]:
    """Into runs of at most ROWS_MAX rows."""
    runs: list[list[File]] = []
    rows = ROWS_MAX
    for file in files:
        with HeldFile(file.path) as held:
            count = held.footer.num_rows
        if rows + count > ROWS_MAX:
            runs.append([])
            rows = 0
        runs[-1].append(file)
        rows += count
    return runs
