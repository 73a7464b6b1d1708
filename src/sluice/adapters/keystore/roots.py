"""The root keys: a small file that is overwritten, and that no backup may hold.

Every key of the keystore is wrapped under the newest root. An erasure makes a new root, wraps anew
what is left, and then forgets the old root here; so no copy of the keystore's database from before
the erasure can be opened any more, wherever it lies. What can be lost with this file is everything:
keep it where it is written twice and overwritten in both (a mirrored volume), or behind a wrapper.
"""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path
from typing import Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sluice.adapters.forced import force
from sluice.adapters.regular_files import read_regular
from sluice.application.sealing import NONCE_BYTES, SECRET_BYTES
from sluice.errors import Misconfigured, Unavailable
from sluice.faultpoints import kill_at

DISK = "keystore_disk"
"""Code of an Unavailable: a disk of the keystore takes nothing, or gives nothing."""
ROOTS_MAX_BYTES = 65_536
"""One root, two while an erasure runs; a KMS's envelope of one is a few hundred bytes."""
_FIX = "bring back the file of keystore.roots; what it wraps cannot be read without it"


class KeyWrapper(Protocol):
    """Encrypts root keys where they are at rest: a key management service, or a file's key.

    Asked when a keystore is opened and when an erasure makes a root, never for a record.
    """

    name: str
    """Of the key that wraps, as it stands in the file: another one is refused."""

    def wrap(self, secret: bytes) -> bytes:
        """Raises Unavailable, Misconfigured."""
        ...

    def unwrap(self, wrapped: bytes) -> bytes:
        """Raises Unavailable; Misconfigured where it was wrapped with another key."""
        ...


class NoWrapper:
    """Root keys as they are: whoever reads the file has them."""

    name = ""

    def wrap(self, secret: bytes) -> bytes:
        """See :class:`KeyWrapper`."""
        return secret

    def unwrap(self, wrapped: bytes) -> bytes:
        """See :class:`KeyWrapper`."""
        return wrapped


class FileWrapper:
    """Wraps with a key of its own, 32 bytes in hexadecimal digits in a file."""

    def __init__(self, path: Path) -> None:
        """Read it. Raises Misconfigured."""
        check_private(path)
        try:
            key = bytes.fromhex(read_regular(path, 1024).decode().strip())
            self._cipher = AESGCM(key)
        except ValueError as exc:
            raise Misconfigured(
                "not a key of 32 bytes in hexadecimal digits",
                where=str(path),
                fix="openssl rand -hex 32",
            ) from exc
        self.name = "file"

    def wrap(self, secret: bytes) -> bytes:
        """See :class:`KeyWrapper`."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret, None)

    def unwrap(self, wrapped: bytes) -> bytes:
        """See :class:`KeyWrapper`."""
        try:
            return self._cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], None)
        except (InvalidTag, ValueError) as exc:
            raise Misconfigured(
                "the root keys were wrapped with another key",
                where="keystore.wrapper",
                fix="name the key that they were wrapped with",
            ) from exc


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    v: int
    wrapper: str
    roots: dict[str, str]
    """Generation to the wrapped root, base64."""


class RootFile:
    """Root keys by generation."""

    def __init__(self, path: Path, wrapper: KeyWrapper) -> None:
        self._path = path
        self._wrapper = wrapper
        self._wrapped: dict[int, bytes] = {}
        self._clear: dict[int, bytes] = {}

    def exists(self) -> bool:
        """Whether there is a file at all."""
        return self._path.exists()

    def read(self) -> dict[int, bytes]:
        """Every root that there is. Asks the wrapper for those it has not unwrapped yet.

        Raises Misconfigured, Unavailable."""
        check_private(self._path)
        raw = read_regular(self._path, ROOTS_MAX_BYTES, _FIX)
        try:
            held = msgspec.json.decode(raw, type=_File)
            wrapped = {int(n): base64.b64decode(w, validate=True) for n, w in held.roots.items()}
        except ValueError as exc:
            raise Misconfigured(
                f"not a file of root keys: {exc}", where=str(self._path), fix=_FIX
            ) from exc
        if held.v != 1 or held.wrapper != self._wrapper.name:
            raise Misconfigured(
                f"the root keys are wrapped by {held.wrapper or 'nothing'!r}, version {held.v}",
                where=str(self._path),
                fix="set keystore.wrapper to what wrapped them",
            )
        clear = {n: self._unwrapped(n, of) for n, of in wrapped.items()}
        self._wrapped, self._clear = wrapped, clear
        return clear

    def add(self, generation: int, root: bytes) -> None:
        """Keep one more, durably. Raises Unavailable."""
        made = self._wrapper.wrap(root)
        self._write({**self._wrapped, generation: made}, "nothing was erased")
        self._clear[generation] = root

    def rewrap(self, wrapper: KeyWrapper) -> None:
        """Let another key wrap what there is; the file of before is overwritten. Raises
        Unavailable, Misconfigured: then the one of before still does."""
        clear, before = self.read(), self._wrapper
        self._wrapper = wrapper
        try:
            self._write(
                {n: wrapper.wrap(root) for n, root in clear.items()}, "nothing was wrapped anew"
            )
        except BaseException:
            self._wrapper = before
            raise

    def forget_all_but(self, generation: int) -> None:
        """Destroy the others: the file that held them is overwritten. Raises Unavailable."""
        if set(self._wrapped) == {generation}:
            return
        self._write(
            {generation: self._wrapped[generation]},
            "the erasure is final once the old one is gone: sluice log keys show",
        )
        self._clear = {generation: self._clear[generation]}

    def _unwrapped(self, generation: int, wrapped: bytes) -> bytes:
        if self._wrapped.get(generation) == wrapped:
            return self._clear[generation]
        root = self._wrapper.unwrap(wrapped)
        if len(root) != SECRET_BYTES:
            raise Misconfigured("a root key of another length", where=str(self._path), fix=_FIX)
        return root

    def _write(self, wrapped: dict[int, bytes], otherwise: str) -> None:
        roots = {str(n): base64.b64encode(of).decode() for n, of in wrapped.items()}
        content = msgspec.json.encode(_File(1, self._wrapper.name, roots)) + b"\n"
        try:
            replace_overwriting(self._path, content)
        except OSError as exc:
            raise Unavailable(
                f"the root keys cannot be written: {exc.strerror}",
                where=str(self._path),
                fix=f"try again when the volume can be written; {otherwise}",
                code=DISK,
            ) from exc
        self._wrapped = wrapped


def check_private(path: Path) -> None:
    """Refuse what others may read or write: keys lie there. A group may, as Kubernetes mounts it.

    Raises Misconfigured.
    """
    try:
        mode = path.stat().st_mode
    except OSError as exc:
        raise Misconfigured(f"cannot be read: {exc.strerror}", where=str(path), fix=_FIX) from exc
    if mode & (stat.S_IRWXO):
        raise Misconfigured(
            f"keys lie where everybody may read or write them (mode {stat.S_IMODE(mode):o})",
            where=str(path),
            fix=f"chmod o= {path}",
        )


def replace_overwriting(path: Path, content: bytes) -> None:
    """Replace a file, whole or not at all, then overwrite what it held before with zeros.

    As far as the file system writes in place: on flash or on a volume with snapshots old blocks
    live on, which docs/explanation/erasure.md says. Raises OSError.
    """
    fresh = path.with_name(f".{path.name}.fresh")
    old = None
    try:
        old = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        fresh.unlink(missing_ok=True)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        force(path.parent)
        kill_at("keystore.before_overwrite")
        if old is not None:
            os.pwrite(old, bytes(os.fstat(old).st_size), 0)
            os.fsync(old)
    finally:
        if old is not None:
            os.close(old)
