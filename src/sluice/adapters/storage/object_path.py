"""An object of a bucket, read like a file: S3 and what speaks it, Google's and Azure's storage.

By obstore. Credentials are where it looks for them: variables, a web identity or pod identity, the
machine's role.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Self, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import from_url

from sluice.adapters.storage.patience import RefusedError, patiently
from sluice.errors import Misconfigured, Unavailable
from sluice.shown import shown

CODE = "storage"
"""Of what is raised while the storage does not take or give."""
FIX = "docs/runbooks/object-storage.md"
CREDENTIALS = "docs/how-to/archive-on-object-storage.md lists where they are looked for"
CONNECT_MAX_S, ANSWER_MAX_S = 5, 30
RETRIES_MAX, RETRY_MAX_S = 3, 30
"""Of one request, inside the client: none after an answer that did not come in time, so that a
storage that hangs is noticed after ANSWER_MAX_S. Whoever asked tries again then, or gives up."""
WHOLE_MAX_BYTES = 1024 * 1024
"""An object up to so large is read in one request: a request takes as long as a megabyte."""
TAIL_BYTES = 128 * 1024
"""Of a larger one, read first and kept: where parquet has its footer."""
SAYS_MAX = 300
"""Characters of what the client says."""
_Answer = TypeVar("_Answer")
_log = logging.getLogger(__name__)
_REFUSED = re.compile(r"status code: ((?:40[01345]|507)[^:\n]*)")
"""In what the client says of an answer that another try would get too; 507: it is full."""
_NO_ROLE = re.compile(r"Error performing \w+ \S+?(//169\.254\.|/latest/(api|meta-data)/)")
"""In what it says where it found no keys: it asked those who give them to a machine or a pod."""
NO_CREDENTIALS = (
    "no credentials for the object storage: not in the environment (AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY), and no role of this machine gives any"
)
_ANSWER = re.compile(r"<Code>([^<]+)</Code>\s*<Message>([^<]+)</Message>")
"""Of S3, behind the client's first line."""


@dataclass(frozen=True, slots=True)
class Store:
    """url: of a bucket or a prefix of it. endpoint, region: of S3; "" is as the environment says,
    and AWS where it does not. ca_file: PEM, certificates that its own may lead to besides the
    system's. patient: asked for minutes where it does not answer, as a verb has them."""

    url: str
    endpoint: str = ""
    region: str = ""
    ca_file: str = ""
    patient: bool = False


@dataclass(frozen=True, slots=True)
class ObjectPath:
    """One object, or what begins like it: as much of pathlib.Path as the archive uses.

    key: below the store's URL. size: bytes, where a listing told them.
    """

    store: Store
    key: str = ""
    size: int | None = field(default=None, compare=False)

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(self.store, f"{self.key}/{name}".lstrip("/"))

    def __str__(self) -> str:
        return f"{self.store.url}/{self.key}".rstrip("/")

    def __lt__(self, other: Self) -> bool:
        return self.key < other.key

    @property
    def name(self) -> str:
        """As of a path."""
        return PurePosixPath(self.key).name

    @property
    def stem(self) -> str:
        """As of a path."""
        return PurePosixPath(self.key).stem

    @property
    def parent(self) -> ObjectPath:
        """As of a path."""
        return ObjectPath(self.store, self.key.rpartition("/")[0])

    def exists(self) -> bool:
        """Whether there is such an object. Raises Unavailable."""
        try:
            ask(self, lambda: obstore.head(client(self.store), self.key))
        except FileNotFoundError:
            return False
        return True

    def read_bytes(self) -> bytes:
        """All of it. Raises FileNotFoundError, Unavailable."""
        return ask(self, lambda: bytes(obstore.get(client(self.store), self.key).bytes()))

    def open(self) -> io.RawIOBase | io.BytesIO:
        """For reading; by range if it is large. Raises FileNotFoundError, Unavailable."""
        size = self.size
        if size is None:
            size = ask(self, lambda: obstore.head(client(self.store), self.key))["size"]
        return io.BytesIO(self.read_bytes()) if size <= WHOLE_MAX_BYTES else _Ranges(self, size)


class _Ranges(io.RawIOBase):
    """An object's bytes, asked for as they are read; its tail once."""

    def __init__(self, path: ObjectPath, size: int) -> None:
        self._path, self._size, self._at = path, size, 0
        self._tail_at = max(0, size - TAIL_BYTES)
        self._tail = self._range(self._tail_at, size)

    def _range(self, start: int, end: int) -> bytes:
        path = self._path
        return ask(
            path,
            lambda: bytes(obstore.get_range(client(path.store), path.key, start=start, end=end)),
        )

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        end = self._size if size is None or size < 0 else min(self._at + size, self._size)
        start, self._at = self._at, max(self._at, end)
        if start >= end:
            return b""
        if start >= self._tail_at:
            return self._tail[start - self._tail_at : end - self._tail_at]
        return self._range(start, end)


@lru_cache(maxsize=16)
def client(store: Store) -> Any:
    """One of each process: it has threads, and connections that it keeps."""
    given: dict[str, Any] = {}
    trusted = {"root_certificate": _certificates(store.ca_file)} if store.ca_file else {}
    if store.endpoint:
        given["endpoint"] = store.endpoint
    if store.region:
        given["region"] = store.region
    try:
        make: Any = from_url  # overloaded by cloud
        return make(
            store.url,
            config=given if store.url.startswith("s3://") else None,
            client_options={
                "connect_timeout": f"{CONNECT_MAX_S}s",
                "timeout": f"{ANSWER_MAX_S}s",
                "allow_http": store.endpoint.startswith("http://"),
                **trusted,
            },
            retry_config={
                "max_retries": RETRIES_MAX,
                "retry_timeout": timedelta(seconds=RETRY_MAX_S),
            },
        )
    except (BaseError, ValueError) as exc:
        raise Misconfigured(
            f"no client for this place: {_first_line(exc)}", where=store.url, fix=FIX
        ) from exc


def _certificates(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise Misconfigured(
            f"cannot be read: {exc.strerror}", where=path, fix="storage.ca_file"
        ) from exc


def ask(path: ObjectPath, request: Callable[[], _Answer]) -> _Answer:
    """What a request returns. request: may be made twice; it is where the store is patient, and
    each failed try is told. Raises as :func:`asking`."""

    def once() -> _Answer:
        with asking(path):
            return request()

    return patiently(once, _log.warning) if path.store.patient else once()


@contextmanager
def asking(path: ObjectPath) -> Iterator[None]:
    """Conditions that fail, and what is not there, are answers; the rest is Unavailable."""
    try:
        yield
    except (AlreadyExistsError, PreconditionError, FileNotFoundError):
        raise
    except (BaseError, OSError) as exc:
        raise unavailable(path, exc) from exc


def unavailable(path: ObjectPath, exc: Exception) -> Unavailable:
    """What the storage said, and where."""
    said = str(exc)
    if _NO_ROLE.search(said):
        error = RefusedError if _REFUSED.search(said) else Unavailable
        return error(
            f"{NO_CREDENTIALS}: {_first_line(exc)}", where=str(path), fix=CREDENTIALS, code=CODE
        )
    if refused := _REFUSED.search(said):
        answer = _ANSWER.search(said)
        why = ", ".join(answer.groups()) if answer else refused[1].strip()
        return RefusedError(
            f"the object storage refuses: {shown(why, SAYS_MAX)}",
            where=str(path),
            fix=FIX,
            code=CODE,
        )
    return Unavailable(
        f"the object storage does not answer as it should: {_first_line(exc)}",
        where=str(path),
        fix=FIX,
        code=CODE,
    )


def _first_line(exc: BaseException) -> str:
    return shown((str(exc).splitlines() or [""])[0], SAYS_MAX)
