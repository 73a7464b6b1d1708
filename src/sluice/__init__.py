"""Sluice decides in real time whether a card authorization is fraud, and can prove it."""

import os
from pathlib import Path

__version__ = "0.2.0"
_COMMIT = Path(__file__).with_name("COMMIT")
"""Written as an image is built (services/Dockerfile); a checkout has none, since it may differ."""
BUILD = f"sluice-{__version__}" + (f"+{_COMMIT.read_text()[:12]}" if _COMMIT.exists() else "")
"""Our version, and the commit where it is known: what records name."""

QUIET = {"ORT_DISABLE_TELEMETRY": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""Variables that keep a library from reporting to its maker. onnxruntime looks for Microsoft's
event collector, and keeps a device id in the home, as soon as it is imported, MLflow sends what it
is used for: this package is the one place where all that import them pass before. Whoever sets
such a variable otherwise has chosen.
"""
for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)
