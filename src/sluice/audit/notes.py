"""Signed notes (C2SP signed-note): a text, and lines that say who signed it.

Two kinds of keys: Ed25519 of a log (0x01), and Ed25519 of a witness, whose cosignature carries its
time (0x04; C2SP tlog-cosignature). Whoever is not known is passed over.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sluice.audit.errors import Malformed, Refuted

NOTE_MAX_BYTES = 1 << 20
SIGNATURES_MAX = 64
LOG, WITNESS = 0x01, 0x04
"""What a key signs: notes as they are, or checkpoints with the time."""
_DASH = "\u2014 "
_ID_BYTES = 4
_SIGNATURE_BYTES = 64
_TIME_BYTES = 8
TIME_MAX_S = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Key:
    """Who may sign. name: without blanks and plus."""

    name: str
    kind: int
    public: Ed25519PublicKey

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def id(self) -> bytes:
        """Four bytes by which signatures name the key, together with the name."""
        return hashlib.sha256(self.name.encode() + b"\n" + self.material).digest()[:_ID_BYTES]

    @property
    def short(self) -> str:
        """The key's name and id, by which a record names it."""
        return f"{self.name}+{self.id.hex()}"

    @property
    def material(self) -> bytes:
        """Kind and public key."""
        return bytes([self.kind]) + self.public.public_bytes_raw()

    def __str__(self) -> str:
        """The key as one hands it to a verifier."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(self.material).decode()}"


def parse_key(text: str) -> Key:
    """Read ``name+id+key``. Raises Malformed."""
    name, plus, rest = text.strip().partition("+")
    short, second, encoded = rest.partition("+")
    material = decode64(encoded)
    if not plus or not second or len(material) != 33 or material[0] not in (LOG, WITNESS):
        raise Malformed("not a verifier's key: name+id+key, Ed25519 of a log or of a witness")
    key = Key(name, material[0], Ed25519PublicKey.from_public_bytes(material[1:]))
    if key.id.hex() != short:
        raise Malformed(f"the key's id is {key.id.hex()}, it says {short!r}")
    return key


class Signature(NamedTuple):
    """One line. blob: what follows the key's id."""

    name: str
    id: bytes
    blob: bytes

    def __str__(self) -> str:
        """The line, its newline included."""
        return f"{_DASH}{self.name} {base64.b64encode(self.id + self.blob).decode()}\n"


class Note(NamedTuple):
    """text: ends in a newline. Nothing in it is to be believed before it is verified."""

    text: str
    signatures: list[Signature]

    def __bytes__(self) -> bytes:
        """As it is written down."""
        return (self.text + "\n" + "".join(map(str, self.signatures))).encode()


def parse_note(raw: bytes) -> Note:
    """Read a note. Raises Malformed."""
    if len(raw) > NOTE_MAX_BYTES:
        raise Malformed(f"a note of more than {NOTE_MAX_BYTES} bytes")
    try:
        whole = raw.decode()
    except UnicodeDecodeError as exc:
        raise Malformed("the note is not UTF-8") from exc
    if any(character < " " and character != "\n" for character in whole):
        raise Malformed("a control character in the note")
    text, blank, lines = whole.rpartition("\n\n")
    if not blank or not lines.endswith("\n"):
        raise Malformed("no blank line before the signatures, or no newline at the end")
    signatures = [_signature(line) for line in lines[:-1].split("\n")]
    if len(signatures) > SIGNATURES_MAX:
        raise Malformed(f"more than {SIGNATURES_MAX} signatures")
    return Note(text + "\n", signatures)


def _signature(line: str) -> Signature:
    dash, name, encoded = line[: len(_DASH)], *_halves(line[len(_DASH) :])
    blob = decode64(encoded)
    if dash != _DASH or len(blob) <= _ID_BYTES:
        raise Malformed("not a line of a signature")
    check_name(name)
    return Signature(name, blob[:_ID_BYTES], blob[_ID_BYTES:])


def _halves(text: str) -> tuple[str, str]:
    name, _, rest = text.partition(" ")
    return name, rest


def verified(note: Note, keys: Iterable[Key]) -> dict[str, int]:
    """Names of the known keys that signed, with the time (seconds since 1970) of a witness, 0 of a
    log. Raises Refuted for a signature in a known key's name that is not the key's."""
    known = {(key.name, key.id): key for key in keys}
    found: dict[str, int] = {}
    for signature in note.signatures:
        key = known.get((signature.name, signature.id))
        if key is None:
            continue
        blob, time_s, message = signature.blob, 0, note.text.encode()
        if key.kind == WITNESS:
            time_s = int.from_bytes(blob[:_TIME_BYTES], "big")
            blob, message = blob[_TIME_BYTES:], _cosigned(time_s, note.text)
        if len(blob) != _SIGNATURE_BYTES or time_s > TIME_MAX_S:
            raise Refuted(f"no signature of {key.name}: of another length or time")
        try:
            key.public.verify(blob, message)
        except InvalidSignature as exc:
            raise Refuted(f"the signature is not {key.name}'s") from exc
        found[key.name] = time_s
    return found


def signer(raw: bytes, keys: Iterable[Key]) -> Key | None:
    """The first of these keys that a note names among its signers; whether it is true, ``verified``
    says. Raises Malformed."""
    named = {(one.name, one.id) for one in parse_note(raw).signatures}
    return next((key for key in keys if (key.name, key.id) in named), None)


def sign(text: str, name: str, private: Ed25519PrivateKey) -> Signature:
    """A log's signature of a text, which ends in a newline."""
    key = Key(name, LOG, private.public_key())
    return Signature(name, key.id, private.sign(text.encode()))


def cosign(text: str, name: str, private: Ed25519PrivateKey, time_s: int) -> Signature:
    """A witness's signature of a checkpoint's text at a time, seconds since 1970."""
    key = Key(name, WITNESS, private.public_key())
    signed = private.sign(_cosigned(time_s, text))
    return Signature(name, key.id, time_s.to_bytes(_TIME_BYTES, "big") + signed)


def _cosigned(time_s: int, text: str) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def check_name(name: str) -> None:
    """Raises Malformed for what no key may be called."""
    if not name or "+" in name or any(character.isspace() for character in name):
        raise Malformed("a key's name is empty, or has blanks or plus in it")


def decode64(text: str) -> bytes:
    """Standard base64 with its padding, and in its one form. Raises Malformed."""
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise Malformed("not base64") from exc
    if base64.b64encode(found).decode() != text:
        raise Malformed("base64 with bits that say nothing")
    return found


def join_before(lines: Iterable[str], note: bytes) -> bytes:
    """Lines, an empty one, and a note: how C2SP sends one along with what it proves."""
    return "\n".join(lines).encode() + b"\n\n" + note


def split_before(raw: bytes, what: str) -> tuple[list[str], bytes]:
    """The lines before a note, one at least, and the note, which is not read. what: the lines, in
    an error. Raises Malformed."""
    head, blank, note = raw.partition(b"\n\n")
    if len(raw) > 2 * NOTE_MAX_BYTES or not blank:
        raise Malformed(f"no {what}, an empty line and a checkpoint, or far too long")
    try:
        return head.decode("ascii").split("\n"), note
    except UnicodeDecodeError as exc:
        raise Malformed(f"{what}: the lines before the checkpoint are ASCII") from exc
