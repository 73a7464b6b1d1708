"""A file of the archive that cannot be read is named, whoever reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from sluice.errors import Corrupt
from sluice.shown import shown

SAYS_MAX = 200
"""Characters of what the library says of it."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
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
