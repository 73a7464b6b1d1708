"""Trust in files: keys, activations, and the highest epoch that has decided."""

from sluice.adapters.trustfiles.files import ActivationFile, EpochFile, TrustFolder

__all__ = ["ActivationFile", "EpochFile", "TrustFolder"]
