"""Policy packs on disk: read, checked, and taken up again when they change."""

from sluice.adapters.policyfiles.files import PolicyFiles, read_policy

__all__ = ["PolicyFiles", "read_policy"]
