from collections.abc import Iterator

import pytest

from tests.support.secure_kafka import Cluster, secure_kafka


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """With the topics, and the page's rights."""
    with secure_kafka(tmp_path_factory.mktemp("secure-kafka")) as made:
        yield made
