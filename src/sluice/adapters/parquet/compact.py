"""Small files of the archive put together: those of a day and partition to one.

The new file names its first and last offset, and from the moment that it appears the files of those
offsets count no more (:func:`sluice.adapters.parquet.archive.standing`). They are deleted by a run
that begins ``keep_s`` later, so that who listed before still finds them. A kill leaves either the
old files, or both, or a part of the old ones beside the new: each is a whole archive.

A file that an erasure rewrote meanwhile is put together again: the new one says which versions of
which files it was made from.

Two runs at once do each other no harm, and no row: who finds files put together already, or
gone, goes on to the next ones. A new file takes its name once; one that is made again replaces only
the version that was looked at; and what is still as it was listed is asked again before either, and
before files are deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TypeVar

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
from sluice.adapters.storage import AnyPath, folder
from sluice.adapters.storage.patience import patiently
from sluice.domain.clock import DAY_US, SECOND_US, to_datetime
from sluice.errors import Corrupt, Unavailable
from sluice.faultpoints import kill_at

ROWS_MAX = 1_000_000
"""Of a file that is put together: about 300 MB of parquet, 3 GB of memory."""
OPEN_DAYS = 1
"""A day that ended less long ago may still get files."""
MADE_FROM = b"sluice.made_from"
_SEPARATOR = "\n"
_Answer = TypeVar("_Answer")


@dataclass
class Compacted:
    """What a run did. made: files that were put together. of: from so many. deleted: of those of an
    earlier run."""

    made: int = 0
    of: int = 0
    deleted: int = 0


def compact(
    root: AnyPath,
    now_us: int,
    keep_s: int,
    progress: Callable[[str], None] = lambda _: None,
    pause: Callable[[float], None] = time.sleep,
) -> Compacted:
    """Put the files of days that are over together, and delete what earlier runs did. Where the
    storage does not answer, a partition is listed and done again, what was done of it aside.
    pause: between tries. Raises Unavailable after the last one, Corrupt."""
    did = Compacted()
    for kind in KINDS:
        every = patiently(partial(Archive(root).files, kind, covered=True), progress, pause)
        for _, files in groupby(every, key=lambda file: file.partition):
            one = _Partition(root, kind, list(files), did, progress)
            patiently(partial(one.run, now_us, keep_s), progress, pause)
    return did


class _Partition:
    """Files of one kind and partition by first offset, covered ones among them."""

    def __init__(
        self,
        root: AnyPath,
        kind: str,
        files: list[File],
        did: Compacted,
        progress: Callable[[str], None],
    ) -> None:
        self._root, self._folder = root, folder(root)
        self._kind, self._number = kind, files[0].partition
        self._files = files
        self._did = did
        self._progress = progress

    def run(self, now_us: int, keep_s: int) -> None:
        """See :func:`compact`. May be called again after Unavailable."""
        try:
            self._run(now_us, keep_s)
        except Unavailable:
            self._files = []
            raise

    def _run(self, now_us: int, keep_s: int) -> None:
        if not self._files:
            every = Archive(self._root).files(self._kind, covered=True)
            self._files = [file for file in every if file.partition == self._number]
        counting = standing([file.path for file in self._files])
        for one in counting:
            if covered := [file for file in self._files if _covers(one, file)]:
                delete = partial(self._delete_covered, one, covered, now_us, keep_s)
                self._unless_gone([one, *covered], delete)
        over = to_datetime(now_us - (1 + OPEN_DAYS) * DAY_US).date().isoformat()
        for some in _runs(counting):
            if _day(some[0]) > over:
                continue
            for fitting in self._unless_gone(some, partial(_cut, some)) or ():
                if len(fitting) == 1:
                    continue
                if became := self._put_together(fitting):
                    self._did.made += 1
                    self._did.of += len(fitting)
                self._progress(
                    f"{self._kind} {_day(some[0])} partition {self._number}: "
                    f"{len(fitting):,} files {'to 1' if became else 'left to another run'}"
                )

    def _beside(self, file: File) -> Iterator[AnyPath]:
        """What there is now of a file's day and partition."""
        return self._folder.of_partition(self._kind, _day(file), self._number)

    def _stand(self, some: list[File]) -> bool:
        """Whether files of one day still count."""
        return set(some) <= set(standing(self._beside(some[0])))

    def _unless_gone(self, some: list[File], ask: Callable[[], _Answer]) -> _Answer | None:
        """What is asked of files of one day; None where another run deleted some meanwhile. Raises
        Corrupt."""
        try:
            return ask()
        except (FileNotFoundError, Corrupt):
            if {file.path for file in some} <= set(self._beside(some[0])):
                raise
            return None

    def _put_together(self, some: list[File]) -> bool:
        """Whether it was this run that did."""
        if not self._stand(some):
            return False
        made = self._unless_gone(some, partial(self._made_of, some))
        if made is None or not self._stand(some) or not self._folder.create(*made):
            return False
        kill_at("compact.after_create")
        return True

    def _made_of(self, some: list[File]) -> tuple[AnyPath, bytes]:
        """Where the file of these files lies, and its bytes."""
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
        return path, encoded(table, compression_level=COMPRESSION_LEVEL)

    def _delete_covered(self, one: File, covered: list[File], now_us: int, keep_s: int) -> None:
        """The files that a file was put together from, if it is old enough and they are still what
        it was made from."""
        if now_us - self._folder.written_us(one.path) < keep_s * SECOND_US:
            return
        version = self._folder.version(one.path)
        with HeldFile(one.path) as held:
            told = held.about.get(MADE_FROM, b"").decode()
        made_from = dict(line.split(" ", 1) for line in told.splitlines())
        sources = [file for file in covered if file.path.name in made_from]
        changed = any(
            made_from[file.path.name] != self._folder.version(file.path) for file in sources
        )
        if changed and len(sources) == len(made_from):
            self._folder.replace(*self._made_of(sources), version)
            return
        if not self._stand([one]):
            return
        for file in covered:
            self._folder.remove(file.path)
            self._did.deleted += 1
            kill_at("compact.after_delete")


def _day(file: File) -> str:
    return file.path.parent.name.removeprefix("date=")


def _covers(one: File, file: File) -> bool:
    """Whether a file counts no more because of one that was put together. Another such that goes on
    behind its end may be the only one that holds what is there."""
    end = file.first if file.last is None else file.last
    return one.last is not None and file != one and one.first <= file.first and end <= one.last


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
