"""Where the archive is, and what else has a URL, for services and verbs alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluice.settings import Settings

if TYPE_CHECKING:
    from sluice.adapters.storage import AnyPath


def archive_root(settings: Settings, root: str | None = None) -> AnyPath:
    """The folder or the URL named, or that of the settings. Raises Misconfigured."""
    return place(settings, root or settings.archiver.root)


def place(settings: Settings, named: str) -> AnyPath:
    """A folder, or a URL at the object storage of the settings. Raises Misconfigured."""
    from sluice.adapters.storage import at  # noqa: PLC0415 - an extra

    given = settings.storage
    return at(named, given.endpoint, given.region, given.ca_file)
