"""The Handbook's table archived to S3 and read back: same rows, same bits, the writer killed.

  python -m benchmarks.archive_s3 /path/to/handbook-transactions.parquet --kills 10
  python -m benchmarks.archive_s3 --small-files 10000

Starts a real S3 server of its own. The first writes the table's rows as records of ``labels``, in a
process that is killed with SIGKILL so often, each time in the middle, and goes on behind the newest
file as an archiver does; then every row's bytes are compared. The second writes one day in so many
files, and reads it before and after ``sluice archive compact``.
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
import numpy as np
import pyarrow.parquet as pq

from sluice.adapters.parquet.archive import Archive, ParquetFiles
from sluice.adapters.parquet.compact import compact
from sluice.adapters.storage import AnyPath, at, folder
from sluice.application.ports import Message
from sluice.domain.records.authorization import encode
from sluice.domain.records.label import Label
from sluice.testing.factories import make_authorization, make_label
from tests.support.s3_server import CREDENTIALS, REGION, S3Server

TOPIC = "labels.v1"
FILE_ROWS = 10_000
PARTITION = (TOPIC, 0)


def records(table: Path) -> Iterator[Message]:
    """One a row: a label whose id, time and verdict are the row's."""
    rows = pq.read_table(table)
    names = rows.column_names
    ids = rows[next(n for n in names if "TRANSACTION_ID" in n.upper())].to_pylist()
    frauds = rows[next(n for n in names if "FRAUD" in n.upper())].to_pylist()
    model = make_label(make_authorization(), known_at=1)
    for n, (one, fraud) in enumerate(zip(ids, frauds, strict=True)):
        label: Label = msgspec.structs.replace(
            model, authorization_id=f"h-{one}", known_at=n + 1, is_fraud=bool(fraud)
        )
        day_ms = n // 9_600 * 86_400_000
        yield Message(encode(label), None, TOPIC, 0, n, None, day_ms + n)


def write(root: AnyPath, table: Path) -> None:
    """Go on behind the newest file, to the end."""
    files = ParquetFiles(root, {TOPIC: "labels"})
    left = itertools.islice(records(table), files.end(PARTITION), None)
    while rows := list(itertools.islice(left, FILE_ROWS)):
        files.write(PARTITION, rows)


def killed(root: AnyPath, table: Path, kills: int) -> int:
    """Write it in processes that are killed. Returns how often one was."""
    spawn = multiprocessing.get_context("spawn")
    chance = random.Random(17)
    done = 0
    while True:
        process = spawn.Process(target=write, args=(root, table))
        process.start()
        before = len(list(folder(root).listed("labels")))
        while done < kills and process.is_alive():
            if len(list(folder(root).listed("labels"))) > before + chance.randint(1, 6):
                time.sleep(chance.random() / 5)
                process.kill()
                done += 1
                break
        process.join()
        if process.exitcode == 0:
            return done
        assert process.exitcode == -9, process.exitcode


def handbook(root: AnyPath, table: Path, kills: int) -> bool:
    """Says what is missing, twice or other."""
    began = time.monotonic()
    done = killed(root, table, kills)
    took = time.monotonic() - began
    began, rows, wrong, at_offset = time.monotonic(), 0, 0, -1
    wanted = records(table)
    for part in Archive(root).tables("labels", ["offset", "record"]):
        for offset, raw in zip(part["offset"].to_pylist(), part["record"].to_pylist(), strict=True):
            expected = next(wanted, None)
            wrong += expected is None or (expected.offset, expected.value) != (offset, raw)
            wrong += offset != at_offset + 1
            at_offset = offset
            rows += 1
    missing = sum(1 for _ in wanted)
    files = len(list(folder(root).listed("labels")))
    print(f"{rows:,} rows in {files} files, the writer killed {done} times, {took:.0f} s")
    print(
        f"missing {missing}, twice or other {wrong}; compared in {time.monotonic() - began:.0f} s"
    )
    return not missing and not wrong and done == kills


def small_files(root: AnyPath, count: int) -> bool:
    """One day in so many files: read whole before and after it is compacted."""
    files = ParquetFiles(root, {TOPIC: "labels"})
    label = make_label(make_authorization(), known_at=9)
    for n in range(count):
        raw = encode(msgspec.structs.replace(label, authorization_id=f"a-{n}"))
        rows = [Message(raw, None, TOPIC, n % 12, n * 10 + k, None, n) for k in range(10)]
        files.write((TOPIC, n % 12), rows)

    def read() -> tuple[float, np.ndarray]:
        began = time.monotonic()
        found = Archive(root).read("labels", ["partition", "offset"])
        return time.monotonic() - began, found["offset"].to_numpy()

    before_s, before = read()
    began = time.monotonic()
    did = compact(root, 10 * 86_400_000_000, 0)
    compact_s = time.monotonic() - began
    compact(root, 2**52, 0)
    after_s, after = read()
    print(f"{count:,} files, {len(before):,} rows: read in {before_s:.2f} s")
    print(f"put together to {did.made} in {compact_s:.1f} s: read in {after_s:.3f} s")
    return bool((before == after).all())


def main() -> int:
    """Returns 0 if every row was as it was written."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("table", type=Path, nargs="?")
    given.add_argument("--kills", type=int, default=10)
    given.add_argument("--small-files", type=int, default=0)
    asked = given.parse_args()
    os.environ.update(CREDENTIALS)
    with tempfile.TemporaryDirectory() as place, S3Server(Path(place)) as server:
        boto3.client("s3", endpoint_url=server.endpoint, region_name=REGION).create_bucket(
            Bucket="archive"
        )
        root = at("s3://archive/a", server.endpoint, REGION)
        if asked.small_files:
            return 0 if small_files(root, asked.small_files) else 1
        return 0 if handbook(root, asked.table, asked.kills) else 1


if __name__ == "__main__":
    sys.exit(main())
