"""Where the store is: one server, a cluster by some of its nodes, or a primary by its Sentinels."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote, urlsplit

from hiredis import ReplyError

from sluice.adapters.tls import Files, client_context
from sluice.errors import Misconfigured

DEFAULT_PORT, SENTINEL_PORT = 6379, 26379
_PLAIN, _TLS, _UNIX = ("redis", "valkey"), ("rediss", "valkeys"), ("unix", "valkey+unix")
CLUSTER, SENTINEL = "cluster", "sentinel"
SCHEMES = (
    *(_PLAIN + _TLS + _UNIX),
    *(f"{scheme}+{mode}" for scheme in _PLAIN + _TLS for mode in (CLUSTER, SENTINEL)),
)
SEEDS_MAX = 16
"""Addresses in one URL: some nodes or Sentinels that are asked for the rest."""

Place = tuple[str, int]
"""Host and port."""


@dataclass(frozen=True, slots=True)
class Address:
    """A server, or servers to be asked for it, and how to greet it. Its repr and str hold no
    password."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    path: str = ""
    """Of a unix socket; then host and port mean nothing."""
    db: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    files: Files = field(default=Files("store"), repr=False)
    """PEM files of TLS: settings store.ca_file, store.cert_file, store.key_file."""
    mode: str = field(default="", repr=False)
    """CLUSTER, SENTINEL, or "" for one server."""
    seeds: tuple[Place, ...] = field(default=(), repr=False)
    """Nodes of the cluster, or Sentinels."""
    service: str = field(default="", repr=False)
    """The primary's name, by which Sentinels know it."""
    named: bool = field(default=False, repr=False)
    """A Sentinel gave it as the primary: it is asked whether it is one."""

    def __str__(self) -> str:
        if self.seeds:
            return ",".join(map(written, self.seeds)) + (self.service and f" {self.service}")
        return self.path or written((self.host, self.port))

    def at(self, place: Place) -> Address:
        """One server of these, greeted in the same way."""
        return replace(
            self,
            host=place[0],
            port=place[1],
            mode="",
            seeds=(),
            service="",
            named=self.mode == SENTINEL,
        )

    def greeting(self) -> list[tuple[bytes, ...]]:
        """Commands for a new connection; the last proves that the server answers."""
        commands: list[tuple[bytes, ...]] = []
        if self.password:
            user = (self.username.encode(),) if self.username else ()
            commands.append((b"AUTH", *user, self.password.encode()))
        if self.db:
            commands.append((b"SELECT", b"%d" % self.db))
        if self.named:
            commands.append((b"ROLE",))
        return [*commands, (b"PING",)]

    def refusal(self, replies: Sequence[Any]) -> ReplyError | None:
        """What in the replies to the greeting turns us away, None if nothing does."""
        found = next((reply for reply in replies if isinstance(reply, ReplyError)), None)
        if found is None and self.named and replies[-2][0] != b"master":
            return ReplyError("READONLY it is a replica, though a Sentinel named it")
        return found

    def tls_context(self) -> ssl.SSLContext | None:
        """Made anew for each connection, so that renewed files are used; None without TLS.

        Raises Misconfigured, naming the setting.
        """
        return client_context(self.files) if self.tls else None


def parse(url: str | Address) -> Address:
    """A store's URL to its address, which an address is already.

    Raises Misconfigured, which never repeats the URL.

    >>> parse("rediss://user:secret@store.internal/2")
    Address(host='store.internal', port=6379, path='', db=2, username='user', tls=True)
    >>> parse("unix:///run/valkey.sock").path
    '/run/valkey.sock'
    >>> parse("rediss+cluster://:secret@one:7000,two:7001").seeds
    (('one', 7000), ('two', 7001))
    >>> str(parse("valkey+sentinel://one,two,three/store/0"))
    'one:26379,two:26379,three:26379 store'
    """
    if isinstance(url, Address):
        return url
    try:
        return _parse(url)
    except ValueError as exc:
        raise Misconfigured(
            f"the online store's URL cannot be used: {exc}",
            where="store.url",
            fix="redis[s]://[user:password@]host[:port][/db], redis[s]+cluster://host:port,... "
            "redis[s]+sentinel://host:port,.../primary's name[/db], or unix:///path",
        ) from None


def written(place: Place) -> str:
    """As a person writes it.

    >>> written(("::1", 6379))
    '[::1]:6379'
    """
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _parse(url: str) -> Address:
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise ValueError("options after ? or # are not read")
    if parts.scheme in _UNIX:
        if not parts.path:
            raise ValueError("the socket's path is missing")
        return Address(path=parts.path)
    scheme, _, mode = parts.scheme.partition("+")
    if parts.scheme not in SCHEMES:
        raise ValueError(f"scheme {parts.scheme!r} is none of {', '.join(SCHEMES)}")
    user, _, hosts = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    default = SENTINEL_PORT if mode == SENTINEL else DEFAULT_PORT
    places = tuple(_place(host, default) for host in hosts.split(","))
    if len(places) > (SEEDS_MAX if mode else 1):
        raise ValueError("more addresses than one need +cluster or +sentinel, and 16 are enough")
    rest = parts.path.strip("/")
    service = ""
    if mode == SENTINEL:
        service, _, rest = rest.partition("/")
        if not service:
            raise ValueError("the primary's name is missing behind the Sentinels' addresses")
    if rest and not rest.isdecimal():
        raise ValueError("the database is not a number")
    if mode == CLUSTER and int(rest or 0):
        raise ValueError("a cluster has database 0 alone")
    return Address(
        host=places[0][0],
        port=places[0][1],
        db=int(rest or 0),
        username=unquote(name),
        password=unquote(password),
        tls=scheme in _TLS,
        mode=mode,
        seeds=places if mode else (),
        service=service,
    )


def _place(text: str, default: int) -> Place:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("the host is missing")
    return parts.hostname, parts.port or default
