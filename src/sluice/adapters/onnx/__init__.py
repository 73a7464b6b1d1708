"""Releases on disk and the scorer that runs them in ONNX Runtime."""

from sluice.adapters.onnx.pack import Description, add_file, scorer_of_columns, write_manifest
from sluice.adapters.onnx.release import ReleaseDirectory, load, read_trust, verify
from sluice.adapters.onnx.scorer import OnnxScorer

__all__ = [
    "Description",
    "OnnxScorer",
    "ReleaseDirectory",
    "add_file",
    "load",
    "read_trust",
    "scorer_of_columns",
    "verify",
    "write_manifest",
]
