"""A log copied to a second place, from what its checkpoint there says to its newest checkpoint.

The second place is its own memory: its checkpoint comes last, when all that it is made of is there.
So a copy that was broken off goes on, and what is there is a log that verifies by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sluice.application.append_log import CHECKPOINT, RUNBOOK, File, LogStore
from sluice.audit.checkpoints import Checkpoint, open_checkpoint
from sluice.audit.errors import Malformed, Refuted
from sluice.audit.merkle import HASH_BYTES, leaf_hash, node_hash, root_of
from sluice.audit.notes import Key, signer
from sluice.audit.tiles import (
    WIDTH,
    Tile,
    pack_entries,
    read_entries,
    read_tile,
    reader,
    tiles_of,
)
from sluice.errors import Corrupt


class Copied(NamedTuple):
    """What a round did. size: entries of the checkpoint that the copy has now."""

    size: int
    files: int


class LogCopy:
    """One log and its copy. log: its key, named by its origin. retired: keys that it had before,
    one of which may have signed the copy's checkpoint. For one process."""

    def __init__(
        self, source: LogStore, copy: LogStore, log: Key, retired: Sequence[Key] = ()
    ) -> None:
        self._source = source
        self._copy = copy
        self._log = log
        self._keys = [log, *retired]
        self._written = 0

    def once(self) -> Copied:
        """Copy what is new. Raises Unavailable; Corrupt where the copy is not a beginning of the
        log, or the log's files are not what its checkpoint says: then nothing more is copied."""
        raw, newest = self._checkpoint(self._source, "the log's")
        if newest is None:
            return Copied(0, 0)
        held, there = self._checkpoint(self._copy, "the copy's")
        self._check(newest, there)
        self._written = 0
        since = there.size if there else 0
        if since < newest.size:
            self._copy.write(self._files(newest.size, since))
        if held != raw:
            self._copy.write([(CHECKPOINT, raw)])
            self._written += 1
        return Copied(newest.size, self._written)

    def _checkpoint(self, store: LogStore, whose: str) -> tuple[bytes, Checkpoint | None]:
        try:
            raw = store.read(CHECKPOINT)
            key = signer(raw, self._keys) or self._log
            return raw, open_checkpoint(raw, self._log.name, key).checkpoint
        except FileNotFoundError:
            return b"", None
        except (Malformed, Refuted) as exc:
            raise self._corrupt(f"{whose} checkpoint is not this log's: {exc}") from exc

    def _check(self, newest: Checkpoint, there: Checkpoint | None) -> None:
        """That the copy is a beginning of the log, and the log's tiles are its checkpoint's."""
        complete = reader(newest.size, self._source.read)
        try:
            if root_of(newest.size, complete) != newest.root:
                raise self._corrupt("the log's tiles are not those of its checkpoint")
            if there is None:
                return
            if there.size > newest.size:
                raise self._corrupt(
                    f"the copy has {there.size} entries, the log {newest.size}: it was set back"
                )
            if root_of(there.size, complete) != there.root:
                raise self._corrupt(f"the copy's {there.size} entries are not the log's first")
        except (Malformed, FileNotFoundError) as exc:
            raise self._corrupt(f"a tile of the log is damaged or missing: {exc}") from exc

    def _files(self, size: int, since: int) -> Iterator[File]:
        read = self._source.read
        for tile in tiles_of(size, since):
            entries: list[bytes] = []
            try:
                hashes = read_tile(read, tile)
                if tile.level == 0:
                    entries = read_entries(read, tile)
                    below = b"".join(leaf_hash(entry) for entry in entries)
                else:
                    below = b"".join(
                        _root(read_tile(read, Tile(tile.level - 1, tile.index * WIDTH + at)))
                        for at in range(tile.width)
                    )
            except (Malformed, FileNotFoundError) as exc:
                raise self._corrupt(f"{tile.path} or what it is made of: {exc}") from exc
            if below != hashes:
                raise self._corrupt(f"{tile.path} is not of what lies below it")
            if tile.level == 0:
                self._written += 1
                yield tile.entries_path, pack_entries(entries)
            self._written += 1
            yield tile.path, hashes

    def _corrupt(self, what: str) -> Corrupt:
        return Corrupt(what, where=self._log.name, fix=RUNBOOK, code="log_copy_differs")


def _root(hashes: bytes) -> bytes:
    """Of a whole tile."""
    row = [hashes[i : i + HASH_BYTES] for i in range(0, len(hashes), HASH_BYTES)]
    while len(row) > 1:
        row = [node_hash(row[i], row[i + 1]) for i in range(0, len(row), 2)]
    return row[0]
