"""A firm's file opened as text: what it is by its first bytes, unpacked, decoded, line by line.

A name says little: a ``.csv`` may be packed, a workbook or parquet. What is no table is refused
with what to do about it. What is damaged is read up to there.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO, cast

import pyarrow as pa

from sluice.adapters.files.dialect import Dialect
from sluice.errors import Misconfigured, Rejected, SluiceError, Unavailable
from sluice.shown import shown

Packing = Literal["", "gzip", "bz2", "xz", "zstd"]
LINE_MAX = 1 << 20
"""Characters of a line; of a longer one only so many are kept, and it is no row."""
TAKE_MAX = 1 << 23
"""Characters of lines in memory at once, one line more at most."""
DAMAGED = "damaged_file"
"""Code of a file that is cut or was changed."""
HEAD_BYTES = 4096
ZSTD_BYTES = 1 << 16
"""Unpacked at once; where the file is cut, so many at most before the cut are lost with it."""
_UNPACK_BYTES = 1 << 20
_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)
_PACKED: dict[bytes, Packing] = {
    b"\x1f\x8b\x08": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_SAVE_AS = "save it as CSV UTF-8 and give that"
_UNPACK = "unpack it and give the CSV or parquet in it"
_FOREIGN = {
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an Excel workbook (.xls)", _SAVE_AS),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", _UNPACK),
    b"Rar!\x1a\x07": ("a RAR archive", _UNPACK),
    b"Obj\x01": ("an Avro file", "save it as parquet and give that"),
    b"SQLite format 3\0": ("an SQLite database", "export the table as CSV and give that"),
    b"%PDF-": ("a PDF", _SAVE_AS),
    b"{\\rtf": ("a text document (RTF)", _SAVE_AS),
}
_UTF_16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


def is_parquet(path: Path) -> bool:
    """By its first bytes, or by its name. Raises Unavailable, or Misconfigured for no file."""
    if path.suffix in {".parquet", ".pq"}:
        return True
    return head(path)[:4] in (b"PAR1", b"PARE")


def head(path: Path) -> bytes:
    """The first bytes of a file. Raises Unavailable, or Misconfigured for what is no file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Misconfigured(
                "this is no regular file",
                where=str(path),
                fix="its head is read before its rows, so give a file, not a pipe",
            )
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except (OSError, ValueError) as exc:  # ValueError: a name that no file can have
        raise _unavailable(exc, path) from exc


class Lines:
    """Lines of a file from its beginning, some at a time, each with its end.

    number: lines taken so far. ended: there are no more. damage: why there are no more, where the
    file does not end there.
    """

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file, self._path = file, path
        self._next = ""
        self.number = 0
        self.ended = False
        self.damage: SluiceError | None = None
        self.too_long: set[int] = set()
        """Numbers of lines over LINE_MAX."""

    def take(self, most: int) -> list[str]:
        """Up to so many more, fewer where they are long; none at the end. What lies behind the
        last line end of a damaged file is no line."""
        taken: list[str] = []
        characters = 0
        try:
            while len(taken) < most and characters < TAKE_MAX:
                text = self._line()
                if not text:
                    self.ended = True
                    break
                taken.append(text)
                characters += len(text)
                self.number += 1
        except _UNREADABLE as exc:
            self.ended = True
            self.damage = damage(exc, self._path, self.number)
        return taken

    def skip(self, count: int) -> None:
        """Pass over so many."""
        while count > 0 and not self.ended:
            count -= len(self.take(min(count, HEAD_BYTES)))

    def _line(self) -> str:
        text, self._next = self._next or self._file.readline(LINE_MAX), ""
        if len(text) < LINE_MAX:
            return text
        self.too_long.add(self.number + 1)
        rest = text
        while rest and rest[-1] not in "\r\n":
            rest = self._file.readline(LINE_MAX)
        if rest.endswith("\r"):  # the other half of a Windows line end may be cut off
            after = self._file.readline(LINE_MAX)
            if after != "\n":
                self._next = after
        return text


@contextmanager
def opened(path: Path, dialect: Dialect, *, verified: bool = False) -> Iterator[tuple[Lines, str]]:
    """The lines of a CSV, packed or not, and its encoding.

    verified: read what is packed to its end first, so that no row is handed out of a file whose
    checksum does not match; one that is cut is read up to there. Raises Unavailable, Misconfigured
    for what is no text, Rejected for what is damaged.
    """
    first = head(path)
    packing = _packing(first)
    if verified:
        _verify(path, packing)
    try:
        with closing(_unpacked(path, packing)) as raw:
            if packing:
                first = _peek(raw)
            _refuse_foreign(first, path, packing)
            encoding = _encoding(first, dialect, path)
            file = io.TextIOWrapper(raw, encoding=encoding, errors=errors_of(encoding), newline="")
            yield Lines(file, path), encoding
    except _UNREADABLE as exc:
        raise damage(exc, path, 0) from exc


def errors_of(encoding: str) -> str:
    """How bytes that are none of an encoding survive: as lone surrogates, or as U+FFFD where that
    cannot be."""
    one_byte = encoding.startswith(("utf-8", "cp", "iso"))
    return "surrogateescape" if one_byte else "replace"


def unreadable_text(text: str) -> bool:
    """Whether some of its bytes were none of the encoding."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return "\ufffd" in text


def damage(exc: BaseException, path: Path, lines: int) -> SluiceError:
    """What a failed read means. lines: read before."""
    if isinstance(exc, OSError) and exc.errno is not None:
        return _unavailable(exc, path)
    cut = isinstance(exc, EOFError) or "runcated" in str(exc)
    what = "it is cut: what is packed ends too early" if cut else f"it is damaged: {exc}"
    return Rejected(
        f"{shown(what)}, after line {lines:,}" if lines else shown(what),
        where=str(path),
        fix="copy it again from where it came, and compare its size or checksum",
        code=DAMAGED,
    )


def _unavailable(exc: Exception, path: Path) -> Unavailable:
    return Unavailable(f"cannot read it: {getattr(exc, 'strerror', None) or exc}", where=str(path))


def _packing(first: bytes) -> Packing:
    if first[:3] == b"BZh" and first[4:10] == b"1AY&SY":
        return "bz2"
    return next((name for mark, name in _PACKED.items() if first.startswith(mark)), "")


def _unpacked(path: Path, packing: Packing) -> io.BufferedReader:
    if packing == "zstd":
        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"), ZSTD_BYTES)
    # Each has peek and read1, which give what there is before a cut; a buffer around it would not.
    open_: Any = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}.get(packing, Path.open)
    return cast(io.BufferedReader, open_(path, "rb"))


def _peek(raw: io.BufferedReader) -> bytes:
    """The first bytes of what is packed; none where it is cut before them."""
    try:
        return raw.peek(HEAD_BYTES)[:HEAD_BYTES]
    except EOFError:
        return b""


def _verify(path: Path, packing: Packing) -> None:
    """Raises Rejected. Each of the libraries hands out what it has not checked yet."""
    if not packing:
        return
    try:
        with closing(_unpacked(path, packing)) as raw:
            while raw.read(_UNPACK_BYTES):
                pass
    except _UNREADABLE as exc:
        wrong = damage(exc, path, 0)
        if "it is cut" not in wrong.what:
            wrong.what += ", so none of its rows can be trusted"
            raise wrong from exc


def _refuse_foreign(first: bytes, path: Path, packing: Packing) -> None:
    for mark, (what, fix) in _FOREIGN.items():
        if first.startswith(mark):
            raise Misconfigured(f"this is {what}, no CSV or parquet", where=str(path), fix=fix)
    if first.startswith(b"PK\x03\x04") or first.startswith(b"PK\x05\x06"):
        workbook = any(name.startswith("xl/") for name in _members(path))
        what, fix = ("an Excel workbook", _SAVE_AS) if workbook else ("a zip archive", _UNPACK)
        raise Misconfigured(f"this is {what}, no CSV or parquet", where=str(path), fix=fix)
    if first[257:262] == b"ustar":
        raise Misconfigured("this is a tar archive, no CSV", where=str(path), fix=_UNPACK)
    if packing and first[:4] == b"PAR1":
        raise Misconfigured("this is packed parquet", where=str(path), fix="unpack it")
    if packing and _packing(first):
        raise Misconfigured("this is packed twice", where=str(path), fix="unpack it once")


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return []


def _encoding(first: bytes, dialect: Dialect, path: Path) -> str:
    """By the mark in its first bytes, by their pattern, or as the dialect says."""
    if first.startswith(b"\xef\xbb\xbf"):
        return "utf-8-sig"
    if first[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        raise Misconfigured("this is UTF-32", where=str(path), fix="save it as UTF-8")
    if first[:2] in _UTF_16:
        return _UTF_16[first[:2]]
    if dialect.encoding != "utf-8":
        return dialect.encoding
    line = re.split(rb"[\r\n]", first, maxsplit=1)[0]
    even, odd = line[::2], line[1::2]
    if odd and all(even) and not any(odd):
        return "utf-16-le"
    if odd and all(odd) and not any(even):
        return "utf-16-be"
    if b"\0" in line:
        raise Misconfigured(
            "its first line holds NUL bytes: this is no text",
            where=f"{path}:1",
            fix="give CSV or parquet; of a text in UTF-16 name the encoding in the mapping",
        )
    return "utf-8"
