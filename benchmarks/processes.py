"""Processes under measurement: their core, processor time, memory, and where their time goes."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_ALL = sorted(os.sched_getaffinity(0))
MEASURED = {_ALL[0]}
"""The core of what is measured. Broker, store and clients have the others."""
OTHERS = set(_ALL[1:]) or MEASURED
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_TOP = 25


@contextlib.contextmanager
def on(cores: set[int]) -> Iterator[None]:
    """Children started inside run on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_s(pid: int) -> float:
    """Seconds of processor time, user and system, of all threads of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def memory_mb(pid: int, what: str = "VmRSS") -> float:
    """Resident memory; ``VmHWM`` is the most there ever was."""
    found = re.search(rf"{what}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1000


def wait_until(
    holds: Callable[[], bool], what: str, at_most_s: float, *, every_s: float = 0.005
) -> None:
    """Ask so often. Raises TimeoutError. A process that is asked for its metrics spends
    milliseconds on each answer."""
    deadline = time.monotonic() + at_most_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"still not so after {at_most_s:g} s: {what}")
        time.sleep(every_s)


class Profile:
    """py-spy (Python frames) and perf (libraries, threads), sampling a process for some seconds.

    Both are outside the process: the services hold no code for it. Either may be missing.
    """

    def __init__(self, pid: int, seconds: float, folder: Path) -> None:
        self._seconds = seconds
        self._stacks = folder / f"{pid}.stacks"
        self._perf = folder / f"{pid}.perf"
        spy = Path(sys.executable).with_name("py-spy")
        commands = []
        if spy.exists():
            commands.append(
                [str(spy), "record", "--pid", str(pid), "--duration", str(round(seconds)),
                 "--rate", "250", "--format", "raw", "--nonblocking", "--output", str(self._stacks)]
            )  # fmt: skip
        if shutil.which("perf"):
            commands.append(
                ["perf", "record", "-e", "cpu-clock", "-F", "499", "-o", str(self._perf),
                 "-p", str(pid), "--", "sleep", str(round(seconds))]
            )  # fmt: skip
        with on(OTHERS):
            self._running = [
                subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                for c in commands
            ]

    def text(self) -> str:
        """Wait for the samplers, and say what they found."""
        for one in self._running:
            one.wait(self._seconds + 60)
        parts = []
        if self._stacks.exists():
            parts.append(_python(self._stacks.read_text()))
        if self._perf.exists():
            for keys in ("dso", "comm", "dso,symbol"):
                done = subprocess.run(
                    ["perf", "report", "-i", str(self._perf), "--stdio", "--no-children",
                     "--percent-limit", "0.7", "--sort", keys],
                    capture_output=True, text=True, check=False,
                )  # fmt: skip
                lines = [s.rstrip() for s in done.stdout.splitlines() if s.strip() and s[0] != "#"]
                parts.append(f"perf, share by {keys}\n" + "\n".join(lines[:_TOP]))
        return "\n\n".join(parts) + "\n"


def _python(stacks: str) -> str:
    """Folded stacks to two tables: where the time is spent, and below which function."""
    own: collections.Counter[str] = collections.Counter()
    below: collections.Counter[str] = collections.Counter()
    total = 0
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [re.sub(r":\d+\)$", ")", f) for f in stack.split(";")]
        own[frames[-1]] += int(count)
        below.update(dict.fromkeys(frames, int(count)))
        total += int(count)
    texts = []
    for title, table in (("in the function itself", own), ("in it and what it calls", below)):
        rows = [f"{100 * n / max(total, 1):5.1f} %  {name}" for name, n in table.most_common(_TOP)]
        texts.append(f"py-spy, {total} samples of Python threads, time {title}\n" + "\n".join(rows))
    return "\n\n".join(texts)
