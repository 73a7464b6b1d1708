"""The parts of ``sluice log``: a log's folder, keys, and what brokers say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sluice.adapters.regular_files import read_regular
from sluice.audit.errors import Malformed
from sluice.audit.notes import NOTE_MAX_BYTES, Key, parse_key
from sluice.audit.tiles import Read
from sluice.errors import Corrupt, Unavailable
from sluice.settings import Settings

if TYPE_CHECKING:
    from sluice.adapters.kafka.watermarks import Brokers
    from sluice.application.log_accounting import Watermarks

KEYS_MAX_BYTES = 65_536


def log_files(folder: Path) -> Read:
    """Reader of a log's folder. Raises FileNotFoundError, OSError; Malformed for what no log holds:
    a link, a folder, a device, a file that is too large."""
    from sluice.adapters.tiles.folder import LogFolder

    store = LogFolder(folder)

    def read(path: str) -> bytes:
        try:
            return store.read(path)
        except Corrupt as exc:
            raise Malformed(exc.what) from exc
        except Unavailable as exc:
            raise OSError(exc.what) from exc

    return read


def read_keys(given: Iterable[str]) -> list[Key]:
    """Verifiers' keys: each as it is written, or a file of them, one a line. Raises Malformed,
    Misconfigured."""
    found = []
    for one in given:
        if one.count("+") >= 2:
            found.append(parse_key(one))
        else:
            lines = read_regular(Path(one), KEYS_MAX_BYTES).decode(errors="replace").splitlines()
            found += [parse_key(line) for line in lines if line.strip()]
    return found


def read_note(path: Path) -> bytes:
    """A checkpoint of a file. Raises Misconfigured."""
    return read_regular(path, NOTE_MAX_BYTES)


def read_proof(path: Path) -> bytes:
    """A proof of a file. Raises Misconfigured."""
    return read_regular(path, 2 * NOTE_MAX_BYTES)


@contextmanager
def brokers(settings: Settings, bootstrap: str | None) -> Iterator[Brokers]:
    """Who says what the sources hold, by a client that is not the log's writer's. Raises
    Unavailable."""
    from sluice.adapters.kafka.watermarks import Brokers

    kafka = settings.kafka
    asked = Brokers(bootstrap or kafka.bootstrap, kafka.extra())
    try:
        yield asked
    finally:
        asked.close()


def watermarks(asked: Brokers, settings: Settings) -> Watermarks:
    """Of all partitions of the sources. Raises Unavailable."""
    from sluice.bootstrap.auditor import sources

    return asked.watermarks(sources(settings))
