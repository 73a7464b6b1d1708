"""One cluster a session, and the chart in it; all of it gone with the session, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import node, session
from tests.cluster.chart import Installed, installed, values
from tests.cluster.helm import PYTHON
from tests.cluster.kube import Kube
from tests.cluster.objects import Objects, objects
from tests.cluster.outside import Outside, outside
from tests.support.s3_server import CREDENTIALS, REGION

MUST_RUN = "--cluster-must-run"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        MUST_RUN, action="store_true", help="fail, not skip, where no cluster can be had"
    )


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[node.Node]:
    """The one that `make cluster` started on this machine, or one of our own."""
    reason = node.why_not()
    if not reason and not PYTHON.exists():
        reason = "Helm is not installed: make test-cluster"
    if reason:
        give_up = pytest.fail if request.config.getoption(MUST_RUN) else pytest.skip
        give_up(reason)
    with session.cluster() as made:
        yield made


@pytest.fixture(scope="session")
def kube(cluster: node.Node) -> Kube:
    return session.kubectl(cluster)


@pytest.fixture(scope="session")
def beside(cluster: node.Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """Kafka and a store; after the cluster, whose end of the wire they listen on."""
    with outside(tmp_path_factory.mktemp("outside")) as made:
        yield made


@pytest.fixture(scope="session")
def sluice(kube: Kube, beside: Outside) -> Iterator[Installed]:
    """The chart, installed once. A test says at what values it wants it (`sluice.at`)."""
    with installed(kube, beside, "fraud", values(beside)) as made:
        yield made


@pytest.fixture
def storage(
    sluice: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Objects]:
    """With an empty bucket, which verbs of this process find as pods do."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with objects(tmp_path / "objects") as made:
        monkeypatch.setenv("SLUICE_STORAGE_ENDPOINT", made.endpoint)
        monkeypatch.setenv("SLUICE_STORAGE_REGION", REGION)
        monkeypatch.setenv("SLUICE_STORAGE_CA_FILE", str(made.ca))
        monkeypatch.setenv("SLUICE_KAFKA_BOOTSTRAP", sluice.beside.bootstrap)
        yield made
