"""JSON Web Tokens (RFC 7519, RFC 9068) to identities, by the rules of RFC 8725."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import jwt

from sluice.adapters.identity.keys import KeySet
from sluice.application.access import Identity, Refused, Scope
from sluice.errors import SluiceError, Unavailable

MAX_TOKEN_BYTES = 8_192
NAME_MAX = 200
"""Characters of a client's name that a log line shows."""
TENANTS_MAX = 64
"""Tenants that one client may ask for."""
_TYPES = (None, "jwt", "at+jwt", "application/at+jwt")
_REASONS: tuple[tuple[type[jwt.PyJWTError], str, str], ...] = (
    (jwt.ExpiredSignatureError, "expired", "the token has expired"),
    (jwt.ImmatureSignatureError, "not_yet_valid", "the token is not valid yet"),
    (jwt.InvalidAudienceError, "wrong_audience", "the token is for another audience"),
    (jwt.InvalidIssuerError, "wrong_issuer", "the token is from another issuer"),
    (jwt.InvalidAlgorithmError, "wrong_algorithm", "the token's algorithm is not allowed"),
    (jwt.InvalidSignatureError, "bad_signature", "the token's signature does not fit"),
)
_CLAIMS = {"aud": "wrong_audience", "iss": "wrong_issuer"}


class JwtTokens:
    """The port Tokens for one issuer.

    issuer, audience: must be in the token. leeway_s: how far clocks may differ. tenant_claim: holds
    a tenant or a list of them; scope_claim: words with spaces between, or a list. refresh_s: from
    one read of the keys to the next. read: told of each read, with its error or None.
    """

    def __init__(
        self,
        keys: KeySet,
        *,
        issuer: str,
        audience: str,
        leeway_s: int,
        tenant_claim: str,
        scope_claim: str,
        refresh_s: float,
        read: Callable[[SluiceError | None], None],
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._leeway_s = leeway_s
        self._tenant_claim = tenant_claim
        self._scope_claim = scope_claim
        self._refresh_s = refresh_s
        self._read = read
        self._wanted = asyncio.Event()

    @property
    def generation(self) -> int:
        """See the port."""
        return self._keys.generation

    def verify(self, token: bytes) -> Identity:
        """See the port. Some 50 us with RS256; whoever calls remembers the result."""
        if len(token) > MAX_TOKEN_BYTES:
            raise _malformed(f"the token is over {MAX_TOKEN_BYTES} bytes")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise _malformed("the credential is no JSON Web Token") from None
        kind = header.get("typ")
        if (kind.lower() if isinstance(kind, str) else kind) not in _TYPES:
            raise _malformed("the token is of another type")
        if header.get("alg") not in self._keys.algorithms:
            raise Refused(
                "wrong_algorithm", "the token's algorithm is not allowed", code="invalid_token"
            )
        try:
            key = self._keys.find(header.get("kid"))
        except Refused:
            if self._keys.may_read_again():
                self._wanted.set()
            raise
        return self._identity(self._claims(token, key.public, sorted(key.algorithms)))

    def _claims(self, token: bytes, public: Any, algorithms: list[str]) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                public,
                algorithms,
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._leeway_s,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.MissingRequiredClaimError as exc:
            reason = _CLAIMS.get(exc.claim, "malformed")
            raise Refused(reason, f"the token has no {exc.claim}", code="invalid_token") from None
        except jwt.PyJWTError as exc:
            for kind, reason, what in _REASONS:
                if isinstance(exc, kind):
                    raise Refused(reason, what, code="invalid_token") from None
            raise _malformed("the token is malformed") from None
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise _malformed("the token is malformed") from None

    def _identity(self, claims: dict[str, Any]) -> Identity:
        name = claims.get("client_id") or claims.get("azp") or claims.get("sub")
        if not isinstance(name, str) or not name:
            raise _malformed("the token names no client: client_id, azp or sub")
        tenants = _words(claims.get(self._tenant_claim), split=False)
        if len(tenants) > TENANTS_MAX:
            raise _malformed(f"the token has over {TENANTS_MAX} tenants")
        known = {scope.value for scope in Scope}
        scopes = _words(claims.get(self._scope_claim), split=True) & known
        bound = claims.get("cnf")
        bound_to = bound.get("x5t#S256", "") if isinstance(bound, dict) else ""
        return Identity(
            name=name[:NAME_MAX],
            tenants=tenants,
            scopes=frozenset(Scope(scope) for scope in scopes),
            until_s=int(claims["exp"]) + self._leeway_s,
            bound_to=bound_to if isinstance(bound_to, str) else "?",
        )

    async def follow(self) -> None:
        """See the port."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), self._refresh_s)
            self._wanted.clear()
            await self.read()

    async def read(self) -> None:
        """Read the keys once, in a thread; what goes wrong is told and raises nothing."""
        try:
            await asyncio.to_thread(self._keys.read)
        except SluiceError as error:
            self._read(error)
        except Exception as error:  # whatever an issuer sends, the next reading is due
            self._read(Unavailable(f"the keys broke us: {type(error).__name__}"))
        else:
            self._read(None)


def _words(value: object, *, split: bool) -> frozenset[str]:
    """A claim that is a text or a list of texts."""
    if isinstance(value, str):
        return frozenset(value.split() if split else [value] if value else [])
    if isinstance(value, list):
        return frozenset(one for one in value if isinstance(one, str) and one)
    return frozenset()


def _malformed(what: str) -> Refused:
    return Refused("malformed", what, code="invalid_token")
