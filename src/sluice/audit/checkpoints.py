"""Checkpoints (C2SP tlog-checkpoint): what a log says of itself at one size, signed."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import NamedTuple

from sluice.audit.errors import Malformed, Refuted
from sluice.audit.merkle import HASH_BYTES, SIZE_MAX
from sluice.audit.notes import Key, decode64, parse_note, verified

_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")


class Checkpoint(NamedTuple):
    """A tree of one log. origin: names the log. extensions: further lines, which nobody checks."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What is signed."""
        lines = [self.origin, str(self.size), base64.b64encode(self.root).decode()]
        return "\n".join([*lines, *self.extensions]) + "\n"


class Opened(NamedTuple):
    """A checkpoint that its log signed. cosigned: witnesses that did too, with their time."""

    checkpoint: Checkpoint
    cosigned: dict[str, int]


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a note's text. Raises Malformed."""
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop() or not all(lines):
        raise Malformed("a checkpoint has three lines or more, none of them empty")
    origin, size, encoded, *extensions = lines
    root = hash_of(encoded)
    return Checkpoint(origin, number_of(size), root, tuple(extensions))


def open_checkpoint(raw: bytes, origin: str, log: Key, witnesses: Sequence[Key] = ()) -> Opened:
    """Read a checkpoint of a log, and check who signed it.

    Raises Malformed; Refuted if it is another log's, or not signed by its key.
    """
    note = parse_note(raw)
    signed = verified(note, [log, *witnesses])
    found = parse_checkpoint(note.text)
    if log.name not in signed:
        raise Refuted(f"the checkpoint is not signed by {log.name}")
    if found.origin != origin:
        raise Refuted(f"a checkpoint of {found.origin!r}, not of {origin!r}")
    names = {key.name for key in witnesses}
    return Opened(found, {name: at for name, at in signed.items() if name in names})


def number_of(text: str) -> int:
    """A size or an index. Raises Malformed."""
    if _NUMBER.fullmatch(text) is None or (number := int(text)) > SIZE_MAX:
        raise Malformed("not a number of entries")
    return number


def hash_of(encoded: str) -> bytes:
    """A hash in base64. Raises Malformed."""
    found = decode64(encoded)
    if len(found) != HASH_BYTES:
        raise Malformed(f"a hash that is not of {HASH_BYTES} bytes")
    return found
