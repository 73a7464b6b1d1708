"""The stream processor: a preloaded ``authorizations.v1``, one process on one core, drained."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import MEASURED, Profile, cpu_s, on
from benchmarks.report import Row, better, row
from benchmarks.testbed import Testbed
from local.stack import Process

BATCH = 500
"""The default of decider.batch_max."""
BAD_EVERY = 100
"""One message in so many is spoiled where bad ones are measured."""
SAMPLE_S = 1.0
"""Each look at the metrics costs the process a few milliseconds."""
DRAIN_MAX_S = 300.0


@dataclass(frozen=True)
class Drained:
    """A stretch of work: how many, and the seconds of processor and wall that they took."""

    count: float
    cpu_s: float
    wall_s: float

    @property
    def per_core(self) -> float:
        """Per second of processor time."""
        return self.count / self.cpu_s

    @property
    def per_second(self) -> float:
        """Per second of wall."""
        return self.count / self.wall_s


def measure(testbed: Testbed, results: Path) -> tuple[list[Row], list[str]]:
    """The default batch, repeated; other batches and bad messages between; a profile."""
    runs: dict[int, list[Drained]] = {BATCH: [], 100: [], 2000: []}
    bad: list[Drained] = []
    order = [BATCH, 100, BATCH, 2000, BATCH][: 2 * testbed.scale.replays - 1]
    for number, batch in enumerate(order):
        runs[batch].append(drain(testbed, f"stream{number}-", batch_max=batch))
        if batch == BATCH:
            bad.append(drain(testbed, f"stream-bad{number}-", bad_every=BAD_EVERY))
    drain(
        testbed,
        "stream-profile-",
        batch_max=BATCH,
        profile=results / "stream_processor.profile.txt",
    )
    middle = statistics.median(run.per_core for run in runs[BATCH])
    spoiled = statistics.median(run.per_core for run in bad)
    rows = [
        row(f"decisions per second of CPU, batches of {BATCH}", "1/s", middle, target=">= 20,000"),
        row("CPU per decision", "µs", 1e6 / middle),
        row("decisions per second, process on one core", "1/s",
            statistics.median(run.per_second for run in runs[BATCH])),
        better(f"messages per second of CPU, one bad in {BAD_EVERY}, against none", "1/s",
               spoiled, middle, target=">= 0.95 of none"),
    ]  # fmt: skip
    for batch in (100, 2000):
        rows += [
            row(f"decisions per second of CPU, batches of {batch}", "1/s", run.per_core)
            for run in runs[batch]
        ]
    return rows, [
        testbed.release[2],
        f"{testbed.scale.messages:,} authorizations in 4 partitions; each batch is one "
        "transaction of Kafka; start and the last batches left out",
        "spread: " + ", ".join(f"{run.per_core:,.0f}" for run in runs[BATCH]),
        "spread with bad ones: " + ", ".join(f"{run.per_core:,.0f}" for run in bad),
        "profile: stream_processor.profile.txt",
    ]


SPOILED: tuple[Callable[[bytes], bytes], ...] = (
    lambda raw: raw[:100],
    lambda raw: _replaced(raw, b"merchant_id", "４１１１１１１１１１１１１１１１".encode()),
    lambda raw: _replaced(raw, b"terminal_id", b"4111-1111--1111.1111"),
    lambda raw: raw[:-1] + b',"colour":"red"}',
    lambda raw: b"\xff" + raw,
)
"""How a message becomes a bad one, in turn."""


def _replaced(raw: bytes, name: bytes, text: bytes) -> bytes:
    """An authorization with another text in one field."""
    before, _, after = raw.partition(b'"' + name + b'":"')
    return before + b'"' + name + b'":"' + text + after[after.index(b'"') :]


def drain(
    testbed: Testbed,
    prefix: str,
    *,
    batch_max: int = BATCH,
    bad_every: int = 0,
    profile: Path | None = None,
) -> Drained:
    """Preload a fresh set of topics and let one stream processor decide it all. bad_every: spoil
    one message in so many, 0 none; they must end as dead letters."""

    def spoil(n: int, raw: bytes) -> bytes:
        return SPOILED[n // bad_every % len(SPOILED)](raw) if n % bad_every == 0 else raw

    testbed.preload(prefix, spoil if bad_every else None)
    with (
        testbed.store() as store,
        testbed.stack(store, prefix, SLUICE_DECIDER_BATCH_MAX=str(batch_max)) as stack,
    ):
        with on(MEASURED):
            process = stack.start("decider-stream")
        found = decided_by(testbed, process, bad_every, profile)
        stack.stop("decider-stream")
    return found


def decided_by(
    testbed: Testbed, process: Process, bad_every: int = 0, profile: Path | None = None
) -> Drained:
    """All of the traffic, by a stream processor that was started. Raises RuntimeError if it was not
    decided complete."""
    wanted = testbed.scale.messages
    found = watch(
        process,
        lambda: process.metric("sluice_decider_requests_total"),
        wanted,
        testbed.folder,
        profile,
    )
    bad = -(-wanted // bad_every) if bad_every else 0
    decided = process.metric("sluice_decider_decisions_total")
    dead = process.metric("sluice_dead_letters_total")
    degraded = process.metric("sluice_decider_degraded_total")
    if decided != wanted - bad or dead != bad or degraded:
        raise RuntimeError(
            f"{decided:.0f} of {wanted} decided, {dead:.0f} dead letters where {bad} are due, "
            f"{degraded:.0f} parts were missing"
        )
    return found


def watch(
    process: Process,
    done: Callable[[], float],
    wanted: float,
    folder: Path,
    profile: Path | None = None,
    *,
    whole: bool = False,
) -> Drained:
    """Follow a process until done() says wanted. Counts from the first work seen.

    whole: to the very end; otherwise to the last look before it, so that no idling counts.
    """
    looks: list[tuple[float, float, float]] = []
    sampler: Profile | None = None
    deadline = time.monotonic() + DRAIN_MAX_S
    while not looks or looks[-1][0] < wanted:
        if time.monotonic() > deadline or not process.alive():
            tail = process.log.read_text(errors="replace")[-1000:]
            raise RuntimeError(f"{process.name} stopped at {looks[-1:]} of {wanted}: {tail}")
        try:
            count = done()
        except OSError:  # not started yet
            time.sleep(0.02)
            continue
        looks.append((count, cpu_s(process.popen.pid), time.perf_counter()))
        if profile and count and sampler is None:
            sampler = Profile(process.popen.pid, 4, folder)
        time.sleep(SAMPLE_S if count else 0.02)
    if profile and sampler:
        profile.write_text(sampler.text())
    idle = sum(count == 0 for count, _, _ in looks)
    first = looks[idle - 1] if whole else looks[idle]
    last = looks[-1] if whole or len(looks) - idle < 3 else looks[-2]
    return Drained(*(b - a for a, b in zip(first, last, strict=True)))
