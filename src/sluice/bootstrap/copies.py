"""Training sets and releases by a URL: copied to this machine for as long as a verb runs.

The copy is a folder for temporary files (``TMPDIR``), named as the URL's last part. A verb that
fails puts nothing back.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sluice.bootstrap.archive_root import place
from sluice.domain.release import MANIFEST
from sluice.errors import Misconfigured, Rejected, SluiceError
from sluice.settings import Settings

if TYPE_CHECKING:
    from sluice.adapters.storage import AnyPath

Say = Callable[[str], None]


@contextmanager
def reading(settings: Settings, named: str, say: Say) -> Iterator[Path]:
    """A folder, or the copy of what a URL holds. Raises Misconfigured where it holds nothing,
    Unavailable."""
    with _copied(place(settings, named), say, change=False) as folder:
        yield folder


@contextmanager
def changing(settings: Settings, named: str, say: Say) -> Iterator[Path]:
    """The same, of one that is there or not; what was changed in the copy is put back. Raises
    Misconfigured, Unavailable, Rejected."""
    with _copied(place(settings, named), say, change=True) as folder:
        yield folder


@contextmanager
def making(there: AnyPath, say: Say) -> Iterator[Path]:
    """A folder to be made, and put whole where it goes. A try that was ended there is gone on with,
    where its files are the same. Raises Rejected where one lies, or others' files; Unavailable."""
    if isinstance(there, Path):
        yield there
        return
    from sluice.adapters.storage.copies import Copy  # noqa: PLC0415 - an extra
    from sluice.adapters.storage.patience import patiently  # noqa: PLC0415 - an extra

    if patiently((there / MANIFEST).exists, say):
        raise Rejected("there is something already", where=str(there), fix="name a new place")
    with tempfile.TemporaryDirectory(prefix="sluice-") as aside:
        folder = Path(aside) / (there.name or "made")
        with _named(folder, there):
            yield folder
        Copy(there, folder, say).put_back()


@contextmanager
def _named(folder: Path, there: AnyPath) -> Iterator[None]:
    """What is wrong in a copy is told by the URL."""
    try:
        yield
    except SluiceError as error:
        error.where = error.where.replace(str(folder), str(there))
        raise


@contextmanager
def _copied(there: AnyPath, say: Say, *, change: bool) -> Iterator[Path]:
    if isinstance(there, Path):
        yield there
        return
    from sluice.adapters.storage.copies import Copy  # noqa: PLC0415 - an extra

    with tempfile.TemporaryDirectory(prefix="sluice-") as aside:
        folder = Path(aside) / str(there).rpartition("/")[2]
        copy = Copy(there, folder, say)
        if not copy.take() and not change:
            raise Misconfigured("nothing lies there", where=str(there))
        with _named(folder, there):
            yield folder
        if change:
            copy.put_back()
