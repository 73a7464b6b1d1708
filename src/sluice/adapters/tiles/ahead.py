"""Entries that are in no tile yet, in files of a folder (the port WriteAhead).

A frame is index (8 bytes), length (4), CRC-32 of these and the entry (4), entry. A file is named by
the index of its first frame. Files are read in order as far as frames are whole and their indexes
follow each other; there they are cut.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from sluice.adapters.forced import force
from sluice.adapters.tiles.folder import write_all
from sluice.audit.tiles import ENTRY_MAX_BYTES
from sluice.errors import Misconfigured, Unavailable

_HEAD = struct.Struct(">QII")
_PLACE = struct.Struct(">QI")
_SUFFIX = ".entries"
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


class WriteAheadFiles:
    """A folder, with a file ``lock`` in it that the process holds which has it open."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._file = -1
        self._path = root
        self._lock = -1
        self.torn = False
        """Whether ``open`` cut something off."""

    def open(self, size: int) -> list[bytes]:
        """See the port. What is kept is written anew: after an error nobody knows which of the
        pages that are read are on the disk."""
        self._let_go()
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            old = self._files()
            entries, self.torn = _read(old, size)
            self._begin(size, pack(size, entries))
            for path in old:
                if path != self._path:
                    path.unlink()
            force(self._root)
        except OSError as exc:
            self._let_go()
            raise _unavailable(self._root, exc) from exc
        return entries

    def append(self, first: int, entries: Sequence[bytes]) -> None:
        """See the port."""
        if self._file < 0:
            raise Unavailable("the write-ahead file is not open", where=str(self._root))
        try:
            write_all(self._file, pack(first, entries))
            os.fdatasync(self._file)
        except OSError as exc:
            self._let_go()
            raise _unavailable(self._root, exc) from exc

    def rotate(self, size: int) -> None:
        """See the port."""
        self._let_go()
        try:
            self._begin(size, b"")
        except OSError as exc:
            raise _unavailable(self._root, exc) from exc

    def forget(self, size: int) -> None:
        """See the port. Not forced to the disk: what comes back has indexes that are in tiles."""
        try:
            for path in self._files():
                if _first(path) < size and path != self._path:
                    path.unlink(missing_ok=True)
        except OSError as exc:
            raise _unavailable(self._root, exc) from exc

    def close(self) -> None:
        """See the port."""
        self._let_go()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _files(self) -> list[Path]:
        return sorted(path for path in self._root.iterdir() if path.suffix == _SUFFIX)

    def _begin(self, size: int, raw: bytes) -> None:
        """Go on in a file that begins with the entry of this index. Raises OSError."""
        path = self._root / f"{size:020}{_SUFFIX}"
        aside = path.with_suffix(".new")
        handle = os.open(aside, _FLAGS, 0o600)
        try:
            write_all(handle, raw)
            os.fsync(handle)
            aside.replace(path)
            force(self._root)
        except OSError:
            os.close(handle)
            raise
        self._file, self._path = handle, path

    def _let_go(self) -> None:
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
            self._file = -1

    def _take_lock(self) -> None:
        if self._lock >= 0:
            return
        path = self._root / "lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(handle)
            raise Misconfigured(
                "another process writes this log",
                where=str(path),
                fix="a log has one writer: give each shard a folder of its own",
                code="two_writers",
            ) from exc
        except OSError:
            os.close(handle)
            raise
        self._lock = handle


def pack(first: int, entries: Sequence[bytes]) -> bytes:
    """Frames of entries that follow each other."""
    parts = []
    for index, entry in enumerate(entries, first):
        sum_of = zlib.crc32(entry, zlib.crc32(_PLACE.pack(index, len(entry))))
        parts += [_HEAD.pack(index, len(entry), sum_of), entry]
    return b"".join(parts)


def _read(files: Iterable[Path], size: int) -> tuple[list[bytes], bool]:
    """The entries from ``size`` on, and whether something behind them is not whole."""
    found: list[bytes] = []
    torn = False
    for path in files:
        raw = path.read_bytes()
        at = 0
        for index, entry, end in _frames(raw):
            if index > size + len(found):  # of what lies behind a hole nobody was told
                return found, True
            if index == size + len(found):
                found.append(entry)
            at = end
        torn = torn or at < len(raw)
    return found, torn


def _frames(raw: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Index, entry and end of the whole frames that a file begins with."""
    at = 0
    while at + _HEAD.size <= len(raw):
        index, length, sum_of = _HEAD.unpack_from(raw, at)
        entry = raw[at + _HEAD.size : at + _HEAD.size + length]
        if (
            length > ENTRY_MAX_BYTES
            or len(entry) != length
            or zlib.crc32(entry, zlib.crc32(_PLACE.pack(index, length))) != sum_of
        ):
            return
        at += _HEAD.size + length
        yield index, entry, at


def _first(path: Path) -> int:
    return int(path.stem)


def _unavailable(path: Path, exc: OSError) -> Unavailable:
    return Unavailable(
        f"the log's write-ahead file cannot be written: {exc.strerror}",
        where=str(path),
        fix="is the disk full, or read-only?",
        code="log_disk",
    )
