"""Traffic through both entrypoints with kills and redeliveries; then every served vector
recomputed.

  benchmarks/.venv/bin/python -m benchmarks.parity --decisions 100000

Starts Kafka, Valkey and the services by itself. A fifth of the authorizations goes through the sync
entrypoint, the rest through the stream processor, some of them twice; some become known as fraud.
Meanwhile the stream processor, the featurizer, the sync API and the archiver die of kill -9 in turn
and come back. At the end the consistency check takes all decisions, and leaves
benchmarks/results/parity.json.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.report import Row, machine, result, row, save
from benchmarks.testbed import Scale, Testbed
from local.stack import Name, Stack
from services import warm
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.parquet.archive import Archive
from sluice.adapters.parquet.samples import MILLION, ArchiveSampleSource
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.application.consistency import Report, check, newest
from sluice.cli.consistency import lines
from sluice.domain.clock import HOUR_US
from sluice.domain.records.authorization import Authorization, encode
from sluice.testing.factories import make_label
from tests.support.traffic import RETRY_S, call

RESULTS = Path("benchmarks/results")
PREFIX = "parity-"
VICTIMS: tuple[Name, ...] = ("decider-stream", "featurizer", "decider-sync", "archiver")
AWAY_S = 0.5
CALLERS = 4
SYNC_EVERY, AGAIN_EVERY, FRAUD_EVERY = 5, 40, 100
"""Of so many authorizations one goes through the sync API; is sent twice; becomes a label."""
ROLL_S = 2
FLUSH_MAX_S = 60.0
DRAIN_MAX_S = 300.0
_authorization = msgspec.json.Decoder(Authorization)


class Callers:
    """Acquirers at the sync API: each authorization is repeated until it is answered.

    Every AGAIN_EVERY-th is asked once more after its answer. heard: answers. refused: 503s and
    broken connections.
    """

    def __init__(self, port: int) -> None:
        self.heard = 0
        self.refused = 0
        self._port = port
        self._left: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._work) for _ in range(CALLERS)]

    def ask(self, raw: bytes) -> None:
        """Sooner or later."""
        self._left.put(raw)

    def _work(self) -> None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            for n, raw in enumerate(iter(self._left.get, None)):
                for _ in range(2 if n % AGAIN_EVERY == 0 else 1):
                    while (status := call(connection, raw)[0]) in (0, 503):
                        self.refused += 1
                        time.sleep(RETRY_S)
                    assert status == 200, status
                self.heard += 1
            connection.close()
        except BaseException as error:  # told where the thread is joined
            self._errors.append(error)

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        for _ in self._threads:
            self._left.put(None)
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]


@contextmanager
def striking(stack: Stack, every_s: float) -> Iterator[Counter[str]]:
    """Kill one service after the other until the end of the ``with``. Yields how often each."""
    over = threading.Event()
    killed: Counter[str] = Counter()
    errors: list[BaseException] = []

    def strike() -> None:
        try:
            for victim in itertools.cycle(VICTIMS):
                if over.wait(every_s):
                    return
                stack.kill(victim)
                killed[victim] += 1
                over.wait(AWAY_S)
                stack.wait_ready(stack.start(victim))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()
    if errors:
        raise errors[0]


def main() -> int:
    """Returns 0 if every decision was made once, compared, and equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=500.0, help="authorizations a second")
    parser.add_argument("--kill-every", type=float, default=12.0, help="seconds between kills")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    scale = Scale(cards=max(1_000, args.decisions // 20), requests=args.decisions, messages=0)
    about = machine()
    warm.main()  # a featurizer killed while it compiles the kernel would compile it again
    with Testbed(scale) as testbed:
        names = testbed.topics(PREFIX)
        with (
            EmbeddedStore(directory=testbed.folder / "store") as store,
            testbed.stack(
                store,
                PREFIX,
                SLUICE_ARCHIVER_ROLL_S=str(ROLL_S),
                SLUICE_SERVICE_LOG_LEVEL="WARNING",
                SLUICE_DECIDER_DRAIN_S="0",
            ) as stack,
        ):
            stack.start_all()
            rows, wrong = _run(testbed.traffic.values, args, stack, names)
        command = f"benchmarks/.venv/bin/python -m benchmarks.parity --decisions {args.decisions}"
        save(args.out, result("parity", command, about, rows, [testbed.release[2]]))
    print("ok" if not wrong else f"FAILED: {wrong}")
    return 1 if wrong else 0


def _run(
    values: Sequence[bytes], args: argparse.Namespace, stack: Stack, names: Topics
) -> tuple[list[Row], dict[str, int]]:
    began = time.monotonic()
    with striking(stack, args.kill_every) as killed, Callers(stack.port) as callers:
        labels, again = _send(values, args.rate, stack, names, callers)
    root = stack.folder / "archive"
    _drain(Archive(root), {"decisions": len(values), "labels": labels})
    seconds = time.monotonic() - began
    codes = stack.stop_all()
    ids = Counter(Archive(root).read("decisions", ["authorization_id"])[0].to_pylist())
    kills = ", ".join(f"{name} {n}" for name, n in killed.items())
    print(
        f"{len(ids):,} decided in {seconds:.0f} s; killed: {kills}; sent twice: {again:,}; ", end=""
    )
    print(f"sync API refused {callers.refused:,} times and was asked again")

    clock = time.process_time()
    sample_source = ArchiveSampleSource(root)
    ends = sample_source.ends()
    tally, _ = check(sample_source, newest(sample_source, MILLION, len(values), ends), ends)
    clock = time.process_time() - clock
    report = tally.report()
    for line in lines(report):
        print(line)
    wrong = {
        "decisions missing": len(values) - len(ids),
        "decided twice": ids.total() - len(ids),
        "vectors not bit-equal": report.differing,
        "vectors not compared": len(values) - report.compared,
        "services that did not stop cleanly": sum(code != 0 for code in codes.values()),
    }
    rows = [
        row("served vectors compared", "decisions", report.compared),
        row("parity", "%", 100 * (report.parity or 0), target="100"),
        *(row(name, "count", value, target="0") for name, value in wrong.items()),
        *(row(f"kill -9 of {name}", "count", n) for name, n in killed.items()),
        row("authorizations sent twice to the stream processor", "count", again),
        *(
            row(f"decisions at the {entrypoint} entrypoint", "count", n)
            for entrypoint, n in report.entrypoints.items()
        ),
        *(row(f"decisions on {level}", "count", n) for level, n in report.levels.items()),
        *_freshness(report),
        row("processor time to recompute and compare", "µs", 1e6 * clock / len(values)),
    ]
    return rows, {name: n for name, n in wrong.items() if n}


def _freshness(report: Report) -> Iterator[Row]:
    for view, fresh in report.freshness.items():
        yield row(f"{view} state behind when served, p50", "ms", fresh.behind_ms_p50)
        yield row(f"{view} state behind when served, p99", "ms", fresh.behind_ms_p99)
        yield row(f"{view} view missing", "decisions", fresh.missing)
    yield row("decisions with pending entries", "decisions", report.pending.decisions)
    yield row("pending entries changed the vector", "decisions", report.pending.mattered)


def _send(
    values: Sequence[bytes], rate: float, stack: Stack, names: Topics, callers: Callers
) -> tuple[int, int]:
    """All authorizations, open loop. Returns how many labels, and how many were sent twice."""
    rng = random.Random(3)
    producer = EventProducer(
        stack.bootstrap,
        client_id="acquirer",
        extra={"message.timeout.ms": str(round(FLUSH_MAX_S * 1000))},
    )
    labels = again = 0
    began = time.monotonic()
    for n, raw in enumerate(values):
        time.sleep(max(0.0, began + n / rate - time.monotonic()))
        auth = _authorization.decode(raw)
        if rng.randrange(SYNC_EVERY) == 0:
            callers.ask(raw)
        else:
            producer.produce(names.authorizations, raw, key=auth.card_token)
            if rng.randrange(AGAIN_EVERY) == 0:
                producer.produce(names.authorizations, raw, key=auth.card_token)
                again += 1
        if rng.randrange(FRAUD_EVERY) == 0:
            label = make_label(auth, known_at=auth.event_at + HOUR_US)
            producer.produce(names.labels, encode(label), key=auth.authorization_id)
            labels += 1
    producer.flush(FLUSH_MAX_S)
    return labels, again


def _drain(archive: Archive, expected: dict[str, int]) -> None:
    """Wait until the archive holds so many rows of each kind."""
    deadline = time.monotonic() + DRAIN_MAX_S
    while True:
        have = {
            kind: sum(held.footer.num_rows for held in archive.opened(kind)) for kind in expected
        }
        if all(have[kind] >= n for kind, n in expected.items()):
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"archived {have} of {expected} after {DRAIN_MAX_S:.0f} s")
        time.sleep(1)


if __name__ == "__main__":
    raise SystemExit(main())
