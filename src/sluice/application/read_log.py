"""A log as its reader finds it: its checkpoint, who signed it, and its entries unverified."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sluice.audit.checkpoints import Opened, open_checkpoint, parse_checkpoint
from sluice.audit.errors import Malformed, Refuted, Tampered
from sluice.audit.notes import NOTE_MAX_BYTES, Key, parse_note, signer
from sluice.audit.tiles import WIDTH, Read, Tile, read_entries

CHECKPOINT = "checkpoint"


class Unverifiable(Exception):  # noqa: N818 - as in sluice.errors
    """Nothing can be said of the log: what would say it is not there, or cannot be read."""


class Order(NamedTuple):
    """What is asked of a log. key: of the log, whose name is its origin. since: a checkpoint that
    is believed. known: others that were published, as notes. retired: keys that the log had before;
    they may have signed ``since`` and ``known``, and not its own checkpoint."""

    key: Key
    witnesses: Sequence[Key] = ()
    required: int = 0
    since: bytes | None = None
    known: Sequence[bytes] = ()
    retired: Sequence[Key] = ()


def opened(read: Read, order: Order) -> Opened:
    """The checkpoint of a log's folder. Raises Tampered for one that its log did not sign,
    Unverifiable if there is none or too few witnesses cosigned it."""
    try:
        raw = read(CHECKPOINT)
    except FileNotFoundError as exc:
        raise Unverifiable("there is no checkpoint: nothing says what the log should be") from exc
    except OSError as exc:
        raise Unverifiable(f"the checkpoint cannot be read: {exc.strerror}") from exc
    except Malformed as exc:
        raise Tampered(f"the checkpoint: {exc}", first=0, until=0) from exc
    try:
        found = open_checkpoint(
            raw[: NOTE_MAX_BYTES + 1], order.key.name, order.key, order.witnesses
        )
    except (Malformed, Refuted) as exc:
        raise Tampered(f"the checkpoint: {exc}", first=0, until=0) from exc
    if len(found.cosigned) < order.required:
        raise Unverifiable(
            f"{len(found.cosigned)} known witnesses cosigned the checkpoint, "
            f"{order.required} are required"
        )
    return found


def given(raw: bytes, order: Order) -> Opened:
    """A checkpoint that the caller brings. Raises Unverifiable if it is none of this log."""
    try:
        key = signer_of(raw, order)
        return open_checkpoint(raw, order.key.name, key, order.witnesses)
    except (Malformed, Refuted) as exc:
        raise Unverifiable(f"the checkpoint that was given: {exc}") from exc


def signer_of(raw: bytes, order: Order) -> Key:
    """Which of the log's keys a checkpoint names; the one of now if it names none. Raises
    Malformed."""
    return signer(raw, [order.key, *order.retired]) or order.key


def size_of(read: Read) -> int:
    """As its checkpoint says, whoever signed it. Raises Malformed, Unverifiable, OSError."""
    try:
        return parse_checkpoint(parse_note(read(CHECKPOINT)).text).size
    except FileNotFoundError as exc:
        raise Unverifiable("there is no checkpoint in this folder") from exc


def bundles(read: Read, size: int, since: int = 0) -> Iterator[tuple[int, list[bytes]]]:
    """Entries of a log by the bundle, each with its first's index; nothing is checked."""
    for index in range(since // WIDTH, -(-size // WIDTH)):
        first = index * WIDTH
        yield first, read_entries(read, Tile(0, index, min(WIDTH, size - first)))
