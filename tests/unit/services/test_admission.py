"""Who is let in, who stands, who is refused and when: against slow references, in virtual time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.decider.admission import (
    FULL,
    IDLE_S,
    INTERVAL_S,
    LATE,
    LIMIT_MIN,
    OUTRANKED,
    STAND,
    STEP_DOWN,
    TARGET,
    TOLD_AT_ONCE,
    TOLD_PER_DECIDED,
    UNTOLD_MAX_S,
    Admission,
    Limit,
    Pace,
    Room,
    Standing,
    Weights,
    priority,
)
from sluice.domain.records.authorization import encode
from sluice.errors import Misconfigured, Rejected
from sluice.testing.factories import make_arrival, make_authorization
from tests.support import virtual
from tests.support.virtual import VirtualLoop

DEADLINE_MS = 50
TARGET_US = 12_500
INTERVAL_US = round(INTERVAL_S * 1_000_000)


# ------------------------------------------------------------ the limit


class SlowLimit:
    """Keeps every sample, and looks at all of them at the end of each interval."""

    def __init__(self, most: int) -> None:
        self.exact, self.most = float(most), most
        self.samples: list[tuple[int, int, int]] = []
        self.began: int | None = None

    def decided(self, now_us: int, age_us: int, inside: int) -> None:
        self.samples.append((now_us, age_us, inside))
        if self.began is None:
            self.began, self.samples = now_us, []
        elif now_us >= self.began + INTERVAL_US:
            ages = [age if inside > LIMIT_MIN else 0 for _, age, inside in self.samples]
            if min(ages) > TARGET_US:
                reached = min(self.exact, max(inside for _, _, inside in self.samples))
                self.exact = max(LIMIT_MIN, reached * max(STEP_DOWN, TARGET_US / min(ages)))
            else:
                self.exact += math.sqrt(self.exact)
            self.exact = min(self.exact, self.most)
            self.began, self.samples = now_us, []


@given(
    st.integers(1, 300),
    st.lists(
        st.tuples(st.integers(1, 150_000), st.integers(0, 60_000), st.integers(1, 300)),
        max_size=80,
    ),
)
def test_the_limit_is_that_of_a_reference_that_keeps_all_samples(
    most: int, steps: list[tuple[int, int, int]]
) -> None:
    limit, slow, now = Limit(TARGET_US, most), SlowLimit(most), 1
    for step, age, inside in steps:
        now += step
        limit.decided(now, age, inside)
        slow.decided(now, age, inside)
        assert limit.value == int(slow.exact)
        assert min(LIMIT_MIN, most) <= limit.value <= most


def feed(limit: Limit, age_us: int, *, intervals: int, inside: int = 128, begin: int = 1) -> int:
    """So many intervals of batches, all of one age. Returns when they end."""
    for n in range(10 * intervals + 1):
        limit.decided(begin + n * INTERVAL_US // 10, age_us, inside)
    return begin + intervals * INTERVAL_US


def test_a_queue_that_stands_lowers_the_limit_in_proportion_to_its_age() -> None:
    limit = Limit(TARGET_US, 128)
    feed(limit, TARGET_US * 5 // 4, intervals=1)
    assert limit.value == int(128 * 4 / 5)
    limit = Limit(TARGET_US, 128)
    end = feed(limit, 100 * TARGET_US, intervals=1)
    assert limit.value == 64, "at most halved at once"
    feed(limit, 100 * TARGET_US, intervals=10, begin=end)
    assert limit.value == LIMIT_MIN


def test_a_burst_lowers_nothing_as_long_as_one_batch_of_the_interval_is_young() -> None:
    limit = Limit(TARGET_US, 128)
    for n in range(200):
        limit.decided(1 + n * 10_000, 0 if n % 9 == 0 else 50_000, 128)
    assert limit.value == 128


def test_few_that_are_old_are_no_overload() -> None:
    limit = Limit(TARGET_US, 128)
    feed(limit, 1_000_000, intervals=20, inside=LIMIT_MIN)
    assert limit.value == 128


def test_the_limit_comes_back_from_its_least_within_three_seconds() -> None:
    limit = Limit(TARGET_US, 128)
    end = feed(limit, 100 * TARGET_US, intervals=10)
    assert limit.value == LIMIT_MIN
    feed(limit, 1_000, intervals=30, begin=end)
    assert limit.value == 128


# ------------------------------------------------------------ the room


class SlowRoom:
    """Sorts all that ever stood here."""

    def __init__(self) -> None:
        self.all: list[tuple[float, int, float]] = []
        self.number = 0

    def enter(self, value: float, since: float, places: int) -> int | None:
        self.all.append((value, self.number, since))
        self.number += 1
        if len(self.all) <= places:
            return None
        least = min(self.all, key=lambda one: (one[0], -one[1]))
        self.all.remove(least)
        return least[1]

    def leave(self) -> int:
        most = max(self.all, key=lambda one: (one[0], -one[1]))
        self.all.remove(most)
        return most[1]

    def expire(self, before: float) -> set[int]:
        gone = {number for _, number, since in self.all if since <= before}
        self.all = [one for one in self.all if one[1] not in gone]
        return gone


def nothing(*_: object) -> None:
    """Nobody asks."""


def number(one: Standing) -> int:
    return -1 - one.number


@given(
    st.integers(1, 6),
    st.lists(
        st.one_of(
            st.tuples(st.just("enter"), st.sampled_from([0.0, 1.0, 2.0, 3.0])),
            st.tuples(st.just("leave"), st.just(0.0)),
            st.tuples(st.just("expire"), st.sampled_from([1.0, 3.0, 10.0])),
        ),
        max_size=60,
    ),
)
def test_the_room_holds_the_most_important_as_a_reference_that_sorts_all(
    places: int, steps: list[tuple[str, float]]
) -> None:
    room, slow = Room(), SlowRoom()
    for now, (what, given_) in enumerate(steps):
        if what == "enter":
            pushed = room.enter(given_, float(now), nothing, nothing, places)
            assert (None if pushed is None else number(pushed)) == slow.enter(
                given_, float(now), places
            )
        elif what == "leave" and len(room):
            assert number(room.leave()) == slow.leave()
        elif what == "expire":
            assert set(map(number, room.expire(now - given_))) == slow.expire(now - given_)
        assert len(room) == len(slow.all) <= places
        assert room.oldest() == min((one[2] for one in slow.all), default=math.inf)


# ------------------------------------------------------------ who hears when


def at(
    moments: Sequence[tuple[float, Callable[[], object]]],
    until: float,
    loop: VirtualLoop | None = None,
) -> None:
    """Call each at its moment of a virtual loop, which then runs on until the end."""
    loop = loop or VirtualLoop()

    async def story() -> None:
        for moment, call in sorted(moments, key=lambda one: one[0]):
            await asyncio.sleep(moment - asyncio.get_running_loop().time())
            call()
        await asyncio.sleep(until - asyncio.get_running_loop().time())

    virtual.run(loop, story())


def told_at(decisions: list[float], refusals: list[float], until: float) -> list[float]:
    """The moments at which each refusal is told, in their order."""
    loop = VirtualLoop()
    pace, told = Pace(), dict[int, float]()

    def refuse(n: int) -> None:
        pace.refused(lambda: told.update({n: loop.time()}))

    at(
        [(moment, pace.decided) for moment in decisions]
        + [(moment, partial(refuse, n)) for n, moment in enumerate(refusals)],
        until,
        loop,
    )
    assert len(pace) == 0
    assert len(told) == len(refusals)
    return [told[n] for n in range(len(refusals))]


def test_refusals_beyond_the_pace_are_told_as_decisions_allow() -> None:
    """1,000 decisions a second, and ten times as many refusals for half a second."""
    decisions = [n / 1000 for n in range(1, 3000)]
    refusals = [0.0005 + n / 10_000 for n in range(5000)]
    told = told_at(decisions, refusals, 4.0)
    assert told == sorted(told), "in their order"
    within = [moment for moment in told if moment <= 0.5]
    assert len(within) == pytest.approx(TOLD_AT_ONCE + TOLD_PER_DECIDED * 500, abs=2)
    assert max(t - r for t, r in zip(told, refusals, strict=True)) <= UNTOLD_MAX_S + IDLE_S


def test_few_refusals_are_told_at_once() -> None:
    decisions = [n / 1000 for n in range(1, 4000)]
    refusals = [0.1005 + n / (1000 * TOLD_PER_DECIDED) for n in range(500)]
    assert told_at(decisions, refusals, 4.0) == refusals


def test_while_nothing_is_decided_all_are_told_at_once() -> None:
    refusals = [1.0 + n / 10_000 for n in range(5000)]
    assert told_at([0.5], refusals, 2.0) == refusals


def test_who_waited_to_hear_it_hears_when_decisions_stop() -> None:
    decisions = [n / 1000 for n in range(200)]
    refusals = [0.1 + n / 10_000 for n in range(900)]
    assert max(told_at(decisions, refusals, 2.0)) <= 0.2 + 2 * IDLE_S


# ------------------------------------------------------------ what is at stake


def reference(amount_minor: int, currency: str) -> int:
    if currency == "XXX":
        raise Rejected("no rate", code="no_rate")
    return amount_minor * (2 if currency == "GBP" else 1)


def make_admission(in_flight_max: int = 64, weights: str = "") -> Admission:
    return Admission(
        deadline_ms=DEADLINE_MS,
        in_flight_max=in_flight_max,
        weights=Weights(weights),
        reference=reference,
    )


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({}, 1000),
        ({"currency": "GBP"}, 2000),
        ({"channel": "atm"}, 3000),
        ({"tenant": "bank-a"}, 500),
        ({"channel": "atm", "tenant": "bank-a"}, 1500),
        ({"currency": "XXX"}, 0),
    ],
)
def test_the_value_is_the_amount_times_its_weights(changes: dict[str, Any], value: float) -> None:
    admission = make_admission(weights="channel.atm=3,tenant.bank-a=0.5")
    auth = make_authorization(amount_minor=1000, **changes)
    assert admission.value(encode(auth)) == value
    if changes.get("currency") is None:
        assert admission.value_of(make_arrival(amount_minor=1000, **changes)) == value


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"\xff", b"[" * 10_000, b'{"amount_minor":"1000","currency":"EUR"}', b"{}"]
)
def test_what_cannot_be_read_is_worth_nothing(body: bytes) -> None:
    assert make_admission().value(body) == 0


@pytest.mark.parametrize(
    "said",
    [
        *("atm=2", "channel.atm", "channel.atm=0", "channel.atm=-1", "channel.atm=nan"),
        *("tenant.=1", "channel.ATM=2", "region.eu=2", "tenant.a=1e9"),
    ],
)
def test_a_weight_that_is_none_refuses_to_start_and_names_the_setting(said: str) -> None:
    with pytest.raises(Misconfigured) as raised:
        Weights(said)
    assert raised.value.where == "decider.priority"
    assert said in str(raised.value)


def test_every_value_has_a_class() -> None:
    found = [priority(10.0**n) for n in range(9)]
    assert found == ["lowest"] * 3 + ["low", "high"] + ["highest"] * 4


# ------------------------------------------------------------ together


class Caller:
    """Stands, and remembers what became of it."""

    def __init__(self, admission: Admission, amount: int, heard: list[tuple[str, int]]) -> None:
        self._admission, self._amount, self._heard = admission, amount, heard

    def come(self) -> None:
        if self._admission.full:
            body = encode(make_authorization(amount_minor=self._amount))
            self._admission.stand(body, self._in, lambda: self._heard.append(("no", self._amount)))
        else:
            self._in()

    def _in(self, _stood_us: int = 0) -> None:
        self._admission.inside += 1
        self._heard.append(("in", self._amount))


def test_the_most_important_goes_first_and_only_when_it_must_be_chosen() -> None:
    """Of 64 the limit is 48: so many are let in as they come. Then 16 may stand."""
    admission, heard = make_admission(), list[tuple[str, int]]()
    come = [Caller(admission, amount, heard).come for amount in range(1, 49)]
    at([(0.001, call) for call in come], 0.01)
    assert heard == [("in", amount) for amount in range(1, 49)], "in their order"
    assert admission.in_flight == 48
    assert not admission.shed

    heard.clear()
    amounts = [(n * 37) % 64 + 1000 for n in range(64)]
    come = [Caller(admission, amount, heard).come for amount in amounts]
    at([(0.001, call) for call in come] + [(0.002, partial(admission.leave, 5))], 0.003)
    assert [a for what, a in heard if what == "in"] == [1063, 1062, 1061, 1060, 1059]
    assert {a for what, a in heard if what == "no"} == set(range(1000, 1048))
    assert admission.shed == {(OUTRANKED, "low"): 48}


def test_who_stood_too_long_is_refused() -> None:
    admission, heard = make_admission(), list[tuple[str, int]]()
    admission.inside = admission.limit.value
    loop = VirtualLoop()
    moments: list[float] = []

    def come(amount: int) -> None:
        body = encode(make_authorization(amount_minor=amount))
        admission.stand(body, nothing, lambda: moments.append(loop.time()))

    stand_s = DEADLINE_MS * STAND / 1000
    at([(0.5, partial(come, 100)), (0.51, partial(come, 200_000))], 2.0, loop)
    assert moments == pytest.approx([0.5 + stand_s, 0.51 + stand_s])
    assert admission.shed == {(LATE, "lowest"): 1, (LATE, "highest"): 1}
    assert heard == []


def test_where_nobody_may_stand_who_comes_is_refused_at_once() -> None:
    admission, heard = make_admission(in_flight_max=4), list[tuple[str, int]]()
    come = [Caller(admission, amount, heard).come for amount in range(1, 7)]
    at([(0.001, call) for call in come], 0.01)
    assert heard == [("in", 1), ("in", 2), ("in", 3), ("in", 4), ("no", 5), ("no", 6)]
    assert admission.shed == {(FULL, "lowest"): 2}


@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=150), st.integers(1, 80))
def test_everyone_hears_exactly_once_and_the_bound_holds(amounts: list[int], bound: int) -> None:
    admission, heard = make_admission(in_flight_max=bound), list[tuple[str, int]]()

    def come(amount: int) -> None:
        Caller(admission, amount, heard).come()
        assert admission.in_flight - len(admission.pace) <= bound

    at([(n * 0.001, partial(come, amount)) for n, amount in enumerate(amounts)], 3.0)
    assert sorted(a for _, a in heard) == sorted(amounts)
    assert sum(admission.shed.values()) == sum(what == "no" for what, _ in heard)


def test_one_that_leaves_as_soon_as_it_is_let_in_lets_the_next_one_in() -> None:
    """A body that turns out to be wrong; a thousand of them are no depth of calls."""
    admission = make_admission(in_flight_max=4000)
    admission.inside = admission.limit.value
    left: list[int] = []

    def take(_stood_us: int) -> None:
        admission.inside += 1
        left.append(admission.inside)
        admission.leave()

    def come() -> None:
        admission.stand(b"{", take, nothing)

    at([(0.001, come) for _ in range(1000)] + [(0.002, admission.leave)], 0.01)
    assert len(left) == 1000
    assert admission.in_flight == admission.limit.value - 1


def test_closing_tells_all_who_wait() -> None:
    admission, heard = make_admission(), list[tuple[str, int]]()
    come = [Caller(admission, amount, heard).come for amount in range(1, 201)]
    at(
        [(0.001, admission.pace.decided), *((0.001, c) for c in come), (0.002, admission.close)],
        0.01,
    )
    assert sorted(a for _, a in heard) == list(range(1, 201))


def test_what_two_waits_leave_of_the_deadline_is_what_a_batch_must_find() -> None:
    assert TARGET + STAND <= 0.8
