"""A copy is always a log that verifies by itself, and a beginning of the one it was made of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.adapters.tiles.folder import LogFolder
from sluice.application.append_log import File
from sluice.application.copy_log import LogCopy
from sluice.audit.checkpoints import open_checkpoint
from sluice.audit.merkle import Frontier, leaf_hash
from sluice.audit.tiles import Tile, read_entries, tiles_of
from sluice.errors import Corrupt, Unavailable
from sluice.testing.log import ORIGIN, KeptCheckpoints, log_at


class Grown:
    """A log in a folder and its copy in another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = log_at(folder / "log", KeptCheckpoints())
        self.log.open()
        self.entries: list[bytes] = []
        self.source = LogFolder(folder / "log")
        self.copy = LogFolder(folder / "copy")
        self.copies = LogCopy(self.source, self.copy, self.log.key)

    def grow(self, count: int, what: str = "") -> None:
        first = len(self.entries)
        entries = [f"entry {what}{n}".encode() for n in range(first, first + count)]
        self.entries += entries
        self.log.append(entries)
        self.log.checkpoint()

    def verified(self) -> int:
        """Every entry of the copy, hashed to its checkpoint's root. Returns the size."""
        raw = self.copy.read("checkpoint")
        found = open_checkpoint(raw, ORIGIN, self.log.key).checkpoint
        tree = Frontier()
        for tile in tiles_of(found.size):
            if tile.level == 0:
                for entry in read_entries(self.copy.read, tile):
                    assert entry == self.entries[tree.size]
                    tree.append(leaf_hash(entry))
            else:
                self.copy.read(tile.path)
        assert (tree.size, tree.root()) == (found.size, found.root)
        return found.size


@pytest.fixture
def grown(tmp_path: Path) -> Grown:
    return Grown(tmp_path)


def test_a_copy_follows_the_log_and_writes_only_what_is_new(grown: Grown) -> None:
    assert grown.copies.once() == (0, 0)
    for more, files in ((3, 3), (0, 0), (1, 3), (252, 4), (256, 4), (300, 6), (66_000, 0)):
        if more:
            grown.grow(more)
        done = grown.copies.once()
        assert done.size == len(grown.entries) == grown.verified()
        if files or not more:
            assert done.files == files


def test_a_copy_follows_a_log_whose_key_was_rotated(grown: Grown) -> None:
    grown.grow(3)
    grown.copies.once()
    old = grown.log.key
    grown.log.close()
    private = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)
    grown.log = log_at(grown.folder / "log", private=private, retired=[old])
    grown.log.open()
    grown.grow(2)
    with pytest.raises(Corrupt, match="the copy's checkpoint is not this log's"):
        LogCopy(grown.source, grown.copy, grown.log.key).once()
    assert LogCopy(grown.source, grown.copy, grown.log.key, [old]).once().size == 5
    assert grown.verified() == 5


class Breaks(LogFolder):
    """Takes so many files, and then no more."""

    def __init__(self, root: Path, takes: int) -> None:
        super().__init__(root)
        self.left = takes

    def write(self, files: Iterable[File]) -> None:
        for file in files:
            self.left -= 1
            if self.left < 0:
                raise Unavailable("the bucket went away", code="log_copy")
            super().write([file])


def test_a_copy_that_breaks_off_anywhere_goes_on_and_always_verifies(grown: Grown) -> None:
    grown.grow(300)
    grown.copies.once()
    grown.grow(700)
    for takes in range(12):
        breaks = LogCopy(grown.source, Breaks(grown.folder / "copy", takes), grown.log.key)
        try:
            breaks.once()
        except Unavailable:
            assert grown.verified() == 300
        else:
            assert grown.verified() == 1000
    assert grown.copies.once() == (1000, 0)


def test_a_log_that_was_set_back_or_forked_is_not_copied(tmp_path: Path) -> None:
    grown = Grown(tmp_path)
    grown.grow(300)
    grown.copies.once()
    shorter, forked = Grown(tmp_path / "shorter"), Grown(tmp_path / "forked")
    shorter.grow(200)
    forked.grow(299)
    forked.grow(100, "other ")
    for other, why in ((shorter, "set back"), (forked, "not the log's first")):
        with pytest.raises(Corrupt, match=why):
            LogCopy(other.source, grown.copy, grown.log.key).once()
        assert grown.verified() == 300


class Notices:
    """Keeps nothing but whether a checkpoint came."""

    def __init__(self) -> None:
        self.checkpoint = False

    def read(self, path: str) -> bytes:
        raise FileNotFoundError(path)

    def write(self, files: Iterable[File]) -> None:
        for path, _ in files:
            self.checkpoint |= path == "checkpoint"


def test_damage_is_not_copied(grown: Grown) -> None:
    grown.grow(70_000)
    notices = Notices()
    copies = LogCopy(grown.source, notices, grown.log.key)
    where = grown.folder / "log"
    for path in (
        "checkpoint",
        Tile(0, 7).path,
        Tile(0, 7).entries_path,
        Tile(0, 273, 112).path,
        Tile(0, 273, 112).entries_path,
        Tile(1, 0).path,
        Tile(1, 1, 17).path,
        Tile(2, 0, 1).path,
    ):
        file = where / path
        whole = file.read_bytes()
        file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        with pytest.raises(Corrupt):
            copies.once()
        file.write_bytes(whole[:-1])
        with pytest.raises(Corrupt):
            copies.once()
        file.unlink()
        if path != "checkpoint":
            with pytest.raises(Corrupt):
                copies.once()
        file.write_bytes(whole)
    assert not notices.checkpoint
    assert copies.once().size == 70_000
    assert notices.checkpoint
