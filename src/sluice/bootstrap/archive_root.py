"""Where the archive is, for services and verbs alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluice.settings import Settings

if TYPE_CHECKING:
    from sluice.adapters.storage import AnyPath


def archive_root(settings: Settings, root: str | None = None) -> AnyPath:
    """The folder or the URL named, or that of the settings. Raises Misconfigured."""
    from sluice.adapters.storage import at  # noqa: PLC0415 - an extra

    given = settings.archiver
    return at(root or given.root, given.endpoint, given.region)
