"""Tokens in place of card numbers and names: a keyed hash, the same for the same text.

``base64url(HMAC-SHA-256(key, text)[:18])``, 24 characters of 144 bits: what a payment system's own
edge can make too (RFC 2104, FIPS 180-4, RFC 4648 section 5). Of 2^40 texts two share a token with
a chance of one in 2^65.
"""

from __future__ import annotations

import base64
import hmac
from pathlib import Path

from sluice.errors import Misconfigured

TOKEN_BYTES = 18
PREFIX_MAX = 40
"""With the token's 24 characters as many as an id may have."""
KEY_MIN, KEY_MAX = 16, 4096
"""Bytes of a key's file. 128 bits are too many to try; what is longer is no key."""


def token(key: bytes, text: str) -> str:
    """The token of a text. Some 2 us.

    >>> token(b"\\x0b" * 20, "Hi There")
    'sDRMYdjbOFNcqK_OrwvxK4gd'
    """
    digest = keyed(key, text.encode("utf-8", "surrogateescape"))
    return base64.urlsafe_b64encode(digest[:TOKEN_BYTES]).decode()


def keyed(key: bytes, raw: bytes) -> bytes:
    """HMAC-SHA-256, whole."""
    return hmac.digest(key, raw, "sha256")


def read_key(path: Path) -> bytes:
    """A key: the bytes of a file without the white space around them. Raises Misconfigured."""
    try:
        with path.open("rb") as file:
            raw = file.read(KEY_MAX + 1)
    except OSError as exc:
        raise Misconfigured(
            f"cannot read the key: {exc.strerror}",
            where=str(path),
            fix="openssl rand -hex 32 > token.key, once",
        ) from exc
    key = raw.strip()
    if not len(key) >= KEY_MIN or len(raw) > KEY_MAX:
        raise Misconfigured(
            f"a key has {KEY_MIN} to {KEY_MAX} bytes",
            where=str(path),
            fix="openssl rand -hex 32 > token.key, once",
        )
    return key
