"""The broker of ``make demo``: the mock cluster inside librdkafka, in this process.

It speaks the protocol over TCP, so other processes use it like any broker. It is a mock:

- aborted transactions stay visible to ``read_committed`` readers: it cannot show exactly-once;
- offsets committed inside a transaction are forgotten: a restarted stream processor reads all
again;
- a group's first assignment takes 3 s, a rebalance of two members about 20;
- a partition keeps the newest 5 MiB of compressed batches, in memory only (measured: of 20,000
  records of 1,000 bytes, uncompressed, the newest 5,150 are left);
- topics appear when first asked for, always with PARTITIONS partitions; ``sluice topics apply``,
  retention and authentication do not exist;
- it does not know which record was written when: who asks for those since a moment gets none;
- it ends with this process.

Groups, cooperative-sticky assignment, plain commits, idempotence and the records of committed
transactions work, also across processes: ``tests/integration/kafka/`` runs one suite on both.
"""

from __future__ import annotations

from confluent_kafka import KafkaException, Producer

from sluice.adapters.kafka.config import REQUEST_MAX_S, log, translate
from sluice.adapters.kafka.topics import Topics

PARTITIONS = 4


class EmbeddedBroker:
    """Runs until ``close``. bootstrap: host:port for clients in any process of this machine."""

    def __init__(self) -> None:
        self._host: Producer | None = Producer(
            {"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "logger": log, "log_level": 3}
        )
        try:
            brokers = self._host.list_topics(timeout=REQUEST_MAX_S).brokers.values()
        except KafkaException as exc:
            raise translate(exc, "start the embedded broker", "librdkafka") from exc
        self.bootstrap = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def create(self, topics: Topics) -> None:
        """Make the topics exist, so that consumers find them when they subscribe."""
        assert self._host is not None, "the broker was closed"
        for name in topics.all():
            self._host.list_topics(name, timeout=REQUEST_MAX_S)

    def close(self) -> None:
        """End it, and all that it holds."""
        self._host = None
