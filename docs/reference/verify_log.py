"""Check a compliance log: python verify_log.py DIR KEY [WITNESS-KEY ...]

A second verifier, written from the specifications: RFC 6962 (tree), C2SP tlog-tiles, signed-note,
tlog-checkpoint, tlog-cosignature. Python's standard library and `cryptography` alone; nothing of
Sluice. KEY is name+id+base64. With witnesses' keys, each of them must have cosigned.

Exit status: 0 it holds, 1 tampered, 3 cannot be verified, 64 wrong usage.
"""

import base64
import json
import re
import stat
import sys
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FILE_MAX, HEADER_MAX = 256 * 65_537, 16_384
HIDES = re.compile("[\\\\\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


class WrongError(Exception):
    """What is wrong, and the exit status."""


def decode64(text):
    """Standard base64 in its one form. Raises ValueError."""
    raw = base64.b64decode(text, validate=True)
    if base64.b64encode(raw).decode() != text:
        raise ValueError("base64 with bits that say nothing")
    return raw


def read_key(text):
    """Name, id, kind (1 of a log, 4 of a witness), public key. Raises ValueError."""
    name, short, encoded = text.split("+", 2)
    material = decode64(encoded)
    full = sha256(name.encode() + b"\n" + material).digest()[:4]
    if len(material) != 33 or full.hex() != short or material[0] not in (1, 4):
        raise ValueError("no verifier's key")
    return name, full, material[0], Ed25519PublicKey.from_public_bytes(material[1:])


def read_file(root, path):
    """All of a regular file. Raises OSError."""
    found = (root / path).lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > FILE_MAX:
        raise WrongError(f"{path} is no file of a log", 1)
    return (root / path).read_bytes()


def read_tile(root, level, index, width):
    """Hashes of a tile or, for level "entries", entries of a bundle, each with its length."""
    parts = f"{index:,}".split(",")
    parts[0] = parts[0].zfill(3)
    path = f"tile/{level}/" + "".join(f"x{part}/" for part in parts[:-1]) + parts[-1]
    partial = f"{path}.p/{width}"  # it may be gone once the tile is whole
    whole = width == 256 or not (root / partial).exists()
    try:
        found, end = read_file(root, path if whole else partial), width * 32
    except FileNotFoundError:
        raise WrongError(f"{path} is missing; first bad: entry {index * 256}", 1) from None
    if level == "entries":
        end = 0
        for _ in range(width):
            end += 2 + int.from_bytes(found[end : end + 2], "big")
    return found[:end] if whole and width < 256 else found


def check_checkpoint(raw, log, witnesses):
    """Size and root that a log signed. Raises ValueError for any other text."""
    text, blank, signatures = raw.decode().rpartition("\n\n")
    text, signed = text + "\n", set()
    if not blank or not signatures.endswith("\n"):
        raise ValueError("no signed note")
    for line in signatures[:-1].split("\n"):
        dash, name, encoded = line.split(" ")
        blob = decode64(encoded)
        if dash != "\u2014" or len(blob) < 5:
            raise ValueError("no line of a signature")
        for known, short, kind, key in (log, *witnesses):
            if (name, blob[:4]) != (known, short):
                continue
            signature, message = blob[4:], text.encode()
            if kind == 4:
                seconds, signature = int.from_bytes(signature[:8], "big"), signature[8:]
                message = b"cosignature/v1\ntime %d\n" % seconds + message
            try:
                key.verify(signature, message)
            except InvalidSignature:
                raise ValueError(f"the signature is not {name}'s") from None
            signed.add(known)
    origin, size, root = text.split("\n")[:3]
    if origin != log[0] or log[0] not in signed or not re.fullmatch("0|[1-9][0-9]{0,18}", size):
        raise ValueError(f"not signed by {log[0]}, another log's, or of no size")
    if missing := {name for name, *_ in witnesses} - signed:
        raise WrongError(f"not cosigned by {missing}", 3)
    return int(size), decode64(root)


def whole(digits):
    """A number as a header may have it. Raises ValueError."""
    if len(digits) > 17 or abs(int(digits)) >= 2**53:
        raise ValueError("a number beyond 2**53")
    return int(digits)


def check_header(entry, origin):
    """When it was recorded. Raises for what is not one line of compact JSON of this log."""
    header, newline, _ = entry.partition(b"\n")
    text = header.decode()
    if not newline or len(header) > HEADER_MAX or HIDES.search(text):
        raise ValueError("no header, or with characters that act or hide")
    record = json.loads(text, parse_int=whole, parse_float=whole, parse_constant=whole)
    # Of a key that stands twice one is left, so that it is another text, too.
    again = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    if again != text:
        raise ValueError("written in another way")
    if record["log"] != origin:
        raise ValueError("a record of another log")
    return record["recorded_at"]


def tree_hash(nodes):
    """RFC 6962, 2.1, of roots of subtrees of one size, of which the last may be smaller."""
    if len(nodes) == 1:
        return nodes[0]
    half = 1 << ((len(nodes) - 1).bit_length() - 1)
    return sha256(b"\1" + tree_hash(nodes[:half]) + tree_hash(nodes[half:])).digest()


def add(root, rows, level, node):
    """Take a hash; a tile that it completes is compared. rows: by level, (tiles done, hashes)."""
    done, row = rows.setdefault(level, (0, []))
    row.append(node)
    if len(row) == 256:
        check_tile(root, rows, level)
        rows[level] = done + 1, []
        add(root, rows, level + 1, tree_hash(row))


def check_tile(root, rows, level):
    """Compare the hashes of a level that are not yet in a tile that is done."""
    done, row = rows[level]
    if row and read_tile(root, level, done, len(row)) != b"".join(row):
        first = done * 256 ** (level + 1)
        raise WrongError(f"tile {done} of level {level} differs; first bad: entry {first}", 1)


def verify(root, log, witnesses):
    """How many entries hold."""
    try:
        size, signed = check_checkpoint(read_file(root, "checkpoint"), log, witnesses)
    except ValueError as exc:
        raise WrongError(f"the checkpoint: {exc}", 1) from None
    rows, last = {}, 0
    for first in range(0, size, 256):
        rest = read_tile(root, "entries", first // 256, min(256, size - first))
        for index in range(first, min(first + 256, size)):
            end = 2 + int.from_bytes(rest[:2], "big")
            entry, cut, rest = rest[2:end], end > max(2, len(rest)), rest[end:]
            try:
                recorded = check_header(entry, log[0])
            except (ValueError, KeyError, TypeError, RecursionError) as exc:
                raise WrongError(f"{exc}; first bad: entry {index}", 1) from None
            if cut or recorded < last - 60_000_000:  # clocks may be a minute apart
                raise WrongError(f"cut, or out of order in time; first bad: entry {index}", 1)
            last = max(last, recorded)
            add(root, rows, 0, sha256(b"\0" + entry).digest())
        if rest:
            raise WrongError(f"bytes behind the last; first bad: entry {index}", 1)
    found = []
    for level, (_, row) in sorted(rows.items()):
        check_tile(root, rows, level)
        found = [tree_hash(row + found)] if row + found else []
    if (found or [sha256().digest()])[0] != signed:
        raise WrongError("not the entries that were signed; first bad: entry 0", 1)
    return size


def main(argv):
    """Returns the exit status."""
    try:
        folder, log, *witnesses = Path(argv[0]), *map(read_key, argv[1:])
    except (ValueError, IndexError):
        print(__doc__)
        return 64
    try:
        print(f"{log[0]}: {verify(folder, log, witnesses)} entries hold")
    except (WrongError, OSError) as exc:
        print(ascii(str(exc.args[0])))
        return exc.args[1] if isinstance(exc, WrongError) else 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
