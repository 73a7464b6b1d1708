"""Training: from a history through the serving kernel to a signed release."""

import sluice  # noqa: F401 (before PyTorch's exporter, which may import onnxruntime: see sluice.QUIET)
