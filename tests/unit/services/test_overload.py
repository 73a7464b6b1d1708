"""The sync API under more than it can do, in virtual time: what is answered, and who is refused."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from services.decider.admission import STAND, UNTOLD_MAX_S, priority
from services.decider.asgi import Header
from services.decider.http import Respond, SyncApi
from sluice.application.decide import Result
from sluice.application.ports import Arrival
from sluice.domain.records.authorization import encode
from sluice.telemetry import Metrics, Sampler
from sluice.testing.deciding import COLUMNS, FakePipeline
from sluice.testing.factories import make_authorization
from tests.support import virtual
from tests.support.virtual import VirtualLoop

READ_S = 25e-6
"""To read and parse a request, and to write its answer. The shares are as measured; it is their
relation that counts."""
UNDERSTAND_S = 20e-6
BATCH_S, ROW_S = 0.5e-3, 0.1e-3
STORE_S, BROKER_S = 0.5e-3, 1e-3
DEADLINE_MS = 50
JSON = [(b"content-type", b"application/json")]


class CostlyPipeline(FakePipeline):
    """Takes the loop's time and the store's, as the real one does."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__(loop)
        self._loop = loop
        self.stalled = asyncio.Event()
        self.stalled.set()

    def arrive(self, raw: bytes, **more: object) -> Arrival:
        self._loop.spend(UNDERSTAND_S)
        return super().arrive(raw)

    async def decide(
        self, batch: Sequence[Arrival], *, deadline_us: int | None = None
    ) -> list[Result]:
        self._loop.spend(BATCH_S / 2)
        await asyncio.sleep(STORE_S)
        self._loop.spend(BATCH_S / 2 + ROW_S * len(batch))
        results = await super().decide(batch, deadline_us=deadline_us)
        await asyncio.sleep(BROKER_S)
        await self.stalled.wait()
        return results


@dataclass
class Tally:
    """What callers heard of what they sent."""

    sent: Counter[str] = field(default_factory=Counter)
    """By priority, as the next two."""
    refused: Counter[str] = field(default_factory=Counter)
    decided: Counter[str] = field(default_factory=Counter)
    levels: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    """Of the decided, from the moment they were sent."""
    hearing: list[float] = field(default_factory=list)
    """Of the refused."""
    unsent: int = 0
    """No connection was free."""

    def share_refused(self, what: str) -> float:
        return self.refused[what] / max(self.sent[what], 1)

    @property
    def answers(self) -> int:
        return sum(self.levels.values())

    @property
    def p99(self) -> float:
        return sorted(self.latencies)[math.ceil(0.99 * len(self.latencies)) - 1]


class Line:
    """A connection of a caller: one request at a time, in the socket until it is read."""

    def __init__(self, world: World) -> None:
        self._world = world

    def send(self, body: bytes, what: str) -> None:
        answered = partial(self._answered, self._world.tally, self._world.loop.time(), what)
        self._world.loop.call_soon(self._read, body, answered)

    def _read(self, body: bytes, answered: Respond) -> None:
        self._world.loop.spend(READ_S)
        self._world.api.authorize(JSON, body, answered)

    def _answered(
        self, tally: Tally, since: float, what: str, status: int, headers: list[Header], body: bytes
    ) -> None:
        world = self._world
        if status == 200:
            tally.decided[what] += 1
            tally.levels[msgspec.json.decode(body)["degradation_level"]] += 1
            tally.latencies.append(world.loop.time() - since)
        else:
            assert (status, msgspec.json.decode(body)["code"]) == (503, "overloaded")
            assert (b"retry-after", b"1") in headers
            tally.refused[what] += 1
            tally.hearing.append(world.loop.time() - since)
        world.loop.call_soon(world.freed, self)


class World:
    """One entrypoint and its callers."""

    def __init__(self, loop: VirtualLoop, lines: int) -> None:
        self.loop = loop
        self.registry = CollectorRegistry()
        self.pipeline = CostlyPipeline(loop)
        self.api = SyncApi(
            self.pipeline,
            name="sluice",
            columns=COLUMNS,
            in_flight_max=256,
            deadline_ms=DEADLINE_MS,
            metrics=Metrics(self.registry),
            sampler=Sampler(0, 1),
            clock=loop,
        )
        self.tally = Tally()
        self.free = deque(Line(self) for _ in range(lines))
        self._bodies = self._traffic()
        self._closed = False

    def freed(self, line: Line) -> None:
        if self._closed:
            self.ask(line)
        else:
            self.free.append(line)

    async def closed(self, callers: int, seconds: float) -> Tally:
        """Each asks again as soon as it is answered."""
        self.tally, self._closed = Tally(), True
        for _ in range(callers):
            self.ask(self.free.popleft())
        await asyncio.sleep(seconds)
        self._closed, tally = False, self.tally
        await asyncio.sleep(1.0)
        return tally

    async def open(self, rate: float, seconds: float) -> Tally:
        """One request every 1/rate s, as long as a connection is free."""
        tally = self.tally = Tally()
        began, due = self.loop.time(), 0
        while due < round(rate * seconds):
            await asyncio.sleep(max(0.0, began + due / rate - self.loop.time()))
            # A flood asks nobody: all whose moment has come are sent before anything else happens.
            while began + due / rate <= self.loop.time():
                due += 1
                if self.free:
                    self.ask(self.free.popleft())
                else:
                    tally.unsent += 1
        return tally

    def ask(self, line: Line) -> None:
        body, what = next(self._bodies)
        self.tally.sent[what] += 1
        line.send(body, what)

    def _traffic(self) -> Iterator[tuple[bytes, str]]:
        rng = random.Random(7)
        for n in itertools.count():
            amount = round(10 ** rng.uniform(2, 5.2))
            auth = make_authorization(f"a-{n}", event_at=self.loop.now_us(), amount_minor=amount)
            yield encode(auth), priority(amount)


async def peak(world: World) -> float:
    """Complete answers a second, saturated; nobody is refused."""
    tally = await world.closed(64, 1.0)
    assert set(tally.levels) == {"D0"}
    assert not tally.refused
    return tally.answers / 1.0


FLOOD_S = 2.0


@pytest.mark.parametrize(("times", "lines"), [(2, 256), (2, 512), (5, 512)])
def test_a_flood_leaves_the_model_on_and_the_small_amounts_out(times: int, lines: int) -> None:
    loop = VirtualLoop()

    async def story() -> None:
        world = World(loop, lines)
        most = await peak(world)
        tally = await world.open(times * most, FLOOD_S)
        assert tally.sent.total() + tally.unsent >= times * most * FLOOD_S
        assert tally.levels["D0"] >= 0.95 * tally.answers
        assert tally.levels["D0"] / FLOOD_S >= 0.9 * most
        assert tally.p99 <= (DEADLINE_MS + 5) / 1000
        assert tally.share_refused("lowest") >= 5 * tally.share_refused("low") > 0
        assert tally.share_refused("high") <= 0.05
        assert tally.share_refused("highest") == 0
        assert max(tally.hearing) <= UNTOLD_MAX_S

        settling = await world.open(most / 4, 1.0)
        after = await world.open(most / 4, 1.0)
        await asyncio.sleep(0.2)
        assert after.sent.total() == after.answers
        assert set(after.levels) == {"D0"}
        assert settling.levels["D0"] == settling.answers
        await world.api.close()
        shed = [
            sample.value
            for family in world.registry.collect()
            for sample in family.samples
            if sample.name == "sluice_decider_shed_total"
        ]
        assert sum(shed) == tally.refused.total() + settling.refused.total()

    virtual.run(loop, story())


def test_ordinary_traffic_is_not_refused() -> None:
    """Bursts of 100 at once, half of what can be done."""
    loop = VirtualLoop()

    async def story() -> None:
        world = World(loop, 256)
        most = await peak(world)
        tally = world.tally = Tally()
        for _ in range(20):
            for line in [world.free.popleft() for _ in range(100)]:
                world.ask(line)
            await asyncio.sleep(2 * 100 / most)
        await world.api.close()
        assert (tally.answers, tally.levels["D0"]) == (2000, 2000)

    virtual.run(loop, story())


def test_a_broker_that_stands_still_lowers_no_limit_and_keeps_nobody_waiting_for_a_refusal() -> (
    None
):
    loop = VirtualLoop()

    async def story() -> None:
        world = World(loop, 2000)
        most = await peak(world)
        limit = world.api.admission.limit.value
        world.pipeline.stalled.clear()
        tally = await world.open(1000, 1.0)
        assert world.api.admission.limit.value == limit
        waited = sorted(tally.hearing)
        assert waited[len(waited) * 9 // 10] <= STAND * DEADLINE_MS / 1000 + 0.001
        world.pipeline.stalled.set()
        after = await world.open(most / 4, 0.5)
        assert after.levels["D0"] >= 0.95 * after.sent.total()
        await world.api.close()

    virtual.run(loop, story())


def test_callers_who_each_name_another_deadline_are_decided_together() -> None:
    loop = VirtualLoop()

    async def story() -> None:
        world = World(loop, 0)
        told: list[int] = []
        for deadline_ms in range(900, 1000):
            auth = make_authorization(f"d-{deadline_ms}", event_at=loop.now_us())
            headers = [*JSON, (b"x-deadline-ms", b"%d" % deadline_ms)]
            world.api.authorize(headers, encode(auth), lambda status, *_: told.append(status))
        await world.api.close()
        assert told == [200] * 100
        assert [len(batch) for batch in world.pipeline.batches] == [100]
        (due,) = world.pipeline.deadlines
        assert due == world.pipeline.batches[0][0].received_at + 750_000

    virtual.run(loop, story())
