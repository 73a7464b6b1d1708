"""Where the archive is, and what else has a URL, for services and verbs alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluice.settings import Settings

if TYPE_CHECKING:
    from sluice.adapters.storage import AnyPath


def archive_root(settings: Settings) -> AnyPath:
    """That of the settings, for a service. Raises Misconfigured."""
    return place(settings, settings.archiver.root)


def archive_named(settings: Settings, root: str | None) -> AnyPath:
    """The folder or the URL named, or that of the settings, for a verb: one that asks again for
    minutes where the storage is away. Raises Misconfigured."""
    return place(settings, root or settings.archiver.root, patient=True)


def place(settings: Settings, named: str, *, patient: bool = False) -> AnyPath:
    """A folder, or a URL at the object storage of the settings. Raises Misconfigured."""
    from sluice.adapters.storage import at  # noqa: PLC0415 - an extra

    given = settings.storage
    return at(named, given.endpoint, given.region, given.ca_file, patient=patient)
