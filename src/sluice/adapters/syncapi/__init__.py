"""The sync API, as one of its callers."""

from sluice.adapters.syncapi.client import SyncApiClient

__all__ = ["SyncApiClient"]
