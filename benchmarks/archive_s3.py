"""The Handbook's table archived to S3 and read back, its writer killed; and a day of small files.

  python -m benchmarks.archive_s3 handbook-transactions.parquet
  python -m benchmarks.archive_s3 handbook-transactions.parquet --rows 100000 --small-files 1000

Starts a real S3 server of its own, on this machine's disk. The table's rows are records of
``labels``, each with all of its row's columns, written as the archiver writes them by a process
that is killed with SIGKILL ten times, each time in the middle, and goes on behind the newest file.
Every record's bytes are compared with the table, before and after ``sluice archive compact``. Then
one day is written in 10,000 files, and read before and after it is compacted. Leaves
``benchmarks/results/archive_s3.json``.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.report import Row, machine, result, row, save, table
from sluice.adapters.parquet.archive import Archive, ParquetFiles
from sluice.adapters.parquet.compact import compact
from sluice.adapters.storage import AnyPath, at, folder
from sluice.application.ports import Message
from sluice.domain.records.authorization import encode
from sluice.testing.factories import make_authorization, make_label
from tests.support.s3_server import CREDENTIALS, REGION, S3Server

RESULTS = Path("benchmarks/results")
TOPIC = "labels.v1"
PARTITION = (TOPIC, 0)
FOLDERS = {TOPIC: "labels"}
FILE_ROWS = 2_000
KILLS = 10
POLL_S = 0.05
DAY_MS = 86_400_000
SAY_EACH = 1_000
"""Files."""
YEAR_2100_US = 4_102_444_800_000_000


def say(text: str) -> None:
    """At once, whoever reads it."""
    print(text, flush=True)


def cut(source: Path, rows: int, place: Path) -> Path:
    """The first rows of a table, as a table."""
    path = place / "first.parquet"
    pq.write_table(pq.read_table(source).slice(0, rows), path)
    return path


def records(source: Path, start: int = 0) -> Iterator[Message]:
    """One a row, from a row on: a label that has all of its columns."""
    model = make_label(make_authorization(), known_at=1)
    rows = pq.read_table(source).slice(start)
    for n, one in enumerate(
        itertools.chain.from_iterable(batch.to_pylist() for batch in rows.to_batches(10_000)), start
    ):
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
        yield Message(encode(label), None, TOPIC, 0, n, None, at_us // 1000)


def write(root: AnyPath, source: Path) -> None:
    """Go on behind the newest file, to the end; a file is of one day."""
    files = ParquetFiles(root, FOLDERS)
    by_day = itertools.groupby(
        records(source, files.end(PARTITION)), lambda record: record.written_ms // DAY_MS
    )
    for _, day in by_day:
        while rows := list(itertools.islice(day, FILE_ROWS)):
            files.write(PARTITION, rows)


def killed(root: AnyPath, source: Path) -> int:
    """Write it in processes that are killed. Returns the kills."""
    spawn = multiprocessing.get_context("spawn")
    chance = random.Random(17)
    kills = 0
    apart = max(1, pq.read_metadata(source).num_rows // FILE_ROWS // KILLS)
    while True:
        last = _count(root) + chance.randint(1, apart)
        process = spawn.Process(target=write, args=(root, source))
        process.start()
        while process.is_alive():
            process.join(POLL_S)
            if kills < KILLS and _count(root) >= last:
                time.sleep(chance.random() * POLL_S)
                process.kill()
        if process.exitcode == 0:
            return kills
        assert process.exitcode == -9, process.exitcode
        kills += 1
        say(f"killed {kills} times, {_count(root):,} files")


def _count(root: AnyPath) -> int:
    return sum(1 for _ in folder(root).listed("labels"))


def unlike(root: AnyPath, source: Path) -> tuple[int, int]:
    """Records of the archive that are not the table's at their place, and those that it lacks."""
    wrong = 0
    wanted = records(source)
    for part in Archive(root).tables("labels", ["offset", "record"]):
        for offset, raw in zip(part["offset"].to_pylist(), part["record"].to_pylist(), strict=True):
            expected = next(wanted, None)
            wrong += expected is None or (expected.offset, expected.value) != (offset, raw)
    return wrong, sum(1 for _ in wanted)


def handbook(root: AnyPath, source: Path) -> list[Row]:
    """Write, compare, compact, compare."""
    began = time.monotonic()
    kills = killed(root, source)
    wrote_s = time.monotonic() - began
    files = _count(root)
    say(f"{files:,} files written in {wrote_s:.0f} s, killed {kills} times; comparing")
    wrong, missing = unlike(root, source)
    say(f"{wrong} unlike, {missing} missing; compacting")
    began = time.monotonic()
    did = compact(root, YEAR_2100_US, 0)
    compact(root, YEAR_2100_US, 0)
    compact_s = time.monotonic() - began
    say(f"{did.of:,} files put together to {did.made}")
    wrong_then, missing_then = unlike(root, source)
    say(f"{wrong_then} unlike, {missing_then} missing after it")
    return [
        row("rows of the Handbook's table, written", "rows", pq.read_metadata(source).num_rows),
        row("kills of its writer", "kills", kills, target=str(KILLS)),
        row("files", "files", files),
        row("records twice, out of place or of other bytes", "records", wrong, target="0"),
        row("records missing", "records", missing, target="0"),
        row("files after a compaction", "files", _count(root)),
        row("compaction", "s", compact_s),
        row("unlike or missing after it", "records", wrong_then + missing_then, target="0"),
    ]


def small_files(root: AnyPath, count: int) -> list[Row]:
    """One day in so many files of ten rows: read whole before and after it is compacted."""
    files = ParquetFiles(root, FOLDERS)
    label = make_label(make_authorization(), known_at=9)
    for n in range(count):
        raw = encode(msgspec.structs.replace(label, authorization_id=f"a-{n}"))
        rows = [Message(raw, None, TOPIC, n % 12, n * 10 + k, None, n) for k in range(10)]
        files.write((TOPIC, n % 12), rows)
        if (n + 1) % SAY_EACH == 0:
            say(f"{n + 1:,} small files written")

    def read() -> tuple[float, pa.Table]:
        began = time.monotonic()
        found = Archive(root).read("labels", ["partition", "offset", "record"])
        return time.monotonic() - began, found

    before_s, before = read()
    say(f"read in {before_s:.1f} s")
    began = time.monotonic()
    did = compact(root, YEAR_2100_US, 0)
    compact_s = time.monotonic() - began
    say(f"put together to {did.made} in {compact_s:.1f} s")
    compact(root, YEAR_2100_US, 0)
    after_s, after = read()
    return [
        row("a day in small files", "files", count),
        row("reading it", "s", before_s),
        row("compaction of the day", "s", compact_s),
        row("files after it", "files", _count(root)),
        row("reading it after that", "s", after_s),
        row("tables that differ", "tables", int(not before.equals(after)), target="0"),
    ]


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
    with tempfile.TemporaryDirectory() as place, S3Server(Path(place) / "s3") as server:
        source = cut(asked.file, asked.rows, Path(place)) if asked.rows else asked.file
        boto3.client("s3", endpoint_url=server.endpoint, region_name=REGION).create_bucket(
            Bucket="archive"
        )
        rows = handbook(at("s3://archive/handbook", server.endpoint, REGION), source)
        rows += small_files(at("s3://archive/day", server.endpoint, REGION), asked.small_files)
    notes = ["VersityGW on the same machine and disk: a request is local"]
    command = f"python -m benchmarks.archive_s3 FILE --small-files {asked.small_files}"
    command += f" --rows {asked.rows}" if asked.rows else ""
    found = result("archive_s3", command, about, rows, notes)
    print(table(found))
    print(save(asked.out, found))
    return int(any(one.target and one.value != float(one.target) for one in rows))


if __name__ == "__main__":
    sys.exit(main())
