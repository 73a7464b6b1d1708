import uuid
from dataclasses import dataclass

import pytest

from local.kafka.broker import Node
from sluice.adapters.kafka.embedded import EmbeddedBroker
from sluice.adapters.kafka.topics import Topics


@dataclass(frozen=True)
class Broker:
    bootstrap: str
    topics: Topics


@pytest.fixture
def apache(kafka: Node, topics: Topics) -> Broker:
    """Apache Kafka with fresh topics of four partitions."""
    return Broker(kafka.bootstrap, topics)


@pytest.fixture(params=["apache", "embedded"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Both brokers in turn, each with fresh topics of four partitions."""
    if request.param == "apache":
        return request.getfixturevalue("apache")
    embedded: EmbeddedBroker = request.getfixturevalue("embedded")
    names = Topics(f"{uuid.uuid4().hex}.")
    embedded.create(names)
    return Broker(embedded.bootstrap, names)
