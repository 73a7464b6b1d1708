"""The compliance log in its real path: a real Kafka, the auditor as a process, a disk that syncs.

``python -m benchmarks.durable_log`` writes benchmarks/results/durable_log.json, in three minutes.
Decisions come to ``decisions.v1`` at a fixed rate. How long a record's entry takes to be durable is
the auditor's own word, from the time that Kafka has of the record; how long until a published
checkpoint holds it is recounted from the log, its topic and ``checkpoints.v1``. Then one auditor on
one core works off what lies there. The log is where temporary files are: set TMPDIR.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from benchmarks.log_records import cards_of, message
from benchmarks.processes import MEASURED, on, wait_until
from benchmarks.report import Row, machine, result, row, save, table
from benchmarks.stream_processor import watch
from benchmarks.testbed import QUICK, Testbed
from local.metrics_page import samples
from local.stack import Process, Stack
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.reader import TopicReader
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.tiles.folder import LogFolder
from sluice.application.append_log import CHECKPOINT
from sluice.application.ports import Message
from sluice.audit.checkpoints import parse_checkpoint
from sluice.audit.entries import split
from sluice.audit.notes import parse_note
from sluice.audit.tiles import read_entries, tiles_of
from sluice.domain.records.log_record import Source

RATES = (1_000, 5_000)
SECONDS = 20.0
WARM_S = 3.0
"""Left out: the first keys are made, and the first batches meet cold caches."""
DRAINED = 60_000
SYNCS = 200
CAUGHT_UP_MAX_S = 60.0
AGE, SIZE, SIGNED = (
    "sluice_auditor_age_seconds", "sluice_auditor_size", "sluice_auditor_signed_size"
)  # fmt: skip
_SEED = 5


class _Head(msgspec.Struct, frozen=True):
    source: Source | None = None


_head = msgspec.json.Decoder(_Head)


class _Run(NamedTuple):
    """What one rate showed. durable_ms: quantiles; lag_ms: (n,) of the records that count."""

    durable_ms: Mapping[float, float]
    within: float
    lag_ms: np.ndarray
    rate: float


def main() -> int:
    """Measure, save and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durable_log", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each rate")
    parser.add_argument("--rates", type=int, nargs="*", default=RATES, metavar="N")
    parser.add_argument("--drained", type=int, default=DRAINED, help="decisions at full speed")
    args = parser.parse_args()
    about = machine()
    with Testbed(QUICK) as testbed:
        rows, notes = measure(testbed, args.rates, args.seconds, args.drained)
    found = result("durable_log", "python -m benchmarks.durable_log", about, rows, notes)
    save(args.out, found)
    print(table(found))
    return 0


def measure(
    testbed: Testbed, rates: Sequence[int], seconds: float, drained: int
) -> tuple[list[Row], list[str]]:
    """Each rate with a log of its own, then what one core works off."""
    rows: list[Row] = []
    synced = np.percentile(_syncs_ms(testbed.folder), [50, 99])
    for rate in rates:
        run = _steady(testbed, rate, seconds)
        lag = np.percentile(run.lag_ms, [50, 99, 100])
        rows += [
            row(f"p50, record in Kafka to entry durable, {rate:,}/s", "ms", run.durable_ms[0.5]),
            row(f"p99 of the same, {rate:,}/s", "ms", run.durable_ms[0.99], target="<= 50"),
            row(f"durable within 50 ms, {rate:,}/s", "%", 100 * run.within, target=">= 99"),
            row(f"p50, record in Kafka to checkpoint published, {rate:,}/s", "ms", float(lag[0])),
            row(f"p99 of the same, {rate:,}/s", "ms", float(lag[1]), target="<= 1,000"),
            row(f"longest of the same, {rate:,}/s", "ms", float(lag[2])),
            row(f"decisions per second reached, {rate:,}/s", "1/s", run.rate),
        ]
    if drained:
        rows += _full_speed(testbed, drained)
    where = _mounted(testbed.folder)
    return rows, [
        f"the log lies on {where}; one write of 4 KiB and its fdatasync there: p50 "
        f"{synced[0]:.1f} ms, p99 {synced[1]:.1f} ms",
        f"{seconds:g} s of each rate after {WARM_S:g} s that are left out; decisions as in "
        "log_records, from one producer that waits 5 ms for more",
        f"full speed: {drained:,} decisions that lie there, one auditor on one core, which broker "
        "and measurement leave to it",
    ]


def _steady(testbed: Testbed, rate: int, seconds: float) -> _Run:
    names = testbed.topics(f"log{rate}-")
    whole = _decisions(round(rate * (WARM_S + seconds)))
    warm = round(rate * WARM_S)
    producer = EventProducer(testbed.bootstrap, client_id="durable-log")
    with _stack(testbed, f"log{rate}-") as stack:
        auditor = _started(stack)
        _send(producer, names, whole[:warm], rate)
        _caught_up(auditor, warm)
        before, since_ms = auditor.metrics(), time.time_ns() // 1_000_000
        began = time.perf_counter()
        _send(producer, names, whole[warm:], rate)
        took = time.perf_counter() - began
        _caught_up(auditor, len(whole))
        buckets = _buckets(before, auditor.metrics())
        lag = _lag_ms(testbed.bootstrap, names, stack.folder / "log/0", since_ms)
        stack.stop("auditor")
    return _Run(
        {q: _quantile(buckets, q) * 1000 for q in (0.5, 0.99)},
        buckets[0.05] / buckets[float("inf")],
        lag,
        (len(whole) - warm) / took,
    )


def _full_speed(testbed: Testbed, count: int) -> list[Row]:
    names = testbed.topics("logfull-")
    producer = EventProducer(testbed.bootstrap, client_id="durable-log")
    _send(producer, names, _decisions(count), 0)
    with _stack(testbed, "logfull-") as stack:
        with on(MEASURED):
            auditor = stack.start("auditor")
        found = watch(auditor, lambda: auditor.metric(SIZE), count, testbed.folder)
        stack.stop("auditor")
        files = (stack.folder / "log/0/tile/entries").rglob("*")
        size = sum(one.stat().st_size for one in files if one.is_file() and ".p" not in str(one))
    return [
        row("entries per second of CPU, at full speed", "1/s", found.per_core, target=">= 20,000"),
        row("entries per second, auditor on one core, at full speed", "1/s", found.per_second),
        row("bytes of an entry", "B", size / count),
    ]


def _decisions(count: int) -> list[Message]:
    draw = random.Random(_SEED)
    cards = cards_of(draw)
    return [message(draw, cards, number) for number in range(count)]


def _stack(testbed: Testbed, prefix: str) -> Stack:
    made = Stack(
        testbed.bootstrap,
        "redis://localhost:1/0",
        testbed.folder / prefix,
        {"SLUICE_KAFKA_TOPIC_PREFIX": prefix},
    )
    made.make_log_keys()
    return made


def _started(stack: Stack) -> Process:
    auditor = stack.start("auditor")
    wait_until(auditor.ready, "the auditor is ready", CAUGHT_UP_MAX_S)
    return auditor


def _send(producer: EventProducer, names: Topics, whole: Sequence[Message], rate: int) -> None:
    """Open loop. rate: 0 for all at once."""
    began = time.perf_counter()
    for number, one in enumerate(whole):
        ahead = began + number / rate - time.perf_counter() if rate else 0.0
        if ahead > 0:
            time.sleep(ahead)
        producer.produce(names.decisions, one.value, key=one.key)
    producer.flush(CAUGHT_UP_MAX_S)


def _caught_up(auditor: Process, count: int) -> None:
    """So many decisions, and what the log says of itself, are under a checkpoint."""

    def done() -> bool:
        page = auditor.metrics()
        return min(_value(page, SIZE), _value(page, SIGNED)) >= count

    wait_until(done, "the auditor is behind all of it", CAUGHT_UP_MAX_S)


def _value(page: str, name: str) -> float:
    return sum(one.value for one in samples(page, name))


def _buckets(before: str, after: str) -> dict[float, float]:
    """Upper edge to the count of what came in between, edges rising."""
    name = f"{AGE}_bucket"
    old = {one.labels["le"]: one.value for one in samples(before, name)}
    return {
        float(one.labels["le"]): one.value - old.get(one.labels["le"], 0.0)
        for one in samples(after, name)
    }


def _quantile(buckets: Mapping[float, float], q: float) -> float:
    """Interpolated within its bucket."""
    wanted = q * buckets[float("inf")]
    edge = below = 0.0
    for upper, count in buckets.items():
        if count >= wanted:
            return edge + (upper - edge) * (wanted - below) / max(count - below, 1.0)
        edge, below = upper, count
    return edge


def _lag_ms(bootstrap: str, names: Topics, log: Path, since_ms: int) -> np.ndarray:
    """(n,) of each decision written since: from then to the first published checkpoint over it."""
    reader = TopicReader(bootstrap)
    try:
        written = {
            (one.partition, one.offset): one.written_ms for one in reader.records(names.decisions)
        }
        published = sorted(
            (parse_checkpoint(parse_note(one.value).text).size, one.written_ms)
            for one in reader.records(names.checkpoints)
        )
    finally:
        reader.close()
    sizes = np.array([size for size, _ in published])
    at_ms = np.array([at for _, at in published])
    read = LogFolder(log).read
    shown = parse_checkpoint(parse_note(read(CHECKPOINT)).text)
    indexes, came_ms = [], []
    entries = (
        entry
        for tile in tiles_of(shown.size)
        if tile.level == 0
        for entry in read_entries(read, tile)
    )
    for index, entry in enumerate(entries):
        source = _head.decode(split(entry)[0]).source
        if source is not None and source.topic == names.decisions:
            came = written[source.partition, source.offset]
            if came >= since_ms:
                indexes.append(index)
                came_ms.append(came)
    return at_ms[np.searchsorted(sizes, indexes, side="right")] - np.array(came_ms)


def _syncs_ms(folder: Path) -> list[float]:
    """(n,) what the disk alone takes."""
    path = folder / "syncs"
    found = []
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for _ in range(SYNCS):
            began = time.perf_counter()
            os.write(handle, os.urandom(4096))
            os.fdatasync(handle)
            found.append(1000 * (time.perf_counter() - began))
    finally:
        os.close(handle)
    return found


def _mounted(folder: Path) -> str:
    """File system and device below which a folder lies."""
    lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    above = [one for one in lines if folder.is_relative_to(one[1])]
    device, _, kind = max(above, key=lambda one: len(one[1]))[:3]
    return f"{kind} on {device}"


if __name__ == "__main__":
    raise SystemExit(main())
