"""The main path in one thread: the real walk and featurizer over fakes, and a real archive.

A mistake is planted where a port hands something over: at the entrypoint, at the featurizer's
consumer, at its observations. Our own code stays as it is.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import ClassVar

import msgspec
from sluice_simulator.config import Config
from sluice_simulator.world import World as Simulated

from sluice.adapters.parquet.archive import ParquetFiles
from sluice.adapters.policyfiles.files import PolicyFiles
from sluice.adapters.storage import AnyPath
from sluice.application.decide import Decided, DecisionPipeline
from sluice.application.featurize import Featurizer
from sluice.application.once import Once
from sluice.application.ports import Arrival, Message, Scorer
from sluice.domain.clock import DAY_US, SECOND_US
from sluice.domain.features import catalogue
from sluice.domain.policy.policy import Policy
from sluice.domain.records.authorization import Authorization, EventTimeBounds, encode
from sluice.domain.records.decision import Decision
from sluice.domain.records.observation import Observations
from sluice.testing.factories import make_label
from sluice.testing.store import FakeClock, FakeStore

TOPICS = {"decisions.v1": "decisions", "observations.v1": "observations", "labels.v1": "labels"}
FOLDERS = {"decisions.v1": "decisions", "labels.v1": "labels"}
PARTITIONS = 3
STEP = 2
"""From one offset to the next: a transaction marker lies between."""
A_FILE = 200
BATCH_MAX = 6
_observations = msgspec.json.Decoder(Observations)


class NoModel:
    def current(self) -> Scorer | None:
        return None


class OnePolicy:
    policy: ClassVar[Policy] = PolicyFiles(Path("policies/default"), catalogue.FEATURES).current()

    def current(self) -> Policy:
        return self.policy


def traffic(n: int, seed: int = 5) -> list[Authorization]:
    """The simulator's, by time: so few cards that they come again, busy terminals."""
    world = Simulated(Config(cards=150), seed)
    found: list[Authorization] = []
    for day in world.days(date(2026, 5, 1), 40):
        found += day.structs()
        if len(found) >= n:
            return found[:n]
    raise AssertionError("the simulated bank is too small")


@dataclass
class Little:
    """A bank in memory.

    at_door: what happens to an arrival before the decision pipeline sees it. at_consumer: to a
    record before the featurizer does. at_observations: to observations before they are written.
    """

    at_sync_api: Callable[[Arrival], Arrival] = lambda arrival: arrival
    at_consumer: Callable[[Message], Sequence[Message]] = lambda record: [record]
    at_observations: Callable[[Observations], Observations] = lambda observations: observations
    partitions: int = 2
    """Of observations.v1."""
    seed: int = 1
    clock: FakeClock = field(default_factory=lambda: FakeClock(0))
    log: list[Message] = field(default_factory=list)
    """All of decisions.v1 and labels.v1."""

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._ends: Counter[tuple[str, int]] = Counter()
        self._unread: list[Message] = []
        self._observed: list[Message] = []
        self.store = FakeStore(self.clock)
        self.decider = DecisionPipeline(
            entrypoint="stream",
            emitter="little",
            ids=Once(self.store, self.clock),
            scorer=NoModel(),
            policy=OnePolicy(),
            log=self,
            clock=self.clock,
            bounds=EventTimeBounds(max_age_us=400 * DAY_US),
        )
        self.featurizer = Featurizer(store=self.store, observations=self, topics=TOPICS)

    async def run(self, auths: Sequence[Authorization]) -> None:
        """Decide them in batches; the featurizer falls behind, catches up, is told things twice.

        For some, views are missing or the whole store is down; some become known as fraud.
        """
        rng = self._rng
        at = 0
        while at < len(auths):
            some = auths[at : at + rng.randint(1, BATCH_MAX)]
            at += len(some)
            self._wait_for(some[-1].event_at + rng.randrange(90 * SECOND_US))
            self.store.missing = {"device", "terminal"} if rng.random() < 0.03 else set()
            self.store.down = rng.random() < 0.02
            await self.decide(some)
            self.store.missing, self.store.down = set(), False
            self._wait_for(self.clock.now_us() + rng.randrange(2 * SECOND_US))
            if rng.random() < 0.1:
                self.report(rng.choice(auths[:at]))
            if rng.random() < 0.4:
                again = self._unread[-3:] + self._observed[-3:] if rng.random() < 0.5 else []
                self.featurize()
                self.featurizer.apply(again)
        self.featurize()

    async def decide(self, auths: Sequence[Authorization]) -> list[Decision]:
        arrivals = [self.at_sync_api(self.decider.arrive(encode(auth))) for auth in auths]
        results = await self.decider.decide(arrivals)
        return [r.decision for r in results if isinstance(r, Decided)]

    def report(self, auth: Authorization) -> None:
        """It was fraud, as is known now."""
        label = make_label(auth, known_at=self.clock.now_us())
        self.log.append(self._put("labels.v1", 0, encode(label)))
        self._unread.append(self.log[-1])

    def featurize(self) -> None:
        """Bring every state up to date."""
        unread, self._unread = self._unread, []
        self.featurizer.apply([twin for record in unread for twin in self.at_consumer(record)])
        observed, self._observed = self._observed, []
        self.featurizer.apply(observed)

    def archive(
        self, root: AnyPath, *, without: Callable[[Message], bool] = lambda _: False
    ) -> None:
        """Write what was recorded to an archive, as the archiver does; again: what came since."""
        files = ParquetFiles(root, FOLDERS)
        for where in sorted(self._ends):
            if where[0] in FOLDERS:
                mine = [m for m in self.log if (m.topic, m.partition) == where]
                left = [m for m in mine if m.offset >= files.end(where) and not without(m)]
                for at in range(0, len(left), A_FILE):
                    files.write(where, left[at : at + A_FILE])

    # The ports that this is.

    async def append(
        self, decisions: Sequence[tuple[Arrival, Decision]], became: Callable[[Sequence[int]], None]
    ) -> None:
        for arrival, decision in decisions:
            partition = sum(arrival.auth.card_token.encode()) % PARTITIONS
            self.log.append(self._put("decisions.v1", partition, encode(decision)))
            self._unread.append(self.log[-1])

    def produce(self, partition: int, value: bytes) -> None:
        changed = encode(self.at_observations(_observations.decode(value)))
        self._observed.append(self._put("observations.v1", partition, changed))

    def flush(self) -> None: ...

    def _put(self, topic: str, partition: int, value: bytes) -> Message:
        self._ends[topic, partition] += STEP
        offset = self._ends[topic, partition]
        return Message(value, None, topic, partition, offset, None, self.clock.now_us() // 1000)

    def _wait_for(self, us: int) -> None:
        self.clock.advance(max(0, us - self.clock.now_us()) / SECOND_US)
