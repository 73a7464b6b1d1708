"""Each of three brokers is killed in turn, and comes back, under traffic at both entrypoints.

The services are started once and never again: whoever ends is a failure. In the end all is
recounted: topics, states, archive and compliance log.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from sluice.adapters.kafka.config import SESSION_MAX_MS
from sluice.adapters.parquet.archive import Archive
from sluice.adapters.redis.embedded import EmbeddedStore
from tests.support.deployment import Deployment, make_deployment
from tests.support.kafka import read_all, wait_until
from tests.support.kafka_cluster import BROKERS, KafkaCluster
from tests.support.traffic import Caller, StreamTraffic

SERVICES = ("decider-stream", "decider-sync", "featurizer", "archiver", "auditor")
CALLER_RATE = 50
"""Of one caller, who asks one thing after the other."""
IN_PROGRESS_S = 45
"""Longer than a broker is away: what may have been recorded waits for the featurizer."""
STREAM = b'"entrypoint":"stream"'


@dataclass(frozen=True)
class Lost:
    """One broker. Seconds."""

    number: int
    stream_silent_s: float
    """The longest that no decision of the stream processor came."""
    whole_after_s: float
    """From its start until every partition had all its copies again."""


@dataclass(frozen=True)
class Outcome:
    """What became of the traffic. waited_s: the longest that a caller of the sync API waited for
    its answer, all its tries together."""

    brokers: list[Lost]
    sent: int
    """To ``authorizations.v1``."""
    heard: int
    """Answers of the sync API."""
    refused: int
    waited_s: float
    missing: int
    twice: int
    ended: list[str]
    """Services that ended, which nobody may start again."""
    archived: int
    """Rows of decisions, each the record of its offset."""
    wrong_states: int
    log: str
    """What ``sluice log verify --accounting`` said."""
    seconds: float


class _Listener:
    """Hears decisions of the stream processor as committed readers do, and when."""

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        self.at: list[float] = []
        self._over = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "listener",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "reconnect.backoff.max.ms": 400,
            }
        )
        self._consumer.assign([TopicPartition(topic, n, 0) for n in range(partitions)])
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def _listen(self) -> None:
        while not self._over.is_set():
            for message in self._consumer.consume(500, 0.05):
                if message.error() is None and STREAM in (message.value() or b""):
                    self.at.append(time.monotonic())

    def silence(self, since: float) -> float:
        """The longest between two since then."""
        heard = [since, *(at for at in self.at if at > since), time.monotonic()]
        return max(b - a for a, b in pairwise(heard))

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._consumer.close()


def lose_each(
    cluster: KafkaCluster, folder: Path, *, rate: float, down_s: float, partitions: int = 3
) -> Outcome:
    """Kill each broker once. rate: authorizations a second, half at each entrypoint. down_s: that a
    broker is away. Raises AssertionError if something never comes."""
    patient = {
        "SLUICE_STORE_IN_PROGRESS_TTL_S": str(IN_PROGRESS_S),
        "SLUICE_ARCHIVER_ROLL_S": "2",
        "SLUICE_KAFKA_SESSION_S": str(SESSION_MAX_MS // 1000),
    }
    with (
        EmbeddedStore() as store,
        make_deployment(
            cluster.bootstrap,
            store.url,
            folder,
            partitions=partitions,
            replication=BROKERS,
            environment=patient,
        ) as deployment,
    ):
        key = deployment.stack.make_log_keys()
        deployment.start(*SERVICES)
        began = time.monotonic()
        stream = StreamTraffic(
            deployment.bootstrap, deployment.topics.authorizations, "s", rate=rate / 2, replays=25
        )
        callers = [
            Caller(deployment.stack.port, f"c{n}", rate=CALLER_RATE)
            for n in range(max(1, round(rate / 2 / CALLER_RATE)))
        ]
        listener = _Listener(cluster.bootstrap, deployment.topics.decisions, partitions)
        with listener, ExitStack() as traffic:
            for worker in (stream, *callers):
                traffic.enter_context(worker)
            wait_until(lambda: len(listener.at) > 100 and callers[0].heard, "traffic runs")
            brokers = [
                _lose(cluster, number, listener, callers, down_s) for number in range(BROKERS)
            ]
        seconds = time.monotonic() - began
        return _recounted(deployment, key, stream, callers, brokers, seconds)


def _lose(
    cluster: KafkaCluster, number: int, listener: _Listener, callers: list[Caller], down_s: float
) -> Lost:
    node = cluster.nodes[number]
    killed_at = time.monotonic()
    node.kill()
    time.sleep(down_s)
    started_at = time.monotonic()
    node.start()
    cluster.wait_whole()
    whole_after_s = time.monotonic() - started_at
    decided, heard = len(listener.at), [len(caller.heard) for caller in callers]
    wait_until(lambda: len(listener.at) > decided + 100, "the stream processor goes on")
    wait_until(
        lambda: all(len(c.heard) > n + 10 for c, n in zip(callers, heard, strict=True)),
        "the sync API goes on",
    )
    return Lost(number + 1, listener.silence(killed_at), whole_after_s)


def _recounted(
    deployment: Deployment,
    key: Path,
    stream: StreamTraffic,
    callers: list[Caller],
    brokers: list[Lost],
    seconds: float,
) -> Outcome:
    heard = {key: answer for caller in callers for key, answer in caller.heard.items()}
    ledger = deployment.settle(heard=heard)
    stack = deployment.stack
    ended = [name for name, process in stack.processes.items() if not process.alive()]
    answers = ledger.answers()
    missing = stream.sent - sum(d.entrypoint == "stream" for d in ledger.decisions)
    missing += sum(answers.get(key) != answer for key, answer in heard.items())
    archive = Archive(stack.folder / "archive")

    def archived() -> int:
        rows = archive.read("decisions", ["partition", "offset", "record"])
        found = list(zip(*rows.to_pydict().values(), strict=True))
        said = read_all(deployment.bootstrap, deployment.topics.decisions)
        return len(found) if found == [(m.partition, m.offset, m.value) for m in said] else 0

    rows = wait_until(archived, "each decision is one row of the archive")
    for name in ("decider-stream", "decider-sync"):
        stack.stop(name)
    auditor = stack.processes["auditor"]
    wait_until(lambda: auditor.metric("sluice_consumer_lag_messages") == 0, "all is read")
    stack.stop("auditor")
    verified = stack.verb("log", "verify", str(stack.folder / "log/0"), "--key", str(key),
                          "--accounting")  # fmt: skip
    return Outcome(
        brokers=brokers,
        sent=stream.sent,
        heard=len(heard),
        refused=sum(caller.refused.total() for caller in callers),
        waited_s=max(caller.longest_s for caller in callers),
        missing=missing,
        twice=len(ledger.decided_twice()),
        ended=ended,
        archived=rows,
        wrong_states=len(ledger.wrong_states(stack.store_url)),
        log=verified.stdout + verified.stderr,
        seconds=seconds,
    )
