"""Where files of the archive lie: a folder of this machine, or a prefix of a bucket.

A file appears whole under its name or not at all, and never takes a name that is taken. Names are
``<kind>/date=YYYY-MM-DD/<name>`` below a root, so that who looks for some days lists those alone.
"""

from __future__ import annotations

from pathlib import Path

from sluice.adapters.storage.local import LocalFolder
from sluice.adapters.storage.object_path import ObjectPath, Store
from sluice.adapters.storage.objects import ObjectFolder
from sluice.adapters.storage.port import AnyPath, Folder, begins
from sluice.errors import Misconfigured

SCHEMES = ("s3", "gs", "abfs", "abfss", "az")
"""Of URLs whose files are objects: S3 and what speaks it, Google's and Azure's storage."""
__all__ = ["AnyPath", "Folder", "at", "begins", "folder"]


def at(
    place: str | Path,
    endpoint: str = "",
    region: str = "",
    ca_file: str = "",
    *,
    patient: bool = False,
) -> AnyPath:
    """The root that a folder's name or a URL says; the rest is of a :class:`Store`. Raises
    Misconfigured.

    >>> at("var/archive")
    PosixPath('var/archive')
    >>> print(at("s3://bank/archive/") / "decisions")
    s3://bank/archive/decisions
    """
    scheme, separator, rest = str(place).partition("://")
    if not separator:
        return Path(place)
    if scheme not in SCHEMES or not rest.strip("/"):
        raise Misconfigured(
            f"{place} is no place for files",
            where="archiver.root, --archive or another place",
            fix="a folder, or a URL like s3://bucket/prefix; also gs:// and abfs://",
        )
    return ObjectPath(Store(f"{scheme}://{rest.rstrip('/')}", endpoint, region, ca_file, patient))


def folder(root: AnyPath) -> Folder:
    """What reads and writes below a root."""
    if isinstance(root, Path):
        return LocalFolder(root)
    return ObjectFolder(root)
