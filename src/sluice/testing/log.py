"""A compliance log in a folder, and its second place of checkpoints, for tests and benchmarks."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.adapters.tiles.folder import LogFolder
from sluice.adapters.tiles.journal import FileJournal
from sluice.application.append_log import FENCED, AppendLog
from sluice.errors import Corrupt

ORIGIN = "test/eu/0"
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


class KeptCheckpoints:
    """The port Published, in memory. Of two writers the one that came last may publish."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self._writer = 0

    def writer(self) -> Published:
        """One more writer's side: it fences the others."""
        self._writer += 1
        return Published(self, self._writer)

    def publish(self, signed: bytes, writer: int) -> None:
        """Keep it, unless another writer came since."""
        if writer != self._writer:
            raise Corrupt("another process writes this log now", code=FENCED)
        self.kept.append(signed)


class Published:
    """One writer's side of it."""

    def __init__(self, kept: KeptCheckpoints, number: int) -> None:
        self._kept = kept
        self._number = number

    def last(self) -> bytes | None:
        """See the port."""
        return self._kept.kept[-1] if self._kept.kept else None

    def publish(self, signed: bytes) -> None:
        """See the port."""
        self._kept.publish(signed, self._number)


def log_at(
    folder: Path,
    kept: KeptCheckpoints | None = None,
    *,
    origin: str = ORIGIN,
    private: Ed25519PrivateKey = PRIVATE,
) -> AppendLog:
    """A log below ``folder``, its journal beside it, not open yet."""
    store = LogFolder(folder)
    store.prepare()
    published = (kept or KeptCheckpoints()).writer()
    journal = FileJournal(folder.with_suffix(".journal"))
    return AppendLog(store, journal, published, origin=origin, private=private)
