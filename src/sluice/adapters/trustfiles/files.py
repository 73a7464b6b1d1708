"""The trust folder followed, the activation beside what it activates, and a file of epochs."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sluice.adapters.regular_files import Stamp, read_regular, stamp
from sluice.domain.activation import (
    ACTIVATION,
    MAX_BYTES,
    MOVED,
    Known,
    SignedActivation,
    What,
)
from sluice.domain.clock import Clock
from sluice.domain.release import NO_KEYS, TrustedKeys
from sluice.errors import Misconfigured, SluiceError


class TrustFolder:
    """The keys that are trusted now, read again whenever a file changes.

    read: the keys of a path, whenever they end. While what lies there cannot be read, nobody is
    trusted with anything new.
    """

    def __init__(self, path: Path, read: Callable[[Path], TrustedKeys], clock: Clock) -> None:
        """Read the keys now. Raises Misconfigured."""
        self._path = path
        self._read = read
        self._clock = clock
        self._seen = self._signature()
        self._all = read(path)
        self._now = self._all.at(clock.now_us())
        self.refused: SluiceError | None = None
        """Why what lies there cannot be read; None if it can."""

    @property
    def keys(self) -> Mapping[str, Ed25519PublicKey]:
        """Trusted as of the last poll."""
        return self._now.keys

    @property
    def withdrawn(self) -> Mapping[str, str]:
        """Not trusted any more, as of the last poll, and why."""
        return self._now.withdrawn

    def poll(self) -> bool:
        """Read again what changed, and let go whose time has ended; whether that changed anything.
        Raises Misconfigured once for the same content; a folder without a key left can be read
        all the same, and nobody is trusted. Costs a stat of each file."""
        before = self._now
        seen = self._signature()
        if seen != self._seen:
            try:
                self._all = self._read(self._path)
            except Misconfigured as error:
                self._seen, self._all = seen, TrustedKeys({})
                self._now = self._all
                self.refused = None if error.code == NO_KEYS else error
                raise
            self._seen, self.refused = seen, None
        self._now = self._all.at(self._clock.now_us())
        return (
            self._now.keys.keys() != before.keys.keys() or self._now.withdrawn != before.withdrawn
        )

    def _signature(self) -> tuple[tuple[str, Stamp], ...]:
        files = sorted(self._path.glob("*.pub")) if self._path.is_dir() else [self._path]
        return tuple((file.name, found) for file in files if (found := stamp(file)))


class ActivationFile:
    """The activation in a folder, which may be a link to another one from now on."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ACTIVATION
        self._seen: Stamp | None = None
        self._read: SignedActivation | None = None

    def read(self) -> SignedActivation | None:
        """What lies there now, None without one; read again only when the file is another one.
        Raises Misconfigured if it cannot be read, is too large, or no regular file."""
        found = stamp(self._path)
        if found is None or found != self._seen:
            self._read = (
                None
                if found is None
                else SignedActivation.parse(read_regular(self._path, MAX_BYTES))
            )
            self._seen = found
        return self._read

    def write(self, signed: SignedActivation) -> None:
        """Put it there, whole or not at all. Raises Misconfigured."""
        _replace(self._path, signed.note())

    def replace(self, signed: SignedActivation, before: SignedActivation | None) -> None:
        """The same, if the statement that lies there is still that of ``before``. Raises
        Misconfigured, with code MOVED if it is not."""
        with _locked(self._path):
            found = self.read()
            if (found and found.statement) != (before and before.statement):
                raise Misconfigured(
                    "somebody went a step in between",
                    where=str(self._path),
                    fix="look what is there now: sluice release list",
                    code=MOVED,
                )
            self.write(signed)


class EpochFile:
    """The highest epochs, in a file that several processes may share; without a path, in memory.

    Whoever can write it can forget them: it belongs where those who bring releases and policies
    cannot write.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._memory: dict[str, Known] = {}

    def known(self, what: What) -> Known:
        """The highest of those in the file and those seen here. Raises Misconfigured."""
        return max(
            self._stored().get(what, Known()), self._memory.get(what, Known()), key=lambda k: k[0]
        )

    def raise_to(self, what: What, known: Known) -> None:
        """Remember a higher one; a lower one changes nothing. Raises Misconfigured."""
        if known.epoch > self._memory.get(what, Known()).epoch:
            self._memory[what] = known
        if self._path is None:
            return
        with _locked(self._path):
            stored = self._stored()
            if known.epoch > stored.get(what, Known()).epoch:
                _replace(self._path, msgspec.json.encode({**stored, what: known}) + b"\n")

    def _stored(self) -> dict[str, Known]:
        if self._path is None or stamp(self._path) is None:
            return {}
        try:
            return msgspec.json.decode(read_regular(self._path, MAX_BYTES), type=dict[str, Known])
        except msgspec.DecodeError as exc:
            raise Misconfigured(
                f"not a file of epochs: {exc}",
                where=str(self._path),
                fix="bring it back from where it was kept, or set decider.epoch_file to a new one",
            ) from exc


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as exc:
        raise Misconfigured(f"cannot write the file: {exc.strerror}", where=str(path)) from exc


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock ends with its holder."""
    try:
        handle = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as exc:
        raise Misconfigured(f"cannot write beside it: {exc.strerror}", where=str(path)) from exc
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
