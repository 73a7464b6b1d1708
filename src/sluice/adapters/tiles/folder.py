"""A log's files in a folder (the port LogStore)."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sluice.adapters.forced import force
from sluice.application.append_log import File
from sluice.audit.tiles import ENTRY_MAX_BYTES, WIDTH
from sluice.errors import Corrupt, Misconfigured, Unavailable

FILE_MAX_BYTES = WIDTH * (ENTRY_MAX_BYTES + 2)
"""A bundle of the longest entries; no file of a log is larger."""
ASIDE = ".aside"
"""Folder of files that are being written: one move brings each to its place."""
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class LogFolder:
    """One log below one folder, which a first write makes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made: set[Path] = set()
        """Folders that are known to be there, durably."""

    def prepare(self) -> None:
        """Make the folder, and remove what a process that died left aside. For its one writer.
        Raises Misconfigured."""
        try:
            (self._root / ASIDE).mkdir(parents=True, exist_ok=True)
            for left in (self._root / ASIDE).iterdir():
                left.unlink()
        except OSError as exc:
            raise Misconfigured(
                f"the log's folder cannot be written: {exc.strerror}", where=str(self._root)
            ) from exc

    def read(self, path: str) -> bytes:
        """See the port. A link is not followed, a device not waited for."""
        where = self._root / path
        try:
            handle = os.open(where, _READ)
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise _unreadable(where, exc) from exc
        with os.fdopen(handle, "rb") as file:
            try:
                found = os.fstat(handle)
                if not stat.S_ISREG(found.st_mode) or found.st_size > FILE_MAX_BYTES:
                    raise Corrupt("this is no file of a log", where=str(where))
                return file.read(found.st_size)  # a larger bound would be allocated
            except OSError as exc:
                raise _unreadable(where, exc) from exc

    def write(self, files: Iterable[File]) -> None:
        """See the port."""
        folders: dict[Path, None] = {}
        try:
            for path, raw in files:
                final = self._root / path
                self._make(final.parent)
                self._place(raw, final)
                folders[final.parent] = None
            for folder in folders:
                force(folder)
        except OSError as exc:
            raise Unavailable(
                f"the log cannot be written: {exc.strerror}",
                where=str(self._root),
                fix="is the disk full, or read-only?",
                code="log_disk",
            ) from exc

    def _make(self, folder: Path) -> None:
        if folder in self._made:
            return
        if folder != self._root:
            self._make(folder.parent)
        folder.mkdir(parents=folder == self._root, exist_ok=True)
        force(folder.parent)
        self._made.add(folder)

    def _place(self, raw: bytes, final: Path) -> None:
        self._make(self._root / ASIDE)
        aside = self._root / ASIDE / uuid.uuid4().hex
        handle = os.open(aside, _WRITE, 0o644)
        try:
            try:
                with os.fdopen(handle, "wb", buffering=0) as file:
                    write_all(file.fileno(), raw)
                    os.fsync(handle)
            except OSError:
                with suppress(OSError):
                    aside.unlink()
                raise
            aside.replace(final)
        except OSError:
            self._made.clear()  # one may have been removed
            raise


def _unreadable(where: Path, exc: OSError) -> Corrupt | Unavailable:
    if exc.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR):
        return Corrupt("this is no file of a log", where=str(where))
    return Unavailable(f"the log cannot be read: {exc.strerror}", where=str(where), code="log_disk")


def write_all(handle: int, raw: bytes) -> None:
    """Write all bytes. Raises OSError."""
    left = memoryview(raw)
    while left:
        left = left[os.write(handle, left) :]
