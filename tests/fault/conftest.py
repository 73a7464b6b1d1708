"""What every fault test starts from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from local.kafka.broker import free_port
from services import warm
from sluice.adapters.redis.embedded import EmbeddedStore


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    """Compile the kernel once, not in each process under test."""
    warm.main()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """At one port, with nothing on disk."""
    with EmbeddedStore(port=free_port(), directory=tmp_path / "store") as store:
        yield store
