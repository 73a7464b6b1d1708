"""What contract tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.store_cluster import StoreCluster


@pytest.fixture(scope="package")
def store_cluster() -> Iterator[StoreCluster]:
    """Three masters that share the slots."""
    with StoreCluster(replicas=False) as running:
        yield running
