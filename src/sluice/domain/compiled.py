"""The two decorators of the kernel: numba, without the GIL, the same bits on every machine.

Numba's cache looks at one function's own file: change a function that it calls, or a number of
the catalogue that it froze, and it serves the old code. So ours lies in a folder named after the
digest of all the kernel's files. Divisors are never zero by construction, so they go unchecked.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import config, njit

_HERE = Path(__file__).parent
SOURCES = (
    "cardstate",
    "catalogue",
    "clock",
    "codec",
    "codes",
    "compiled",
    "countries",
    "distance",
    "events",
    "stateformat",
    "tilestate",
    "windows",
)
"""Modules whose code or numbers end up in the machine code."""
_DIGEST = hashlib.sha256(b"".join((_HERE / f"{s}.py").read_bytes() for s in SOURCES)).hexdigest()
FOLDER = _HERE / "__pycache__" / f"kernel-{_DIGEST[:12]}"
"""Where the machine code lies, unless NUMBA_CACHE_DIR says otherwise."""

Function = Callable[..., Any]


def part(function: Function) -> Function:
    """Compile a function that only compiled functions call; it is cached inside of them."""
    return njit(nogil=True, error_model="numpy")(function)


def entry(function: Function) -> Function:
    """Compile a function that Python calls, and keep it on disk (where NUMBA_CACHE_DIR says)."""
    chosen = config.CACHE_DIR
    if not chosen and os.access(_HERE, os.W_OK):
        config.CACHE_DIR = str(FOLDER)
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    finally:
        config.CACHE_DIR = chosen
