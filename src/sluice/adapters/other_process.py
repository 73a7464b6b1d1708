"""A function of ours in a process of its own, for what strangers' hands may have written.

What it crashes is that process alone, what it takes is bounded, and meanwhile this one goes on.
``python -m sluice.adapters.other_process MODULE:FUNCTION`` is the other side: bytes in, bytes out.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from sluice.errors import Corrupt, Misconfigured, SluiceError, Unavailable

WALL_S = 30
"""Longest it may take, on a busy machine too; then it is killed."""
CPU_S = 20
"""Of processor time, its own start (half a second) included."""
MEMORY_BYTES = 1 << 30
"""More than it needs to start; of a pod without so much, it goes before the service does."""
NICENESS = 10
"""Below the service on its own core."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
CRASHED, TOO_SLOW, OUT_OF_MEMORY, INTERNAL = "crashed", "too_slow", "out_of_memory", "internal"
"""Codes of a Misconfigured, beside those of the function itself."""
NOT_STARTED = "not_started"
"""Code of an Unavailable: nothing was looked at."""

_KINDS: dict[str, type[SluiceError]] = {
    kind.__name__: kind for kind in (Corrupt, Misconfigured, Unavailable)
}


class Said(msgspec.Struct, frozen=True, array_like=True):
    """What went wrong over there, in so many words. kind: of the error's class."""

    kind: str
    what: str
    where: str
    fix: str
    code: str


class Limits(NamedTuple):
    """What one call may take."""

    wall_s: float = WALL_S
    cpu_s: int = CPU_S
    memory_bytes: int = MEMORY_BYTES


USUAL = Limits()


def apart(
    function: Callable[[bytes], bytes], request: bytes, where: str, limits: Limits = USUAL
) -> bytes:
    """``function(request)``, over there. function: of a module, by its name.

    where: what is being looked at, for the error. Raises what the function raised; Misconfigured
    with a code of ours where it crashed, or went past a limit; Unavailable (NOT_STARTED).
    """
    target = f"{function.__module__}:{function.__qualname__}"
    command = [sys.executable, "-m", __name__, target, str(limits.cpu_s), str(limits.memory_bytes)]
    try:
        done = subprocess.run(
            command,
            input=request,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            timeout=limits.wall_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _refused(f"it took over {limits.wall_s} s to look at", where, TOO_SLOW) from None
    except OSError as exc:
        raise Unavailable(
            f"no process can be started to look at it: {exc}", where=where, code=NOT_STARTED
        ) from exc
    if done.returncode == 0:
        return done.stdout
    if done.returncode == 1 and done.stdout:
        said = msgspec.msgpack.decode(done.stdout, type=Said)
        raise _KINDS[said.kind](said.what, where=said.where or where, fix=said.fix, code=said.code)
    if done.returncode == -signal.SIGXCPU:
        raise _refused(f"it took over {limits.cpu_s} s of processor time", where, TOO_SLOW)
    how = f"exit status {done.returncode}"
    if done.returncode < 0:
        how = signal.Signals(-done.returncode).name
    raise _refused(f"looking at it ended the process that did ({how})", where, CRASHED)


def _refused(what: str, where: str, code: str) -> Misconfigured:
    fix = "put back the last good one; this one is looked at again when its files change"
    return Misconfigured(what, where=where, fix=fix, code=code)


def _environment() -> dict[str, str]:
    """Ours without the settings, which hold passwords."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SLUICE_")}
    return kept | ONE_THREAD


def main(argv: list[str]) -> int:
    """The other side. Exit status 0: stdout is the answer; 1: it is what went wrong."""
    target, cpu_s, memory_bytes = argv
    module, _, name = target.partition(":")
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    function: Callable[[bytes], bytes] = getattr(importlib.import_module(module), name)
    request = sys.stdin.buffer.read()
    _limit(int(cpu_s), int(memory_bytes))
    status = 0
    try:
        said = function(request)
    except MemoryError:
        status, said = 1, _encoded(Misconfigured("it takes too much memory", code=OUT_OF_MEMORY))
    except SluiceError as error:
        status, said = 1, _encoded(error)
    except Exception as error:  # foreign hands, foreign errors
        what = f"{type(error).__name__}: {error}"[:512]
        status, said = 1, _encoded(Misconfigured(what, code=INTERNAL))
    answer.write(said)
    answer.flush()
    return status


def _encoded(error: SluiceError) -> bytes:
    kind = next((k for k in _KINDS if isinstance(error, _KINDS[k])), "Misconfigured")
    return msgspec.msgpack.encode(Said(kind, error.what, error.where, error.fix, error.code))


def _limit(cpu_s: int, memory_bytes: int) -> None:
    """From here on. What the system does not have is left out: the caller's clock stays."""
    os.nice(NICENESS)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # before the service, if it comes to it
    with suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415 - not on every system

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
