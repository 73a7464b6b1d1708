"""The server's own figures: memory, evictions, and whether it may evict at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hiredis import ReplyError

from sluice.adapters.redis.blocking_cluster import Blocking
from sluice.adapters.redis.commands import pack
from sluice.application.ports import NOEVICTION, UNKNOWN, StoreInfo
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


def of_all(server: Blocking) -> StoreInfo:
    """What every node that owns slots says, together. Raises Unavailable, also where we may not
    ask."""
    infos = []
    for node in server.everywhere:
        (answer,) = node.call(ASK, 1)
        if isinstance(answer, ReplyError):
            raise node.refused(answer)
        infos.append(read(answer))
    return together(infos)


def together(infos: Sequence[StoreInfo]) -> StoreInfo:
    """A cluster's figures. Memory is the fullest node's: it refuses writes before the others do.
    The policy is the worst, evictions are all nodes', counted anew where one of them starts."""
    if len(infos) == 1:
        return infos[0]
    fullest = max(infos, key=lambda i: i.used_memory_bytes / (i.max_memory_bytes or 1 << 62))
    policies = [info.eviction_policy for info in infos]
    known = [policy for policy in policies if policy not in (NOEVICTION, UNKNOWN)]
    return replace(
        fullest,
        evicted_keys=sum(info.evicted_keys for info in infos),
        eviction_policy=next(iter(known), UNKNOWN if UNKNOWN in policies else NOEVICTION),
        run_id=" ".join(sorted(info.run_id for info in infos)),
        replica=any(info.replica for info in infos),
    )
