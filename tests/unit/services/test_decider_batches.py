"""Micro-batches of the sync API: who is decided with whom, and when."""

import asyncio
from collections.abc import Callable

import msgspec
import prometheus_client
import pytest

from services.decider.admission import LEFT
from services.decider.batches import BATCH_MAX, Batches, Late
from sluice import telemetry
from sluice.application.decide import Conflict, Decided, Replayed, Result, Unrecorded
from sluice.errors import Corrupt, SluiceError, Unavailable
from sluice.testing.deciding import FakePipeline
from sluice.testing.factories import make_arrival
from sluice.testing.store import FakeClock

DEADLINE_MS = 50
NEVER_MS = 1_000_000
"""A deadline whose patience no test outlasts."""


class Bench:
    """A fake decider behind the batches, and what each arrival was told."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.decider = FakePipeline(self.clock)
        self.loaded = False
        self.ages: list[tuple[int, int]] = []
        self.batches = Batches(
            self.decider, self.clock, lambda *told: self.ages.append(told), lambda: self.loaded
        )
        self.reported: dict[str, Result | SluiceError] = {}

    def add(
        self,
        name: str,
        *,
        deadline_ms: int = NEVER_MS,
        done: Callable[[Result | SluiceError], None] | None = None,
        amount_minor: int = 1999,
        key: str = "",
        waited_us: int = 0,
    ) -> None:
        """key: under which the result is kept, the id unless given."""
        arrival = make_arrival(name, event_at=self.clock.now_us(), amount_minor=amount_minor)
        self.batches.add(
            arrival,
            deadline_ms,
            done or (lambda result: self.reported.update({key or name: result})),
            waited_us,
        )

    def hold(self) -> asyncio.Event:
        """Batches begun from now on wait until this is set."""
        self.decider.gate = asyncio.Event()
        return self.decider.gate

    async def until(self, batches: int) -> None:
        """Return when so many batches have begun."""
        async with asyncio.timeout(60):
            while len(self.decider.batches) < batches:
                await asyncio.sleep(0)

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.decider.batches]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_what_comes_in_one_turn_is_decided_together(bench: Bench) -> None:
    for name in "abc":
        bench.add(name)
    await bench.batches.close()
    assert bench.sizes == [3]
    assert bench.batches.sizes == [3]
    assert sorted(bench.reported) == ["a", "b", "c"]


async def test_a_lone_arrival_waits_for_no_company(bench: Bench) -> None:
    bench.add("a")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert bench.sizes == [1]


async def test_what_comes_while_a_batch_is_decided_goes_as_one_when_it_ends(bench: Bench) -> None:
    held = bench.hold()
    bench.add("a")
    await bench.until(1)
    for name in "bcd":
        bench.add(name)
        await asyncio.sleep(0)
    assert bench.sizes == [1]
    held.set()
    await bench.until(2)
    await bench.batches.close()
    assert bench.sizes == [1, 3]
    assert sorted(bench.reported) == ["a", "b", "c", "d"]


async def test_a_batch_that_hangs_holds_the_next_only_for_a_share_of_the_deadline(
    bench: Bench,
) -> None:
    held = bench.hold()
    bench.add("a")
    await bench.until(1)
    bench.add("b", deadline_ms=DEADLINE_MS)
    bench.add("c", deadline_ms=DEADLINE_MS)
    await bench.until(2)
    assert bench.sizes == [1, 2]
    assert not held.is_set()
    held.set()
    await bench.batches.close()


async def test_each_arrival_keeps_its_own_deadline(bench: Bench) -> None:
    now = bench.clock.now_us()
    bench.add("a", deadline_ms=50)
    bench.add("b", deadline_ms=7)
    bench.add("c", deadline_ms=50)
    await bench.batches.close()
    assert bench.sizes == [2, 1]
    assert bench.decider.deadlines == [now + 50_000, now + 7_000]


async def test_the_earliest_deadline_of_a_batch_counts(bench: Bench) -> None:
    held = bench.hold()
    bench.add("first")
    await bench.until(1)
    now = bench.clock.now_us()
    bench.add("a")
    bench.clock.advance(0.001)
    bench.add("b")
    held.set()
    await bench.batches.close()
    assert bench.decider.deadlines[1] == now + NEVER_MS * 1_000


async def test_an_arrival_that_is_late_already_makes_no_other_late(bench: Bench) -> None:
    held = bench.hold()
    bench.add("first")
    await bench.until(1)
    bench.add("late", deadline_ms=NEVER_MS)
    bench.clock.advance(NEVER_MS / 1000)
    bench.add("in time", deadline_ms=NEVER_MS)
    held.set()
    await bench.batches.close()
    now = bench.clock.now_us()
    assert bench.sizes == [1, 1, 1]
    assert set(bench.decider.deadlines[1:]) == {now, now + NEVER_MS * 1_000}


async def test_under_load_an_arrival_that_is_late_already_is_refused(bench: Bench) -> None:
    bench.loaded = True
    held = bench.hold()
    bench.add("first")
    await bench.until(1)
    bench.add("late", deadline_ms=NEVER_MS)
    bench.clock.advance(NEVER_MS / 1000)
    bench.add("in time", deadline_ms=NEVER_MS)
    held.set()
    await bench.batches.close()
    assert bench.sizes == [1, 1]
    assert bench.decider.deadlines[1:] == [bench.clock.now_us() + NEVER_MS * 1_000]
    assert isinstance(bench.reported["late"], Late)
    assert isinstance(bench.reported["in time"], Decided)


async def test_what_has_too_little_left_of_its_deadline_is_refused_before_the_store_is_asked(
    bench: Bench,
) -> None:
    bench.loaded = True
    held = bench.hold()
    bench.add("first")
    await bench.until(1)
    bench.add("near", deadline_ms=NEVER_MS)
    bench.clock.advance(0.001)
    bench.add("nearly near", deadline_ms=NEVER_MS)
    bench.clock.advance(NEVER_MS / 1000 * (1 - LEFT) - 0.001)
    held.set()
    await bench.batches.close()
    assert [a.auth.authorization_id for a in bench.decider.batches[1]] == ["nearly near"]
    assert isinstance(bench.reported["near"], Late)


async def test_time_waited_before_counts_to_the_deadline(bench: Bench) -> None:
    bench.loaded = True
    now = bench.clock.now_us()
    bench.add("a", deadline_ms=50)
    bench.add("b", deadline_ms=50, waited_us=20_000)
    bench.add("c", deadline_ms=50, waited_us=40_000)
    await bench.batches.close()
    assert bench.decider.deadlines == [now + 30_000]
    assert isinstance(bench.reported["c"], Late)


async def test_the_age_of_the_oldest_is_told_of_each_batch_that_was_decided(
    bench: Bench,
) -> None:
    held = bench.hold()
    bench.add("a", deadline_ms=50, waited_us=3_000)
    bench.add("b", deadline_ms=50)
    await bench.until(1)
    bench.clock.advance(0.020)
    held.set()
    await bench.batches.close()
    assert bench.ages == [(bench.clock.now_us(), 23_000)]
    bench.decider.instead["c"] = Unrecorded("the broker")
    bench.add("c", deadline_ms=50)
    await bench.batches.close()
    assert len(bench.ages) == 1, "nobody was decided"


async def test_no_batch_is_larger_than_its_bound(bench: Bench) -> None:
    for i in range(2 * BATCH_MAX + 1):
        bench.add(f"auth-{i}")
    await bench.batches.close()
    assert bench.sizes == [BATCH_MAX, BATCH_MAX, 1]


async def test_the_same_id_twice_in_one_batch_hears_one_decision(bench: Bench) -> None:
    bench.add("a", key="first")
    bench.add("a", key="second")
    bench.add("a", key="other", amount_minor=2000)
    await bench.batches.close()
    assert bench.sizes == [3]
    first, second = bench.reported["first"], bench.reported["second"]
    assert isinstance(first, Decided)
    assert isinstance(second, Replayed)
    assert second.answer == first.answer
    assert isinstance(bench.reported["other"], Conflict)


@pytest.mark.parametrize("failure", [Unavailable("down"), Corrupt("hole"), ValueError("bug")])
async def test_a_batch_that_fails_tells_each_arrival_and_the_next_goes_on(
    bench: Bench, failure: Exception
) -> None:
    bench.decider.instead["a"] = failure
    bench.add("a")
    bench.add("b")
    await bench.batches.close()
    assert all(isinstance(bench.reported[name], SluiceError) for name in "ab")
    bench.add("c")
    await bench.batches.close()
    assert isinstance(bench.reported["c"], Decided)


async def test_an_arrival_whose_answer_cannot_be_given_harms_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = prometheus_client.CollectorRegistry()
    monkeypatch.setattr(telemetry, "METRICS", telemetry.Metrics(registry))

    def broken(_result: Result | SluiceError) -> None:
        raise RuntimeError("nobody listens")

    bench.add("a", done=broken)
    bench.add("b")
    await bench.batches.close()
    assert isinstance(bench.reported["b"], Decided)
    assert msgspec.json.decode(bench.reported["b"].answer)["authorization_id"] == "b"
    assert registry.get_sample_value("sluice_decider_answers_failed_total") == 1


async def test_closing_decides_what_still_waits(bench: Bench) -> None:
    held = bench.hold()
    bench.add("a")
    await bench.until(1)
    bench.add("b")
    held.set()
    await bench.batches.close()
    assert sorted(bench.reported) == ["a", "b"]
