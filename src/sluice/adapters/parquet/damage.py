"""A file of the archive that cannot be read is named, whoever reads it.

All reading of the archive goes through :class:`HeldFile`, or through :func:`reading` where Arrow
itself chooses what to read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from sluice.adapters.storage import AnyPath
from sluice.errors import Corrupt
from sluice.shown import shown

SAYS_MAX = 200
"""Characters of what the library says of it."""
LAST = b"sluice.last_offset"


def source(path: AnyPath) -> Any:
    """What pyarrow reads a file from."""
    return path if isinstance(path, Path) else path.open()


@contextmanager
def reading(path: AnyPath) -> Iterator[None]:
    """Raises Corrupt with the path for what a damaged file makes Arrow raise inside."""
    try:
        yield
    except (OSError, ValueError, KeyError, pa.ArrowException) as exc:
        raise Corrupt(
            f"a file of the archive cannot be read: {shown(str(exc), SAYS_MAX)}",
            where=str(path),
            fix="restore it from a copy, or make it again: docs/how-to/backfill-your-history.md",
            code="damaged_file",
        ) from exc


class HeldFile:
    """One file of the archive, open for reading. Pages that carry a checksum are held against it.

    dictionary: columns to be read as codes and texts. Raises Corrupt with its path, here and in
    every method, for what cannot be read of it.
    """

    def __init__(self, path: AnyPath, *, dictionary: Sequence[str] = ()) -> None:
        self.path = path
        with reading(path):
            self._file = pq.ParquetFile(
                source(path),
                read_dictionary=list(dictionary),
                page_checksum_verification=True,
                pre_buffer=not isinstance(path, Path),  # columns side by side in one request
            )
            self.names: list[str] = self._file.schema_arrow.names
            self.about: dict[bytes, bytes] = self._file.schema_arrow.metadata or {}
            self.footer: Any = self._file.metadata

    @property
    def last(self) -> int:
        """Offset of its last row, as who wrote it noted."""
        with reading(self.path):
            return int(self.about[LAST])

    @property
    def groups(self) -> list[int]:
        """Rows of each row group."""
        return [self.footer.row_group(g).num_rows for g in range(self.footer.num_row_groups)]

    def read(
        self,
        columns: Sequence[str] | None = None,
        groups: Sequence[int] | None = None,
        *,
        use_threads: bool = True,
    ) -> pa.Table:
        """Those of the columns that it has, since one of an older release may lack some; None is
        all of them. groups: numbers of row groups; None is all of them."""
        have = None if columns is None else [name for name in columns if name in self.names]
        with reading(self.path):
            if groups is None:
                return self._file.read(have, use_threads=use_threads)
            return self._file.read_row_groups(list(groups), have, use_threads=use_threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
