"""redis-py, for what is off the hot path: the watermark, and clearing a store.

What reads and writes states has connections of its own, because redis-py costs more than the rest
of a decision (docs/decisions/0003-feast-layout-compiled-plan.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from sluice.adapters.redis.address import Address
from sluice.adapters.redis.commands import code_of
from sluice.adapters.redis.refusals import DATABASE, PASSWORD, meaning
from sluice.adapters.tls import OLDEST, explain
from sluice.application.ports import Count, uncounted
from sluice.errors import Misconfigured, Unavailable

TIMEOUT_S = 5.0
"""Longest silence of the server, and longest wait for a connection."""
TRIES_AGAIN = 0
"""Whoever calls tries again, with a pause and a limit of its own."""


def connect(address: Address, *, timeout_s: float = TIMEOUT_S) -> Any:
    """A client that connects when first used and after each failure."""
    where: dict[str, Any] = (
        {"unix_socket_path": address.path}
        if address.path
        else {"host": address.host, "port": address.port}
    )
    if address.tls:
        files = address.files
        address.tls_context()  # whose errors name the setting
        where |= {
            "ssl": True,
            "ssl_ca_certs": files.ca or None,
            "ssl_certfile": files.cert or None,
            "ssl_keyfile": files.key or None,
            "ssl_check_hostname": True,
            "ssl_min_version": OLDEST,
        }
    return redis.Redis(
        **where,
        db=address.db,
        username=address.username or None,
        password=address.password or None,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), TRIES_AGAIN),
        protocol=2,
        driver_info=None,  # else each connection first tells the server which library it is
    )


_WORDS: tuple[tuple[type[Exception], str], ...] = (
    (redis.exceptions.MasterDownError, "MASTERDOWN"),
    (redis.exceptions.ClusterDownError, "CLUSTERDOWN"),
    (redis.exceptions.ClusterCrossSlotError, "CROSSSLOT"),
    (redis.exceptions.MovedError, "MOVED"),
    (redis.exceptions.AskError, "ASK"),
    (redis.ReadOnlyError, "READONLY"),
    (redis.exceptions.NoPermissionError, "NOPERM"),
    (redis.OutOfMemoryError, "OOM"),
    (redis.BusyLoadingError, "LOADING"),
    (redis.AuthenticationError, "WRONGPASS"),
)


def words_of(error: Exception) -> str:
    """What the server said. redis-py keeps its first word as the exception's class."""
    word = next((word for kind, word in _WORDS if isinstance(error, kind)), "")
    unset = "without any password configured" in str(error)
    return str(error) if unset or not word else f"{word} {error}"


@contextmanager
def translated(address: Address, count: Count = uncounted) -> Iterator[None]:
    """redis-py's exceptions as ours, counted: Misconfigured for a refused password or database,
    else Unavailable, by the code of what the server said."""
    try:
        yield
    except (redis.ResponseError, redis.AuthenticationError, redis.BusyLoadingError) as exc:
        words = words_of(exc)
        known = meaning(words)
        count("sluice_store_errors_total", code_of(words))
        if known.code in (PASSWORD, DATABASE):
            raise Misconfigured(
                f"the online store turns us away: {known.what} ({words})",
                where=f"store.url, {address}",
                fix=known.fix,
                code=known.code,
            ) from exc
        raise Unavailable(
            f"the online store refuses a command: {known.what} ({words})",
            where=str(address),
            fix=known.fix,
            code=known.code,
        ) from exc
    except (redis.RedisError, OSError) as exc:
        late = isinstance(exc, redis.TimeoutError | TimeoutError)
        count("sluice_store_failures_total", "timeout" if late else "down")
        cause = exc.__cause__ if isinstance(exc.__cause__, OSError) else exc
        raise Unavailable(
            f"the online store did not serve us: {explain(cause, 'store') or type(exc).__name__}",
            where=str(address),
            fix="docs/reference/online-store.md, section When it is down",
        ) from exc
