"""The decline-share breaker: what it counts, when it trips, and what it forgets."""

from __future__ import annotations

from sluice.application.breaker import BUCKETS, OTHERS, TENANTS_MAX, DeclineBreaker, Trip
from sluice.testing.factories import make_authorization

BANK, SHOP = (make_authorization("a", tenant=name) for name in ("bank", "shop"))
RULE, MODEL = 1, 2


def causes(mask: int) -> list[str]:
    return [name for bit, name in ((RULE, "rule r"), (MODEL, "model")) if mask & bit]


def feed(breaker: DeclineBreaker, rows: int, declined: int, mask: int = RULE) -> list[Trip]:
    """One decision a batch, the declines spread evenly over them."""
    trips = []
    for i in range(rows):
        hit = (i + 1) * declined // rows > i * declined // rows
        trips += breaker.add([BANK], [(0, mask)] if hit else [], causes)
    return trips


def test_a_share_within_the_bound_never_trips() -> None:
    breaker = DeclineBreaker(300_000, 1000)
    assert feed(breaker, 10_000, 2900) == []


def test_a_share_past_the_bound_trips_within_a_window() -> None:
    breaker = DeclineBreaker(300_000, 1000)
    assert feed(breaker, 5000, 0) == []
    first, *_ = feed(breaker, 1000, 500)
    assert (first.tenant, first.cause, first.kind) == ("bank", "rule r", "rule")
    assert first.declined * 10 > first.rows * 3
    assert first.rows < 1000 + 1000 // BUCKETS + 1


def test_what_declines_everything_trips_at_the_bound_of_a_window_not_at_its_end() -> None:
    breaker = DeclineBreaker(300_000, 1000)
    assert feed(breaker, 300, 300) == []
    assert feed(breaker, 1, 1) == [Trip("bank", "rule r", 301, 301)]


def test_a_large_batch_is_counted_as_its_rows_are() -> None:
    breaker = DeclineBreaker(300_000, 1000)
    assert breaker.add([BANK] * 500, [(i, RULE) for i in range(300)], causes) == []
    assert breaker.add([BANK] * 500, [(7, RULE)], causes) == [Trip("bank", "rule r", 301, 1000)]


def test_each_cause_of_a_decline_is_counted_by_itself() -> None:
    breaker = DeclineBreaker(300_000, 1000)
    assert feed(breaker, 200, 200, RULE) == []
    assert feed(breaker, 200, 200, MODEL) == []
    tripped = {trip.cause for trip in feed(breaker, 101, 101, RULE | MODEL)}
    assert tripped == {"rule r", "model"}


def test_one_tenants_declines_are_not_anothers() -> None:
    breaker = DeclineBreaker(300_000, 1000)
    for _ in range(301):
        trips = breaker.add([BANK, SHOP, SHOP, SHOP], [(1, RULE)], causes)
    assert [trip.tenant for trip in trips] == ["shop"]


def test_old_decisions_leave_the_window() -> None:
    breaker = DeclineBreaker(300_000, 1000)
    feed(breaker, 300, 300)
    feed(breaker, 1000 + 1000 // BUCKETS, 0)
    assert feed(breaker, 300, 300) == []


def test_cleared_it_counts_anew() -> None:
    breaker = DeclineBreaker(300_000, 1000)
    feed(breaker, 300, 300)
    breaker.clear()
    assert feed(breaker, 300, 300) == []
    assert feed(breaker, 1, 1)


def test_a_bound_of_everything_never_trips() -> None:
    assert feed(DeclineBreaker(1_000_000, 100), 1000, 1000) == []


def test_tenants_beyond_the_limit_share_a_window() -> None:
    breaker = DeclineBreaker(300_000, 1000)
    for i in range(TENANTS_MAX):
        breaker.add([make_authorization("a", tenant=f"t-{i}")], [], causes)
    many = [make_authorization("a", tenant=f"x-{i}") for i in range(301)]
    (trip,) = breaker.add(many, [(i, RULE) for i in range(301)], causes)
    assert trip == Trip(OTHERS, "rule r", 301, 301)
