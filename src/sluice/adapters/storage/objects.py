"""A prefix of a bucket. A new object is one conditional put (``If-None-Match: *``): whole or not at
all, and refused where the name is taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError

from sluice.adapters.storage.object_path import ObjectPath, ask, client, unavailable
from sluice.adapters.storage.port import AnyPath, begins, changed
from sluice.errors import Misconfigured
from sluice.faultpoints import kill_at

PROBE = ".sluice-takes-a-name-once"


class ObjectFolder:
    """See :class:`sluice.adapters.storage.Folder`."""

    def __init__(self, root: ObjectPath) -> None:
        self._root = root

    def prepare(self) -> None:
        """See the port. Some that speak S3 pass over a condition that they do not know."""
        probe = self._root / PROBE
        self.create(probe, b"")
        if self.create(probe, b""):
            raise Misconfigured(
                "the bucket let the same name be taken twice: it passes over If-None-Match",
                where=str(probe),
                fix="a store with conditional puts, or a release of it that has them",
            )

    def days(self, kind: str) -> list[str]:
        """See the port."""
        path = self._root / kind
        found = ask(path, lambda: obstore.list_with_delimiter(client(path.store), path.key))
        names = (one.rpartition("/")[2] for one in found["common_prefixes"])
        return sorted(name[5:] for name in names if name.startswith("date="))

    def listed(self, kind: str, since: str = "", until: str = "") -> Iterator[AnyPath]:
        """See the port: keys come in order, from where they are asked for on."""
        path = self._root / kind
        behind = f"{path.key}/date={until}0" if until else ""
        """After all of that day: its folder's name goes on with a slash, which is less."""
        since = f"{path.key}/date={since}" if since else ""
        for one in self._from(path, since):
            if behind and one.key >= behind:
                return
            if _is_part(one.key):
                yield one

    def of_partition(self, kind: str, day: str, partition: int) -> Iterator[AnyPath]:
        """See the port. A prefix is of whole names here, so it is where to begin and to end."""
        path = self._root / kind / f"date={day}"
        first = f"{path.key}/{begins(partition)}"
        for one in self._from(path, first):
            if not one.key.startswith(first):
                return
            if _is_part(one.key):
                yield one

    def _from(self, path: ObjectPath, first: str) -> Iterator[ObjectPath]:
        """What lies below a path, behind a key, in order: a request a thousand, as they are
        taken."""
        behind: str | None = first or None
        pages: Iterator[Any] | None = None

        def page() -> Any:
            nonlocal pages
            if pages is None:
                pages = iter(obstore.list(client(path.store), path.key, offset=behind))
            try:
                return next(pages, None)
            except Exception:
                pages = None  # the next try goes on behind what was taken
                raise

        while some := ask(path, page):
            for one in some:
                yield ObjectPath(path.store, one["path"], one["size"])
            behind = some[-1]["path"]

    def create(self, path: AnyPath, raw: bytes) -> bool:
        """See the port."""
        kill_at("archiver.before_link")
        try:
            self._put(path, raw, "create")
        except AlreadyExistsError:
            return False
        except FileNotFoundError as exc:  # the bucket
            raise unavailable(cast(ObjectPath, path), exc) from exc
        kill_at("archiver.after_link")
        return True

    def version(self, path: AnyPath) -> str:
        """See the port."""
        return version_of(self._head(path))

    def written_us(self, path: AnyPath) -> int:
        """See the port."""
        return int(self._head(path)["last_modified"].timestamp() * 1_000_000)

    def replace(self, path: AnyPath, raw: bytes, version: str) -> None:
        """See the port."""
        kill_at("erasure.before_rename")
        try:
            held = self._head(path)
            if version_of(held) != version:
                raise changed(path)
            told = {name: held[name] for name in ("e_tag", "version") if held[name]}
            self._put(path, raw, told)
        except (PreconditionError, FileNotFoundError) as exc:
            raise changed(path) from exc

    def remove(self, path: AnyPath) -> None:
        """See the port."""
        one = cast(ObjectPath, path)
        ask(one, lambda: obstore.delete(client(one.store), one.key))

    def _head(self, path: AnyPath) -> Any:
        one = cast(ObjectPath, path)
        return ask(one, lambda: obstore.head(client(one.store), one.key))

    def _put(self, path: AnyPath, raw: bytes, mode: Any) -> None:
        one = cast(ObjectPath, path)
        # In one request: parts put together at the end take no condition.
        ask(
            one,
            lambda: obstore.put(client(one.store), one.key, raw, mode=mode, use_multipart=False),
        )


def _is_part(key: str) -> bool:
    name = key.rpartition("/")[2]
    return name.startswith("part-") and name.endswith(".parquet")


def version_of(held: Any) -> str:
    """Of an object, by its description."""
    return str(held["version"] or held["e_tag"])
