"""What every fault test starts from."""

from __future__ import annotations

import pytest

from services import warm


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    """Compile the kernel once, not in each process under test."""
    warm.main()
