"""Names and contents of tiles, and bundles that lie."""

import pytest

from sluice.audit.errors import Malformed
from sluice.audit.tiles import (
    ENTRY_MAX_BYTES,
    Tile,
    pack_entries,
    reader,
    tiles_of,
    unpack_entries,
)


def test_an_index_is_written_in_parts_of_three_digits() -> None:
    assert Tile(0, 0).path == "tile/0/000"
    assert Tile(0, 999_999).entries_path == "tile/entries/x999/999"
    assert Tile(3, 1_000_000, 1).path == "tile/3/x001/x000/000.p/1"


def test_a_tree_has_the_tiles_of_the_specifications_example() -> None:
    found = list(tiles_of(70_000))
    assert [t for t in found if t.width < 256] == [
        Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)
    ]  # fmt: skip
    assert sum(t.level == 0 for t in found) == 274
    assert list(tiles_of(256)) == [Tile(0, 0), Tile(1, 0, 1)]
    assert list(tiles_of(0)) == []


def test_a_tree_that_grew_has_no_more_than_the_new_ones() -> None:
    assert list(tiles_of(257, 256)) == [Tile(0, 1, 1)]
    assert list(tiles_of(512, 300)) == [Tile(0, 1), Tile(1, 0, 2)]
    assert list(tiles_of(300, 300)) == []


def test_a_bundle_gives_back_what_was_put_into_it() -> None:
    entries = [b"", b"a", bytes(ENTRY_MAX_BYTES)]
    assert unpack_entries(pack_entries(entries), 3) == entries
    with pytest.raises(ValueError, match="at most 65535"):
        pack_entries([bytes(ENTRY_MAX_BYTES + 1)])


@pytest.mark.parametrize(
    "bundle",
    [b"", b"\x00", b"\x00\x05abc", b"\x00\x01a", b"\x00\x00" * 3, b"\x00\x01a\x00\x01b\x00"],
)
def test_a_bundle_of_another_length_is_malformed(bundle: bytes) -> None:
    with pytest.raises(Malformed):
        unpack_entries(bundle, 2)


def test_a_tile_of_another_length_is_malformed() -> None:
    complete = reader(300, lambda _path: bytes(32 * 255))
    with pytest.raises(Malformed, match=r"tile/0/001\.p/44 has 8160 bytes"):
        complete(0, 256)
    with pytest.raises(ValueError, match="no complete subtree 300"):
        complete(0, 300)
    with pytest.raises(Malformed, match="no size"):
        reader(-1, lambda _path: b"")
