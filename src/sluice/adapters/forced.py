"""Bytes that are on the disk when a call returns."""

from __future__ import annotations

import os
from pathlib import Path


def force(path: Path) -> None:
    """fsync a file, or a folder for what it lists. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
