"""Programs out of Debian's packages, unpacked beside the sources where they are not installed.

A package is downloaded and unpacked, not installed: nothing is started, nothing outside var/
changes. Run by .ci/run too, through the modules that ask for a program.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEPT = Path(__file__).resolve().parents[2] / "var" / "tools"
APT_MAX_S = 300
"""Lists and 19 MB of package, over a slow line."""


class MissingError(Exception):
    """There is no such program, and none could be had; says why."""


@contextmanager
def unpacked(package: str, program: str, *, needs: bool = False) -> Iterator[Path]:
    """A folder with what a package holds, gone afterwards. needs: and the packages that it needs
    and this machine has not. Raises MissingError."""
    lacking = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if lacking:
        raise MissingError(
            f"{program} is not on the path, and without {lacking[0]} its Debian package cannot be "
            f"had: install {package}"
        )
    with tempfile.TemporaryDirectory() as folder:
        if _download(folder, package, needs=needs):
            _run(folder, "apt-get", "update", "-qq")  # no lists yet, or old ones
            if said := _download(folder, package, needs=needs):
                raise MissingError(f"{program} is not on the path, and apt-get has none: {said}")
        for archive in Path(folder).glob("*.deb"):
            _, said = _run(folder, "dpkg-deb", "-x", archive.name, "unpacked")
            if said:
                raise MissingError(f"{program} cannot be unpacked: {said}")
        yield Path(folder) / "unpacked"


def _download(folder: str, package: str, *, needs: bool) -> str:
    """What apt-get complains of; empty if it went well."""
    wanted = {package}
    if needs:
        plan, said = _run(
            *(folder, "apt-get", "install", "-qq", "--simulate", "--no-install-recommends"),
            package,
        )
        if said:
            return said
        wanted |= set(re.findall(r"^Inst (\S+)", plan, re.MULTILINE))
    return _run(folder, "apt-get", "download", "-qq", *sorted(wanted))[1]


def _run(folder: str, *words: str) -> tuple[str, str]:
    """What a command prints, and what it complains of; that is empty if it went well."""
    try:
        done = subprocess.run(
            words, cwd=folder, capture_output=True, text=True, timeout=APT_MAX_S, check=False
        )
    except subprocess.TimeoutExpired:
        return "", f"{words[0]} took over {APT_MAX_S} s"
    wrong = "" if done.returncode == 0 else (done.stderr.strip() or f"exit {done.returncode}")
    return done.stdout, wrong
