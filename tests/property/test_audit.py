"""Tree, proofs and tiles of any size, against the recursion of RFC 6962 over the entries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.audit.errors import Malformed, Refuted
from sluice.audit.merkle import (
    Frontier,
    check_consistency,
    check_inclusion,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
)
from sluice.audit.tiles import Tile, reader, tiles_of
from tests.support.merkle import complete_of, path, proof, tree_hash

MOST = 600
ENTRIES = [i.to_bytes(2, "big") for i in range(MOST)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
sizes = st.one_of(
    st.integers(1, MOST), st.sampled_from([1, 2, 3, 255, 256, 257, 511, 512, 513, 600])
)


def written(size: int) -> dict[str, bytes]:
    """The tiles of a tree, each hash from its definition."""
    files = {}
    for tile in tiles_of(size):
        span = 256**tile.level
        first = tile.index * 256
        files[tile.path] = b"".join(
            tree_hash(ENTRIES[i * span : (i + 1) * span]) for i in range(first, first + tile.width)
        )
    return files


@given(sizes, st.data())
def test_an_inclusion_proof_is_the_one_of_the_rfc_and_holds(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    made = inclusion_proof(index, size, reader(size, written(size).__getitem__))
    assert made == path(index, ENTRIES[:size])
    root = tree_hash(ENTRIES[:size])
    check_inclusion(LEAVES[index], index, size, made, root)
    other = data.draw(st.integers(0, size - 1).filter(lambda i: i != index) | st.just(size))
    with pytest.raises((Malformed, Refuted)):
        check_inclusion(LEAVES[index], other, size, made, root)
    if made:
        at, bit = data.draw(st.integers(0, len(made) * 32 - 1)), data.draw(st.integers(0, 7))
        changed = bytearray(b"".join(made))
        changed[at] ^= 1 << bit
        hashes = [bytes(changed[i : i + 32]) for i in range(0, len(changed), 32)]
        with pytest.raises(Refuted):
            check_inclusion(LEAVES[index], index, size, hashes, root)


@given(sizes, st.data())
def test_a_consistency_proof_is_the_one_of_the_rfc_and_holds(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new))
    made = consistency_proof(old, new, reader(new, written(new).__getitem__))
    assert made == proof(old, ENTRIES[:new])
    first, second = tree_hash(ENTRIES[:old]), tree_hash(ENTRIES[:new])
    check_consistency(old, new, first, second, made)
    forked = [*ENTRIES[: old - 1], b"another", *ENTRIES[old:new]]
    with pytest.raises(Refuted):
        check_consistency(old, new, first, tree_hash(forked), proof(old, forked))
    if old < new:
        with pytest.raises((Malformed, Refuted)):
            check_consistency(old, new, first, second, made[:-1])


@given(st.integers(0, MOST), st.integers(0, MOST))
def test_a_tree_that_grows_has_the_roots_and_tiles_of_its_size(one: int, other: int) -> None:
    since, size = sorted((one, other))
    tree = Frontier(since, complete_of(ENTRIES))
    rows: dict[int, dict[int, bytes]] = {}
    for leaf in LEAVES[since:size]:
        for level, index, root in tree.append(leaf):
            rows.setdefault(level, {})[index] = root
    assert tree.size == size
    assert tree.root() == tree_hash(ENTRIES[:size]) == root_of(size, complete_of(ENTRIES))
    before, after = written(since), written(size)
    grown = {tile.path for tile in tiles_of(size, since)}
    assert after.items() - before.items() == {(name, after[name]) for name in grown}
    for level, found in rows.items():
        for index, root in found.items():
            assert root == reader(size, after.__getitem__)(level, index)


def test_a_proof_in_a_hundred_million_entries_is_small() -> None:
    size = 10**8
    complete = reader(size, lambda name: bytes(32 * _width(name)))
    assert len(inclusion_proof(12_345_678, size, complete)) == 27


def _width(name: str) -> int:
    _, partial, width = name.partition(".p/")
    return int(width) if partial else Tile(0, 0).width
