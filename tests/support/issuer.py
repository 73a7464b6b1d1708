"""An issuer of bearer tokens: its keys, their set in a file, and tokens, also wrong ones."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

ISSUER = "https://issuer.example"
AUDIENCE = "sluice"


class Issuer:
    """keys: path of its key set. Tokens are good for five minutes unless told otherwise."""

    def __init__(self, folder: Path) -> None:
        self._rsa = rsa.generate_private_key(65537, 2048)
        self._ec = ec.generate_private_key(ec.SECP256R1())
        self.keys = folder / "jwks.json"
        self.publish("rsa-1", "ec-1")

    def key(self, kid: str) -> dict[str, Any]:
        """The public key of this id, as a JSON Web Key."""
        made: dict[str, Any] = (
            RSAAlgorithm.to_jwk(self._rsa.public_key(), as_dict=True)
            if kid.startswith("rsa")
            else ECAlgorithm.to_jwk(self._ec.public_key(), as_dict=True)
        )
        made.pop("key_ops", None)
        return made | {"kid": kid, "use": "sig"}

    def publish(self, *kids: str) -> None:
        """Write the key set with keys of these ids: ``rsa...`` or ``ec...``."""
        self.keys.write_text(json.dumps({"keys": [self.key(kid) for kid in kids]}))

    def public_pem(self) -> bytes:
        """The RSA key as whoever confuses algorithms uses it for a secret."""
        return self._rsa.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def token(
        self, *, kid: str | None = "rsa-1", alg: str = "", key: Any = None, **claims: Any
    ) -> str:
        """A token. claims: beside or instead of the usual ones; None leaves one out."""
        now = int(time.time())
        usual = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "acquirer-1",
            "exp": now + 300,
            "nbf": now - 1,
            "tenant": "bank",
            "scope": "authorize",
        }
        payload = {k: v for k, v in (usual | claims).items() if v is not None}
        is_ec = kid is not None and kid.startswith("ec")
        return jwt.encode(
            payload,
            key if key is not None else self._ec if is_ec else self._rsa,
            algorithm=alg or ("ES256" if is_ec else "RS256"),
            headers={"kid": kid} if kid is not None else None,
        )
