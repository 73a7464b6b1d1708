"""SIGINT and SIGTERM ask a verb to end in order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_stop(stop: Callable[[], object]) -> Iterator[None]:
    """Call stop instead of dying, while the block runs. Only in the main thread."""
    before = {name: signal.signal(name, lambda *_: stop()) for name in _SIGNALS}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
