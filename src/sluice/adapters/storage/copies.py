"""A local copy of what lies below a URL: a training set, a release, a folder of releases.

Whoever reads these reads files, so they are copied here, and what a verb changed is put back: first
what a manifest names, then the manifest, then its signature, then the activation. Until the last of
them is there, a reader finds nothing, or what was there before. Each object is one conditional put:
a new one takes a name once, a changed one only the place of the version that was copied.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import obstore

from sluice.adapters.storage.object_path import ObjectPath, asking, client
from sluice.adapters.storage.objects import ObjectFolder, version_of
from sluice.adapters.storage.patience import patiently
from sluice.adapters.storage.port import CHANGED
from sluice.domain.activation import ACTIVATION
from sluice.domain.release import MANIFEST, SIGNATURE
from sluice.errors import Misconfigured, Rejected
from sluice.faultpoints import kill_at

LAST = (MANIFEST, SIGNATURE, ACTIVATION)
"""In this order, behind everything else; taken away in the other."""
AT_ONCE = 8
"""Requests."""
FILES_MAX = 10_000
"""Of a copy: a URL that holds more is another one's."""
CHUNK_BYTES = 8 << 20
_NAME = re.compile(r"(?:[A-Za-z0-9_=-][A-Za-z0-9_.=-]*/)*[A-Za-z0-9_=-][A-Za-z0-9_.=-]*")
"""Of a file that is copied: none begins with a dot, as what is unfinished does."""
_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class _Held:
    """What was copied. tag: as a listing has it. version: for what replaces it. sha256: of it."""

    tag: str
    version: str
    sha256: str


class Copy:
    """What lies below ``place``, copied to ``folder``. Not thread-safe."""

    def __init__(
        self, place: ObjectPath, folder: Path, say: Callable[[str], None] | None = None
    ) -> None:
        """say: hears of tries that failed, which are made again for minutes; None: each is made
        once, for who has no minutes."""
        self._place, self._folder, self._say = place, folder, say
        self._there = ObjectFolder(place)
        self._held: dict[str, _Held] = {}

    def take(self) -> int:
        """Copy what is new or another one since the last time, and delete here what is gone there.
        Returns how many files there are. Raises Misconfigured, Unavailable."""
        listed = self._ask(self._listed)
        for name in set(self._held) - set(listed):
            (self._folder / name).unlink(missing_ok=True)
            del self._held[name]
        fresh = [n for n, tag in listed.items() if n not in self._held or self._held[n].tag != tag]
        first, last = _in_order(fresh)
        with ThreadPoolExecutor(AT_ONCE, "copy") as pool:
            taken = list(pool.map(lambda name: self._take(name, listed[name]), first))
        taken += [self._take(name, listed[name]) for name in last]
        self._held |= dict(zip((*first, *last), taken, strict=True))
        return len(listed)

    def put_back(self) -> None:
        """Put there what is new or changed here, and take away there what is gone here. Raises
        Unavailable, with code changed where somebody changed it there; Rejected for a new file
        whose name another has taken."""
        here = {
            name: path
            for path in sorted(self._folder.rglob("*"))
            if path.is_file() and _is_kept(name := path.relative_to(self._folder).as_posix())
        }
        for name in reversed(_sorted(set(self._held) - set(here))):
            self._ask(partial(self._there.remove, self._place / name))
        first, last = _in_order(here)
        with ThreadPoolExecutor(AT_ONCE, "copy") as pool:
            for _ in pool.map(lambda name: self._put(name, here[name]), first):
                pass
        for name in last:
            self._put(name, here[name])

    def _ask(self, ask: Callable[[], Any]) -> Any:
        return patiently(ask, self._say, at_once=(CHANGED,)) if self._say else ask()

    def _listed(self) -> dict[str, str]:
        found: dict[str, str] = {}
        place = self._place
        with asking(place):
            for some in obstore.list(client(place.store), place.key or None):
                for one in some:
                    name = str(one["path"]).removeprefix(place.key).lstrip("/")
                    if _is_kept(name):
                        found[name] = str(one["e_tag"])
                if len(found) > FILES_MAX:
                    raise Misconfigured(
                        f"more than {FILES_MAX:,} files: this is no training set and no release",
                        where=str(place),
                    )
        return found

    def _take(self, name: str, tag: str) -> _Held:
        final = self._folder / name
        final.parent.mkdir(parents=True, exist_ok=True)
        aside = final.with_name(f".{final.name}.part")
        version, sha256 = self._ask(partial(self._download, self._place / name, aside))
        aside.replace(final)
        return _Held(tag, version, sha256)

    @staticmethod
    def _download(path: ObjectPath, aside: Path) -> tuple[str, str]:
        digest = hashlib.sha256()
        with asking(path):
            got = obstore.get(client(path.store), path.key)
            with aside.open("wb") as file:
                for chunk in got.stream(min_chunk_size=CHUNK_BYTES):
                    raw = bytes(chunk)
                    digest.update(raw)
                    file.write(raw)
        return version_of(got.meta), digest.hexdigest()

    def _put(self, name: str, path: Path) -> None:
        raw, held = path.read_bytes(), self._held.get(name)
        if held is not None and hashlib.sha256(raw).hexdigest() == held.sha256:
            return
        self._ask(partial(self._write, self._place / name, raw, held))
        kill_at("copy.after_put")

    def _write(self, path: ObjectPath, raw: bytes, held: _Held | None) -> None:
        if held is not None:
            self._there.replace(path, raw, held.version)
        elif not self._there.create(path, raw) and path.read_bytes() != raw:
            raise Rejected(
                "another file lies there already",
                where=str(path),
                fix="a new place; or delete what a try that was ended left there",
                code="taken",
            )


def _is_kept(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and not name.endswith(_LOCK)


def _sorted(names: Iterable[str]) -> list[str]:
    def rank(name: str) -> tuple[int, str]:
        last = name.rpartition("/")[2]
        return (LAST.index(last) + 1 if last in LAST else 0), name

    return sorted(names, key=rank)


def _in_order(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Those of any order, and those behind them in theirs."""
    ordered = _sorted(names)
    first = [name for name in ordered if name.rpartition("/")[2] not in LAST]
    return first, ordered[len(first) :]
