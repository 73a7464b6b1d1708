"""From decision to state visible: 1,000 authorizations a second through an entrypoint, and a
watcher.

The watcher reads ``decisions.v1`` and asks the store for the card's and the terminal's state until
it holds the decision's offset. It finds out up to LOOK_EVERY_S late, so the figures are upper
bounds. Entrypoint and featurizer share all cores with the watcher; broker and store have what
benchmarks.processes leaves them.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from benchmarks.report import Row, row
from benchmarks.testbed import Testbed
from local.stack import Name, Stack
from sluice.adapters.kafka.consumer import GroupConsumer
from sluice.adapters.kafka.producer import EventProducer
from sluice.bootstrap.services import store_at
from sluice.domain.features import states
from sluice.domain.features.events import WIDTH, event_rows
from sluice.domain.features.kernel import Kernel
from sluice.domain.records.authorization import Authorization
from sluice.domain.records.entity import EntityKind

RATE = 1000
WARM_S = 5.0
"""Left out: the first batches meet cold caches and a group that has just formed."""
SAMPLE = 5
"""One decision in so many is watched."""
LOOK_EVERY_S = 0.002
GIVE_UP_S = 30.0
KINDS: tuple[EntityKind, ...] = ("card", "terminal")


class _Part(msgspec.Struct):
    """What the watcher needs of a decision."""

    authorization: Authorization
    decided_at: int


class _Awaited(NamedTuple):
    """A decision's effect on one state that is not visible yet."""

    kind: EntityKind
    key: str
    source: int
    offset: int
    decided_at: int


class _Ages(NamedTuple):
    """What one run showed. ms: by kind, decided_at to visible. rate: decisions a second."""

    ms: dict[EntityKind, list[float]]
    rate: float


def measure(testbed: Testbed, results: Path) -> tuple[list[Row], list[str]]:
    """Both entrypoints, one after the other."""
    rows: list[Row] = []
    notes = [" ".join((__doc__ or "").split())]
    for entrypoint in ("stream", "sync"):
        found = _run(testbed, entrypoint)
        for kind in KINDS:
            target = "<= 250"
            p50, p99, most = np.percentile(found.ms[kind], [50, 99, 100])
            what = f"decision to {kind} state visible, {entrypoint} entrypoint at {RATE}/s"
            rows += [
                row(f"p50 of {what}", "ms", float(p50)),
                row(f"p99 of {what}", "ms", float(p99), target=target),
                row(f"longest of {what}", "ms", float(most)),
            ]
        rows.append(
            row(f"decisions per second reached, {entrypoint} entrypoint", "1/s", found.rate)
        )
        notes.append(f"{entrypoint} entrypoint: {len(found.ms['card']):,} decisions watched")
    return rows, [testbed.release[2], *notes]


def _run(testbed: Testbed, entrypoint: str) -> _Ages:
    prefix = f"fresh-{entrypoint}-"
    names = testbed.topics(prefix)
    service: Name = "decider-sync" if entrypoint == "sync" else "decider-stream"
    with testbed.store() as store, testbed.stack(store, prefix) as stack:
        for name in ("featurizer", service):
            stack.start(name)
        stack.wait_all()
        topic = names.authorizations if entrypoint == "stream" else ""
        load = Load(testbed, stack, topic, RATE, WARM_S + 2 * testbed.scale.seconds)
        watcher = _Watcher(testbed.bootstrap, names.decisions, store.url)
        load.start()
        try:
            return watcher.watch(load)
        finally:
            load.seen.set()
            load.join()
            watcher.close()


class Load(threading.Thread):
    """One authorization until ``seen``, then rate a second for some seconds, open loop. topic: ""
    for HTTP. count: of all that it sends."""

    def __init__(
        self, testbed: Testbed, stack: Stack, topic: str, rate: float, seconds: float
    ) -> None:
        super().__init__(daemon=True)
        self.seen = threading.Event()
        """Its decision was read: groups have formed, and everything is awake."""
        self.count = 1 + round(rate * seconds)
        self._rate, self._seconds = rate, seconds
        self._testbed = testbed
        self._stack = stack
        self._topic = topic

    def run(self) -> None:
        if self._topic:
            self._produce()
        else:
            self._request()

    def _produce(self) -> None:
        producer = EventProducer(self._testbed.bootstrap, client_id="freshness")
        traffic = self._testbed.traffic
        pairs = zip(traffic.keys, traffic.values, strict=True)
        key, value = next(pairs)
        producer.produce(self._topic, value, key=key)
        producer.flush(GIVE_UP_S)
        self.seen.wait(GIVE_UP_S)
        began = time.perf_counter()
        for number, (key, value) in enumerate(itertools.islice(pairs, self.count - 1)):
            ahead = began + number / self._rate - time.perf_counter()
            if ahead > 0:
                time.sleep(ahead)
            producer.produce(self._topic, value, key=key)
        producer.flush(GIVE_UP_S)

    def _request(self) -> None:
        bodies = self._testbed.folder / "freshness.jsonl"
        bodies.write_bytes(b"\n".join(self._testbed.traffic.values))
        url = f"{self._stack.url}/v1/authorizations"
        first = urllib.request.Request(
            url, self._testbed.traffic.values[0], {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(first, timeout=GIVE_UP_S):
            self.seen.wait(GIVE_UP_S)
        subprocess.run(
            [sys.executable, "-m", "benchmarks.client", "open",
             url, str(bodies), "--first", "1",
             "--seconds", str(self._seconds), "--rate", str(self._rate)],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip


class _Watcher:
    """Follows decisions until their states hold them."""

    def __init__(self, bootstrap: str, topic: str, store_url: str) -> None:
        self._consumer = GroupConsumer(
            bootstrap, group=f"{topic}-watcher", topics=[topic], client_id="watcher"
        )
        self._store = store_at(store_url).states()
        self._kernel = Kernel()
        self._decode = msgspec.json.Decoder(_Part).decode
        self._waiting: list[_Awaited] = []
        self._found: list[tuple[_Awaited, float]] = []
        self._decided: list[int] = []

    def watch(self, load: Load) -> _Ages:
        """Until the load ends and all that it caused is visible. Raises TimeoutError."""
        count, quiet_at = 0, time.monotonic() + GIVE_UP_S
        while load.is_alive() or self._waiting or time.monotonic() < quiet_at:
            batch = self._consumer.poll_batch(2 * RATE, LOOK_EVERY_S)
            for message in batch:
                count += 1
                if count % SAMPLE == 0:
                    self._await(message.partition, message.offset, self._decode(message.value))
            if count:
                load.seen.set()
            if batch or load.is_alive():
                quiet_at = time.monotonic() + 1.0
            self._look()
            if self._waiting and time.monotonic() > quiet_at + GIVE_UP_S:
                raise TimeoutError(f"{len(self._waiting)} states do not hold their decision")
        return self._ages()

    def close(self) -> None:
        self._consumer.close()
        self._store.close()

    def _await(self, partition: int, offset: int, part: _Part) -> None:
        source = states.source(states.DECISIONS, partition)
        auth = part.authorization
        self._decided.append(part.decided_at)
        for kind, key in zip(KINDS, (auth.card_token, auth.terminal_id), strict=True):
            self._waiting.append(_Awaited(kind, key, source, offset, part.decided_at))

    def _look(self) -> None:
        if not self._waiting:
            return
        found = self._store.read([(one.kind, one.key) for one in self._waiting])
        now_us = time.time_ns() // 1000
        left: list[_Awaited] = []
        for one, versions in zip(self._waiting, self._versions(found), strict=True):
            if versions.get(one.source, -1) >= one.offset:
                self._found.append((one, max(0, now_us - one.decided_at) / 1000))
            else:
                left.append(one)
        self._waiting = left

    def _versions(self, found: list[bytes]) -> list[dict[int, int]]:
        """Offset of each source in each state, as the kernel tells a decision."""
        rows = [
            (state, b"", b"", b"") if one.kind == "card" else (b"", state, b"", b"")
            for one, state in zip(self._waiting, found, strict=True)
        ]
        served = self._kernel.finalise(
            event_rows([(0,) * WIDTH] * len(rows)), rows, [()] * len(rows)
        )
        at = served.versions_at
        return [
            dict(served.versions[at[4 * i] : at[4 * i + 2]])  # type: ignore[arg-type]
            for i in range(len(rows))
        ]

    def _ages(self) -> _Ages:
        first_us = min(self._decided) + round(WARM_S * 1e6)
        counted = [(one, age) for one, age in self._found if one.decided_at >= first_us]
        times = sorted(at for at in self._decided if at >= first_us)
        rate = SAMPLE * (len(times) - 1) / ((times[-1] - times[0]) / 1e6)
        return _Ages({k: [age for one, age in counted if one.kind == k] for k in KINDS}, rate)
