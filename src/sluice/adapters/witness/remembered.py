"""What a witness remembers: one file a log, its last cosigned checkpoint as it was cosigned."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from pathlib import Path

from sluice.adapters.forced import force
from sluice.adapters.regular_files import read_regular
from sluice.errors import Misconfigured, Unavailable
from sluice.faultpoints import kill_at

NOTE_MAX_BYTES = 1 << 17
FORKS_MAX = 16
"""Proofs against logs that are kept; one is enough for a court, and nobody fills the disk."""

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


class RememberedFiles:
    """A folder. Only one process may have it open."""

    def __init__(self, folder: Path) -> None:
        """Make the folder where it is not there, and lock it. Raises Misconfigured."""
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise Misconfigured(
                f"the witness cannot remember here: {exc.strerror}",
                where=str(folder),
                fix="set witness.state_dir to a folder that it may write",
            ) from exc
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(self._lock)
            raise Misconfigured(
                "another witness has this folder open",
                where=str(folder),
                fix="run one; two of them would each cosign what the other did not see",
            ) from exc

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._lock)

    def read(self, origin: str) -> bytes | None:
        """The note, None of a log that was never cosigned. Raises Misconfigured."""
        path = self._path(origin)
        return read_regular(path, NOTE_MAX_BYTES) if path.exists() else None

    def write(self, origin: str, note: bytes) -> None:
        """Replace the note: the one before or this one, whatever happens. Raises Unavailable."""
        path = self._path(origin)
        try:
            self._replace(path, note)
        except OSError as exc:
            raise _not_remembered(path, exc) from exc

    def check(self) -> None:
        """See the port."""
        path = self._folder / "check"
        try:
            self._replace(path, b"does the disk take it?\n")
        except OSError as exc:
            raise _not_remembered(path, exc) from exc

    def keep_fork(self, origin: str, note: bytes) -> None:
        """Keep a proof against a log, beside the note that it contradicts. Raises nothing."""
        with contextlib.suppress(OSError):
            folder = self._folder / "forks"
            folder.mkdir(mode=0o700, exist_ok=True)
            if len(list(folder.glob("*.note"))) < FORKS_MAX:
                name = f"{_name(origin)}-{hashlib.sha256(note).hexdigest()[:16]}.note"
                self._replace(folder / name, note)

    def _path(self, origin: str) -> Path:
        return self._folder / f"{_name(origin)}.note"

    def _replace(self, path: Path, note: bytes) -> None:
        fresh = path.with_suffix(".new")
        handle = os.open(fresh, _WRITE, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(note)
            file.flush()
            os.fsync(file.fileno())
        kill_at("witness.before_rename")
        fresh.replace(path)
        kill_at("witness.after_rename")
        force(path.parent)
        kill_at("witness.after_sync")


def _not_remembered(path: Path, exc: OSError) -> Unavailable:
    return Unavailable(
        f"the witness cannot remember what it would cosign: {exc.strerror}",
        where=str(path),
        fix="docs/runbooks/witness.md",
        code="not_remembered",
    )


def _name(origin: str) -> str:
    """A name that any origin may have; the note's first line says whose it is."""
    return hashlib.sha256(origin.encode()).hexdigest()[:32]
