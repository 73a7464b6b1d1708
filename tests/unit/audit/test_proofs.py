"""A proof that stands alone: made, read, and refused for its reason."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.audit.checkpoints import Checkpoint, open_checkpoint, parse_checkpoint
from sluice.audit.errors import Malformed, Refuted
from sluice.audit.merkle import inclusion_proof
from sluice.audit.notes import LOG, WITNESS, Key, Note, cosign, sign
from sluice.audit.proofs import Proof, check_proof, parse_proof
from tests.support.merkle import complete_of, tree_hash

ORIGIN = "bank.example/eu/0"
LOG_KEY, WITNESS_KEY = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
LOG_PUBLIC = Key(ORIGIN, LOG, LOG_KEY.public_key())
WITNESS_PUBLIC = Key("witness.example/1", WITNESS, WITNESS_KEY.public_key())
ENTRIES = [f"entry {i}".encode() for i in range(300)]
TEXT = Checkpoint(ORIGIN, len(ENTRIES), tree_hash(ENTRIES)).text
COSIGNED = bytes(
    Note(TEXT, [sign(TEXT, ORIGIN, LOG_KEY), cosign(TEXT, WITNESS_PUBLIC.name, WITNESS_KEY, 17)])
)
INDEX = 77
RAW = bytes(Proof(INDEX, inclusion_proof(INDEX, len(ENTRIES), complete_of(ENTRIES)), COSIGNED))


def test_a_proof_holds_without_the_log() -> None:
    opened = check_proof(
        parse_proof(RAW), ENTRIES[INDEX], ORIGIN, LOG_PUBLIC, [WITNESS_PUBLIC], required=1
    )
    assert opened.checkpoint.size == 300
    assert opened.cosigned == {"witness.example/1": 17}
    assert bytes(parse_proof(RAW)) == RAW
    assert len(RAW) < 2048


def test_extra_data_is_passed_over() -> None:
    head, rest = RAW.split(b"\n", 1)
    assert parse_proof(head + b"\nextra AAAA\n" + rest) == parse_proof(RAW)


def test_every_flipped_bit_of_a_proof_is_noticed() -> None:
    for at in range(len(RAW)):
        changed = bytearray(RAW)
        changed[at] ^= 1 << at % 8
        with pytest.raises((Malformed, Refuted)):
            check_proof(
                parse_proof(bytes(changed)), ENTRIES[INDEX], ORIGIN, LOG_PUBLIC, [WITNESS_PUBLIC], 1
            )


@pytest.mark.parametrize(
    ("check", "why"),
    [
        (lambda p: check_proof(p, ENTRIES[78], ORIGIN, LOG_PUBLIC), "entry 77 is not in the tree"),
        (lambda p: check_proof(replace(p, index=76), ENTRIES[INDEX], ORIGIN, LOG_PUBLIC), "not in"),
        (lambda p: check_proof(p, ENTRIES[INDEX], "bank.example/us/0", LOG_PUBLIC), "not of"),
        (lambda p: check_proof(p, ENTRIES[INDEX], ORIGIN, LOG_PUBLIC, [], 1), "1 are required"),
        (
            lambda p: check_proof(
                p, ENTRIES[INDEX], ORIGIN, Key(ORIGIN, LOG, WITNESS_KEY.public_key())
            ),
            "not signed by",
        ),
    ],
)
def test_what_is_not_true_is_refuted(check: Callable[[Proof], object], why: str) -> None:
    with pytest.raises(Refuted, match=why):
        check(parse_proof(RAW))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        RAW.replace(b"@v1", b"@v2"),
        RAW.replace(b"index 77", b"index 077"),
        RAW.replace(b"index 77", b"index -1"),
        RAW.replace(b"index 77", b"index 99999999999999999999"),
        RAW.replace(b"index 77\n", b""),
        RAW.replace(b"index 77\n", b"index 77\n" + b"A" * 43 + b"=\n" + b"AAAA\n"),
        RAW.replace(b"index 77\n", b"index 77\n" + (b"A" * 43 + b"=\n") * 64),
        RAW.replace(b"index", "\u0131ndex".encode()),
    ],
)
def test_what_is_no_proof_is_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        parse_proof(raw)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "origin\n1\n",
        TEXT[:-1],
        TEXT + "\n",
        TEXT.replace("300", "0300"),
        TEXT.replace("300", "+300"),
        TEXT.replace("300", "3e2"),
        TEXT.replace("300", "\u0663"),
        TEXT.replace(ORIGIN, ""),
        TEXT.replace("=", ""),
    ],
)
def test_what_is_no_checkpoint_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        parse_checkpoint(text)


def test_extension_lines_are_kept_and_signed() -> None:
    text = Checkpoint(ORIGIN, 0, tree_hash([]), ("more",)).text
    raw = bytes(Note(text, [sign(text, ORIGIN, LOG_KEY)]))
    assert open_checkpoint(raw, ORIGIN, LOG_PUBLIC).checkpoint.extensions == ("more",)
