"""Releases on disk and the scorer that runs them in ONNX Runtime."""

from sluice.adapters.onnx.release import ReleaseDirectory, load, read_trust, verify
from sluice.adapters.onnx.scorer import OnnxScorer

__all__ = ["OnnxScorer", "ReleaseDirectory", "load", "read_trust", "verify"]
