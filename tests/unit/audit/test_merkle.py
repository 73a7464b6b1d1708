"""Against the test vectors of Certificate Transparency, and what no tree can have."""

import hashlib

import pytest

from sluice.audit.errors import Malformed, Refuted
from sluice.audit.merkle import (
    EMPTY_ROOT,
    Frontier,
    check_consistency,
    check_inclusion,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
)
from tests.support.merkle import complete_of

ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
SIZE = len(ENTRIES)
ROOT = bytes.fromhex(ROOTS[-1])


def test_the_roots_are_those_of_the_published_vectors() -> None:
    tree = Frontier()
    assert tree.root() == EMPTY_ROOT == hashlib.sha256(b"").digest()
    for entry, root in zip(ENTRIES, ROOTS, strict=True):
        tree.append(leaf_hash(entry))
        assert tree.root().hex() == root


def test_a_node_is_no_leaf() -> None:
    leaves = [leaf_hash(entry) for entry in ENTRIES]
    two = leaves[0] + leaves[1]
    proof = inclusion_proof(0, SIZE, complete_of(ENTRIES))
    for forged in (leaf_hash(two), leaf_hash(b"\x01" + two), node_hash(leaves[0], leaves[1])):
        with pytest.raises(Refuted):
            check_inclusion(forged, 0, SIZE, proof, ROOT)


@pytest.mark.parametrize(
    ("index", "size", "length"),
    [(8, 8, 3), (-1, 8, 3), (0, 0, 0), (0, 2**63, 63), (0, 8, 2), (0, 8, 4), (7, 8, 1), (0, 1, 1)],
)
def test_a_proof_that_no_tree_can_have_is_malformed(index: int, size: int, length: int) -> None:
    with pytest.raises(Malformed):
        check_inclusion(leaf_hash(b""), index, size, [bytes(32)] * length, ROOT)


def test_hashes_of_another_length_or_too_many_are_malformed() -> None:
    with pytest.raises(Malformed, match="32 bytes"):
        check_inclusion(leaf_hash(b""), 0, SIZE, [bytes(31)] * 3, ROOT)
    with pytest.raises(Malformed, match="more than 63"):
        check_inclusion(leaf_hash(b""), 0, SIZE, [bytes(32)] * 70, ROOT)
    with pytest.raises(Malformed, match="32 bytes"):
        check_consistency(1, 2, b"", ROOT, [bytes(32)])


@pytest.mark.parametrize(
    ("old", "new", "length"), [(3, 2, 0), (-1, 2, 0), (3, 8, 0), (3, 8, 2), (3, 8, 9), (0, 8, 1)]
)
def test_two_trees_that_cannot_be_compared_are_malformed(old: int, new: int, length: int) -> None:
    with pytest.raises(Malformed):
        check_consistency(old, new, EMPTY_ROOT if not old else ROOT, ROOT, [bytes(32)] * length)


def test_two_roots_of_one_size_are_refuted() -> None:
    check_consistency(SIZE, SIZE, ROOT, ROOT, [])
    for old, root in ((SIZE, bytes(32)), (0, bytes(32))):
        with pytest.raises(Refuted, match="two roots"):
            check_consistency(old, SIZE, root, ROOT, [])


def test_what_cannot_be_proved_is_no_argument() -> None:
    complete = complete_of(ENTRIES)
    with pytest.raises(ValueError, match="no entry 8"):
        inclusion_proof(8, 8, complete)
    with pytest.raises(ValueError, match="no earlier state"):
        consistency_proof(9, 8, complete)
