"""Names running processes in a file, so that a later command ends them and no other.

A process id alone may belong to somebody else by then: an entry holds when the process began and
its command line too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec
import psutil

SAME_START_S = 2.0
"""The time a process began is counted from boot, whose clock may be set meanwhile."""


class Entry(msgspec.Struct, frozen=True):
    """One process as it was when it was named. began: seconds of the epoch."""

    pid: int
    began: float
    command: list[str]

    def process(self) -> psutil.Process | None:
        """The process, if it still is this one."""
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.began) < SAME_START_S
            if same and found.cmdline() == self.command and found.status() != psutil.STATUS_ZOMBIE:
                return found
        return None


def this_and_its_children() -> list[Entry]:
    """This process first, then all that descend from it."""
    me = psutil.Process()
    entries = []
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            entries.append(Entry(process.pid, process.create_time(), process.cmdline()))
    return entries


def write(path: Path, entries: Iterable[Entry]) -> None:
    """Replace the file in one step: who reads it never sees half."""
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(list(entries))) + b"\n")
    fresh.replace(path)


def read(path: Path) -> list[Entry]:
    """What the file names; nothing if there is none, or if it is no such file."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(path.read_bytes(), type=list[Entry])
    return []


def running(entries: Iterable[Entry]) -> list[psutil.Process]:
    """Those that still are what the file says."""
    return [process for entry in entries if (process := entry.process()) is not None]


def end(processes: list[psutil.Process], patience_s: float) -> None:
    """SIGTERM to all, SIGKILL to those that stay; returns when all are gone."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, stubborn = psutil.wait_procs(processes, timeout=patience_s)
    for process in stubborn:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(stubborn)
