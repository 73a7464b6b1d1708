"""One id, one answer: what is known of an id, in the replica and in the store, whatever fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec import structs

from sluice.application.decide import (
    Busy,
    Conflict,
    Decided,
    DecisionPipeline,
    Replayed,
    Result,
    Unidentified,
    Unrecorded,
)
from sluice.application.once import Answered, Once
from sluice.application.ports import NOT_SENT, Arrival, Lookup
from sluice.domain.records.authorization import Channel, EventTimeBounds
from sluice.domain.records.decision import Decision
from sluice.errors import Unavailable
from sluice.testing.factories import NOON_US, make_arrival
from sluice.testing.policy import make_policy
from sluice.testing.scorer import FakeScorer
from sluice.testing.store import FakeClock, FakeStore, FakeWatermark

VIEWS = ["card", "terminal", "merchant", "device"]
REFUSE = dict.fromkeys(Channel, "refuse")


@dataclass
class Holder:
    value: Any

    def current(self) -> Any:
        return self.value


class CountingStore(FakeStore):
    """Counts round trips. gate: reads and look-ups wait there."""

    trips = 0
    gate: asyncio.Event | None = None

    def __init__(self) -> None:
        self.clock = FakeClock(NOON_US)
        super().__init__(self.clock)

    async def observe(self, batch: Sequence[Arrival]) -> list[Lookup]:
        self.trips += 1
        if self.gate is not None:
            await self.gate.wait()
        return await super().observe(batch)

    async def identify(self, batch: Sequence[Arrival]) -> list[Lookup]:
        self.trips += 1
        return await super().identify(batch)


@dataclass
class Log:
    """error: what appends raise. became: whom the last of those would tell."""

    error: Exception | None = None
    kept: list[Decision] = field(default_factory=list)
    became: Callable[[Sequence[int]], None] | None = None

    async def append(
        self, decisions: Sequence[tuple[Arrival, Decision]], became: Callable[[Sequence[int]], None]
    ) -> None:
        if self.error:
            self.became = became
            raise self.error
        self.kept += [decision for _, decision in decisions]


class Replica:
    """One decider over a store that it may share."""

    def __init__(self, store: CountingStore | None = None, **kept: Any) -> None:
        self.policy = kept.pop("unidentified", None)
        self.store = store or CountingStore()
        self.clock = self.store.clock
        self.log = Log()
        self.once = Once(self.store, self.clock, **kept)
        self.scorer = Holder(FakeScorer())
        policy = make_policy(**({"unidentified": self.policy} if self.policy is not None else {}))
        self.decider = DecisionPipeline(
            entrypoint="sync",
            emitter="test",
            ids=self.once,
            scorer=self.scorer,
            policy=Holder(policy),
            log=self.log,
            clock=self.clock,
            bounds=EventTimeBounds(),
        )

    def arrival(self, name: str = "a-1", **changes: Any) -> Arrival:
        """Sent now; two of one id differ in the moment."""
        self.clock.advance(0.000_001)
        made = make_arrival(name, **({"device_id": "device-1"} | changes))
        return structs.replace(made, received_at=self.clock.now_us())

    async def decide(self, *batch: Arrival, **more: int) -> list[Result]:
        return await self.decider.decide(batch, **more)

    async def one(self, name: str = "a-1", *, late: bool = False, **changes: Any) -> Result:
        more = {"deadline_us": self.clock.now_us()} if late else {}
        (result,) = await self.decide(self.arrival(name, **changes), **more)
        return result


def decided(result: Result) -> Decided:
    assert isinstance(result, Decided)
    return result


async def test_the_ordinary_path_is_one_round_trip() -> None:
    replica = Replica()
    await replica.decide(*(replica.arrival(f"a-{n}") for n in range(5)))
    assert replica.store.trips == 1


async def test_past_the_deadline_an_earlier_answer_is_still_heard() -> None:
    first, second = (Replica(store) for store in [CountingStore()] * 2)
    said = decided(await first.one())
    assert await second.one(late=True) == Replayed(said.answer)
    assert second.log.kept == []


async def test_past_the_deadline_the_id_is_taken_and_the_record_names_the_deadline_alone() -> None:
    store = CountingStore()
    first, second = Replica(store), Replica(store)
    first.log.error = Unavailable("no acknowledgement came")
    assert isinstance(await first.one(late=True), Unrecorded)
    assert await second.one(late=True) == Busy()
    fresh = decided(await second.one("a-2", late=True)).decision
    assert (fresh.degradation_level, fresh.degraded) == ("D3", ["deadline", *VIEWS])


async def test_where_the_read_of_states_fails_the_id_is_still_looked_up() -> None:
    store = CountingStore()
    first, second = Replica(store), Replica(store)
    said = decided(await first.one())
    store.slow = True
    assert await second.one() == Replayed(said.answer)
    other = decided(await second.one("a-2"))
    assert other.decision.degradation_level == "D2"
    assert other.decision.degraded == ["store", *VIEWS]
    assert await first.one("a-2") == Replayed(other.answer)


async def test_a_read_that_took_the_id_before_it_failed_is_not_somebody_else_s() -> None:
    class Late(CountingStore):
        async def observe(self, batch: Sequence[Arrival]) -> list[Lookup]:
            await super().observe(batch)
            raise Unavailable("the reply came too late")

    assert isinstance(await Replica(Late()).one(), Decided)


async def test_without_the_store_the_replica_itself_knows_what_it_answered() -> None:
    replica = Replica(unidentified=REFUSE)
    said = decided(await replica.one())
    replica.store.down = True
    trips = replica.store.trips
    assert await replica.one() == Replayed(said.answer)
    assert await replica.one(amount_minor=99) == Conflict()
    assert replica.store.trips == trips


async def test_what_the_store_answered_is_known_without_it_too() -> None:
    store = CountingStore()
    first, second = Replica(store), Replica(store)
    said = decided(await first.one())
    assert await second.one() == Replayed(said.answer)
    store.down = True
    assert await second.one() == Replayed(said.answer)


async def test_two_arrivals_of_one_id_in_two_batches_at_once_get_one_decision() -> None:
    replica = Replica()
    replica.store.gate = asyncio.Event()
    first = asyncio.ensure_future(replica.one())
    await asyncio.sleep(0)
    assert await replica.one() == Busy()
    assert await replica.one(amount_minor=99) == Conflict()
    replica.store.down = True
    replica.store.gate.set()
    assert isinstance(await first, Decided)
    assert len(replica.log.kept) == 1


@pytest.mark.parametrize("how", ["down", "full"])
async def test_an_id_that_nobody_knows_is_decided_by_policy_and_says_so(how: str) -> None:
    replica = Replica()
    setattr(replica.store, how, True)
    decision = decided(await replica.one()).decision
    assert decision.degraded == (
        ["store", "idempotency", *VIEWS] if how == "down" else ["idempotency"]
    )
    late = decided(await replica.one("a-2", late=True)).decision
    assert late.degraded == ["deadline", "idempotency", *VIEWS]


@pytest.mark.parametrize("how", ["down", "full"])
async def test_an_id_that_nobody_knows_is_refused_by_policy_before_anything_is_recorded(
    how: str,
) -> None:
    replica = Replica(unidentified={Channel.ECOM: "decide"})
    setattr(replica.store, how, True)
    shop, online = (replica.arrival(n, channel=c) for n, c in (("p", "pos"), ("e", Channel.ECOM)))
    refused, answered = await replica.decide(shop, online)
    assert refused == Unidentified()
    assert isinstance(answered, Decided)
    assert [d.authorization.authorization_id for d in replica.log.kept] == ["e"]
    assert replica.decider.sequence == 1
    setattr(replica.store, how, False)
    assert isinstance(await replica.one("p"), Decided)


async def test_a_full_store_still_says_what_was_answered() -> None:
    store = CountingStore()
    first, second = Replica(store), Replica(store, unidentified=REFUSE)
    said = decided(await first.one())
    store.full = True
    assert await second.one() == Replayed(said.answer)


async def test_an_answer_given_is_never_overwritten() -> None:
    """The second replica decided without the store, and answers when the first already has."""
    store = CountingStore()
    first, second, third = Replica(store), Replica(store), Replica(store)
    store.down = True
    race = decided(await second.one())
    store.down = False
    said = decided(await first.one())
    second.once.remember([(second.arrival(), race.answer)])
    store.remember([("test", "a-1", second.arrival().digest, race.answer)])
    assert await third.one() == Replayed(said.answer)


async def test_an_answer_given_stands_above_the_record_of_whoever_decides_now() -> None:
    store = CountingStore()
    first, second = Replica(store), Replica(store)
    await store.observe([second.arrival()])
    store.down = True
    said = decided(await first.one())
    store.down = False
    first.once.remember([(first.arrival(), said.answer)])
    assert await second.one() == Replayed(said.answer)


async def test_what_may_be_recorded_is_busy_while_nobody_can_say() -> None:
    replica = Replica()
    replica.log.error = Unavailable("no acknowledgement came")
    assert isinstance(await replica.one(), Unrecorded)
    replica.log.error = None
    replica.store.down = True
    assert await replica.one() == Busy()
    assert await replica.one(amount_minor=99) == Conflict()
    replica.store.down = False
    FakeWatermark(replica.store).lose("it was emptied")
    replica.clock.advance(60)  # past its idempotency record
    assert await replica.one() == Busy()
    assert replica.log.kept == []


async def test_what_became_durable_late_is_heard_by_whoever_asks_again() -> None:
    replica = Replica()
    replica.log.error = Unavailable("no acknowledgement came")
    await replica.one()
    assert replica.log.became is not None
    replica.log.became([])
    replica.store.down = True
    assert isinstance(await replica.one(), Replayed)


async def test_what_becomes_known_while_the_store_is_asked_is_heard() -> None:
    store = CountingStore()
    replica, other = Replica(store), Replica(store)
    replica.log.error = Unavailable("no acknowledgement came")
    await replica.one()
    replica.clock.advance(60)  # the store knows nothing of it any more
    store.gate = asyncio.Event()
    again = asyncio.ensure_future(replica.one())
    await asyncio.sleep(0)
    assert replica.log.became is not None
    replica.log.became([])
    store.empty()
    store.gate.set()
    heard = await again
    assert isinstance(heard, Replayed)
    assert await other.one() == heard
    assert await replica.one(amount_minor=99) == Conflict()


async def test_what_never_became_durable_is_decided_once_its_idempotency_record_ended() -> None:
    replica = Replica()
    replica.log.error = Unavailable("no acknowledgement came")
    await replica.one()
    replica.log.error = None
    assert await replica.one() == Busy()
    replica.clock.advance(60)
    assert isinstance(await replica.one(), Decided)


@pytest.mark.parametrize("code", [NOT_SENT, ""])
async def test_a_bug_or_an_unsent_record_leaves_no_id_busy_for_good(code: str) -> None:
    replica = Replica()
    if code:
        replica.log.error = Unavailable("the queue is full", code=code)
        await replica.one()
        replica.log.error = None
    else:
        replica.scorer.value = "no scorer"
        with pytest.raises(AttributeError):
            await replica.one()
        replica.scorer.value = FakeScorer()
    assert isinstance(await replica.one(), Decided)


async def test_a_bug_in_the_log_may_have_recorded_it() -> None:
    replica = Replica()
    replica.log.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        await replica.one()
    replica.log.error = None
    replica.store.down = True
    assert await replica.one() == Busy()


async def test_the_memory_is_bounded_by_entries_and_by_age() -> None:
    replica = Replica(unidentified=REFUSE, entries_max=3, age_max_s=10)
    for n in range(5):
        await replica.one(f"a-{n}")
    assert len(replica.once) == 3
    replica.store.down = True
    assert [type(await replica.one(f"a-{n}")) for n in range(5)] == [
        *[Unidentified] * 2,
        *[Replayed] * 3,
    ]
    replica.clock.advance(11)
    assert await replica.one("a-4") == Unidentified()
    replica.store.down = False
    await replica.one("b-0")
    assert len(replica.once) == 1


async def test_what_the_log_tells_is_known_and_of_one_id_the_first_counts() -> None:
    replica, writer = Replica(unidentified=REFUSE), Replica()
    said = decided(await writer.one())
    auth, at = writer.arrival(), NOON_US
    replica.once.learn(
        [
            Answered(auth.auth.tenant, "a-1", auth.digest, said.answer, at),
            Answered(auth.auth.tenant, "a-1", auth.digest, b"another", at + 1),
        ]
    )
    replica.store.down = True
    assert await replica.one() == Replayed(said.answer)
