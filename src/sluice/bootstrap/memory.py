"""The most memory a process may take: its setting's, or what its container leaves it.

Past a container's limit the kernel kills, in the middle of a decision and without a word. So the
process stops before that, where it can still refuse one request and go on.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

SHARE_OF_GROUP = 0.9
"""Of a control group's limit that may be data. The rest is for what counts there too: pages of
libraries that cannot be dropped, buffers of sockets, and the child that reads a release."""
_FILES = (("memory.max", ""), ("memory/memory.limit_in_bytes", "memory"))
"""Limit below the groups' folder, and the hierarchy's name in /proc/self/cgroup: version 2, 1."""


def limit_memory(megabytes: int, *, system: Path = Path("/")) -> int:
    """Let allocations past so many MB of data fail, for this process: 0 is no limit.

    A control group that allows less, as a pod's limit does, makes it SHARE_OF_GROUP of that.
    Returns the limit now in force, in MB of 2^20 bytes; 0 is none. system: where /proc and /sys
    are.

    RLIMIT_DATA: private memory that can be written, so the heap, arenas and stacks of threads.
    RLIMIT_AS would count the mapped files and reservations of numba and ONNX Runtime, which are
    gigabytes of nothing; resident memory has no limit of its own outside a control group. A limit
    that is set lower already stays.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    set_already = [old for old in (soft, hard) if old != resource.RLIM_INFINITY]
    if megabytes:
        allowed = [int(group * SHARE_OF_GROUP) for group in _limits_of_groups(system)]
        least = min((megabytes << 20, *allowed, *set_already))
        resource.setrlimit(resource.RLIMIT_DATA, (least, hard))
        return least >> 20
    return min(set_already, default=0) >> 20


def _limits_of_groups(system: Path) -> Iterator[int]:
    """Bytes that the control groups of this process may take, its own and those around it.

    Inside a container its own group may be the root of what is shown of them, while /proc names
    the whole path: of that, then, nothing is there.
    """
    for file, hierarchy in _FILES:
        name = PurePosixPath(file)
        shown = system / "sys/fs/cgroup" / name.parent
        own = PurePosixPath(_path_of_group(system, hierarchy).lstrip("/"))
        for group in (own, *own.parents):
            with contextlib.suppress(OSError, ValueError):  # no such group, or "max"
                yield int((shown / group / name.name).read_text())


def _path_of_group(system: Path, hierarchy: str) -> str:
    with contextlib.suppress(OSError):
        for line in (system / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if hierarchy in controllers.split(","):
                return path
    return ""
