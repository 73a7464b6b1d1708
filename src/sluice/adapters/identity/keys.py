"""The issuer's public keys: a JSON Web Key Set (RFC 7517) in a file or behind an https URL."""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from jwt.algorithms import get_default_algorithms

from sluice.application.access import Refused
from sluice.errors import Misconfigured, SluiceError, Unavailable

MAX_BYTES = 262_144
"""Of a key set. The largest of the big providers have 20 kB."""
MAX_KEYS = 64
RSA_MIN_BITS = 2048
"""NIST SP 800-131A: what is shorter signs nothing that anybody should believe."""
FETCH_MAX_S = 5.0
AGAIN_S = 10.0
"""A key that is not known makes us read anew, but not more often than this: anyone can name one."""
STALE_S = 86_400.0
"""Keys that could not be read for so long vouch for nobody: one withdrawn yesterday is not good."""
ASYMMETRIC: dict[tuple[str, str], tuple[str, ...]] = {
    ("RSA", ""): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
"""Algorithms by type and curve of the key. Nothing symmetric, and no none: a token's own header
chooses among what its key can do, and no public key serves as a secret (RFC 8725, 3.1 and 3.2)."""
ALGORITHMS = frozenset(name for names in ASYMMETRIC.values() for name in names)
_WHERE = "access.keys"


@dataclass(frozen=True, slots=True)
class Key:
    """One public key and the algorithms that it may be used with."""

    public: Any
    algorithms: frozenset[str]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Whoever can redirect us could choose the keys."""

    def redirect_request(self, *_: Any) -> None:
        return None


class KeySet:
    """Keys by their id, read when asked to. Verifying uses what was read last.

    source: path, or https URL. ca_file: of the URL's server; empty is the system's. algorithms:
    those allowed. Raises Misconfigured if these cannot be used; it reads nothing yet.
    """

    def __init__(
        self,
        source: str,
        algorithms: Collection[str],
        *,
        ca_file: str = "",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        scheme, is_url, _ = source.partition("://")
        if is_url and scheme != "https":
            raise Misconfigured(
                f"keys are not read over {scheme}", where=_WHERE, fix="an https URL, or a file"
            )
        wrong = sorted(set(algorithms) - ALGORITHMS)
        if wrong or not algorithms:
            raise Misconfigured(
                f"{', '.join(wrong) or 'nothing'} is no asymmetric signature that we verify",
                where="access.algorithms",
                fix=f"one or more of {', '.join(sorted(ALGORITHMS))}",
            )
        self.generation = 0
        self._source = source
        self._is_url = bool(is_url)
        self._ca_file = ca_file
        self.algorithms = frozenset(algorithms)
        self._monotonic = monotonic
        self._keys: dict[str, Key] = {}
        self._text: bytes | None = None
        self._read_at = self._tried_at = float("-inf")

    def read(self) -> None:
        """Read the set. Blocks for FETCH_MAX_S or so. Raises Misconfigured or Unavailable, and then
        the keys that were read before stay."""
        self._tried_at = self._monotonic()
        text = self._fetch() if self._is_url else self._load()
        if text != self._text:
            self._keys = _usable(text, self.algorithms, self._wrong)
            self._text = text
            self.generation += 1
        self._read_at = self._monotonic()

    def find(self, kid: object) -> Key:
        """The key of this id; without one, the only key there is. Raises Refused."""
        if self._monotonic() - self._read_at > STALE_S:
            raise Refused(
                "keys_unavailable", "the issuer's keys could not be read", code="unavailable"
            )
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        key = self._keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            if self.may_read_again():
                # Perhaps the issuer has a new key: it is read now, and the caller comes again.
                raise Refused(
                    "key_not_read_yet", "the key of this token is being read", code="unavailable"
                )
            raise Refused(
                "unknown_key", "the issuer has no key of the id that the token names",
                code="invalid_token",
            )  # fmt: skip
        return key

    def may_read_again(self) -> bool:
        """Whether a read because of one token is due again."""
        return self._monotonic() - self._tried_at >= AGAIN_S

    def _wrong(self, what: str) -> SluiceError:
        """The set is not what it should be: of a file we were set up wrong, else it may pass."""
        kind = Unavailable if self._is_url else Misconfigured
        return kind(what, where=f"{_WHERE}, {self._source}", fix="a JSON Web Key Set, RFC 7517")

    def _load(self) -> bytes:
        try:
            with Path(self._source).open("rb") as file:
                text = file.read(MAX_BYTES + 1)
        except OSError as exc:
            raise self._wrong(f"cannot read the keys: {exc.strerror}") from exc
        return self._bounded(text)

    def _fetch(self) -> bytes:
        try:
            context = ssl.create_default_context(cafile=self._ca_file or None)
        except (OSError, ssl.SSLError) as exc:
            raise Misconfigured(
                f"cannot read the CA bundle: {exc}", where=f"access.keys_ca_file, {self._ca_file}"
            ) from exc
        opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context), _NoRedirect
        )
        request = urllib.request.Request(self._source, headers={"accept": "application/json"})
        try:
            with opener.open(request, timeout=FETCH_MAX_S) as answer:
                text: bytes = answer.read(MAX_BYTES + 1)
        except urllib.error.HTTPError as exc:
            exc.close()
            raise self._wrong(f"the keys' server answers {exc.code}") from exc
        except (OSError, ValueError) as exc:
            raise self._wrong(f"cannot fetch the keys: {exc}") from exc
        return self._bounded(text)

    def _bounded(self, text: bytes) -> bytes:
        if len(text) > MAX_BYTES:
            raise self._wrong(f"the key set is over {MAX_BYTES} bytes")
        return text


def _usable(
    text: bytes, allowed: frozenset[str], wrong: Callable[[str], SluiceError]
) -> dict[str, Key]:
    """Keys by id; "" for one without. Those that cannot sign what is allowed are left out."""
    try:
        found = json.loads(text)["keys"]
        listed = [one for one in found if isinstance(one, dict)]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise wrong("the keys are no JSON Web Key Set") from None
    if len(listed) > MAX_KEYS:
        raise wrong(f"there are over {MAX_KEYS} keys")
    keys: dict[str, Key] = {}
    for one in listed:
        key = _key(one, allowed)
        kid = one.get("kid", "")
        if key is None or not isinstance(kid, str):
            continue
        if kid in keys:
            raise wrong("two keys have the same id")
        keys[kid] = key
    if not keys:
        raise wrong(f"none of the {len(listed)} keys can verify {', '.join(sorted(allowed))}")
    return keys


def _key(one: dict[str, Any], allowed: frozenset[str]) -> Key | None:
    """None for a key that is symmetric, private, weak, for another use, or broken."""
    uses = one.get("use", "sig"), one.get("key_ops", ["verify"])
    if uses[0] != "sig" or not isinstance(uses[1], list) or "verify" not in uses[1] or "d" in one:
        return None
    kind = str(one.get("kty")), str(one.get("crv", ""))
    can = allowed & set(ASYMMETRIC.get(kind, ()))
    if "alg" in one:
        can &= {one["alg"]} if isinstance(one["alg"], str) else set()
    if not can:
        return None
    try:
        public = get_default_algorithms()[min(can)].from_jwk(one)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if kind[0] == "RSA" and public.key_size < RSA_MIN_BITS:
        return None
    return Key(public, frozenset(can))
