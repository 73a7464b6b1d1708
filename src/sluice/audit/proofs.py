"""Proofs that stand alone (C2SP tlog-proof): an entry is in a log, as these witnesses saw it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

from sluice.audit.checkpoints import Opened, hash_of, number_of, open_checkpoint
from sluice.audit.errors import Malformed, Refuted
from sluice.audit.merkle import PROOF_MAX, check_inclusion, leaf_hash
from sluice.audit.notes import Key, decode64, join_before, split_before

FIRST_LINE = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class Proof:
    """index: of the entry in its log. hashes: from the leaf's sibling up. checkpoint: a note.

    extra: what is carried along, and nobody vouches for; ours is the entry itself, whose hash is.
    """

    index: int
    hashes: list[bytes]
    checkpoint: bytes
    extra: bytes = field(default=b"", compare=False)

    def __bytes__(self) -> bytes:
        """As it is written down."""
        lines = [FIRST_LINE]
        if self.extra:
            lines.append(f"extra {base64.b64encode(self.extra).decode()}")
        lines.append(f"index {self.index}")
        lines += [base64.b64encode(one).decode() for one in self.hashes]
        return join_before(lines, self.checkpoint)


def parse_proof(raw: bytes) -> Proof:
    """Read a proof. Raises Malformed."""
    (first, *lines), checkpoint = split_before(raw, "proof")
    if first != FIRST_LINE:
        raise Malformed(f"the first line is not {FIRST_LINE}")
    extra = b""
    if lines and lines[0].startswith("extra "):
        extra = decode64(lines.pop(0).removeprefix("extra "))
    if not lines or not lines[0].startswith("index ") or len(lines) > PROOF_MAX + 1:
        raise Malformed(f"no line of the index, or more than {PROOF_MAX} hashes")
    index = number_of(lines[0].removeprefix("index "))
    return Proof(index, [hash_of(line) for line in lines[1:]], checkpoint, extra)


def check_proof(
    proof: Proof,
    entry: bytes,
    origin: str,
    log: Key,
    witnesses: Sequence[Key] = (),
    required: int = 0,
) -> Opened:
    """That the exact bytes of an entry are in a log, whose checkpoint so many witnesses saw.

    Returns the checkpoint. Raises Malformed, Refuted.
    """
    opened = open_checkpoint(proof.checkpoint, origin, log, witnesses)
    size, root = opened.checkpoint.size, opened.checkpoint.root
    check_inclusion(leaf_hash(entry), proof.index, size, proof.hashes, root)
    if len(opened.cosigned) < required:
        raise Refuted(f"{len(opened.cosigned)} known witnesses cosigned, {required} are required")
    return opened
