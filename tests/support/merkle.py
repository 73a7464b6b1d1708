"""The tree as RFC 6962, 2.1 defines it, by recursion over the entries themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sluice.audit.merkle import Complete


def tree_hash(entries: Sequence[bytes]) -> bytes:
    """MTH."""
    if not entries:
        return hashlib.sha256().digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = _half(len(entries))
    return hashlib.sha256(b"\x01" + tree_hash(entries[:k]) + tree_hash(entries[k:])).digest()


def path(m: int, entries: Sequence[bytes]) -> list[bytes]:
    """PATH."""
    if len(entries) == 1:
        return []
    k = _half(len(entries))
    if m < k:
        return [*path(m, entries[:k]), tree_hash(entries[k:])]
    return [*path(m - k, entries[k:]), tree_hash(entries[:k])]


def proof(m: int, entries: Sequence[bytes], whole: bool = True) -> list[bytes]:
    """PROOF and SUBPROOF, for 0 < m <= n."""
    if m == len(entries):
        return [] if whole else [tree_hash(entries)]
    k = _half(len(entries))
    if m <= k:
        return [*proof(m, entries[:k], whole), tree_hash(entries[k:])]
    return [*proof(m - k, entries[k:], False), tree_hash(entries[:k])]


def _half(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def complete_of(entries: Sequence[bytes]) -> Complete:
    """Roots of complete subtrees of these entries."""

    def complete(level: int, index: int) -> bytes:
        return tree_hash(entries[index << level : (index + 1) << level])

    return complete
