"""Keys of the compliance log and its witnesses: made, and read from files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sluice.application.sign_release import make_key, read_private_key
from sluice.audit.errors import Malformed
from sluice.audit.notes import LOG, WITNESS, Key, check_name, parse_key
from sluice.errors import Misconfigured

COMMENT = "#"


def make_log_key(out: Path, name: str, *, witness: bool) -> Key:
    """Write a new private key to a new file, for its owner alone, and beside it, with ``.pub``, the
    line by which a verifier knows it.

    name: of a witness, or the origin of a log. Raises Misconfigured, before anything is written for
    a name that no key can have.
    """
    try:
        check_name(name)
    except Malformed as exc:
        raise Misconfigured(str(exc), where=name, fix="a name like bank.example/witness-1") from exc
    public = make_key(out).public
    key = Key(name, WITNESS if witness else LOG, read_private_key(out).public_key())
    public.write_text(f"{key}\n")
    return key


class Line(NamedTuple):
    """A line of a file of keys. rest: what follows the key, as a witness's address."""

    key: Key
    rest: str


def parse_keys(text: str, kind: int, where: str) -> list[Line]:
    """Read a file of keys: one a line, ``name+id+key``; what follows # is a comment.

    Raises Misconfigured with the line's number for what is none, or of another kind.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        first, _, rest = line.partition(COMMENT)[0].strip().partition(" ")
        if not first:
            continue
        try:
            key = parse_key(first)
        except Malformed as exc:
            raise Misconfigured(str(exc), where=f"{where}:{number}") from exc
        if key.kind != kind:
            whose = {LOG: "a log", WITNESS: "a witness"}
            raise Misconfigured(
                f"a key of {whose[key.kind]} where one of {whose[kind]} belongs",
                where=f"{where}:{number}",
            )
        found.append(Line(key, rest.strip()))
    return found
