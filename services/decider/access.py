"""Who may ask the sync API: credentials to callers, callers to routes and tenants, their limits.

A token that was verified is remembered by its bytes until it expires, so that a request costs a
look into a dict. A certificate is looked at once a connection.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import re
import ssl
import time
from base64 import urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, Protocol

from services.decider.asgi import Header
from services.repeat import Repeated
from sluice import telemetry
from sluice.application.access import Clients, Identity, Refused, Scope, Tokens
from sluice.errors import SluiceError
from sluice.telemetry import METRICS, Metrics

TOKENS_MAX = 4096
"""Verified tokens that are remembered; with the longest that we take, 32 MiB."""
CLIENTS_MAX = 4096
"""Clients whose rate is remembered; the one not seen for longest is forgotten first."""
SAID_EVERY_S = 1.0
"""Refusals of one reason make a line in the log, with their number, at most so often: whoever is
refused does not get to fill a disk."""


class Routes:
    """Scopes of which a caller needs one, by path; none for what needs no credential. What is not
    here is refused to everyone. ``{name}`` stands for the model's."""

    def __init__(self, table: Mapping[str, frozenset[Scope]]) -> None:
        self.table = table
        self._patterns = [
            (re.compile(re.escape(path).replace(r"\{name\}", "[^/:]+")), scopes)
            for path, scopes in table.items()
            if "{name}" in path
        ]

    def scopes(self, path: str) -> frozenset[Scope] | None:
        """Of which one is needed; None for a path that is not here."""
        found = self.table.get(path)
        if found is not None:
            return found
        return next((scopes for at, scopes in self._patterns if at.fullmatch(path)), None)


_ANYONE: frozenset[Scope] = frozenset()
_ANY_SCOPE = frozenset(Scope)
_JUDGED = frozenset({Scope.AUTHORIZE})
_HEALTH = ("/v2/health/live", "/v2/health/ready", "/v2/models/{name}/ready")
_METADATA = ("/v2", "/v2/models", "/v2/models/{name}", "/v1/models", "/v1/models/{name}")
API = Routes(
    {
        "/v1/authorizations": _JUDGED,
        "/v2/models/{name}/infer": _JUDGED,
        "/v1/models/{name}:predict": _JUDGED,
        "/openapi.json": _ANY_SCOPE,
        **dict.fromkeys(_METADATA, _ANY_SCOPE),
        **dict.fromkeys(_HEALTH, _ANYONE),
    }
)
"""Of the sync API's port."""
OPERATORS = Routes(
    {
        "/v2/models/{name}/infer": frozenset({Scope.SCORE}),
        **dict.fromkeys(_METADATA, frozenset({Scope.ADMIN})),
        **dict.fromkeys(_HEALTH, _ANYONE),
        "/metrics": _ANYONE,
    }
)
"""Of the admin port. Scrapers have no tokens, and metrics no identifiers."""
_SCORE = re.compile(rb'"score_ppm":(?:null|[0-9]+),')


@dataclass(frozen=True, slots=True)
class Limits:
    """Of each client. per_s: authorizations, 0 for any number; burst: of them at once, after a
    pause. in_flight: requests, 0 for any number."""

    per_s: int = 0
    burst: int = 1
    in_flight: int = 0


class Account:
    """What one client uses, whichever of its credentials it comes with."""

    __slots__ = ("at", "in_flight", "room")

    def __init__(self, room: float, at: float) -> None:
        self.in_flight = 0
        self.room = room
        self.at = at


class Caller:
    """An identity and its client's account."""

    __slots__ = ("account", "identity", "sees_scores")

    def __init__(self, identity: Identity, account: Account) -> None:
        self.identity = identity
        self.account = account
        self.sees_scores = Scope.SCORE in identity.scopes

    def answer(self, body: bytes) -> bytes:
        """An answer as this caller may see it: without the score, unless its scopes say so."""
        return body if self.sees_scores else without_score(body)


def without_score(body: bytes) -> bytes:
    """An answer without its field score_ppm. A quoted text cannot hold that key unescaped.

    >>> without_score(b'{"reasons":[],"score_ppm":1200,"degradation_level":"D0"}')
    b'{"reasons":[],"degradation_level":"D0"}'
    """
    return _SCORE.sub(b"", body, count=1)


class Peer:
    """The certificate of a connection, and who that is: None for nobody we know."""

    __slots__ = ("caller", "clients", "names", "thumbprint", "until_s")

    def __init__(self, names: list[str], thumbprint: str, until_s: float) -> None:
        self.names = names
        self.thumbprint = thumbprint
        self.until_s = until_s
        self.caller: Caller | None = None
        self.clients: Mapping[str, Identity] | None = None
        """Among whom it was looked for."""


CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""Who asks, for the rows of an inference."""
PEER = "sluice.peer"
"""Key of the connection's :class:`Peer` in the ASGI scope."""


def follow_file(what: str, poll: Callable[[], bool], every_s: float) -> Repeated:
    """Poll a file that may change, until stopped: see :func:`look`."""
    return Repeated(what, every_s, partial(look, what, poll)).start()


def look(what: str, poll: Callable[[], bool]) -> None:
    """Poll it once; what is wrong with it is logged, counted, and changes nothing."""
    try:
        if poll():
            telemetry.event("activated", what=what)
    except SluiceError as error:
        telemetry.event(
            "refused", level=logging.ERROR, what=what, code=error.code, reason=str(error)
        )
        METRICS.count("sluice_decider_refused_total", what, error.code)


class ServerTls(Protocol):
    """A server's TLS, whose certificate may be replaced while it runs."""

    context: ssl.SSLContext

    def poll(self) -> bool:
        """Take what changed. Raises a SluiceError if it is wrong: then nothing changes."""
        ...


def report_open(host: str) -> None:
    """Say that everybody may ask, where others than this machine can."""
    try:
        lonely = ipaddress.ip_address(host).is_loopback
    except ValueError:
        lonely = host == "localhost"
    METRICS.set("sluice_decider_access_open", not lonely)
    if not lonely:
        telemetry.event(
            "access_open",
            level=logging.WARNING,
            host=host,
            fix="access.mode required, docs/how-to/secure-a-deployment.md",
        )


class Access:
    """Lets in whoever may, or raises Refused, which is counted. Lives in one event loop.

    tokens: None where bearer tokens are not taken. clients: certificates that are, by their names;
    None for none. limits: of each client.
    """

    def __init__(
        self,
        tokens: Tokens | None,
        clients: Clients | None,
        *,
        limits: Limits,
        metrics: Metrics = METRICS,
        tokens_max: int = TOKENS_MAX,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tokens = tokens
        self._clients = clients
        self._limits = limits
        self._metrics = metrics
        self._now = now
        self._monotonic = monotonic
        self._known: OrderedDict[bytes, Caller] = OrderedDict()
        self._tokens_max = tokens_max
        self._generation = -1
        self._accounts: OrderedDict[tuple[str, str], Account] = OrderedDict()
        self._unsaid: dict[str, int] = {}
        self._said_at: dict[str, float] = {}

    # ------------------------------------------------------------ who

    def identify(self, headers: Sequence[Header], peer: Peer | None) -> Caller:
        """The caller that a request's token names, else its certificate. Raises Refused."""
        given = b""
        for name, value in headers:
            if name == b"authorization":
                if given:
                    raise self._refused(
                        "malformed", "two credentials were sent", code="invalid_token"
                    )
                given = value
        if not given:
            if peer is None:
                raise self._refused("none", "no credential was sent")
            caller = self._holder(peer)
            if caller is None:
                raise self._refused("unknown_certificate", "this certificate is nobody we know")
            if caller.identity.until_s <= self._now():
                raise self._refused("expired", "the certificate has expired")
            return caller
        tokens = self.tokens
        if tokens is None:
            raise self._refused("malformed", "tokens are not taken here", code="invalid_token")
        if tokens.generation != self._generation:
            self._known.clear()
            self._generation = tokens.generation
        known = self._known.get(given)
        if known is None:
            known = self._remember(given, self._verified(tokens, given))
        elif known.identity.until_s <= self._now():
            del self._known[given]
            raise self._refused("expired", "the token has expired", code="invalid_token")
        else:
            self._known.move_to_end(given)
        bound_to = known.identity.bound_to
        if bound_to and (peer is None or peer.thumbprint != bound_to):
            raise self._refused(
                "not_bound", "the token belongs to another certificate", code="invalid_token"
            )
        return known

    def _verified(self, tokens: Tokens, given: bytes) -> Identity:
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != b"bearer" or not token.strip():
            raise self._refused("malformed", "send a bearer token", code="invalid_token")
        try:
            return tokens.verify(token.strip())
        except Refused as refused:
            raise self._counted(refused) from None

    def _remember(self, given: bytes, identity: Identity) -> Caller:
        caller = self._known[given] = Caller(identity, self._account("token", identity.name))
        if len(self._known) > self._tokens_max:
            self._known.popitem(last=False)
        return caller

    def _account(self, kind: str, name: str) -> Account:
        key = kind, name
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account(self._limits.burst, self._monotonic())
            if len(self._accounts) > CLIENTS_MAX:
                self._accounts.popitem(last=False)
        self._accounts.move_to_end(key)
        return account

    def _holder(self, peer: Peer) -> Caller | None:
        """Whose certificate this is; looked for again when the file of clients changed."""
        clients = self._clients.current() if self._clients else {}
        if peer.clients is not clients:
            peer.clients = clients
            found = next((clients[name] for name in peer.names if name in clients), None)
            if found is None:
                peer.caller = None
            else:
                identity = Identity(found.name, found.tenants, found.scopes, peer.until_s)
                peer.caller = Caller(identity, self._account("certificate", found.name))
        return peer.caller

    @property
    def remembered(self) -> int:
        """Tokens that need not be verified again; at most TOKENS_MAX."""
        return len(self._known)

    # ------------------------------------------------------------ what

    def admit(
        self, headers: Sequence[Header], peer: Peer | None, path: str, routes: Routes = API
    ) -> Caller | None:
        """Let a request in, or raise Refused. None where nobody needs a credential.

        A caller let in counts as in flight until ``leave``.
        """
        scopes = routes.scopes(path)
        if scopes is not None and not scopes:
            return None
        caller = self.identify(headers, peer)
        if scopes is None:
            raise self._refused("unknown_route", "there is nothing here", code="not_found")
        if scopes.isdisjoint(caller.identity.scopes):
            one_of = " or ".join(sorted(scopes))
            raise self._refused(
                "wrong_scope", f"this needs the scope {one_of}", code="insufficient_scope"
            )
        self._enter(caller.account)
        return caller

    def belongs(self, caller: Caller, tenant: str) -> None:
        """Raises Refused unless the caller may ask for this tenant."""
        if tenant not in caller.identity.tenants:
            raise self._refused(
                "other_tenant", "the credential is of another tenant", code="other_tenant"
            )

    # ------------------------------------------------------------ how much

    def _enter(self, account: Account) -> None:
        limits = self._limits
        if limits.in_flight and account.in_flight >= limits.in_flight:
            raise self._refused(
                "in_flight", "too many requests of this client are in flight",
                code="too_many_requests", retry_after_s=1,
            )  # fmt: skip
        if limits.per_s:
            now = self._monotonic()
            account.room = min(account.room + (now - account.at) * limits.per_s, limits.burst)
            account.at = now
            if account.room < 1:
                raise self._refused(
                    "rate", "this client sends too fast", code="too_many_requests",
                    retry_after_s=ceil((1 - account.room) / limits.per_s),
                )  # fmt: skip
            account.room -= 1
        account.in_flight += 1

    @staticmethod
    def charge(caller: Caller, rows: int) -> None:
        """Rows of one request beyond the first. They are not refused: the next ones wait longer."""
        caller.account.room -= rows

    @staticmethod
    def leave(caller: Caller) -> None:
        """A request that was admitted has its answer."""
        caller.account.in_flight -= 1

    # ------------------------------------------------------------ what changes, and telling

    def follow(self, every_s: float) -> Callable[[], None]:
        """Keep keys and clients up to date. Returns what ends it."""
        ends: list[Callable[[], object]] = []
        if self.tokens is not None:
            ends.append(asyncio.create_task(self.tokens.follow()).cancel)
        if self._clients is not None:
            ends.append(follow_file("clients", self._clients.poll, every_s).stop)

        def stop() -> None:
            for end in ends:
                end()

        return stop

    def _refused(self, reason: str, what: str, **more: Any) -> Refused:
        return self._counted(Refused(reason, what, **more))

    def _counted(self, refused: Refused) -> Refused:
        """Count it, and say so in the log: never a name, a header or a part of a token."""
        reason = refused.reason
        self._metrics.count("sluice_decider_access_refused_total", reason)
        count = self._unsaid.get(reason, 0) + 1
        now = self._monotonic()
        if now - self._said_at.get(reason, float("-inf")) < SAID_EVERY_S:
            self._unsaid[reason] = count
        else:
            self._said_at[reason], self._unsaid[reason] = now, 0
            telemetry.event("access_refused", level=logging.WARNING, reason=reason, count=count)
        return refused


def peer_of(connection: ssl.SSLObject | None) -> Peer | None:
    """The certificate that a client showed in its handshake; None without one."""
    der = connection.getpeercert(True) if connection else None
    certificate = connection.getpeercert() if connection else None
    if der is None or not certificate:
        return None
    until_s = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    return Peer(names_of(certificate), thumbprint(der), until_s)


def names_of(certificate: Mapping[str, Any]) -> list[str]:
    """What a certificate calls its holder, as ``ssl`` reads it: ``URI:``, ``DNS:``, then ``CN:``.

    >>> names_of({"subject": ((("commonName", "acquirer"),),),
    ...           "subjectAltName": (("DNS", "a.bank"), ("URI", "spiffe://bank/a"))})
    ['URI:spiffe://bank/a', 'DNS:a.bank', 'CN:acquirer']
    """
    alternatives = certificate.get("subjectAltName", ())
    names = [f"{kind}:{name}" for kind in ("URI", "DNS") for k, name in alternatives if k == kind]
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    return names + [f"CN:{value}" for key, value in subject if key == "commonName"]


def thumbprint(der: bytes) -> str:
    """``x5t#S256`` of RFC 8705: base64url of the certificate's SHA-256, without padding."""
    return urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()
