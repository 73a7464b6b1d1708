"""What every benchmark stands on: a real Kafka, a real Valkey, a world's traffic, a release.

The store holds the states that a history leaves behind, so that the traffic after it meets cards
and terminals with a past. Everything lies in a temporary folder
and is gone afterwards, unless something failed.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from types import TracebackType

import pyarrow as pa
from confluent_kafka import Producer
from sluice_simulator.batch import Batch
from sluice_simulator.config import Config
from sluice_simulator.world import World

from benchmarks.processes import OTHERS, on
from local.kafka.broker import JarNode, free_port
from local.stack import Stack
from sluice.adapters.files.history import history_from
from sluice.adapters.kafka import topics
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.policyfiles.files import PolicyFiles
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.application.backfill import History, backfill
from sluice.application.ports import StateUpdate
from sluice.bootstrap.services import store_at
from sluice.domain.features import catalogue
from sluice.domain.policy.fx import Fx
from sluice.domain.records.authorization import encode
from sluice.domain.release import public_line
from sluice.testing.release import KEY, make_release
from sluice.testing.store import declare_ready

START = date(2026, 1, 1)
PARTITIONS = 4
COMMITTED = Path("models/releases/current")
POLICY = Path("policies/default")
TRUST = Path("policies/trust")
TEN_YEARS_S = 10 * 365 * 86_400
CALM = 14
"""Seed of random weights that, like a real model, give few authorizations a high score: those cost
more, since each is explained."""


@dataclass(frozen=True)
class Scale:
    """How much of everything. Many cards, so that few come twice within a pending entry's 30 s."""

    cards: int = 60_000
    history_days: int = 12
    requests: int = 120_000
    """For the sync API: as many as it can answer in all its runs."""
    messages: int = 60_000
    """In ``authorizations.v1``: the first of the same."""
    replays: int = 3
    seconds: float = 4.0


FULL = Scale()
QUICK = Scale(cards=4_000, history_days=4, requests=20_000, messages=15_000, replays=1, seconds=2.0)
"""To see that everything runs; its figures mean little."""


@dataclass(frozen=True)
class Traffic:
    """(n,) authorizations in order of time: keys and values of ``authorizations.v1``."""

    keys: list[bytes]
    values: list[bytes]
    remote: list[bool]
    """Whether it has a device."""


def feast_repository(folder: Path, host_port: str) -> Path:
    """``feast apply`` our definitions to a new repository over this store."""
    folder.mkdir()
    shutil.copy("feature_repo/definitions.py", folder)
    (folder / "feature_store.yaml").write_text(
        "project: sluice\nprovider: local\nregistry: registry.db\noffline_store: {type: file}\n"
        f"online_store: {{type: redis, connection_string: '{host_port}'}}\n"
        "entity_key_serialization_version: 3\n"
    )
    feast = Path(sys.executable).with_name("feast")
    subprocess.run([feast, "--chdir", folder, "apply"], check=True, capture_output=True)
    return folder


class Testbed:
    """Use as a context manager. Parts are made when first asked for."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-bench-"))
        self._broker: JarNode | None = None
        self._world = World(Config(cards=scale.cards), 7)

    def __enter__(self) -> Testbed:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._broker is not None:
            self._broker.kill()
        if error is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            print(f"the logs stay in {self.folder}", file=sys.stderr)

    @property
    def bootstrap(self) -> str:
        """A real Kafka node, started when first asked for."""
        if self._broker is None:
            self._broker = JarNode(self.folder / "kafka", free_port(), detached=False)
            with on(OTHERS):
                self._broker.start()
        return self._broker.bootstrap

    @cached_property
    def history_table(self) -> pa.Table:
        """The past, as the simulator writes it."""
        days = self._world.days(START, self.scale.history_days)
        return pa.concat_tables([day.authorizations() for day in days])

    @cached_property
    def history(self) -> History:
        """The past, as the backfill reads it."""
        return history_from(self.history_table)

    @cached_property
    def fx(self) -> Fx:
        """Rates of the default policy."""
        return PolicyFiles(POLICY, catalogue.FEATURES).current().fx

    @cached_property
    def states(self) -> list[StateUpdate]:
        """What the past left behind."""
        return backfill(self.history, self.fx, keep_states=True, threads=2).states

    @cached_property
    def traffic(self) -> Traffic:
        """The days after the past."""
        keys: list[bytes] = []
        values: list[bytes] = []
        remote: list[bool] = []
        day = START + timedelta(days=self.scale.history_days)
        while len(values) < self.scale.requests:
            for batch in self._world.days(day, 1):
                auths = Batch(
                    self._world, batch.rows[: self.scale.requests - len(values)]
                ).structs()
                keys += [a.card_token.encode() for a in auths]
                values += [encode(a) for a in auths]
                remote += [a.device_id is not None for a in auths]
            day += timedelta(days=1)
        return Traffic(keys, values, remote)

    @cached_property
    def release(self) -> tuple[Path, Path, str]:
        """The release that scores, the keys trusted to sign it, and what to say about it."""
        if (COMMITTED / "manifest.json").exists():
            return COMMITTED, TRUST, f"release: the committed one, {COMMITTED.resolve().name}"
        folder = self.folder / "release"
        make_release(folder, seed=CALM)
        trust = self.folder / "trust"
        trust.mkdir()
        (trust / "test.pub").write_text(public_line(KEY.public_key(), "tests"))
        return folder, trust, "release: none is committed, so one with random weights (5-16-1)"

    @contextmanager
    def store(self) -> Iterator[EmbeddedStore]:
        """A fresh Valkey that holds the states of the past."""
        with on(OTHERS):
            embedded = EmbeddedStore().start()
        try:
            store = store_at(embedded.url)
            states = store.states()
            assert all(states.write(self.states))
            states.close()
            declare_ready(store)
            yield embedded
        finally:
            embedded.stop()

    def topics(self, prefix: str, partitions: int = PARTITIONS) -> Topics:
        """The topics under a prefix."""
        names = Topics(prefix)
        topics.apply(self.bootstrap, names, partitions=partitions, replication=1)
        return names

    def preload(
        self,
        prefix: str,
        change: Callable[[int, bytes], bytes] | None = None,
        *,
        of: range | None = None,
    ) -> Topics:
        """The same, with the first of the traffic in ``authorizations.v1``. change: makes message n
        another. of: which, if not all messages."""
        names = self.topics(prefix)
        producer = Producer(
            {"bootstrap.servers": self.bootstrap, "linger.ms": 20, "compression.type": "lz4",
             "acks": "all", "enable.idempotence": True, "queue.buffering.max.messages": 500_000,
             "partitioner": "murmur2_random"}
        )  # fmt: skip
        pairs = zip(self.traffic.keys, self.traffic.values, strict=True)
        of = of or range(self.scale.messages)
        for n, (key, value) in zip(of, itertools.islice(pairs, of.start, of.stop), strict=True):
            producer.produce(names.authorizations, change(n, value) if change else value, key)
        assert producer.flush(60) == 0
        return names

    def stack(self, store: EmbeddedStore, prefix: str, **more: str) -> Stack:
        """Services over these parts, as they are deployed."""
        release, trust, _ = self.release
        return Stack(
            self.bootstrap,
            store.url,
            self.folder / f"stack-{prefix}",
            {
                "SLUICE_KAFKA_TOPIC_PREFIX": prefix,
                "SLUICE_DECIDER_RELEASE_DIR": str(release),
                "SLUICE_DECIDER_TRUST_DIR": str(trust),
                "SLUICE_DECIDER_MAX_EVENT_AGE_S": str(TEN_YEARS_S),
                **more,
            },
        )
