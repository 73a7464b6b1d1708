"""Files that people put there: read whole, up to a limit, and only if they are files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sluice.errors import Misconfigured

NOT_REGULAR, TOO_LARGE = "not_regular", "too_large"
"""Codes of a refusal."""
Stamp = tuple[int, int, int]
_ASK = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


def read_regular(path: Path, limit: int, fix: str = "") -> bytes:
    """All bytes of a regular file, or of one that a link leads to.

    limit: bytes. fix: what to do where it cannot be read. A FIFO, a socket or a device is refused
    and not waited for; a file that grows is read to the limit. Raises Misconfigured with the path.
    """
    where = str(path)
    try:
        _check(path.stat(), limit, where)  # opening some devices does something
        handle = os.open(path, _ASK)
        try:
            _check(os.fstat(handle), limit, where)  # another may lie there by now
            with os.fdopen(handle, "rb", closefd=False) as file:
                raw = file.read(limit + 1)
        finally:
            os.close(handle)
    except (OSError, ValueError) as exc:  # ValueError: a name that no file can have
        raise Misconfigured(
            f"cannot read the file: {getattr(exc, 'strerror', None) or exc}", where=where, fix=fix
        ) from exc
    if len(raw) > limit:
        raise _too_large(limit, where)
    return raw


def stamp(path: Path) -> Stamp | None:
    """Size, inode and time of what lies there: another one whenever it is written or replaced. None
    where nothing lies that may be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_ino, found.st_mtime_ns


def _check(found: os.stat_result, limit: int, where: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise Misconfigured(
            "this is no regular file",
            where=where,
            fix="put a file there, or a link to one",
            code=NOT_REGULAR,
        )
    if found.st_size > limit:
        raise _too_large(limit, where)


def _too_large(limit: int, where: str) -> Misconfigured:
    return Misconfigured(f"the file is over {limit:,} bytes", where=where, code=TOO_LARGE)
