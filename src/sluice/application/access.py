"""Who asks: an identity with its tenants and scopes, or the refusal of one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from sluice.errors import Rejected


class Scope(StrEnum):
    """What a caller may do."""

    AUTHORIZE = "authorize"
    """Have authorizations of its own tenants decided."""
    SCORE = "score"
    """See scores: in answers, and of raw features."""
    LABEL = "label"
    """Report what became of authorizations of its own tenants."""
    ADMIN = "admin"
    """Read metrics and metadata of the process."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller whose credential holds.

    name: of the client, bounded by nobody: for logs, never for metrics. until_s: seconds since
    1970, after which it must prove itself again. bound_to: thumbprint of the certificate with
    which a token must come (RFC 8705), "" for any.
    """

    name: str
    tenants: frozenset[str]
    scopes: frozenset[Scope]
    until_s: float = math.inf
    bound_to: str = ""


class Refused(Rejected):
    """Nobody we know, or somebody who may not. Nothing was read, decided or recorded.

    reason: a bounded word, for the metric; code: what the answer says. The text repeats no part of
    a credential.
    """

    code = "unauthenticated"

    def __init__(
        self, reason: str, what: str, *, code: str = "", fix: str = "", retry_after_s: int = 0
    ) -> None:
        super().__init__(what, fix=fix, code=code)
        self.reason = reason
        self.retry_after_s = retry_after_s


class Tokens(Protocol):
    """Turns a bearer token into the identity that its issuer vouches for."""

    @property
    def generation(self) -> int:
        """Grows when the keys change: what was verified before has to be verified again."""
        ...

    def verify(self, token: bytes) -> Identity:
        """Raises Refused. Waits for nothing."""
        ...

    async def follow(self) -> None:
        """Read the keys again and again, until cancelled."""
        ...


class Clients(Protocol):
    """Identities by the name of a certificate: ``URI:``, ``DNS:`` or ``CN:`` before it."""

    def current(self) -> Mapping[str, Identity]:
        """Those that hold now: the same object until they change."""
        ...

    def poll(self) -> bool:
        """Look whether they changed. Raises a SluiceError if what is there now is wrong: then
        nothing changes."""
        ...
