"""A YAML file that says whose a client certificate is, followed when it changes.

clients:
  - certificate: URI:spiffe://example.org/acquirer   # or DNS:..., or CN:...
    tenants: [bank]
    scopes: [authorize]
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from sluice.adapters.regular_files import read_regular, stamp
from sluice.application.access import Identity, Scope
from sluice.errors import Misconfigured
from sluice.yaml_files import decode_as

MAX_BYTES = 1_048_576
CLIENTS_MAX = 4096
NODES_MAX = 400_000
"""Keys and values: that many clients with 64 tenants and all scopes each are some 350,000."""
_WHERE = "access.clients_file"
_FIX = "docs/how-to/secure-a-deployment.md shows one"


class _Client(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    certificate: Annotated[str, Meta(pattern=r"^(URI|DNS|CN):[!-~]+$", max_length=512)]
    tenants: Annotated[list[str], Meta(max_length=64)]
    scopes: list[Scope]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    clients: Annotated[list[_Client], Meta(max_length=CLIENTS_MAX)]


class ClientsFile:
    """Identities by the name of a certificate. Raises Misconfigured if the file is wrong."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = stamp(path)
        self._current = read(path)

    def current(self) -> dict[str, Identity]:
        """What was read last and was right."""
        return self._current

    def poll(self) -> bool:
        """Read it if it changed; False if it did not. Raises Misconfigured if it is wrong now: then
        nothing changes, and the same is not looked at again."""
        now = stamp(self._path)
        if now == self._seen:
            return False
        self._seen = now
        self._current = read(self._path)
        return True


def read(path: Path) -> dict[str, Identity]:
    """The file's clients by certificate. Raises Misconfigured with the reason."""
    where = f"{_WHERE}, {path}"
    if not path.is_file():
        raise Misconfigured("there is no such file", where=where, fix=_FIX)
    try:
        text = read_regular(path, MAX_BYTES)
    except Misconfigured as exc:
        raise Misconfigured(exc.what, where=where) from exc
    clients = decode_as(_File, text, where, fix=_FIX, nodes_max=NODES_MAX).clients
    found: dict[str, Identity] = {}
    for one in clients:
        if one.certificate in found:
            raise Misconfigured(f"{one.certificate} is listed twice", where=where, fix=_FIX)
        found[one.certificate] = Identity(
            one.certificate, frozenset(one.tenants), frozenset(one.scopes)
        )
    return found
