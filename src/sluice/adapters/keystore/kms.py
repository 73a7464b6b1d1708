"""Root keys wrapped by a key management service: AWS KMS, or what speaks its protocol.

An envelope: the service's key wraps the root key, which wraps all others of the keystore here. So
the service is asked when a keystore is opened, when an erasure makes a root, and once after that by
whoever has it open; never for a record (docs/decisions/0058-a-kms-wraps-the-root.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

from sluice.errors import Misconfigured, SluiceError, Unavailable

CONNECT_MAX_S, ANSWER_MAX_S, TRIES_MAX = 2, 3, 2
"""Of one call: ten seconds at most, and whoever asked tries again. An auditor whose loop stood for
longer would be ended as one that hangs."""
CODE = "kms"
"""Of what is raised while the service is away."""
_RUNBOOK = "docs/runbooks/keystore.md#the-kms-is-away"
_OTHER_KEY = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})
_WRONG = frozenset(
    {
        "AccessDeniedException",
        "InvalidArnException",
        "InvalidKeyUsageException",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "NotFoundException",
        "UnrecognizedClientException",
        "ValidationException",
    }
)
"""Answers that stay what they are until a person changes something here. A key that is disabled, or
about to be deleted, is away: whoever did that can take it back."""


class KmsWrapper:
    """See :class:`sluice.adapters.keystore.roots.KeyWrapper`.

    key: of symmetric encryption: its ARN, its id, or alias/NAME. Region and credentials are where
    AWS's clients look for them; the region of an ARN is its own. context: authenticated with each
    root key (KMS's encryption context), so that one key may wrap for several logs and the service's
    own log says for which.
    """

    name = "kms"

    def __init__(self, key: str, context: Mapping[str, str]) -> None:
        """Asks nobody yet. Raises Misconfigured."""
        self._key = key
        self._context = dict(context)
        parts = key.split(":")
        region = parts[3] if parts[0] == "arn" and len(parts) > 5 else None
        try:
            self._kms = boto3.session.Session().client(
                "kms",
                region_name=region,
                config=Config(
                    connect_timeout=CONNECT_MAX_S,
                    read_timeout=ANSWER_MAX_S,
                    retries={"total_max_attempts": TRIES_MAX, "mode": "standard"},
                    proxies={},
                ),
            )
        except (BotoCoreError, ValueError) as exc:
            fix = "AWS_DEFAULT_REGION, or the key's ARN" if isinstance(exc, NoRegionError) else ""
            raise Misconfigured(f"no client for the KMS: {exc}", where=key, fix=fix) from exc

    def wrap(self, secret: bytes) -> bytes:
        """See the protocol."""
        return self._ask("encrypt", "CiphertextBlob", Plaintext=secret)

    def unwrap(self, wrapped: bytes) -> bytes:
        """See the protocol."""
        return self._ask("decrypt", "Plaintext", CiphertextBlob=wrapped)

    def _ask(self, call: str, answer: str, **given: bytes) -> bytes:
        try:
            found: dict[str, Any] = getattr(self._kms, call)(
                KeyId=self._key, EncryptionContext=self._context, **given
            )
            return bytes(found[answer])
        except (ClientError, BotoCoreError, OSError) as exc:
            raise self._translated(call, exc) from exc

    def _translated(self, call: str, exc: Exception) -> SluiceError:
        response = getattr(exc, "response", {})
        code = str(response.get("Error", {}).get("Code", ""))
        if code in _OTHER_KEY:
            about = ", ".join(f"{name}={value}" for name, value in self._context.items())
            return Misconfigured(
                f"the root keys were wrapped with another key, or not for {about}",
                where=f"keystore.wrapper, {self._key}",
                fix="name the key that they were wrapped with, and its auditor.environment and "
                "auditor.cell",
            )
        if code in _WRONG or isinstance(exc, NoCredentialsError):
            return Misconfigured(
                f"the KMS refuses to {call}: {exc}",
                where=f"keystore.wrapper, {self._key}",
                fix="kms:Encrypt and kms:Decrypt on this key, for whom the auditor runs as",
            )
        return Unavailable(
            f"the KMS does not {call}: {exc}",
            where=f"keystore.wrapper, {self._key}",
            fix=_RUNBOOK,
            code=CODE,
        )
