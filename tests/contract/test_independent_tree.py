"""Our Merkle tree beside pymerkle's, which shares no code with it: test only, nothing ships it."""

from __future__ import annotations

import pytest
from pymerkle import InmemoryTree

from sluice.audit.errors import Refuted
from sluice.audit.merkle import (
    check_consistency,
    check_inclusion,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
)
from tests.support.merkle import complete_of

ENTRIES = [b"entry %d" % number for number in range(70)]
OURS = complete_of(ENTRIES)


def test_roots_and_proofs_are_those_of_another_implementation() -> None:
    other = InmemoryTree(algorithm="sha256")
    for entry in ENTRIES:
        other.append_entry(entry)
    for size in range(1, len(ENTRIES) + 1):
        root = other.get_root(size)
        assert root == root_of(size, OURS)
        for index in range(0, size, 7):
            ours = inclusion_proof(index, size, OURS)
            theirs = other.prove_inclusion(index + 1, size).serialize()["path"]
            leaf = leaf_hash(ENTRIES[index])
            # Theirs lists the leaf too, and goes from left to right.
            assert sorted(theirs) == sorted(one.hex() for one in [leaf, *ours])
            check_inclusion(leaf, index, size, ours, root)
        for old in range(1, size, 5):
            proof = consistency_proof(old, size, OURS)
            # Theirs takes the older tree apart further than RFC 6962 does: the roots are compared.
            check_consistency(old, size, other.get_root(old), root, proof)
            with pytest.raises(Refuted):
                check_consistency(old, size, other.get_root(old + 1), root, proof)
