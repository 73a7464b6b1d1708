"""Where the primary is, as Sentinels say: redis-py asks them, away from the hot path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import redis
import redis.asyncio.sentinel
import redis.sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

from sluice.adapters.redis.address import SENTINEL, Address
from sluice.adapters.tls import OLDEST
from sluice.errors import Unavailable

# redis-py types neither.
_Sentinel: Any = redis.sentinel.Sentinel
_SentinelSoon: Any = redis.asyncio.sentinel.Sentinel
ANSWER_MAX_S = 0.25
"""Of one Sentinel; then the next is asked. All of three must fit into a connect's second."""
LOOK_EVERY_S = 1.0
"""How often those connected ask whether the primary is still the one they have: a primary that only
Sentinels and replicas cannot reach goes on answering us."""


def find(address: Address) -> Address:
    """The primary that the first Sentinel to answer names; the address itself if it is of one
    server. Raises Unavailable where none names one."""
    if address.mode != SENTINEL:
        return address
    failed: Exception | None = None
    for options in _options(address):
        asked: Any = _Sentinel(address.seeds, sentinel_kwargs=options)
        try:
            return address.at(asked.discover_master(address.service))
        except (redis.RedisError, OSError) as exc:
            failed = exc
        finally:
            for one in asked.sentinels:
                one.close()
    raise _nowhere(address, failed) from failed


async def find_soon(address: Address) -> Address:
    """The same without blocking."""
    if address.mode != SENTINEL:
        return address
    failed: Exception | None = None
    for options in _options(address):
        asked: Any = _SentinelSoon(address.seeds, sentinel_kwargs=options)
        try:
            return address.at(await asked.discover_master(address.service))
        except (redis.RedisError, OSError) as exc:
            failed = exc
        finally:
            for one in asked.sentinels:
                await one.aclose()
    raise _nowhere(address, failed) from failed


def _options(address: Address) -> Iterator[dict[str, Any]]:
    """How Sentinels are greeted: with the store's user and password, then without, since most
    have none."""
    told: dict[str, Any] = {
        "socket_timeout": ANSWER_MAX_S,
        "socket_connect_timeout": ANSWER_MAX_S,
        "protocol": 2,
        "driver_info": None,
    }
    if address.tls:
        files = address.files
        address.tls_context()  # whose errors name the setting
        told |= {
            "ssl": True,
            "ssl_ca_certs": files.ca or None,
            "ssl_certfile": files.cert or None,
            "ssl_keyfile": files.key or None,
            "ssl_check_hostname": True,
            "ssl_min_version": OLDEST,
        }
    if address.password:
        yield {
            **told,
            "username": address.username or None,
            "password": address.password,
            "retry": Retry(NoBackoff(), 0),
        }
    yield {**told, "retry": Retry(NoBackoff(), 0)}


def _nowhere(address: Address, failed: Exception | None) -> Unavailable:
    return Unavailable(
        f"no Sentinel names a primary that is up: {failed}",
        where=str(address),
        fix="docs/reference/online-store.md, section When it is down",
    )
