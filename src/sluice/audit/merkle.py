"""The Merkle tree of RFC 6962, 2.1 and RFC 9162, 2.1: roots, inclusion and consistency proofs.

A leaf and a node are hashed with another first byte, so that no node passes for a leaf. What proofs
are made from is any reader of the roots of complete subtrees; what checks them needs none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from sluice.audit.errors import Malformed, Refuted

HASH_BYTES = 32
SIZE_MAX = 2**63 - 1
PROOF_MAX = 63
"""Hashes of a proof: a tree has at most so many levels."""
EMPTY_ROOT = hashlib.sha256().digest()

Complete = Callable[[int, int], bytes]
"""(level, index) to the root of the entries index * 2**level to (index + 1) * 2**level - 1."""


def leaf_hash(entry: bytes) -> bytes:
    """Of the exact bytes of an entry.

    >>> leaf_hash(b"").hex()[:16]
    '6e340b9cffb37a98'
    """
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Of two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a growing tree: all that an append needs. 32 bytes a level."""

    def __init__(self, size: int = 0, complete: Complete | None = None) -> None:
        """complete: of a tree of ``size`` entries, to go on from."""
        self.size = size
        self._peaks: list[tuple[int, bytes]] = []
        at = 0
        for level in range(size.bit_length() - 1, -1, -1):
            if size >> level & 1:
                assert complete is not None
                self._peaks.append((level, complete(level, at >> level)))
                at += 1 << level

    def append(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Take a leaf's hash. Returns the subtrees that it completes, itself first, as level, index
        and root."""
        return self.take(0, leaf)

    def take(self, level: int, root: bytes) -> list[tuple[int, int, bytes]]:
        """The same of a complete subtree, whose place is the next one: the size is a multiple of
        its 2**level entries. Raises ValueError if not."""
        if self.size & ((1 << level) - 1):
            raise ValueError(f"no complete subtree of level {level} begins at {self.size}")
        grown = self.size + (1 << level)
        index = self.size >> level
        done = [(level, index, root)]
        while self._peaks and self._peaks[-1][0] == level:
            root = node_hash(self._peaks.pop()[1], root)
            level, index = level + 1, index >> 1
            done.append((level, index, root))
        self._peaks.append((level, root))
        self.size = grown
        return done

    def copy(self) -> Frontier:
        """Another one of the same tree."""
        found = Frontier()
        found.size, found._peaks = self.size, self._peaks.copy()
        return found

    def root(self) -> bytes:
        """Of all entries."""
        if not self._peaks:
            return EMPTY_ROOT
        found = self._peaks[-1][1]
        for _, left in reversed(self._peaks[:-1]):
            found = node_hash(left, found)
        return found


def root_of(size: int, complete: Complete) -> bytes:
    """Of the first ``size`` entries."""
    return _root(0, size, complete) if size else EMPTY_ROOT


def _root(first: int, until: int, complete: Complete) -> bytes:
    """Of entries first to until - 1, which begin a subtree of the tree."""
    count = until - first
    level = (count - 1).bit_length()
    if count == 1 << level:
        return complete(level, first >> level)
    half = first + (1 << (level - 1))
    return node_hash(_root(first, half, complete), _root(half, until, complete))


def inclusion_proof(index: int, size: int, complete: Complete) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962, 2.1.1: the siblings on the way up, the leaf's first.

    Raises ValueError for an index outside the tree.
    """
    if not 0 <= index < size:
        raise ValueError(f"no entry {index} in a tree of {size}")
    first, until = 0, size
    found: list[bytes] = []
    while until - first > 1:
        half = first + (1 << ((until - first - 1).bit_length() - 1))
        if index < half:
            found.append(_root(half, until, complete))
            until = half
        else:
            found.append(_root(first, half, complete))
            first = half
    return found[::-1]


def consistency_proof(old: int, new: int, complete: Complete) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 6962, 2.1.2; empty where there is nothing to prove: from the empty
    tree, and between two of one size. Raises ValueError if the older one is the larger."""
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {old} is no earlier state of one of {new}")
    if old in (0, new):
        return []
    first, until, whole = 0, new, True
    found: list[bytes] = []
    while old != until:
        half = first + (1 << ((until - first - 1).bit_length() - 1))
        if old <= half:
            found.append(_root(half, until, complete))
            until = half
        else:
            found.append(_root(first, half, complete))
            first, whole = half, False
    if not whole:
        found.append(_root(first, until, complete))
    return found[::-1]


def check_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """RFC 9162, 2.1.3.2: the leaf's hash stands at the index of the tree with this root.

    Raises Refuted; Malformed for numbers, hashes or a proof that no tree can have.
    """
    _check_hashes([leaf, root, *proof])
    if not 0 <= index < size <= SIZE_MAX:
        raise Malformed(f"no entry {index} in a tree of {size}")
    at, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise Malformed("the proof is longer than the tree is high")
        if at & 1 or at == last:
            found = node_hash(sibling, found)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        at, last = at >> 1, last >> 1
    if last:
        raise Malformed("the proof is shorter than the tree is high")
    if found != root:
        raise Refuted(f"entry {index} is not in the tree of {size} with this root")


def check_consistency(
    old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """RFC 9162, 2.1.4.2: the first tree is a beginning of the second.

    Raises Refuted; Malformed for numbers, hashes or a proof that no two trees can have.
    """
    _check_hashes([old_root, new_root, *proof])
    if not 0 <= old <= new <= SIZE_MAX:
        raise Malformed(f"a tree of {old} is no earlier state of one of {new}")
    if old in (0, new):
        if proof:
            raise Malformed("a proof where there is nothing to prove")
        if old_root != (EMPTY_ROOT if old == 0 else new_root):
            raise Refuted(f"two roots of a tree of {old}")
        return
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    if not path:
        raise Malformed("the proof is empty")
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise Malformed("the proof is longer than the tree is high")
        if at & 1 or at == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        at, last = at >> 1, last >> 1
    if last:
        raise Malformed("the proof is shorter than the tree is high")
    if first != old_root or second != new_root:
        raise Refuted(f"the tree of {old} is no beginning of the tree of {new}")


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if len(hashes) > PROOF_MAX + 2:
        raise Malformed(f"a proof of more than {PROOF_MAX} hashes")
    if any(len(one) != HASH_BYTES for one in hashes):
        raise Malformed(f"a hash that is not of {HASH_BYTES} bytes")
