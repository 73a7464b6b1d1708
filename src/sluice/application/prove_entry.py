"""A proof of one entry that stands alone, and what it takes to believe it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sluice.application.read_log import Unverifiable, bundles
from sluice.audit.checkpoints import Opened
from sluice.audit.entries import split
from sluice.audit.errors import Malformed, Refuted, Tampered
from sluice.audit.merkle import check_inclusion, inclusion_proof, leaf_hash
from sluice.audit.notes import Key
from sluice.audit.proofs import Proof, check_proof, parse_proof
from sluice.audit.tiles import WIDTH, Read, Tile, read_entries, reader
from sluice.domain.records.log_record import AnyRecord
from sluice.domain.records.log_record import read as read_record

FOUND_MAX = 1_000
"""Records of one authorization: a decision, a label or two, duplicates."""


class Found(NamedTuple):
    """Where a record of an authorization stands."""

    place: int
    type: str


class Proven(NamedTuple):
    """What a proof that holds says. record: of the entry's header."""

    place: int
    opened: Opened
    record: AnyRecord


def records_of(
    read: Read,
    size: int,
    authorization_id: str,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> list[Found]:
    """The records of an authorization, oldest first, at most FOUND_MAX.

    Reads the whole log: it has no index. Raises Unverifiable if it holds none; Malformed, OSError.
    """
    needle = b'"authorization_id":"%b"' % authorization_id.encode()
    found: list[Found] = []
    for first, entries in bundles(read, size):
        progress(first, size)
        for at, entry in enumerate(entries):
            if needle not in entry or len(found) >= FOUND_MAX:
                continue
            record = read_record(split(entry)[0])
            if record.authorization_id == authorization_id:
                found.append(Found(first + at, record.type))
    if not found:
        raise Unverifiable(f"no record of {authorization_id} in {size:,} entries")
    return found


def the_one(found: Sequence[Found]) -> int:
    """Index of the decision; without one of the first record."""
    return next((one.place for one in found if one.type == "decision"), found[0].place)


def prove(read: Read, raw_checkpoint: bytes, opened: Opened, index: int) -> Proof:
    """Of an entry of a log whose checkpoint was checked. The entry rides along.

    Raises Unverifiable for an index outside; Malformed, Tampered for a log whose files do not prove
    what its checkpoint says; OSError.
    """
    size, root = opened.checkpoint.size, opened.checkpoint.root
    if not 0 <= index < size:
        raise Unverifiable(f"no entry {index} in a log of {size:,}")
    place, first = index % WIDTH, index - index % WIDTH
    entry = read_entries(read, Tile(0, index // WIDTH, min(WIDTH, size - first)))[place]
    hashes = inclusion_proof(index, size, reader(size, read))
    try:
        check_inclusion(leaf_hash(entry), index, size, hashes, root)
    except ValueError as exc:
        raise Tampered(
            f"the log's files do not lead from entry {index} to its checkpoint",
            first=index,
            until=index + 1,
        ) from exc
    return Proof(index, hashes, raw_checkpoint, entry)


def check(raw: bytes, key: Key, witnesses: Sequence[Key], required: int) -> Proven:
    """A proof with its entry, as :func:`prove` makes it.

    Raises Malformed for what is none, or of an entry that no log of ours holds; Refuted for one
    that does not hold.
    """
    proof = parse_proof(raw)
    if not proof.extra:
        raise Malformed("the proof has no extra line, in which ours carry the entry")
    opened = check_proof(proof, proof.extra, key.name, key, witnesses, required)
    record = read_record(split(proof.extra)[0])
    if record.log != key.name:
        raise Refuted(f"the entry is a record of {record.log}, not of {key.name}")
    return Proven(proof.index, opened, record)
