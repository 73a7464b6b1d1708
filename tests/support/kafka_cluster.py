"""Three Apache Kafka brokers, each of them a controller too: the least that loses nothing with one.

Every record has three copies, of which two must be written before it is acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from local.kafka.broker import JarNode, free_port
from sluice.adapters.kafka.config import REQUEST_MAX_S
from tests.support.kafka import wait_until

BROKERS = 3
HEAP_MB = 320
"""Of each: 0.5 GB of memory with all else that a Java process needs."""
SESSION_S = 9.0
"""Kafka's own default: a broker that was silent for so long leads nothing any more."""
NODE = """
node.id={number}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{controller_port}
default.replication.factor=3
min.insync.replicas=2
unclean.leader.election.enable=false
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
broker.session.timeout.ms={session_ms}
broker.heartbeat.interval.ms={heartbeat_ms}
"""


class KafkaCluster:
    """The brokers, all started."""

    def __init__(self, nodes: list[JarNode]) -> None:
        self.nodes = nodes
        self.bootstrap = ",".join(node.bootstrap for node in nodes)
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def wait_whole(self) -> None:
        """Return when all brokers are there and no partition misses one of its copies."""
        wait_until(self._whole, "every partition has all its copies in sync")

    def _whole(self) -> bool:
        try:
            found = self._admin.list_topics(timeout=REQUEST_MAX_S)
        except KafkaException:
            return False
        return len(found.brokers) == BROKERS and all(
            len(partition.isrs) == len(partition.replicas)
            for topic in found.topics.values()
            for partition in topic.partitions.values()
        )


@contextmanager
def kafka_cluster(folder: Path, *, session_s: float = SESSION_S) -> Iterator[KafkaCluster]:
    """Start one. session_s: how long a killed broker is waited for before others lead for it."""
    ports = [free_port() for _ in range(2 * BROKERS)]
    controllers = dict(enumerate(ports[:BROKERS], 1))
    voters = ",".join(f"{number}@127.0.0.1:{port}" for number, port in controllers.items())
    nodes = [
        JarNode(
            folder / f"broker-{number}",
            ports[BROKERS + number - 1],
            detached=False,
            heap_mb=HEAP_MB,
            more=NODE.format(
                number=number,
                voters=voters,
                controller_port=port,
                session_ms=round(session_s * 1000),
                heartbeat_ms=round(session_s * 1000 / 4.5),
            ),
        )
        for number, port in controllers.items()
    ]
    try:
        for node in nodes:
            node.launch()
        for node in nodes:
            node.wait()
        cluster = KafkaCluster(nodes)
        cluster.wait_whole()
        yield cluster
    finally:
        for node in nodes:
            node.kill()
