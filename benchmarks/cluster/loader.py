"""What runs in a pod of the loader's Job: ``python -m benchmarks.cluster.loader``.

The first pod (JOB_COMPLETION_INDEX 0) is Locust's master, and the others its workers. When their
ramp is over the first sends a burst to ``authorizations.v1``, follows the stream processor's lag
until it is gone, and recounts the topics. It prints a line of JSON for whatever happens; its exit
status is 0 only if nothing is missing and nothing was decided twice.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient

from benchmarks.cluster.ramp import add_arguments, given
from benchmarks.cluster.recount import recount
from benchmarks.traffic import bodies
from sluice.adapters.kafka.config import REQUEST_MAX_S, client
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.reader import TopicReader
from sluice.adapters.kafka.topics import Topics
from sluice.application.ports import Message
from sluice.bootstrap.brokers import reached
from sluice.domain.records.authorization import Authorization
from sluice.settings import load

GROUP = "sluice-decider"
"""Of the stream processor, after ``kafka.topic_prefix``."""
IDS, BODIES = Path("/tmp/ids.json"), Path("/tmp/bodies.jsonl")
SPARE = 1.2
"""Of the bodies made ahead: users begin and end in whole ones."""
MASTER_PORT = 5557
LOCUST = ("locust", "-f", "benchmarks/cluster/locustfile.py", "--headless", "--only-summary")
WORKERS_MAX_S = 120
FLUSH_MAX_S = 120.0
DRAIN_MAX_S = 900.0
DAYS_BACK = 7
STREAM_SEED = 1000
"""Behind those of the workers: worlds whose ids nobody else sends."""
_auth = msgspec.json.Decoder(Authorization).decode


def say(**what: Any) -> None:
    """One line of JSON."""
    print(msgspec.json.encode(what).decode(), flush=True)


def main() -> int:
    """Returns 0 if the recount found nothing wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster.loader", description=__doc__
    )
    parser.add_argument("--host", required=True, help="URL of the sync API's Service")
    parser.add_argument("--master", required=True, help="name of the first pod")
    parser.add_argument("--load-workers", type=int, default=1)
    parser.add_argument("--tenant", required=True, help="that no other run has")
    parser.add_argument("--seed", type=int, required=True, help="the same")
    parser.add_argument("--cards", type=int, default=20_000, help="of each worker's world")
    parser.add_argument("--burst", type=int, default=50_000, help="for the stream processor")
    parser.add_argument("--settle-s", type=float, default=60, help="after the lag is gone")
    add_arguments(parser)
    args = parser.parse_args()
    ramp = given(args)
    common = [
        *LOCUST, "--host", args.host, "--tenant", args.tenant, "--seed", str(args.seed),
        "--cards", str(args.cards), "--bodies", str(BODIES), *ramp.arguments(),
    ]  # fmt: skip
    if index := int(os.environ.get("JOB_COMPLETION_INDEX", "0")):
        count = int(ramp.requests / args.load_workers * SPARE) + 1000
        # Before it is a worker: one that makes a world does not answer its master.
        _make(BODIES, args, args.seed + index, count)
        os.execvp(
            common[0],
            [*common, "--worker", "--master-host", args.master, "--master-port", str(MASTER_PORT)],
        )
    kafka = load()[0].kafka
    topics = Topics(kafka.topic_prefix)
    log = Log(reached(kafka), kafka.extra(), topics)
    subprocess.run(
        [*common, "--master", "--master-bind-port", str(MASTER_PORT), "--ids", str(IDS),
         "--expect-workers", str(args.load_workers),
         "--expect-workers-max-wait", str(WORKERS_MAX_S),
         "--exit-code-on-error", "0", "--stop-timeout", "40"],
        check=True,
    )  # fmt: skip
    if args.burst:
        _burst(log, args)
        _drain(log, f"{kafka.topic_prefix}{GROUP}", args.settle_s)
    ids = msgspec.json.decode(IDS.read_bytes())
    counts = recount(
        log.since(topics.authorizations),
        log.since(topics.decisions),
        tenant=args.tenant,
        answered=ids["answered"],
        given_up=ids["given_up"],
    )
    say(recount=counts, wrong=counts.wrong)
    return 1 if counts.wrong else 0


class Log:
    """The topics from where they ended when the run began."""

    def __init__(self, bootstrap: str, extra: dict[str, str], topics: Topics) -> None:
        self.bootstrap, self.extra, self.topics = bootstrap, extra, topics
        names = (topics.authorizations, topics.decisions)
        self._began = {name: self.ends(name) for name in names}

    def ends(self, topic: str) -> dict[int, int]:
        """The next offset of each partition."""
        reader = TopicReader(self.bootstrap, extra=self.extra)
        try:
            return {number: end for number, (_, end) in reader.spans(topic).items()}
        finally:
            reader.close()

    def since(self, topic: str) -> Iterator[Message]:
        """What came since, up to now, one partition after the other."""
        reader = TopicReader(self.bootstrap, extra=self.extra)
        try:
            for number, end in self.ends(topic).items():
                yield from reader.between(topic, number, self._began[topic].get(number, 0), end)
        finally:
            reader.close()


def _bodies(args: argparse.Namespace, seed: int, count: int) -> Iterator[bytes]:
    """The traffic's event times lie in the past, within the features' windows."""
    first = (datetime.now(UTC) - timedelta(days=DAYS_BACK)).date()
    return islice(bodies(args.cards, seed, first, args.tenant), count)


def _make(path: Path, args: argparse.Namespace, seed: int, count: int) -> None:
    with path.open("wb") as file:
        file.writelines(body + b"\n" for body in _bodies(args, seed, count))


def _burst(log: Log, args: argparse.Namespace) -> None:
    producer = EventProducer(log.bootstrap, client_id="loader", extra=log.extra)
    began = time.time()
    for body in _bodies(args, args.seed + STREAM_SEED, args.burst):
        producer.produce(log.topics.authorizations, body, key=_auth(body).card_token)
    producer.flush(FLUSH_MAX_S)
    say(burst={"at": began, "until": time.time(), "messages": args.burst})


def _drain(log: Log, group: str, settle_s: float) -> None:
    """Say the lag each second until it has been 0 for so long. Raises TimeoutError."""
    admin = AdminClient(client(log.bootstrap, "loader-lag", log.extra))
    topic = log.topics.authorizations
    ends = log.ends(topic)
    deadline = time.monotonic() + DRAIN_MAX_S
    settled: float | None = None
    while settled is None or time.monotonic() < settled + settle_s:
        asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
        found = asked[group].result(REQUEST_MAX_S).topic_partitions or []
        at = {p.partition: p.offset for p in found if p.topic == topic and p.offset >= 0}
        lag = sum(max(0, end - at.get(number, 0)) for number, end in ends.items())
        say(lag={"at": time.time(), "messages": lag})
        if not lag and settled is None:
            settled = time.monotonic()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{group} is {lag} messages behind after {DRAIN_MAX_S:.0f} s")
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
