"""Entries that are in no tile yet, in one file (the port Journal).

A frame is index (8 bytes), length (4), CRC-32 of these and the entry (4), entry. The file is read
as far as frames are whole and their indexes follow each other; there it is cut.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from sluice.adapters.tiles.folder import force, write_all
from sluice.audit.tiles import ENTRY_MAX_BYTES
from sluice.errors import Misconfigured, Unavailable

_HEAD = struct.Struct(">QII")
_PLACE = struct.Struct(">QI")


class FileJournal:
    """One file, and beside it ``.lock``, which the process that has it open holds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1
        self._lock = -1

    def open(self, size: int) -> list[bytes]:
        """See the port. What is kept is written anew: after an error nobody knows which of the
        pages that are read are on the disk."""
        self._let_go()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            raw = self._path.read_bytes() if self._path.exists() else b""
            entries = [entry for index, entry in frames(raw) if index >= size]
            first = next((index for index, _ in frames(raw) if index >= size), size)
            if first != size:  # of entries that are behind a hole nobody was told
                entries = []
            anew = self._path.with_suffix(".new")
            handle = os.open(anew, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                write_all(handle, pack(size, entries))
                os.fsync(handle)
                anew.replace(self._path)
                force(self._path.parent)
            except OSError:
                os.close(handle)
                raise
            self._file = handle
        except OSError as exc:
            raise _unavailable(self._path, exc) from exc
        return entries

    def append(self, first: int, entries: Sequence[bytes]) -> None:
        """See the port."""
        if self._file < 0:
            raise Unavailable("the journal is not open", where=str(self._path))
        try:
            write_all(self._file, pack(first, entries))
            os.fdatasync(self._file)
        except OSError as exc:
            self._let_go()
            raise _unavailable(self._path, exc) from exc

    def clear(self) -> None:
        """See the port. Not forced to the disk: what comes back has indexes that are in tiles."""
        try:
            os.ftruncate(self._file, 0)
            os.lseek(self._file, 0, os.SEEK_SET)
        except OSError as exc:
            self._let_go()
            raise _unavailable(self._path, exc) from exc

    def close(self) -> None:
        """See the port."""
        self._let_go()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _let_go(self) -> None:
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
            self._file = -1

    def _take_lock(self) -> None:
        if self._lock >= 0:
            return
        path = self._path.with_suffix(".lock")
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


def frames(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Index and entry of the whole frames that a file begins with and that follow each other."""
    at, due = 0, -1
    while at + _HEAD.size <= len(raw):
        index, length, sum_of = _HEAD.unpack_from(raw, at)
        entry = raw[at + _HEAD.size : at + _HEAD.size + length]
        if (
            length > ENTRY_MAX_BYTES
            or len(entry) != length
            or due not in (-1, index)
            or zlib.crc32(entry, zlib.crc32(_PLACE.pack(index, length))) != sum_of
        ):
            return
        yield index, entry
        at, due = at + _HEAD.size + length, index + 1


def _unavailable(path: Path, exc: OSError) -> Unavailable:
    return Unavailable(
        f"the log's journal cannot be written: {exc.strerror}",
        where=str(path),
        fix="is the disk full, or read-only?",
        code="log_disk",
    )
