"""A whole log checked against what its checkpoints say, entry by entry, in one pass.

Each entry is hashed and compared with its tile, each root of a complete subtree with the tile above
it, and the roots of all entries with the checkpoints. Of a tree of any size the pass holds one
bundle, a tile a level and the tree's right edge.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from sluice.audit.checkpoints import Checkpoint
from sluice.audit.errors import Malformed, Refuted, Tampered
from sluice.audit.merkle import HASH_BYTES, Frontier, check_consistency, consistency_proof, root_of
from sluice.audit.tiles import HEIGHT, WIDTH, Read, Tile, read_entries, read_tile, reader

_PAIR = 2 * HASH_BYTES


def verified_bundles(
    read: Read,
    of: Checkpoint,
    since: Checkpoint | None = None,
    known: Sequence[Checkpoint] = (),
) -> Iterator[tuple[int, list[bytes]]]:
    """Bundles of a log's entries in order, each with the index of its first, hashes checked.

    of: whose signature was checked. since: an older one that is believed: the entries that it holds
    are not read again but for those of its last bundle, which are not given back. known: others
    that were once published; all of them must be of this tree. What was given back is only known
    to be the log's when the iterator ends, for the roots are compared as it goes on.

    Raises Tampered with the entries that it may be; OSError for what cannot be read for another
    reason than that it is not there.
    """
    for one in (*known, *([] if since is None else [since])):
        if one.size > of.size:
            raise Tampered(
                f"a checkpoint of {one.size} entries was published, the log has {of.size}",
                first=of.size,
                until=one.size,
            )
    start = 0 if since is None else since.size
    yield from _Pass(read, of, start, [*known, *([] if since is None else [since])]).bundles(start)


class _Pass:
    """State of one pass. agreed: entries up to which a published root was found true."""

    def __init__(
        self, read: Read, of: Checkpoint, start: int, published: Sequence[Checkpoint]
    ) -> None:
        self._read = read
        self._of = of
        self._above: dict[int, tuple[int, bytes]] = {}
        self._agreed = 0
        self._published = sorted({*published, of}, key=lambda one: one.size)
        first = start // WIDTH * WIDTH
        try:
            complete = reader(of.size, read)
            self._tree = Frontier(first, complete)
            while self._published and self._published[0].size < first:
                one = self._published.pop(0)
                self._compare(one, root_of(one.size, complete))
        except (Malformed, FileNotFoundError) as exc:
            raise Tampered(
                f"a tile of the entries before {start} is damaged or missing: {exc}",
                first=0,
                until=start,
            ) from exc
        self._compare_at(first, b"")

    def bundles(self, start: int) -> Iterator[tuple[int, list[bytes]]]:
        size = self._of.size
        for index in range(start // WIDTH, -(-size // WIDTH)):
            first = index * WIDTH
            tile = Tile(0, index, min(WIDTH, size - first))
            entries, hashes = self._bundle(tile)
            self._compare_at(first, hashes)
            if tile.width == WIDTH:
                self._grow(HEIGHT, _root_of_tile(hashes))
                self._compare_at(first + WIDTH, b"")
            if (skipped := max(0, start - first)) < tile.width:
                yield first + skipped, entries[skipped:] if skipped else entries

    def _bundle(self, tile: Tile) -> tuple[list[bytes], bytes]:
        """Entries and their hashes, equal to the tile's."""
        first, until = tile.index * WIDTH, tile.index * WIDTH + tile.width
        expected = self._tile(tile)
        try:
            entries = read_entries(self._read, tile)
        except FileNotFoundError as exc:
            raise Tampered(f"{tile.entries_path} is missing", first=first, until=until) from exc
        except Malformed as exc:
            at = min(_first_other(self._prefix(tile), expected), tile.width - 1)
            raise Tampered(f"{tile.entries_path}: {exc}", first=first + at, until=until) from exc
        sha256 = hashlib.sha256
        hashes = b"".join([sha256(b"\x00" + entry).digest() for entry in entries])
        if hashes != expected:
            at = first + _first_other(entries, expected)
            raise Tampered(
                f"entry {at} is not what {tile.path} holds the hash of", first=at, until=at + 1
            )
        return entries, hashes

    def _prefix(self, tile: Tile) -> Iterator[bytes]:
        """Entries of a damaged bundle as far as they come apart."""
        try:
            bundle = self._read(tile.entries_path)
        except (FileNotFoundError, Malformed):
            return
        at = 0
        while at + 2 <= len(bundle):
            end = at + 2 + int.from_bytes(bundle[at : at + 2], "big")
            if end > len(bundle):
                return
            yield bundle[at + 2 : end]
            at = end

    def _tile(self, tile: Tile) -> bytes:
        """The hashes of a tile. Raises Tampered where there are not so many."""
        span = WIDTH**tile.level
        first = tile.index * WIDTH * span
        until = min(first + tile.width * span, self._of.size)
        try:
            return read_tile(self._read, tile)
        except FileNotFoundError as exc:
            raise Tampered(f"{tile.path} is missing", first=first, until=until) from exc
        except Malformed as exc:
            raise Tampered(f"{tile.path}: {exc}", first=first, until=until) from exc

    def _grow(self, level: int, root: bytes) -> None:
        """Take a subtree, and compare what it completes with the tiles above."""
        for at, index, found in self._tree.take(level, root):
            above, inside = divmod(at, HEIGHT)
            if inside or not above:
                continue
            number, place = divmod(index, WIDTH)
            known = self._above.get(above)
            if known is None or known[0] != number:
                width = min(WIDTH, (self._of.size >> at) - number * WIDTH)
                known = self._above[above] = number, self._tile(Tile(above, number, width))
            if known[1][place * HASH_BYTES : (place + 1) * HASH_BYTES] != found:
                raise Tampered(
                    f"tile {number} of level {above} holds another hash of these entries than "
                    "the tiles below it",
                    first=index << at,
                    until=(index + 1) << at,
                )

    def _compare_at(self, first: int, hashes: bytes) -> None:
        """The published roots of the sizes from first to as many as there are hashes of entries."""
        while self._published and self._published[0].size <= first + len(hashes) // HASH_BYTES:
            one = self._published.pop(0)
            tree = self._tree.copy()
            for at in range(0, (one.size - first) * HASH_BYTES, HASH_BYTES):
                tree.append(hashes[at : at + HASH_BYTES])
            self._compare(one, tree.root())

    def _compare(self, one: Checkpoint, root: bytes) -> None:
        if one.root != root:
            raise Tampered(
                f"the tree of these {one.size} entries is not the one of the checkpoint",
                first=self._agreed,
                until=max(one.size, self._agreed),
            )
        self._agreed = one.size


def check_grown(read: Read, old: Checkpoint, new: Checkpoint) -> None:
    """That a log only grew between two checkpoints, by its tiles.

    Reads a few tiles a level. Raises Tampered for a fork: two trees of which none is a beginning of
    the other; Malformed for tiles of another length, OSError for those that are not there.
    """
    if old.size > new.size:
        old, new = new, old
    complete = reader(new.size, read)
    try:
        proof = consistency_proof(old.size, new.size, complete)
        check_consistency(old.size, new.size, old.root, new.root, proof)
    except Refuted as exc:
        raise Tampered(str(exc), first=0, until=old.size) from exc


def _root_of_tile(hashes: bytes) -> bytes:
    """Of a whole tile."""
    sha256 = hashlib.sha256
    while len(hashes) > HASH_BYTES:
        hashes = b"".join(
            [sha256(b"\x01" + hashes[i : i + _PAIR]).digest() for i in range(0, len(hashes), _PAIR)]
        )
    return hashes


def _first_other(entries: Iterator[bytes] | Sequence[bytes], expected: bytes) -> int:
    """Place of the first entry whose hash is not the expected one; how many there are if none."""
    at = -1
    for at, entry in enumerate(entries):
        found = hashlib.sha256(b"\x00" + entry).digest()
        if found != expected[at * HASH_BYTES : (at + 1) * HASH_BYTES]:
            return at
    return at + 1
