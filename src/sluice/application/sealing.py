"""Sealing of what is personal in a log record: AES-256-GCM under a key of one subject and quarter.

A sealed part is ``nonce (12 bytes) || ciphertext || tag (16 bytes)``; the record's header, exactly
as it is stored, is the associated data, so that a sealed part opens under its own header alone. The
header names the key by its commitment: AES-GCM alone would let one ciphertext open to two texts
under two keys (Dodis, Grubbs, Ristenpart, Woodage, 2018). Cipher key and commitment are derived
from one secret by HMAC-SHA256 with two labels, so a second secret with the same commitment would be
a collision of SHA-256. Where the secret is destroyed, the sealed bytes stay, and say nothing.
"""

from __future__ import annotations

import hmac
import os
import re
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sluice.domain.clock import DAY_US, to_datetime
from sluice.errors import Corrupt, Rejected

SECRET_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
OVERHEAD_BYTES = NONCE_BYTES + TAG_BYTES
"""A sealed part is longer than its text by this."""
COMMITMENT = re.compile(r"[0-9a-f]{64}")
SUBJECT = re.compile(r"[0-9a-f]{32}")
PERIOD = re.compile(r"[0-9]{4}Q[1-4]")
_CIPHER, _COMMIT = b"sluice sealing v1: cipher key", b"sluice sealing v1: commitment"
_SUBJECT_BYTES = 16


class Erased(Rejected):
    """The key was destroyed: what it sealed cannot be opened by anybody, and nothing is sealed for
    that subject and quarter any more."""

    code = "erased"


class SealingKey:
    """Seals and opens for one subject and quarter. Holds its secret: never print or log one."""

    __slots__ = ("_cipher", "commitment")

    def __init__(self, secret: bytes) -> None:
        """secret: 32 random bytes."""
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a sealing secret has {SECRET_BYTES} bytes")
        self._cipher = AESGCM(hmac.digest(secret, _CIPHER, "sha256"))
        self.commitment = commitment_of(secret)
        """64 hexadecimal digits: names the key, tells nothing of it."""

    def seal(self, plaintext: bytes, header: bytes) -> bytes:
        """The sealed part of a record with this header, whose key_commitment is ours.

        The nonce is random, so that neither a restart nor a second process repeats one. Of 2^32
        seals under one key two have the same with a probability of 2^-33 (NIST SP 800-38D, section
        8.3); a card would have to pay 500 times a second for the whole quarter."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plaintext, header)

    def open(self, sealed: bytes, header: bytes) -> bytes:
        """The text. Raises Corrupt where sealed part, header and key do not belong together."""
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], header)
        except (InvalidTag, ValueError) as exc:  # ValueError: shorter than a nonce
            raise Corrupt(
                "the sealed part is not what was sealed under this header with this key",
                fix="sluice log verify tells which bytes of the log were changed",
                code="sealed",
            ) from exc

    def __repr__(self) -> str:
        return f"SealingKey({self.commitment[:8]})"


def commitment_of(secret: bytes) -> str:
    """What names the key of a secret."""
    return hmac.digest(secret, _COMMIT, "sha256").hex()


def subject_of(pepper: bytes, tenant: str, card_token: str) -> str:
    """The pseudonym of a card, 32 hexadecimal digits. Without the pepper it cannot be guessed.

    >>> subject_of(bytes(32), "t", "c")
    'ee3cd3b873288a3db64980a1c696aa5d'
    """
    text = f"{tenant}\0{card_token}".encode()
    return hmac.digest(pepper, text, "sha256")[:_SUBJECT_BYTES].hex()


def period_of(at_us: int) -> str:
    """The quarter of a time, UTC.

    >>> period_of(0), period_of(1_791_000_000_000_000)
    ('1970Q1', '2026Q4')
    """
    return _period_of_day(at_us // DAY_US)


@lru_cache(1_024)
def _period_of_day(day: int) -> str:
    moment = to_datetime(day * DAY_US)
    return f"{moment.year:04}Q{(moment.month + 2) // 3}"


def earlier(period: str, quarters: int) -> str:
    """The quarter that many before another.

    >>> earlier("2026Q1", 1), earlier("2026Q4", 9)
    ('2025Q4', '2024Q3')
    """
    year, quarter = divmod(int(period[:4]) * 4 + int(period[5]) - 1 - quarters, 4)
    return f"{year:04}Q{quarter + 1}"
