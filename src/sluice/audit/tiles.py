"""A tree as files (C2SP tlog-tiles): hashes by 256, entries by 256, none of them ever changed.

A tile holds the roots of 256 neighbouring complete subtrees; those of a tile above are the roots of
whole tiles. Rightmost tiles are partial, with their width in the name, until they are whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sluice.audit.errors import Malformed
from sluice.audit.merkle import HASH_BYTES, SIZE_MAX, Complete, node_hash

WIDTH = 256
HEIGHT = 8
"""Levels of the tree in one tile."""
ENTRY_MAX_BYTES = 65_535
"""A bundle gives the length of an entry in two bytes."""
CACHED_MAX = 4_096
"""Tiles that a reader keeps, 32 MiB."""

Read = Callable[[str], bytes]
"""Path below the log's folder to the bytes. Raises FileNotFoundError where there is none."""


@dataclass(frozen=True, slots=True)
class Tile:
    """level: 0 holds the hashes of entries. width: 1 to 256, below it is partial."""

    level: int
    index: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """Of the tile's hashes.

        >>> Tile(1, 1_234_067, 17).path
        'tile/1/x001/x234/067.p/17'
        """
        return f"tile/{self.level}/{_place(self.index, self.width)}"

    @property
    def entries_path(self) -> str:
        """Of the entries whose hashes a tile of level 0 holds."""
        return f"tile/entries/{_place(self.index, self.width)}"


def _place(index: int, width: int) -> str:
    parts = [f"{index % 1000:03d}"]
    while index := index // 1000:
        parts.append(f"x{index % 1000:03d}")
    suffix = "" if width == WIDTH else f".p/{width}"
    return "/".join(reversed(parts)) + suffix


def tiles_of(size: int, since: int = 0) -> Iterator[Tile]:
    """The tiles of a tree that one of ``since`` entries does not have, level by level.

    >>> [tile.path for tile in tiles_of(70_000)][272:]
    ['tile/0/272', 'tile/0/273.p/112', 'tile/1/000', 'tile/1/001.p/17', 'tile/2/000.p/1']
    """
    level = 0
    while size > 0:
        for index in range(since // WIDTH, size // WIDTH):
            yield Tile(level, index)
        if size % WIDTH and size != since:
            yield Tile(level, size // WIDTH, size % WIDTH)
        size, since, level = size // WIDTH, since // WIDTH, level + 1


def read_tile(read: Read, tile: Tile) -> bytes:
    """The hashes of a tile. Raises Malformed for another length, and what ``read`` raises.

    A partial one may be gone once its tile is whole: its hashes are the first of the whole one.
    """
    found, whole = _read(read, tile.path, Tile(tile.level, tile.index).path)
    if len(found) != (WIDTH if whole else tile.width) * HASH_BYTES:
        raise Malformed(f"{tile.path} has {len(found)} bytes")
    return found[: tile.width * HASH_BYTES]


def read_entries(read: Read, tile: Tile) -> list[bytes]:
    """The entries of a tile of level 0, as :func:`read_tile` its hashes."""
    found, whole = _read(read, tile.entries_path, Tile(0, tile.index).entries_path)
    return unpack_entries(found, WIDTH if whole else tile.width)[: tile.width]


def _read(read: Read, path: str, whole: str) -> tuple[bytes, bool]:
    """The bytes, and whether they are the whole tile's."""
    try:
        return read(path), path == whole
    except FileNotFoundError:
        if path == whole:
            raise
        return read(whole), True


def pack_entries(entries: Sequence[bytes]) -> bytes:
    """A bundle. Raises ValueError for an entry that is too long."""
    for entry in entries:
        if len(entry) > ENTRY_MAX_BYTES:
            raise ValueError(f"an entry of {len(entry)} bytes: at most {ENTRY_MAX_BYTES}")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def unpack_entries(bundle: bytes, width: int) -> list[bytes]:
    """The entries of a bundle, exactly so many. Raises Malformed."""
    found: list[bytes] = []
    at = 0
    while at < len(bundle) and len(found) <= width:
        end = at + 2 + int.from_bytes(bundle[at : at + 2], "big")
        if at + 2 > len(bundle) or end > len(bundle):
            raise Malformed(f"the bundle ends inside entry {len(found)}")
        found.append(bundle[at + 2 : end])
        at = end
    if len(found) != width:
        raise Malformed(f"the bundle has not {width} entries")
    return found


def reader(size: int, read: Read) -> Complete:
    """The roots of complete subtrees of a tree of ``size`` entries, from its tiles.

    It trusts what it reads: a root made from it is compared with a checkpoint's. What it returns
    raises Malformed for a tile of another length, and what ``read`` raises.
    """
    if not 0 <= size <= SIZE_MAX:
        raise Malformed(f"no size of a tree: {size}")
    cached: dict[tuple[int, int], bytes] = {}

    def tile(level: int, index: int) -> bytes:
        key = level, index
        if key not in cached:
            width = min(WIDTH, (size >> HEIGHT * level) - index * WIDTH)
            found = read_tile(read, Tile(level, index, width))
            if len(cached) >= CACHED_MAX:
                del cached[next(iter(cached))]
            cached[key] = found
        return cached[key]

    def complete(level: int, index: int) -> bytes:
        if (index + 1) << level > size:
            raise ValueError(f"no complete subtree {index} of level {level} in a tree of {size}")
        above, inside = divmod(level, HEIGHT)
        first = index << inside  # of 2**inside hashes in the tile's level
        hashes = tile(above, first // WIDTH)
        at = first % WIDTH * HASH_BYTES
        row = [
            hashes[i : i + HASH_BYTES] for i in range(at, at + (HASH_BYTES << inside), HASH_BYTES)
        ]
        while len(row) > 1:
            row = [node_hash(row[i], row[i + 1]) for i in range(0, len(row), 2)]
        return row[0]

    return complete
