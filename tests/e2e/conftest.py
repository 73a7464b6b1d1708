"""What every story starts from."""

from __future__ import annotations

import pytest

from services import warm


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    """Compile the kernel once, not in each process of a story."""
    warm.main()
