"""``python -m benchmarks.storage_outage``: object storage away for 60 s, twice, under traffic.

Every service as it is deployed: archiver and the compliance log's copy write to one real S3 server.
It is stopped where it is (SIGSTOP: it takes connections and says nothing), later killed, each time
for 60 s. The services are started once. In the end Kafka's own topics, read by kafka-python, are
held against the bucket's files, read by boto3 and pyarrow; the log and its copy are verified.
About five minutes. Leaves ``benchmarks/results/storage_outage.json``.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import boto3
import pyarrow.parquet as pq
from confluent_kafka import Consumer, TopicPartition

from benchmarks.processes import memory_mb, wait_until
from benchmarks.report import Row, machine, result, row, save, table
from local import metrics_page
from local.kafka.broker import JarNode, free_port
from local.stack import Process
from services import warm
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.application.archive import BUFFER_MAX_BYTES
from sluice.application.ports import Partition
from tests.support.deployment import Deployment, make_deployment
from tests.support.independent import read_independently
from tests.support.log_bucket import LogBucket
from tests.support.recount import committed, wait_balanced
from tests.support.s3_server import BUCKET, CREDENTIALS, REGION, S3Server
from tests.support.traffic import Caller, StreamTraffic

SERVICES = ("decider-stream", "decider-sync", "featurizer", "archiver", "auditor")
CALLED = 60
"""Authorizations a second at the sync API, of one caller; the others go to the topic."""
PARTITIONS = 3
BACK_MAX_S = 240.0
"""From the storage's return until all that was decided by then is archived."""
EVERY_S = 0.5
SAY_MAX = 160
"""Characters of a log line's reason."""


@dataclass(frozen=True)
class Looked:
    """The archiver and the auditor at one moment. at: seconds, monotonic."""

    at: float
    why_not_ready: str
    lag: float
    """Of the archiver, as its metric says."""
    archiver_mb: float
    failed: float
    """Batches given up with code storage, since its start."""
    signed: float
    """Entries of the log that a checkpoint covers."""
    auditor_ready: bool
    copied: float


class Watch:
    """Looks at both until the end of the ``with``."""

    def __init__(self, archiver: Process, auditor: Process) -> None:
        self._archiver, self._auditor = archiver, auditor
        self.seen: list[Looked] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(EVERY_S):
            with suppress(OSError):  # one answered too late to be looked at
                self.seen.append(self._look())

    def _look(self) -> Looked:
        at = time.monotonic()
        archiver, page = self._archiver.metrics(), self._auditor.metrics()
        aborts = metrics_page.samples(archiver, "sluice_consumer_aborts_total")
        return Looked(
            at,
            self._archiver.why_not_ready(),
            metrics_page.total(archiver, "sluice_consumer_lag_messages"),
            memory_mb(self._archiver.popen.pid),
            sum(one.value for one in aborts if one.labels.get("code") == "storage"),
            metrics_page.total(page, "sluice_auditor_signed_size"),
            self._auditor.ready(),
            metrics_page.total(page, "sluice_auditor_copied_size"),
        )

    def between(self, since: float, until: float) -> list[Looked]:
        """What was seen from one moment to another."""
        return [one for one in self.seen if since <= one.at <= until]

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@dataclass(frozen=True)
class Outage:
    """One outage. Seconds; None where it was not seen. archived_s, copied_s: from the storage's
    return until the archive, and the log's copy, have all that was there at that moment."""

    how: str
    away_s: float
    behind: int
    """Records of ``decisions.v1`` in no file at the storage's return."""
    lag: float
    """What the archiver's metric said of it then, the offsets of other topics too."""
    lag_stood_s: float
    """The longest that this metric stood still while the storage was away."""
    archived_s: float
    copied_s: float
    noticed_s: float | None
    """From its begin until the archiver was not ready, and said why."""
    why: str
    failed: int
    most_mb: float
    log_stood_s: float
    """The longest that no checkpoint covered more, from the outage to the copy's return."""
    auditor_unready: int
    said: Counter[str]
    """Lines in the log of the archiver, by event and code."""


def ends(deployment: Deployment) -> dict[Partition, int]:
    """Of ``decisions.v1``, as a committed reader sees them."""
    topic = deployment.topics.decisions
    asking = Consumer(
        {"bootstrap.servers": deployment.bootstrap, "group.id": "nobody",
         "isolation.level": "read_committed"}
    )  # fmt: skip
    try:
        return {
            (topic, n): asking.get_watermark_offsets(TopicPartition(topic, n), timeout=10)[1]
            for n in range(PARTITIONS)
        }
    finally:
        asking.close()


def behind(deployment: Deployment, wanted: dict[Partition, int]) -> int:
    """Offsets that the archiver has not committed, markers of transactions among them."""
    done = committed(deployment.bootstrap, f"{deployment.prefix}sluice-archiver")
    return sum(max(0, end - done.get(place, 0)) for place, end in wanted.items())


def wait_archived(deployment: Deployment, wanted: dict[Partition, int]) -> None:
    """Return when the archiver has committed that far. The last record may be followed by markers,
    behind which nothing is committed."""
    wait_until(
        lambda: behind(deployment, wanted) <= 2 * PARTITIONS,
        "all is archived",
        BACK_MAX_S,
        every_s=EVERY_S,
    )


def lose(
    deployment: Deployment,
    watch: Watch,
    how: str,
    leave: Callable[[], None],
    come: Callable[[], None],
    away_s: float,
) -> Outage:
    """The storage leaves, and comes back after away_s. Returns when all is written."""
    wait_archived(deployment, ends(deployment))
    log = deployment.stack.processes["archiver"].log
    read = log.stat().st_size
    left_at = time.monotonic()
    leave()
    time.sleep(away_s)
    come()
    back_at = time.monotonic()
    wanted, signed = ends(deployment), watch.seen[-1].signed
    missing = behind(deployment, wanted)
    wait_archived(deployment, wanted)
    archived_s = time.monotonic() - back_at
    wait_until(lambda: watch.seen[-1].copied >= signed, "the log's copy has all", BACK_MAX_S)
    seen = watch.between(left_at, time.monotonic())
    away = [one for one in seen if one.at < back_at]
    moved = [left_at, *(b.at for a, b in pairwise(away) if b.lag != a.lag), back_at]
    copied_s = next(one.at for one in seen if one.at >= back_at and one.copied >= signed) - back_at
    unready = [one for one in seen if one.why_not_ready]
    grew = [seen[0].at] + [b.at for a, b in pairwise(seen) if b.signed > a.signed]
    lines = [json.loads(line) for line in log.read_bytes()[read:].splitlines()]
    print(
        f"{how}: away {back_at - left_at:.1f} s, {missing:,} behind, archived after "
        f"{archived_s:.1f} s, copied after {copied_s:.1f} s",
        flush=True,
    )
    for line in lines:
        print("  ", json.dumps(line)[: 2 * SAY_MAX], flush=True)
    return Outage(
        how=how,
        away_s=back_at - left_at,
        behind=missing,
        lag=away[-1].lag,
        lag_stood_s=max(b - a for a, b in pairwise(moved)),
        archived_s=archived_s,
        copied_s=copied_s,
        noticed_s=unready[0].at - left_at if unready else None,
        why=unready[0].why_not_ready[:SAY_MAX] if unready else "",
        failed=round(seen[-1].failed - seen[0].failed),
        most_mb=max(one.archiver_mb for one in seen),
        log_stood_s=max(b - a for a, b in pairwise([*grew, seen[-1].at])),
        auditor_unready=sum(not one.auditor_ready for one in seen),
        said=Counter(f"{line.get('event')} {line.get('code', '')}".strip() for line in lines),
    )


def in_bucket(endpoint: str, prefix: str) -> Counter[tuple[int, int, bytes]]:
    """How often each record of decisions lies in the bucket, with its partition and offset."""
    s3 = boto3.client("s3", endpoint_url=endpoint, region_name=REGION)
    found: Counter[tuple[int, int, bytes]] = Counter()
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}decisions")
    for one in (one for page in pages for one in page.get("Contents", [])):
        raw = s3.get_object(Bucket=BUCKET, Key=one["Key"])["Body"].read()
        columns = ["partition", "offset", "record"]
        rows = pq.ParquetFile(io.BytesIO(raw)).read(columns).select(columns)
        found.update(zip(*rows.to_pydict().values(), strict=True))
    return found


def run(folder: Path, *, rate: float, away_s: float, roll_s: int) -> tuple[list[Row], list[str]]:
    """All of it, in this folder."""
    broker = JarNode(folder / "kafka", free_port(), detached=False)
    broker.start()
    with EmbeddedStore() as store, S3Server(folder / "s3") as server:
        s3 = boto3.client("s3", endpoint_url=server.endpoint, region_name=REGION)
        s3.create_bucket(Bucket=BUCKET)
        copies = LogBucket(server)
        environment = {
            "SLUICE_ARCHIVER_ROOT": f"s3://{BUCKET}/bank",
            "SLUICE_STORAGE_ENDPOINT": server.endpoint,
            "SLUICE_STORAGE_REGION": REGION,
            "SLUICE_ARCHIVER_ROLL_S": str(roll_s),
            "SLUICE_AUDITOR_COPY_BUCKET": LogBucket.NAME,
            "SLUICE_AUDITOR_COPY_ENDPOINT": server.endpoint,
            "SLUICE_AUDITOR_COPY_REGION": REGION,
        }
        world = folder / "world"
        try:
            with make_deployment(
                broker.bootstrap, store.url, world, partitions=PARTITIONS, environment=environment
            ) as deployment:
                return _traffic(deployment, server, copies, folder, rate, away_s, roll_s)
        finally:
            server.resume()
            broker.kill()


def _traffic(
    deployment: Deployment,
    server: S3Server,
    copies: LogBucket,
    folder: Path,
    rate: float,
    away_s: float,
    roll_s: int,
) -> tuple[list[Row], list[str]]:
    stack, topics = deployment.stack, deployment.topics
    key = stack.make_log_keys()
    deployment.start(*SERVICES)
    stream = StreamTraffic(deployment.bootstrap, topics.authorizations, "s", rate=rate - CALLED)
    caller = Caller(stack.port, "c", rate=CALLED)
    watch = Watch(stack.processes["archiver"], stack.processes["auditor"])
    began = time.monotonic()
    with watch, stream, caller:
        wait_until(lambda: len(watch.seen) > 0 and watch.seen[-1].copied > 0, "a copy", 60)
        wait_until(lambda: not watch.seen[-1].why_not_ready, "the archiver works", 60)
        time.sleep(3 * roll_s)
        outages = [
            lose(deployment, watch, how, leave, come, away_s)
            for how, leave, come in (
                ("stopped where it is", server.pause, server.resume),
                ("killed and started again", server.stop, server.start),
            )
        ]
    seconds = time.monotonic() - began
    decider = stack.processes["decider-stream"]
    wait_until(
        lambda: decider.metric("sluice_consumer_lag_messages") == 0,
        "all is decided",
        BACK_MAX_S,
        every_s=EVERY_S,
    )
    ledger = wait_balanced(deployment.bootstrap, topics, heard=caller.heard)
    ended = [name for name, process in stack.processes.items() if not process.alive()]
    for name in ("decider-stream", "decider-sync"):
        stack.stop(name)
    wanted = ends(deployment)
    wait_archived(deployment, wanted)
    auditor = stack.processes["auditor"]
    wait_until(lambda: auditor.metric("sluice_consumer_lag_messages") == 0, "all is logged", 60)
    size = auditor.metric("sluice_auditor_size")
    wait_until(lambda: auditor.metric("sluice_auditor_copied_size") > size, "all is copied", 60)
    most_mb = memory_mb(stack.processes["archiver"].popen.pid, "VmHWM")
    for name in ("archiver", "auditor"):
        assert stack.stop(name) == 0, name
    said = read_independently(deployment.bootstrap, topics.decisions)
    archived = in_bucket(server.endpoint, "bank/")
    topic = {(one.partition, one.offset, one.value) for one in said}
    verified = [
        stack.verb("log", "verify", str(place), "--key", str(key), "--accounting")
        for place in (stack.folder / "log/0", copies.download(folder / "copy"))
    ]
    decided = Counter(d.authorization.authorization_id for d in ledger.decisions)
    sent = stream.sent + len(caller.heard)
    rows = [
        row("authorizations a second", "1/s", sent / seconds),
        row("authorizations sent or answered", "", sent),
        row("not decided, by a recount", "", sent - len(decided), target="0"),
        row("decided twice", "", len(ledger.decided_twice()), target="0"),
        row("decisions missing in the bucket", "", len(topic - archived.keys()), target="0"),
        row("decisions in the bucket twice", "", sum(n - 1 for n in archived.values()), target="0"),
        row("rows in the bucket that no topic has", "", len(archived.keys() - topic), target="0"),
        row("services that ended", "", len(ended), target="0"),
        row("logs that do not verify, of the log and its copy", "",
            sum(done.returncode != 0 for done in verified), target="0"),
        row("tries of the sync API that were refused", "", caller.refused.total()),
        row("longest that its caller waited", "s", caller.longest_s),
        row("most memory of the archiver", "MB", most_mb,
            target=f"at most {3 * BUFFER_MAX_BYTES / 1e6:.0f}"),
    ]  # fmt: skip
    notes = [
        f"{PARTITIONS} partitions, archiver.roll_s {roll_s}; VersityGW, Kafka, store and services "
        "on one machine; kafka-python reads the topic, boto3 and pyarrow the bucket",
    ]
    for one in outages:
        rows += [
            row(f"{one.how}: away", "s", one.away_s),
            row(f"{one.how}: decisions in no file when it came back", "", one.behind),
            row(f"{one.how}: the archiver's lag then, by its metric", "", one.lag),
            row(f"{one.how}: longest that the metric stood still", "s", one.lag_stood_s),
            row(f"{one.how}: archived, after its return", "s", one.archived_s),
            row(f"{one.how}: the log's copy is whole, after its return", "s", one.copied_s),
            row(f"{one.how}: most memory of the archiver until then", "MB", one.most_mb),
            row(f"{one.how}: longest without a new checkpoint of the log", "s", one.log_stood_s),
            row(f"{one.how}: looks at which the auditor was not ready", "", one.auditor_unready),
        ]
        noticed = "never" if one.noticed_s is None else f"after {one.noticed_s:.0f} s"
        lines = ", ".join(f"{count} {name}" for name, count in sorted(one.said.items()))
        notes.append(
            f"{one.how}: the archiver was not ready {noticed} ({one.why or 'nothing'}); "
            f"{one.failed} batches given up; its log: {lines or 'nothing'}"
        )
    for done in verified:
        print(done.stdout, done.stderr)
    return rows, notes


def main() -> int:
    """Returns 0 if nothing was missing, twice or ended."""
    given = argparse.ArgumentParser(prog="python -m benchmarks.storage_outage", description=__doc__)
    given.add_argument("--rate", type=float, default=500.0, help="authorizations a second")
    given.add_argument("--away-s", type=float, default=60.0, help="that it is away each time")
    given.add_argument("--roll-s", type=int, default=5, help="archiver.roll_s")
    given.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    asked = given.parse_args()
    os.environ.update(CREDENTIALS)
    about = machine()
    warm.main()
    with tempfile.TemporaryDirectory(prefix="sluice-outage-") as folder:
        rows, notes = run(Path(folder), rate=asked.rate, away_s=asked.away_s, roll_s=asked.roll_s)
    command = f"python -m benchmarks.storage_outage --rate {asked.rate:g} "
    command += f"--away-s {asked.away_s:g} --roll-s {asked.roll_s}"
    found = result("storage_outage", command, about, rows, notes)
    print(table(found))
    print(save(asked.out, found))
    return int(any(one.target == "0" and one.value for one in rows))


if __name__ == "__main__":
    raise SystemExit(main())
