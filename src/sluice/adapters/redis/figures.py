"""The server's own figures: memory, evictions, and whether it may evict at all."""

from __future__ import annotations

from sluice.adapters.redis.commands import pack
from sluice.application.ports import UNKNOWN, StoreInfo
from sluice.errors import Unavailable

ASK = pack(b"INFO", b"server", b"memory", b"stats", b"replication")


def read(answer: bytes) -> StoreInfo:
    """The answer to ASK, the policy too: most managed stores refuse CONFIG.

    Raises Unavailable where a figure is not told, or is none.
    """
    lines = answer.decode(errors="replace").splitlines()
    figures = dict(line.split(":", 1) for line in lines if ":" in line)
    try:
        return StoreInfo(
            used_memory_bytes=int(figures["used_memory"]),
            max_memory_bytes=int(figures["maxmemory"]),
            evicted_keys=int(figures["evicted_keys"]),
            process_id=int(figures.get("process_id", 0)),
            eviction_policy=figures.get("maxmemory_policy", UNKNOWN),
            run_id=figures.get("run_id", ""),
            replica=figures.get("role") == "slave",
        )
    except (KeyError, ValueError) as exc:
        raise Unavailable(f"the online store's INFO does not tell its figures: {exc}") from exc
