"""What a log asks a witness (C2SP tlog-witness): the body of add-checkpoint, and its answer."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from sluice.audit.checkpoints import hash_of, number_of
from sluice.audit.errors import Malformed
from sluice.audit.merkle import PROOF_MAX
from sluice.audit.notes import Key, Signature, join_before, parse_note, split_before, verified

_OLD = "old "


@dataclass(frozen=True, slots=True)
class Submission:
    """A checkpoint, and that the tree of ``old`` entries is its beginning.

    old: entries of the last checkpoint that the witness cosigned, 0 of none. hashes: of the
    consistency proof. checkpoint: a note.
    """

    old: int
    hashes: Sequence[bytes]
    checkpoint: bytes

    def __bytes__(self) -> bytes:
        """The body of the request."""
        lines = [f"{_OLD}{self.old}", *(base64.b64encode(one).decode() for one in self.hashes)]
        return join_before(lines, self.checkpoint)


def parse_submission(raw: bytes) -> Submission:
    """Read the body of a request; its note is not read yet. Raises Malformed."""
    (first, *lines), checkpoint = split_before(raw, "old size")
    if not first.startswith(_OLD):
        raise Malformed("the first line says no old size")
    if len(lines) > PROOF_MAX:
        raise Malformed(f"a proof of more than {PROOF_MAX} hashes")
    return Submission(
        number_of(first.removeprefix(_OLD)), [hash_of(line) for line in lines], checkpoint
    )


def cosignatures(answer: bytes, checkpoint: bytes, witness: Key) -> list[Signature]:
    """The lines of a witness's answer that are its own, of keys that nobody knows none.

    checkpoint: the note that it was asked to cosign. Raises Malformed for an answer that is no
    lines of signatures or has none of this witness, Refuted for one that its key did not make.
    """
    text = parse_note(checkpoint).text
    note = parse_note(text.encode() + b"\n" + answer)
    found = [one for one in note.signatures if (one.name, one.id) == (witness.name, witness.id)]
    if not found:
        raise Malformed(f"no cosignature of {witness.name} in the answer")
    verified(note, [witness])
    return found
