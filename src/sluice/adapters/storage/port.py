"""The port: files below a root, wherever that is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from sluice.adapters.storage.object_path import ObjectPath
from sluice.errors import Unavailable

AnyPath = Path | ObjectPath


class Folder(Protocol):
    """Files below one root. Raises Unavailable where the storage does not take or give."""

    def prepare(self) -> None:
        """For who writes: leave nothing of one that died. Raises Misconfigured for a place that
        cannot be written to, or that lets a name be taken twice."""
        ...

    def days(self, kind: str) -> list[str]:
        """Days of a kind that have files, like 2026-11-26, in order."""
        ...

    def listed(self, kind: str, since: str = "", until: str = "") -> Iterator[AnyPath]:
        """Files of a kind of the days since <= day <= until, by name; "" is no bound. What lies
        before ``since`` or behind ``until`` is not asked for."""
        ...

    def of_partition(self, kind: str, day: str, partition: int) -> Iterator[AnyPath]:
        """Files of one day and partition, by name; those of others are not asked for."""
        ...

    def create(self, path: AnyPath, raw: bytes) -> bool:
        """A new file, durable on return. False if its name is taken."""
        ...

    def version(self, path: AnyPath) -> str:
        """Changes with each writing of a file. Raises FileNotFoundError."""
        ...

    def written_us(self, path: AnyPath) -> int:
        """When a file was written last, microseconds UTC by the storage's clock."""
        ...

    def replace(self, path: AnyPath, raw: bytes, version: str) -> None:
        """Other bytes under a name, durable on return; who reads gets the old or the new ones.
        Raises Unavailable, with code changed, if the file is of another version by now."""
        ...

    def remove(self, path: AnyPath) -> None:
        """Also if it is gone."""
        ...


def begins(partition: int) -> str:
    """How the names of a partition's files begin."""
    return f"part-{partition:05}-"


CHANGED = "changed"


def changed(path: AnyPath) -> Unavailable:
    """Somebody else wrote a file that was to be replaced."""
    return Unavailable(
        "the file was changed by another process meanwhile",
        where=str(path),
        fix="nothing is lost: run it again",
        code=CHANGED,
    )
