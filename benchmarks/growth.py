"""What a decision costs with 1, 2, 4 and 8 replicas of a service on as many partitions.

All replicas of one service, real processes of one consumer group, wait until each has its
partition. Then the same backlog appears at once: it is written in one transaction. Counted is the
processor time of all of them, of the broker and of the store until the group has committed the last
of it. 1, 2, 4, 8 and back, on a fresh store each time, so that a change of the machine is seen.

Eight on one core take turns, which eight machines do not. So eight are also measured one after the
other: the backlog of a partition appears when that of the one before is done.

    python -m benchmarks.growth
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from benchmarks.capacity import BATCHES, DONE, IDLE_S, Server, look, measured, wanted
from benchmarks.processes import MEASURED, on, wait_until
from benchmarks.report import Row, better, row
from benchmarks.testbed import Scale, Testbed
from local.stack import Name
from sluice.adapters.kafka.reader import TopicReader
from sluice.adapters.kafka.topics import Topics

SCALE = Scale(cards=60_000, history_days=12, requests=60_000, messages=60_000)
WARM_UP = 12_000
"""Of them, before anything is counted: the first batches of a process cost more."""
REPLICAS = (1, 2, 4, 8)
IN_TURNS = (4, 5)
"""The two runs, of 1, 2, 4, 8 and back, in which 8 work one after the other."""
READY_MAX_S = 120.0
DRAINED_MAX_S = 300.0
LOOK_S = 0.1
BY_KEY = -1
"""librdkafka's word for a partition that the key tells."""
LOOK_MAX_S = 10.0
READS: Mapping[Name, Callable[[Topics], Sequence[str]]] = {
    "decider-stream": lambda names: [names.authorizations],
    "featurizer": lambda names: [names.decisions, names.observations, names.labels],
}
"""The topics of each, in the order in which they come to their end."""
GROUPS: Mapping[Name, str] = {"decider-stream": "decider", "featurizer": "featurizer"}


Record = tuple[bytes | None, bytes]
"""Key and value."""
Share = tuple[Sequence[Record], int]
"""Records, and their partition."""


@dataclass(frozen=True)
class Cost:
    """Of one run, a decision: µs of processor time, of all replicas together, of store and broker.

    working: without what idle replicas would have spent in that time. batch: decisions of one.
    busiest: the replica with the most work against the mean. idle: µs a second of one replica.
    """

    service: float
    working: float
    store: float
    broker: float
    batch: float
    busiest: float
    idle: float


def lay(bootstrap: str, topic: str, records: Iterable[Record], partition: int = BY_KEY) -> None:
    """Write records that readers of what is committed see all at once. partition: by the key."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 20, "compression.type": "lz4",
         "queue.buffering.max.messages": 500_000, "partitioner": "murmur2_random",
         "transactional.id": topic}
    )  # fmt: skip
    producer.init_transactions(READY_MAX_S)
    producer.begin_transaction()
    for key, value in records:
        producer.produce(topic, value, key, partition)
    producer.commit_transaction(READY_MAX_S)


class Group:
    """A consumer group, from outside."""

    def __init__(self, bootstrap: str, name: str) -> None:
        self._admin = AdminClient({"bootstrap.servers": bootstrap})
        self._name = name
        # The last committed offsets, though a transaction with the next ones is under way.
        self._reader = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": name,
             "isolation.level": "read_uncommitted"}
        )  # fmt: skip
        self._ends = TopicReader(bootstrap)

    def shares(self, topics: Sequence[str]) -> list[int]:
        """How many partitions of these topics each member has."""
        found = self._admin.describe_consumer_groups([self._name])[self._name].result()
        return [
            sum(place.topic in topics for place in member.assignment.topic_partitions)
            for member in found.members
            if member.assignment is not None
        ]

    def drain(self, *topics: str) -> None:
        """Return when all that is in these topics is committed, one after the other. Raises
        TimeoutError."""
        deadline = time.monotonic() + DRAINED_MAX_S
        for topic in topics:
            ends = {number: end for number, end in self._ends.ends(topic).items() if end}
            places = [TopicPartition(topic, number) for number in ends]
            while places and any(
                place.offset < ends[place.partition]
                for place in self._reader.committed(places, timeout=LOOK_MAX_S)
            ):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{topic} is not drained after {DRAINED_MAX_S:g} s")
                time.sleep(LOOK_S)

    def close(self) -> None:
        """Disconnect."""
        self._ends.close()
        self._reader.close()


def run(
    testbed: Testbed,
    name: Name,
    prefix: str,
    replicas: int,
    warm_up: Sequence[Record],
    shares: Sequence[Share],
) -> Cost:
    """Let so many replicas of a service work off records of what it reads, one share after the
    other. Counted from when a share appears until it is done."""
    names = testbed.topics(prefix, replicas)
    reads = READS[name](names)
    group = Group(testbed.bootstrap, f"{prefix}sluice-{GROUPS[name]}")
    total = [0.0] * 4
    with testbed.store() as store, testbed.stack(store, prefix) as stack:
        server = Server(store)
        with on(MEASURED):
            started = [stack.start(name, replica=str(n + 1)) for n in range(replicas)]
        for process in started:
            stack.wait_ready(process)
        wait_until(
            lambda: group.shares(reads) == [len(reads)] * replicas,
            "each has as many partitions",
            READY_MAX_S,
        )
        time.sleep(IDLE_S)
        lay(testbed.bootstrap, reads[0], warm_up)
        group.drain(*reads)
        batches = -sum(process.metric(BATCHES) for process in started)
        for share in shares:
            lay(testbed.bootstrap, reads[0], *share)
            before = look(testbed, server, started)
            group.drain(*reads)
            after = look(testbed, server, started)
            total = [sofar + b - a for sofar, a, b in zip(total, before, after, strict=True)]
        done = [process.metric(DONE[name]) for process in started]
        batches += sum(process.metric(BATCHES) for process in started)
        before = look(testbed, server, started)
        time.sleep(IDLE_S)
        after = look(testbed, server, started)
        stack.stop_all()
    group.close()
    if sum(done) != (due := wanted(testbed, name, testbed.scale.messages)):
        raise RuntimeError(f"{sum(done):.0f} were done of {due}")
    count = sum(len(records) for records, _ in shares)
    service, in_store, in_broker, wall_s = (1e6 * spent / count for spent in total)
    idle = 1e6 * (after[0] - before[0]) / (after[-1] - before[-1])
    return Cost(
        service, service - idle * wall_s / 1e6, in_store, in_broker, count / batches,
        max(done) * replicas / sum(done), idle / replicas,
    )  # fmt: skip


def measure(testbed: Testbed) -> tuple[list[Row], list[str]]:
    """The stream processor, then the featurizer with the decisions that one made."""
    most = REPLICAS[-1]
    count = testbed.scale.messages
    keys, values = testbed.traffic.keys[:count], testbed.traffic.values[:count]
    records: list[Record] = list(zip(keys, values, strict=True))
    of: dict[bytes | None, int] = {}
    rows: list[Row] = []
    for name in READS:
        warm_up, rest = records[:WARM_UP], records[WARM_UP:]
        found: dict[str, list[Cost]] = {}
        for number, replicas in enumerate((*REPLICAS, most, most, *reversed(REPLICAS))):
            prefix = f"growth-{name}-{number}-"
            in_turns = number in IN_TURNS
            shares: list[Share] = [(rest, BY_KEY)]
            if in_turns:
                shares = [([one for one in rest if of[one[0]] == n], n) for n in range(most)]
            cost = run(testbed, name, prefix, replicas, warm_up, shares)
            case = f"{replicas} on {replicas} partitions" + ", one after the other" * in_turns
            print(name, case, cost, flush=True)
            found.setdefault(case, []).append(cost)
            if name == "decider-stream" and replicas == most:
                of = partitions_of(testbed, Topics(prefix).authorizations)
        if name == "decider-stream":
            records = decisions(testbed, Topics(f"growth-{name}-0-").decisions)
        rows += _rows(name, found)
    return rows, [
        testbed.release[2],
        f"{testbed.scale.messages - WARM_UP:,} authorizations after {WARM_UP:,} that are not "
        "counted; all replicas share one core, broker and store have the other; each figure is the "
        "mean of two runs, 1, 2, 4, 8, 8, 4, 2, 1",
        "without idling: less what as many idle replicas spend in that time. Eight that take turns "
        "on one core take eight times as long as on eight, and their caches are cold after each "
        "turn; one after the other: the backlog of one partition appears when that of the one "
        "before is done, so that one works and seven wait",
    ]


def decisions(testbed: Testbed, topic: str) -> list[Record]:
    """As they stand in it."""
    reader = TopicReader(testbed.bootstrap)
    try:
        return [(one.key, one.value) for one in reader.records(topic)]
    finally:
        reader.close()


def partitions_of(testbed: Testbed, topic: str) -> dict[bytes | None, int]:
    """Key to partition."""
    reader = TopicReader(testbed.bootstrap)
    try:
        return {one.key: one.partition for one in reader.records(topic)}
    finally:
        reader.close()


def _rows(name: Name, found: Mapping[str, Sequence[Cost]]) -> Iterator[Row]:
    means = {
        case: Cost(*map(statistics.mean, zip(*map(astuple, costs), strict=True)))
        for case, costs in found.items()
    }
    one = next(iter(means.values()))
    for case, mean in means.items():
        spread = abs(found[case][0].service - found[case][-1].service)
        yield better(f"{name}, {case}: CPU a decision", "µs", mean.service, one.service)
        yield better(f"{name}, {case}: without idling", "µs", mean.working, one.working,
                     target="within 10 % of one")  # fmt: skip
        yield row(f"{name}, {case}: difference of the two runs", "µs", spread)
        yield row(f"{name}, {case}: store, CPU a decision", "µs", mean.store)
        yield row(f"{name}, {case}: broker, CPU a decision", "µs", mean.broker)
        yield row(f"{name}, {case}: decisions of a batch", "", mean.batch)
        yield row(f"{name}, {case}: busiest replica to the mean", "", mean.busiest)
        yield row(f"{name}, {case}: CPU of an idle replica a second", "µs", mean.idle)


def main() -> int:
    """Measure, write benchmarks/results/growth.json."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    return measured(SCALE, measure, "growth", "python -m benchmarks.growth")


if __name__ == "__main__":
    raise SystemExit(main())
