"""Releases on disk and the scorer that runs them in ONNX Runtime."""

from sluice.adapters.onnx.pack import Description, write_manifest
from sluice.adapters.onnx.release import ReleaseDirectory, load, read_trust, verify
from sluice.adapters.onnx.scorer import OnnxScorer

__all__ = [
    "Description",
    "OnnxScorer",
    "ReleaseDirectory",
    "load",
    "read_trust",
    "verify",
    "write_manifest",
]
