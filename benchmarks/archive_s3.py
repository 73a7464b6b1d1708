"""The Handbook's table archived to S3, the archiver killed ten times; and a day of small files.

  python -m benchmarks.archive_s3 handbook-transactions.parquet
  python -m benchmarks.archive_s3 handbook-transactions.parquet --rows 100000 --small-files 1000

Starts a real Kafka and a real S3 server, both on this machine's disk. The table's rows are records
of ``labels.v1``, each with all of its row's columns. The archiver, as it is deployed, reads them
and is killed with SIGKILL ten times: at any moment, before a file, behind it, and behind its
commit, by turns. Every record's bytes are compared with the table, before and after ``sluice
archive compact``. Then one day is written in 10,000 files, and read before and after it is
compacted, and behind 1,000 days of history. Leaves ``benchmarks/results/archive_s3.json``.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from benchmarks.processes import memory_mb, wait_until
from benchmarks.report import Row, machine, result, row, save, table
from local.kafka.broker import JarNode, free_port
from local.stack import Process, Stack
from sluice.adapters.kafka import topics as topic_table
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.parquet.archive import Archive, ParquetFiles, path_of
from sluice.adapters.parquet.compact import compact
from sluice.adapters.storage import AnyPath, at, folder
from sluice.application.ports import Message, Partition
from sluice.domain.records.authorization import encode
from sluice.testing.factories import make_authorization, make_label
from tests.support.recount import committed
from tests.support.s3_server import BUCKET, CREDENTIALS, REGION, S3Server

RESULTS = Path("benchmarks/results")
KIND = "labels"
FIRST_MS = round(datetime(2018, 4, 1, tzinfo=UTC).timestamp() * 1000)
"""Of the table."""
PARTITIONS = 4
KILLS = 10
POINTS = ("", "archiver.before_link", "archiver.after_link", "archiver.after_commit")
"""Where it is killed, by turns; "" is at any moment."""
ROLL_S = 1
FASTER = 10
"""So many days of the table are written in a day, or an archiver would read a day before a file of
it is due."""
TURN_MAX_S = 240.0
"""From one kill to the next, or to the end."""
EVERY_S = 0.05
FILE_ROWS = 20_000
"""At most; so that it is not done before the last kill."""
QUEUE_MAX = 50_000
"""Records that the producer holds."""
SAY_EACH = 1_000
"""Files."""
DAY = datetime(2026, 5, 29, tzinfo=UTC)
"""Of the small files. An object's name begins with it, so the days before it come first."""
ROWS = 10
"""Of a small file."""
HISTORY_DAYS = 1_000
YEAR_2100_US = 4_102_444_800_000_000


def say(text: str) -> None:
    """At once, whoever reads it."""
    print(text, flush=True)


def cut(source: Path, rows: int, place: Path) -> Path:
    """The first rows of a table, as a table."""
    path = place / "first.parquet"
    pq.write_table(pq.read_table(source).slice(0, rows), path)
    return path


def records(source: Path, partition: int) -> Iterator[tuple[bytes, int]]:
    """Of one partition: a label with all of a row's columns, and when it is written, ms. Row n
    is offset n // PARTITIONS of partition n % PARTITIONS."""
    model = make_label(make_authorization(), known_at=1)
    rows = pq.read_table(source)
    rows = rows.take(pa.array(np.arange(partition, len(rows), PARTITIONS)))
    for one in itertools.chain.from_iterable(b.to_pylist() for b in rows.to_batches(10_000)):
        at_us = int(one["timestamp"].timestamp()) * 1_000_000
        label = msgspec.structs.replace(
            model,
            authorization_id=f"h-{one['transaction_id']}",
            event_at=at_us,
            known_at=at_us + 1,
            is_fraud=one["is_fraud"],
            card_token=f"c-{one['customer_id']}",
            terminal_id=f"t-{one['terminal_id']}",
            report_id=f"cents-{one['amount_cents']}",
            reason=f"scenario.{one['scenario']}",
        )
        yield encode(label), FIRST_MS + (at_us // 1000 - FIRST_MS) // FASTER


def fill(bootstrap: str, topic: str, source: Path) -> dict[Partition, int]:
    """All of the table to a topic that keeps it, however old. Returns the ends."""
    forever = ConfigEntry("retention.ms", "-1", incremental_operation=AlterConfigOpType.SET)
    change = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[forever])
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for done in admin.incremental_alter_configs([change]).values():
        done.result(30)
    producer = Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 20, "compression.type": "lz4",
         "enable.idempotence": True, "queue.buffering.max.messages": 2 * QUEUE_MAX}
    )  # fmt: skip
    ends = {}
    for number in range(PARTITIONS):
        count = 0
        for raw, at_ms in records(source, number):
            producer.produce(topic, raw, partition=number, timestamp=at_ms)
            count += 1
            if count % QUEUE_MAX == 0:
                producer.flush()
        ends[topic, number] = count
    assert producer.flush(60) == 0
    return ends


def killed(stack: Stack, root: AnyPath, group: str, ends: dict[Partition, int]) -> float:
    """Archive it all, by a service that is killed KILLS times. Returns the most memory that one
    took, MB."""
    chance = random.Random(17)
    files = max(1, sum(ends.values()) // FILE_ROWS // KILLS)
    for n in range(KILLS):
        point = POINTS[n % len(POINTS)]
        behind = chance.randint(1, files)
        process = stack.start("archiver", kill_at=point and f"{point}:{behind}")
        stack.wait_ready(process)
        dies = _dies(process, point, behind)
        wait_until(dies, f"{behind} files more", TURN_MAX_S, every_s=EVERY_S)
        time.sleep(0 if point else chance.random())
        stack.kill("archiver")
        say(f"killed {n + 1} times, {point or 'at any moment'}: {_count(root):,} files")
    process = stack.start("archiver")
    wait_until(
        lambda: committed(stack.bootstrap, group) == ends,
        "all is archived",
        TURN_MAX_S,
        every_s=EVERY_S,
    )
    most = memory_mb(process.popen.pid, "VmHWM")
    assert stack.stop("archiver") == 0
    return most


def _dies(process: Process, point: str, behind: int) -> Callable[[], bool]:
    """Asks whether it is dead, or shall be killed now."""
    if point:
        return lambda: not process.alive()
    return lambda: process.metric("sluice_archiver_files_total") >= behind


def _count(root: AnyPath) -> int:
    return sum(1 for _ in folder(root).listed(KIND))


def unlike(root: AnyPath, source: Path) -> tuple[int, int]:
    """Records of the archive that are not the table's at their place, and those that it lacks."""
    wrong = 0
    wanted = (
        (number, offset, raw)
        for number in range(PARTITIONS)
        for offset, (raw, _) in enumerate(records(source, number))
    )
    for part in Archive(root).tables(KIND, ["partition", "offset", "record"]):
        for found in zip(*part.to_pydict().values(), strict=True):
            wrong += next(wanted, None) != found
    return wrong, sum(1 for _ in wanted)


def handbook(server: S3Server, place: Path, source: Path) -> list[Row]:
    """Write, compare, compact, compare."""
    root = at(f"s3://{BUCKET}/handbook", server.endpoint, REGION)
    broker = JarNode(place / "kafka", free_port(), detached=False)
    broker.start()
    try:
        names = Topics()
        topic_table.apply(broker.bootstrap, names, partitions=PARTITIONS, replication=1)
        began = time.monotonic()
        ends = fill(broker.bootstrap, names.labels, source)
        say(f"{sum(ends.values()):,} records in Kafka after {time.monotonic() - began:.0f} s")
        settings = {
            "SLUICE_ARCHIVER_ROOT": str(root),
            "SLUICE_STORAGE_ENDPOINT": server.endpoint,
            "SLUICE_STORAGE_REGION": REGION,
            "SLUICE_ARCHIVER_ROLL_S": str(ROLL_S),
        }
        began = time.monotonic()
        with Stack(broker.bootstrap, "redis://127.0.0.1:1", place / "run", settings) as stack:
            most_mb = killed(stack, root, "sluice-archiver", ends)
        wrote_s = time.monotonic() - began
    finally:
        broker.kill()
    files, asked = _count(root), server.requests()
    say(f"{files:,} files in {wrote_s:.0f} s; comparing")
    wrong, missing = unlike(root, source)
    say(f"{wrong} unlike, {missing} missing; compacting")
    began = time.monotonic()
    did = compact(root, YEAR_2100_US, 0)
    compact(root, YEAR_2100_US, 0)
    compact_s = time.monotonic() - began
    say(f"{did.of:,} files put together to {did.made}")
    wrong_then, missing_then = unlike(root, source)
    say(f"{wrong_then} unlike, {missing_then} missing after it; {_own_mb():.0f} MB here")
    return [
        row("rows of the Handbook's table, from Kafka to the bucket", "rows", sum(ends.values())),
        row("kills of the archiver", "kills", KILLS, target=str(KILLS)),
        row("files", "files", files),
        row("in all, a session of 10 s after each kill", "s", wrote_s),
        row("listings, of 11 archivers together", "requests", asked["ListObjectsV2"]),
        row("most memory of the last archiver", "MB", most_mb),
        row("records twice, out of place or of other bytes", "records", wrong, target="0"),
        row("records missing", "records", missing, target="0"),
        row("files after a compaction", "files", _count(root)),
        row("compaction", "s", compact_s),
        row("unlike or missing after it", "records", wrong_then + missing_then, target="0"),
    ]


def _own_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def small_files(server: S3Server, count: int) -> list[Row]:
    """One day in so many files of ROWS rows: read before and after it is compacted, and with days
    before it that nobody asks for."""
    root = at(f"s3://{BUCKET}/day", server.endpoint, REGION)
    topic, noon_ms = "labels.v1", round(DAY.timestamp() * 1000) + 43_200_000
    files = ParquetFiles(root, {topic: KIND})
    label = make_label(make_authorization(), known_at=9)
    raws = [encode(msgspec.structs.replace(label, authorization_id=f"a-{n}")) for n in range(ROWS)]
    for n in range(count):
        place = topic, n % 12
        files.write(
            place,
            [Message(raw, None, *place, n * ROWS + k, None, noon_ms) for k, raw in enumerate(raws)],
        )
        if (n + 1) % SAY_EACH == 0:
            say(f"{n + 1:,} small files written")

    def read() -> tuple[float, Counter[str], pa.Table]:
        before, began = server.requests(), time.monotonic()
        day = Archive(root).opened(KIND, since_us=round(DAY.timestamp() * 1e6))
        found = pa.concat_tables([held.read(["partition", "offset", "record"]) for held in day])
        return time.monotonic() - began, server.requests() - before, found

    small_s, small, before = read()
    say(f"read in {small_s:.1f} s")
    for n in range(HISTORY_DAYS):
        day = (DAY - timedelta(days=n + 1)).date()
        folder(root).create(path_of(root, KIND, day, 0, n), b"never read")
    _, behind, again = read()
    for n in range(HISTORY_DAYS):
        folder(root).remove(path_of(root, KIND, (DAY - timedelta(days=n + 1)).date(), 0, n))
    began = time.monotonic()
    did = compact(root, YEAR_2100_US, 0)
    compact_s = time.monotonic() - began
    say(f"put together to {did.made} in {compact_s:.1f} s")
    both_s, both, beside = read()
    compact(root, YEAR_2100_US, 0)
    after_s, whole, after = read()
    differ = sum(not before.equals(one) for one in (again, beside, after))
    listings, gets = "ListObjectsV2", "GetObject"
    return [
        row("a day in small files", "files", count),
        row("reading it", "s", small_s),
        row("listings for that", "requests", small[listings]),
        row("files asked for", "requests", small[gets]),
        row(f"listings behind {HISTORY_DAYS:,} days of history", "requests", behind[listings],
            target=str(small[listings])),
        row("compaction of the day", "s", compact_s),
        row("reading it while both lie there", "s", both_s),
        row("listings for that", "requests", both[listings]),
        row("files after the deletion", "files", _count(root)),
        row("reading it then", "s", after_s),
        row("listings for that", "requests", whole[listings]),
        row("files asked for then", "requests", whole[gets]),
        row("tables that differ", "tables", differ, target="0"),
    ]  # fmt: skip


def main() -> int:
    """Returns 0 if every row was as it was written."""
    given = argparse.ArgumentParser(prog="python -m benchmarks.archive_s3", description=__doc__)
    given.add_argument("file", type=Path, help="the Handbook's transactions as parquet")
    given.add_argument("--rows", type=int, default=0, help="the first so many alone; 0 is all")
    given.add_argument("--small-files", type=int, default=10_000)
    given.add_argument("--out", type=Path, default=RESULTS)
    asked = given.parse_args()
    os.environ.update(CREDENTIALS)
    about = machine()
    with tempfile.TemporaryDirectory(prefix="sluice-s3-") as name:
        place = Path(name)
        with S3Server(place / "s3") as server:
            source = cut(asked.file, asked.rows, place) if asked.rows else asked.file
            boto3.client("s3", endpoint_url=server.endpoint, region_name=REGION).create_bucket(
                Bucket=BUCKET
            )
            rows = handbook(server, place, source)
            rows += small_files(server, asked.small_files)
    notes = [
        "VersityGW and Kafka on the same machine and disk: a request is local",
        f"labels.v1 of {PARTITIONS} partitions; archiver.roll_s {ROLL_S}; "
        f"{FASTER} days of the table are one of the archive",
    ]
    command = f"python -m benchmarks.archive_s3 FILE --small-files {asked.small_files}"
    command += f" --rows {asked.rows}" if asked.rows else ""
    found = result("archive_s3", command, about, rows, notes)
    print(table(found))
    print(save(asked.out, found))
    return int(any(one.target and one.value != float(one.target) for one in rows))


if __name__ == "__main__":
    sys.exit(main())
