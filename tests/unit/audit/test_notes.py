"""Signed notes, by a vector of Go's sumdb/note, and whatever becomes of their bytes."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.audit.errors import Malformed, Refuted
from sluice.audit.notes import (
    LOG,
    WITNESS,
    Key,
    Note,
    cosign,
    parse_key,
    parse_note,
    sign,
    verified,
)

PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
SAID = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
SIGNED = (
    f"{SAID}\n\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNX"
    "gKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()
OURS = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
CHECKPOINT = "bank.example/eu/0\n1\nbjQLnP+zepicpUTmu3gKLHiQHT+zNzh2hRGjBhevoB0=\n"


def test_a_note_that_go_signed_is_verified() -> None:
    key = parse_key(PETER)
    assert str(key) == PETER
    note = parse_note(SIGNED)
    assert note.text == SAID
    assert verified(note, [key]) == {"PeterNeumann": 0}
    assert bytes(note) == SIGNED


def test_every_flipped_bit_is_noticed() -> None:
    key = parse_key(PETER)
    for at in range(len(SIGNED)):
        for bit in range(8):
            changed = bytearray(SIGNED)
            changed[at] ^= 1 << bit
            try:
                found = verified(parse_note(bytes(changed)), [key])
            except (Malformed, Refuted):
                continue
            assert found == {}, f"byte {at}, bit {bit}"


def test_a_witness_signs_its_time_too() -> None:
    key = Key("witness.example/1", WITNESS, OURS.public_key())
    line = cosign(CHECKPOINT, key.name, OURS, 1_679_315_147)
    note = parse_note(bytes(Note(CHECKPOINT, [line])))
    assert verified(note, [parse_key(str(key))]) == {"witness.example/1": 1_679_315_147}
    later = line._replace(blob=(1_679_315_148).to_bytes(8, "big") + line.blob[8:])
    with pytest.raises(Refuted, match="not witness"):
        verified(Note(CHECKPOINT, [later]), [key])
    with pytest.raises(Refuted, match="another length or time"):
        verified(Note(CHECKPOINT, [line._replace(blob=b"\xff" * 72)]), [key])


def test_whoever_is_unknown_is_passed_over_and_one_kind_is_not_the_other() -> None:
    line = sign(CHECKPOINT, "bank.example/eu/0", OURS)
    note = Note(CHECKPOINT, [line])
    log = Key("bank.example/eu/0", LOG, OURS.public_key())
    assert verified(note, [log]) == {"bank.example/eu/0": 0}
    for other in (
        Key("bank.example/eu/1", LOG, OURS.public_key()),
        Key("bank.example/eu/0", WITNESS, OURS.public_key()),
        Key("bank.example/eu/0", LOG, Ed25519PrivateKey.generate().public_key()),
    ):
        assert verified(note, [other]) == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "name+c74f20a3",
        PETER.replace("c74f20a3", "c74f20a4"),
        PETER.replace("Peter", "Peter "),
        PETER.replace("ARpc", "Apc"),
        "+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        PETER.replace("+ARpc", "+AhpC"),
    ],
)
def test_what_is_no_key_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        parse_key(text)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"text\n",
        b"text\n\n",
        SIGNED[:-1],
        SIGNED + b"\n",
        SIGNED.replace(b"\n", b"\r\n"),
        SIGNED.replace(b"think", b"th\x00nk"),
        SIGNED.replace(b"think", b"th\xffnk"),
        SIGNED.replace("\u2014".encode(), b"-"),
        SIGNED.replace(b"AM=\n", b"AN=\n"),
        SIGNED.replace(b"PeterNeumann ", b"Peter+Neumann "),
        SIGNED + SIGNED.split(b"\n\n")[1] * 64,
        b"a" * (1 << 20) + SIGNED,
    ],
)
def test_what_is_no_note_is_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        parse_note(raw)
