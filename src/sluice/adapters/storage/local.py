"""A folder of this machine. A new file is written aside, forced to disk, then linked to its name:
the link fails if the name is taken. The file system needs hard links."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from sluice.adapters.forced import force
from sluice.adapters.storage.port import AnyPath, begins, changed
from sluice.errors import Misconfigured, Unavailable
from sluice.faultpoints import kill_at

ORPHAN_S = 3600
"""A file aside that is older was left by a process that died."""


class LocalFolder:
    """See :class:`sluice.adapters.storage.Folder`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def prepare(self) -> None:
        """See the port."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            for aside in self._root.glob("*/date=*/.part-*"):
                if time.time() - aside.stat().st_mtime > ORPHAN_S:
                    aside.unlink(missing_ok=True)
        except OSError as exc:
            raise Misconfigured(
                f"the archive cannot be written: {exc}", where=str(self._root), fix="archiver.root"
            ) from exc

    def days(self, kind: str) -> list[str]:
        """See the port."""
        return sorted(day.name[5:] for day in (self._root / kind).glob("date=*"))

    def listed(self, kind: str, since: str = "", until: str = "") -> Iterator[AnyPath]:
        """See the port."""
        for day in self.days(kind):
            if since <= day and (not until or day <= until):
                yield from sorted((self._root / kind / f"date={day}").glob("part-*.parquet"))

    def of_partition(self, kind: str, day: str, partition: int) -> Iterator[AnyPath]:
        """See the port."""
        found = (self._root / kind / f"date={day}").glob(f"{begins(partition)}*.parquet")
        yield from sorted(found)

    def create(self, path: AnyPath, raw: bytes) -> bool:
        """See the port."""
        final = cast(Path, path)
        aside = final.parent / f".{final.name}.{uuid.uuid4().hex}"
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            _write(aside, raw)
            kill_at("archiver.before_link")
            try:
                os.link(aside, final)
            except FileExistsError:
                return False
            kill_at("archiver.after_link")
            force(final.parent)
            force(final.parent.parent)
        except OSError as exc:
            raise _unwritable(final, exc) from exc
        finally:
            aside.unlink(missing_ok=True)
        return True

    def version(self, path: AnyPath) -> str:
        """See the port."""
        held = cast(Path, path).stat()
        return f"{held.st_ino}-{held.st_mtime_ns}"

    def written_us(self, path: AnyPath) -> int:
        """See the port."""
        return cast(Path, path).stat().st_mtime_ns // 1000

    def replace(self, path: AnyPath, raw: bytes, version: str) -> None:
        """See the port."""
        final = cast(Path, path)
        aside = final.parent / f".{final.name}.{uuid.uuid4().hex}"
        try:
            _write(aside, raw)
            kill_at("erasure.before_rename")
            if self.version(final) != version:
                raise changed(final)
            aside.replace(final)
            force(final.parent)
        except OSError as exc:
            raise _unwritable(final, exc) from exc
        finally:
            aside.unlink(missing_ok=True)

    def remove(self, path: AnyPath) -> None:
        """See the port."""
        try:
            cast(Path, path).unlink(missing_ok=True)
        except OSError as exc:
            raise _unwritable(path, exc) from exc


def _unwritable(path: AnyPath, exc: OSError) -> Unavailable:
    return Unavailable(
        f"the archive cannot be written: {exc}",
        where=str(path),
        fix="is the disk full? run it again: it goes on from there",
    )


def _write(path: Path, raw: bytes) -> None:
    with path.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
