"""Where promtool is: on the path, or out of Debian's package (:mod:`tests.support.debian`).

``python3 -m tests.support.promtool`` prints the path, or says why there is none.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.support.debian import KEPT, MissingError, unpacked

HERE = KEPT / "promtool"


def promtool() -> Path:
    """The program. Raises MissingError."""
    found = shutil.which("promtool")
    if found:
        return Path(found)
    if not HERE.exists():
        with unpacked("prometheus", "promtool") as package:
            KEPT.mkdir(parents=True, exist_ok=True)
            aside = HERE.with_suffix(f".{os.getpid()}")
            shutil.copy2(package / "usr/bin/promtool", aside)
            aside.replace(HERE)  # whole or not at all
    return HERE


if __name__ == "__main__":
    try:
        print(promtool())
    except MissingError as missing:
        sys.exit(str(missing))
