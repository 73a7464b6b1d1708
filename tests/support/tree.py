"""The repository's files without git: a fresh machine, and an unpacked archive, have none."""

from __future__ import annotations

import os
from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path

from tests.support.make import ROOT


def files(*places: str, kinds: Collection[str] = ()) -> list[str]:
    """All but what .gitignore names, sorted, relative to the root. It holds plain names only.

    places: folders, the whole tree unless given. kinds: suffixes, all unless given.
    """
    lines = (ROOT / ".gitignore").read_text().split()
    ignored = [line.rstrip("/") for line in lines] + [".git"]

    def wanted(name: str) -> bool:
        return not any(fnmatch(name, pattern) for pattern in ignored)

    found: list[str] = []
    for folder, folders, names in (step for at in places or [""] for step in os.walk(ROOT / at)):
        folders[:] = filter(wanted, folders)
        at = Path(folder).relative_to(ROOT)
        links = [name for name in folders if (ROOT / at / name).is_symlink()]
        found.extend(str(at / name) for name in links + names if wanted(name))
    return sorted(name for name in found if not kinds or Path(name).suffix in kinds)
