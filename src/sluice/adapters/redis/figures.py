"""The server's own figures: memory, evictions, and whether it may evict at all."""

from __future__ import annotations

from dataclasses import dataclass

from sluice.adapters.redis.commands import pack

UNKNOWN = "unknown"
"""The eviction policy of a server that does not say."""
ASK = pack(b"INFO", b"server", b"memory", b"stats")


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """An evicted state reads as never written: evicted_keys must be 0, the policy noeviction."""

    used_memory_bytes: int
    max_memory_bytes: int
    """0: no bound."""
    evicted_keys: int
    """Since the server started."""
    process_id: int
    eviction_policy: str
    """maxmemory-policy, UNKNOWN where the server hides it. Read from INFO: CONFIG is refused by
    most managed stores."""


def read(answer: bytes) -> StoreInfo:
    """The answer to ASK."""
    lines = answer.decode().splitlines()
    figures = dict(line.split(":", 1) for line in lines if ":" in line)
    return StoreInfo(
        used_memory_bytes=int(figures["used_memory"]),
        max_memory_bytes=int(figures["maxmemory"]),
        evicted_keys=int(figures["evicted_keys"]),
        process_id=int(figures["process_id"]),
        eviction_policy=figures.get("maxmemory_policy", UNKNOWN),
    )
