"""The server's own figures: memory, evictions, and whether it may evict at all."""

from __future__ import annotations

from sluice.adapters.redis.commands import pack
from sluice.application.ports import UNKNOWN, StoreInfo

ASK = pack(b"INFO", b"server", b"memory", b"stats")


def read(answer: bytes) -> StoreInfo:
    """The answer to ASK, the policy too: most managed stores refuse CONFIG."""
    lines = answer.decode().splitlines()
    figures = dict(line.split(":", 1) for line in lines if ":" in line)
    return StoreInfo(
        used_memory_bytes=int(figures["used_memory"]),
        max_memory_bytes=int(figures["maxmemory"]),
        evicted_keys=int(figures["evicted_keys"]),
        process_id=int(figures["process_id"]),
        eviction_policy=figures.get("maxmemory_policy", UNKNOWN),
    )
