"""How a server turns us away: what its words mean, what to do, and a code of ours for each."""

from __future__ import annotations

from typing import NamedTuple

PASSWORD, RIGHTS, DATABASE = "store_password", "store_rights", "store_database"
"""Codes of what only a person mends, here or at the server."""
REPLICA, CLUSTER, LOADING = "store_replica", "store_cluster", "store_loading"
FULL, DISK, REFUSES = "store_full", "store_disk", "store_refuses"
UNANSWERED = "store_unanswered"
OURS_TO_MEND = frozenset({PASSWORD, RIGHTS, DATABASE})
"""Whoever meets one of these at its first greeting was set up wrong."""


class Meaning(NamedTuple):
    """Of a refusal. fix: what to do."""

    code: str
    what: str
    fix: str


_URL = "redis://user:password@host:port/db"
_PASSWORD = Meaning(
    PASSWORD,
    "it refuses our user or password",
    f"put the server's own into SLUICE_STORE_URL ({_URL})",
)
_NO_PASSWORD = Meaning(
    PASSWORD,
    "it knows no password, and we give one",
    "take the password out of SLUICE_STORE_URL, or set it at the server",
)
_RIGHTS = Meaning(
    RIGHTS, "our user may not do this", "give it the rights of docs/reference/online-store.md"
)
_DATABASE = Meaning(
    DATABASE, "it has no database of this number", f"another /db in SLUICE_STORE_URL ({_URL})"
)
_REPLICA = Meaning(
    REPLICA, "it is a replica, and takes no writes", "let store.url lead to the primary"
)
_CLUSTER = Meaning(
    CLUSTER,
    "it is one node of a cluster",
    "redis+cluster://host:port,... in SLUICE_STORE_URL; where it is, see the cluster's state: "
    "docs/runbooks/store-down.md, A cluster",
)
_UNANSWERED = Meaning(
    UNANSWERED,
    "a node of the cluster does not answer",
    "docs/runbooks/store-down.md, A cluster",
)
_LOADING = Meaning(LOADING, "it is still loading its data", "wait; it ends by itself")
_BY_WORD = {
    "WRONGPASS": _PASSWORD,
    "NOAUTH": _PASSWORD,
    "NOPERM": _RIGHTS,
    "READONLY": _REPLICA,
    "MASTERDOWN": _REPLICA,
    "MOVED": _CLUSTER,
    "ASK": _CLUSTER,
    "CROSSSLOT": _CLUSTER,
    "CLUSTERDOWN": _CLUSTER,
    "TRYAGAIN": _CLUSTER,
    "UNANSWERED": _UNANSWERED,
    "LOADING": _LOADING,
    "OOM": Meaning(FULL, "its memory is full", "raise maxmemory: docs/runbooks/store-down.md"),
    "MISCONF": Meaning(DISK, "it cannot write its disk", "docs/runbooks/store-down.md, step 4"),
}
_BY_TEXT = (
    ("without any password configured", _NO_PASSWORD),
    ("no password is set", _NO_PASSWORD),
    ("DB index", _DATABASE),
    ("SELECT is not allowed in cluster mode", _CLUSTER),
)
"""Of those that begin with ERR."""
_OTHER = Meaning(REFUSES, "it refuses a command", "docs/reference/online-store.md, When it is down")


def meaning(error: Exception | str) -> Meaning:
    """What a server's refusal means, by its first word or, after ERR, by its text.

    >>> meaning("WRONGPASS invalid username-password pair or user is disabled.").code
    'store_password'
    """
    text = str(error)
    found = _BY_WORD.get(text.partition(" ")[0])
    return found or next((known for part, known in _BY_TEXT if part in text), _OTHER)


def said(error: Exception | str) -> str:
    """A refusal in our words and the server's, with what to do."""
    known = meaning(error)
    return f"{known.what} ({error}); fix: {known.fix}"
