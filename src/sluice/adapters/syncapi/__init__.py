"""The sync API and the labeller, as one of their callers."""

from sluice.adapters.syncapi.client import LabellerClient, SyncApiClient

__all__ = ["LabellerClient", "SyncApiClient"]
