"""Sealed parts: what opens them, and that nothing else does."""

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sluice.application.sealing import (
    COMMITMENT,
    NONCE_BYTES,
    OVERHEAD_BYTES,
    SUBJECT,
    SealingKey,
    earlier,
    period_of,
    subject_of,
)
from sluice.domain.clock import from_datetime
from sluice.errors import Corrupt

SECRET = bytes(range(32))
HEADER = b'{"v":1,"type":"decision"}'


def test_what_was_sealed_opens_under_its_own_header() -> None:
    key = SealingKey(SECRET)
    sealed = key.seal(b"card and amount", HEADER)
    assert len(sealed) == len(b"card and amount") + OVERHEAD_BYTES
    assert SealingKey(SECRET).open(sealed, HEADER) == b"card and amount"


def test_every_flipped_byte_and_any_other_header_or_key_is_refused() -> None:
    key = SealingKey(SECRET)
    sealed = key.seal(b"card", HEADER)
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(Corrupt, match="not what was sealed"):
            key.open(bytes(changed), HEADER)
    for cut in range(len(sealed)):
        with pytest.raises(Corrupt):
            key.open(sealed[:cut], HEADER)
    with pytest.raises(Corrupt):
        key.open(sealed, HEADER + b" ")
    with pytest.raises(Corrupt):
        SealingKey(bytes(32)).open(sealed, HEADER)


def test_no_nonce_comes_twice_of_one_key_in_two_processes() -> None:
    before, after = SealingKey(SECRET), SealingKey(SECRET)
    sealed = [key.seal(b"", HEADER) for key in (before, after) for _ in range(2_000)]
    assert len({one[:NONCE_BYTES] for one in sealed}) == len(sealed)


def test_the_commitment_names_the_secret_and_is_no_key_of_the_cipher() -> None:
    key = SealingKey(SECRET)
    assert COMMITMENT.fullmatch(key.commitment)
    assert key.commitment == SealingKey(SECRET).commitment != SealingKey(bytes(32)).commitment
    sealed = key.seal(b"card", HEADER)
    for told in (SECRET, bytes.fromhex(key.commitment)):
        with pytest.raises(InvalidTag):
            AESGCM(told).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], HEADER)
    assert SECRET.hex() not in repr(key)


def test_a_subject_is_a_pseudonym_of_tenant_and_card() -> None:
    pepper = bytes(32)
    assert SUBJECT.fullmatch(subject_of(pepper, "t", "c"))
    others = [
        subject_of(*of)
        for of in (
            (pepper, "t", "d"),
            (pepper, "u", "c"),
            (b"p" * 32, "t", "c"),
            (pepper, "tc", ""),
        )
    ]
    assert len({subject_of(pepper, "t", "c"), *others}) == 5


def test_quarters_end_at_midnight_utc() -> None:
    last = from_datetime_us("2026-12-31T23:59:59.999999+00:00")
    assert (period_of(last), period_of(last + 1)) == ("2026Q4", "2027Q1")
    months = [f"2026-{month:02}-01T00:00:00+00:00" for month in range(1, 13)]
    assert "".join(period_of(from_datetime_us(m))[-1] for m in months) == "111222333444"
    assert earlier("2027Q1", 0) == "2027Q1"


def from_datetime_us(text: str) -> int:
    from datetime import datetime

    return from_datetime(datetime.fromisoformat(text))
