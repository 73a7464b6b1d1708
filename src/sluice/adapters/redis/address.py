"""Where the store is: redis, rediss, valkey, valkeys or unix URLs."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from sluice.adapters.tls import Files, client_context
from sluice.errors import Misconfigured

DEFAULT_PORT = 6379
_PLAIN, _TLS, _UNIX = ("redis", "valkey"), ("rediss", "valkeys"), ("unix", "valkey+unix")
SCHEMES = _PLAIN + _TLS + _UNIX


@dataclass(frozen=True, slots=True)
class Address:
    """A server and how to greet it. Its repr and str hold no password."""

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

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    def greeting(self) -> list[tuple[bytes, ...]]:
        """Commands for a new connection; the last proves that the server answers."""
        commands: list[tuple[bytes, ...]] = []
        if self.password:
            user = (self.username.encode(),) if self.username else ()
            commands.append((b"AUTH", *user, self.password.encode()))
        if self.db:
            commands.append((b"SELECT", b"%d" % self.db))
        return [*commands, (b"PING",)]

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
    """
    if isinstance(url, Address):
        return url
    try:
        return _parse(url)
    except ValueError as exc:
        raise Misconfigured(
            f"the online store's URL cannot be used: {exc}",
            where="store.url",
            fix="redis[s]://[user:password@]host[:port][/db] or unix:///path",
        ) from None


def _parse(url: str) -> Address:
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise ValueError("options after ? or # are not read")
    if parts.scheme in _UNIX:
        if not parts.path:
            raise ValueError("the socket's path is missing")
        return Address(path=parts.path)
    if parts.scheme not in _PLAIN + _TLS:
        raise ValueError(f"scheme {parts.scheme!r} is not redis, rediss, valkey, valkeys or unix")
    if not parts.hostname:
        raise ValueError("the host is missing")
    db = parts.path.strip("/")
    if db and not db.isdecimal():
        raise ValueError("the database is not a number")
    return Address(
        host=parts.hostname,
        port=parts.port or DEFAULT_PORT,
        db=int(db or 0),
        username=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        tls=parts.scheme in _TLS,
    )
