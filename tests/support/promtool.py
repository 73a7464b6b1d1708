"""Where promtool is: on the path, or out of Debian's package, unpacked beside the sources.

The package is downloaded and unpacked, not installed: nothing is started, nothing outside var/
changes. Run by .ci/run too: ``python3 -m tests.support.promtool`` prints the path, or says
why there is none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

KEPT = Path(__file__).resolve().parents[2] / "var" / "tools" / "promtool"
APT_MAX_S = 300
"""Lists and 19 MB of package, over a slow line."""


class MissingError(Exception):
    """There is no promtool, and none could be had; says why."""


def promtool() -> Path:
    """The program. Raises MissingError."""
    found = shutil.which("promtool")
    if found:
        return Path(found)
    if not KEPT.exists():
        _unpack()
    return KEPT


def _unpack() -> None:
    lacking = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if lacking:
        raise MissingError(
            f"promtool is not on the path, and without {lacking[0]} its Debian package cannot be "
            "had: install Prometheus"
        )
    with tempfile.TemporaryDirectory() as folder:
        if _run(folder, "apt-get", "download", "-qq", "prometheus"):
            _run(folder, "apt-get", "update", "-qq")  # no lists yet, or old ones
            said = _run(folder, "apt-get", "download", "-qq", "prometheus")
            if said:
                raise MissingError(f"promtool is not on the path, and apt-get has none: {said}")
        (package,) = Path(folder).glob("prometheus_*.deb")
        said = _run(folder, "dpkg-deb", "-x", package.name, "unpacked")
        if said:
            raise MissingError(f"promtool cannot be unpacked: {said}")
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        aside = KEPT.with_suffix(f".{os.getpid()}")
        shutil.copy2(Path(folder) / "unpacked/usr/bin/promtool", aside)
        aside.replace(KEPT)  # whole or not at all


def _run(folder: str, *words: str) -> str:
    """What a command complains of; empty if it went well."""
    try:
        done = subprocess.run(
            words, cwd=folder, capture_output=True, text=True, timeout=APT_MAX_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{words[0]} took over {APT_MAX_S} s"
    return "" if done.returncode == 0 else (done.stderr.strip() or f"exit {done.returncode}")


if __name__ == "__main__":
    try:
        print(promtool())
    except MissingError as missing:
        sys.exit(str(missing))
