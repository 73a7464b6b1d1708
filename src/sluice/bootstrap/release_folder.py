"""Where the release of the settings lies on this machine: a folder, or the copy of a URL, which
lives as long as the process."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sluice.bootstrap.archive_root import place
from sluice.settings import Settings, StorageSettings


class _Held:
    """One copy of one URL, and its folder for temporary files."""

    def __init__(self, settings: Settings) -> None:
        from sluice.adapters.storage.copies import Copy  # noqa: PLC0415 - an extra

        there = place(settings, settings.decider.release_dir)
        assert not isinstance(there, Path)
        self._aside = tempfile.TemporaryDirectory(prefix="sluice-releases-")
        self.folder = Path(self._aside.name) / str(there).rpartition("/")[2]
        self.copy = Copy(there, self.folder)


_held: dict[tuple[str, StorageSettings], _Held] = {}


def release_folder(settings: Settings) -> Path:
    """The folder, as it was when :func:`look_for_releases` last ended. Raises Misconfigured."""
    named = settings.decider.release_dir
    return _of(settings).folder if "://" in named else Path(named)


def look_for_releases(settings: Settings) -> None:
    """Copy what is new at a URL: one request where nothing is. What was copied before stays where
    it fails. Raises Unavailable, Misconfigured."""
    if "://" in settings.decider.release_dir:
        _of(settings).copy.take()


def _of(settings: Settings) -> _Held:
    key = settings.decider.release_dir, settings.storage
    if key not in _held:
        _held[key] = _Held(settings)
    return _held[key]
