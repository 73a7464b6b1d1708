"""What a test needs of this machine beyond Python."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.debian import MissingError


@contextmanager
def needed() -> Iterator[None]:
    """The tests that need what cannot be had are skipped, with the reason; in CI they fail."""
    try:
        yield
    except MissingError as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing))
