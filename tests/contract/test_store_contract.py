"""The online store: the fake and the adapter on a real Valkey keep the same promises."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

from sluice.adapters.layout import COMPILED
from sluice.adapters.redis import figures
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.adapters.redis.online import RedisOnlineStore
from sluice.adapters.redis.states import RedisStateStore
from sluice.adapters.redis.watermark import RedisWatermark
from sluice.application.ports import Lookup, OnlineStore, StateStore, StateUpdate
from sluice.domain.features.states import etag
from sluice.domain.records.decision import MAX_PENDING
from sluice.domain.records.entity import ENTITY_KINDS
from sluice.errors import Unavailable
from sluice.testing.store import FakeClock, FakeStore, FakeWatermark
from tests.support.arrivals import arrival, state

KEYS = {"card": "card-1", "terminal": "term-1", "merchant": "merch-1", "device": "dev-1"}


class Harness:
    """A store through both ports, and the means to make it fail."""

    store: OnlineStore
    states: StateStore
    clock: FakeClock

    async def break_view(self, kind: str) -> None:
        raise NotImplementedError

    def lose_states(self) -> None:
        raise NotImplementedError

    async def stop(self) -> None:
        raise NotImplementedError

    async def resume(self) -> None:
        raise NotImplementedError

    async def eventually(self, attempt: Callable[[], Awaitable[bool]]) -> None:
        """Let time pass until the attempt succeeds, a minute of it at most."""
        for _ in range(1200):
            if await attempt():
                return
            self.clock.advance(0.05)
            await self.wait(0.05)
        raise AssertionError("it did not come true within a minute")

    async def wait(self, seconds: float) -> None:
        """Of the store's own time."""


class FakeHarness(Harness):
    def __init__(self, budget_s: float, **ttls: float) -> None:
        self.clock = FakeClock()
        self.store = self.states = self.fake = FakeStore(self.clock, **ttls)

    async def break_view(self, kind: Any) -> None:
        self.fake.missing.add(kind)

    def lose_states(self) -> None:
        FakeWatermark(self.fake).lose("")

    async def stop(self) -> None:
        self.fake.down = True

    async def resume(self) -> None:
        self.fake.down = False


class RedisHarness(Harness):
    """On one server or on a cluster, by the URL."""

    def __init__(self, url: str, budget_s: float, **ttls: float) -> None:
        self.clock = FakeClock()
        self.store = self.redis = RedisOnlineStore(
            url, self.clock, budget_s=budget_s, identify_budget_s=budget_s, **ttls
        )
        self.states = self.blocking = RedisStateStore(url, timeout_s=budget_s)
        self.watermark = RedisWatermark(url)
        self.processes: list[int] = []

    async def open(self) -> None:
        for node in self.blocking.connection.everywhere:
            flushed, info = node.call(pack(b"FLUSHALL") + figures.ASK, 2)
            assert flushed == b"OK"
            self.processes.append(figures.read(info).process_id)
        await self.redis.open()
        self.watermark.initialise()

    async def close(self) -> None:
        await self.redis.close()
        self.blocking.close()
        self.watermark.close()

    async def break_view(self, kind: Any) -> None:
        key = COMPILED[kind].key(KEYS[kind])
        commands = [pack(b"DEL", key), pack(b"SET", key, b"not a hash")]
        assert self.blocking.connection.each(commands, [key, key])[1] == b"OK"

    def lose_states(self) -> None:
        self.watermark.lose("")

    async def stop(self) -> None:
        for process in self.processes:
            os.kill(process, signal.SIGSTOP)

    async def resume(self) -> None:
        for process in self.processes:
            os.kill(process, signal.SIGCONT)

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedStore]:
    with EmbeddedStore() as running:
        yield running


@pytest_asyncio.fixture(params=["fake", "valkey", "cluster"])
async def harnesses(
    request: pytest.FixtureRequest,
) -> AsyncIterator[Callable[..., Awaitable[Harness]]]:
    """Makes a world with its own times to live; of a budget that a busy machine keeps too."""
    opened: list[RedisHarness] = []

    async def make(*, budget_s: float = 10.0, **ttls: float) -> Harness:
        if request.param == "fake":
            return FakeHarness(budget_s, **ttls)
        name = "server" if request.param == "valkey" else "store_cluster"
        harness = RedisHarness(request.getfixturevalue(name).url, budget_s, **ttls)
        await harness.open()
        opened.append(harness)
        return harness

    yield make
    for harness in opened:
        await harness.resume()
        await harness.close()


@pytest_asyncio.fixture
async def harness(harnesses: Callable[..., Awaitable[Harness]]) -> Harness:
    return await harnesses()


def ids(reply: Any) -> list[str]:
    return [entry.authorization_id for entry in reply.pending]


async def test_entities_never_written_read_as_empty(harness):
    (reply,) = await harness.store.observe([arrival()])
    assert (reply.card, reply.terminal, reply.merchant, reply.device) == (b"", b"", b"", b"")
    assert reply.pending == ()
    assert reply.earlier is None
    assert not reply.in_progress_elsewhere
    assert not reply.conflict


async def test_written_states_are_observed_each_under_its_own_view(harness):
    updates = [
        StateUpdate(kind, key, b"", state(1, kind.encode()), 5) for kind, key in KEYS.items()
    ]
    assert harness.states.write(updates) == [True] * 4
    (reply,) = await harness.store.observe([arrival()])
    assert [reply.card, reply.terminal, reply.merchant, reply.device] == [
        state(1, kind.encode()) for kind in ENTITY_KINDS
    ]


async def test_a_store_that_lost_states_serves_none_and_still_knows_ids_and_answers(harness):
    harness.states.write([StateUpdate("card", "card-1", b"", state(1), 5)])
    await harness.store.observe([arrival("a-1"), arrival("a-2")])
    harness.store.remember([(arrival("a-1"), b"answer")])
    harness.lose_states()
    again, other, fresh = await harness.store.observe(
        [arrival("a-1"), arrival("a-2", digest=b"digest-2"), arrival("a-3")]
    )
    assert (again.earlier, other.conflict) == (b"answer", True)
    for reply in (again, other, fresh):
        assert (reply.card, reply.terminal, reply.merchant, reply.device) == (None,) * 4
        assert (reply.lost, reply.pending) == (True, ())


async def test_an_authorization_without_a_device_reads_an_empty_device(harness):
    harness.states.write([StateUpdate("device", "dev-1", b"", state(1), 5)])
    without, with_device = await harness.store.observe(
        [arrival("a-1", device=None), arrival("a-2", device="dev-1")]
    )
    assert without.device == b""
    assert with_device.device == state(1)


async def test_an_empty_batch_needs_no_store(harness):
    assert await harness.store.observe([]) == []


async def test_of_two_arrivals_of_one_card_the_second_sees_the_first(harness):
    first, other, second = await harness.store.observe(
        [arrival("a-1"), arrival("b-1", card="card-2"), arrival("a-2")]
    )
    assert ids(first) == []
    assert ids(other) == []
    assert ids(second) == ["a-1"]


async def test_pending_entries_cross_batches_in_the_order_they_came(harness):
    for i in range(3):
        await harness.store.observe([arrival(f"a-{i}")])
    (reply,) = await harness.store.observe([arrival("a-3")])
    assert ids(reply) == ["a-0", "a-1", "a-2"]


async def test_a_pending_entry_carries_what_the_kernel_needs(harness):
    _, reply = await harness.store.observe([arrival("a-1"), arrival("a-2")])
    (entry,) = reply.pending
    assert entry.amount_minor == 1999
    assert entry.event_us == 1_780_000_000_000_000
    assert entry.mcc == 5411
    assert entry.left_at == harness.clock.now_us()
    assert min(entry.merchant_tag, entry.device_tag, entry.country, entry.currency) > 0
    assert entry.channel > 0


async def test_tenants_do_not_see_each_other_s_idempotency_records_or_pending_entries(harness):
    _, reply = await harness.store.observe([arrival(tenant="acme"), arrival(tenant="bell")])
    assert reply.pending == ()
    assert not reply.in_progress_elsewhere


async def test_only_the_newest_pending_entries_are_kept(harness):
    await harness.store.observe([arrival(f"a-{i}") for i in range(MAX_PENDING + 10)])
    (reply,) = await harness.store.observe([arrival("last")])
    assert ids(reply) == [f"a-{i}" for i in range(11, MAX_PENDING + 10)]


async def test_a_pending_entry_is_ignored_past_its_time(harnesses):
    harness = await harnesses(pending_ttl_s=30)
    await harness.store.observe([arrival("old")])
    harness.clock.advance(20)
    await harness.store.observe([arrival("young")])
    harness.clock.advance(11)
    (reply,) = await harness.store.observe([arrival("now")])
    assert ids(reply) == ["young"]


async def test_the_same_id_from_elsewhere_is_in_progress_until_it_is_answered(harness):
    at_http = arrival(received_at=1)
    await harness.store.observe([at_http])
    for again in (arrival(received_at=2), arrival(offset=7)):
        (reply,) = await harness.store.observe([again])
        assert reply.in_progress_elsewhere
        assert not reply.conflict
        assert reply.earlier is None
    harness.store.remember([(at_http, b'{"outcome":"approve"}')])
    for again in (arrival(received_at=3), arrival(offset=7)):
        (reply,) = await harness.store.observe([again])
        assert reply.earlier == b'{"outcome":"approve"}'
        assert not reply.in_progress_elsewhere


async def test_the_same_http_arrival_observed_twice_is_not_ours_again(harness):
    await harness.store.observe([arrival(received_at=1)])
    (reply,) = await harness.store.observe([arrival(received_at=1)])
    assert reply.in_progress_elsewhere


async def test_a_redelivery_from_the_same_offset_takes_up_its_own_idempotency_record(harness):
    await harness.store.observe([arrival(offset=7)])
    (again,) = await harness.store.observe([arrival(offset=7, received_at=99)])
    assert not again.in_progress_elsewhere
    assert again.earlier is None
    (other,) = await harness.store.observe([arrival(offset=8)])
    assert other.in_progress_elsewhere


async def test_the_same_id_with_other_content_conflicts_before_and_after_the_answer(harness):
    first = arrival(offset=7)
    await harness.store.observe([first])
    (before,) = await harness.store.observe([arrival(offset=8, digest=b"digest-2")])
    assert before.conflict
    harness.store.remember([(first, b"answer")])
    (after,) = await harness.store.observe([arrival(offset=7, digest=b"digest-2")])
    assert after.conflict
    assert after.earlier is None
    assert not after.in_progress_elsewhere


async def test_duplicates_inside_one_batch_meet_the_idempotency_record_of_the_first(harness):
    first, second, third = await harness.store.observe(
        [arrival(offset=1), arrival(offset=2), arrival(offset=3, digest=b"digest-2")]
    )
    assert not first.in_progress_elsewhere
    assert second.in_progress_elsewhere
    assert third.conflict


async def test_an_arrival_that_will_not_be_decided_leaves_no_pending_entry(harness):
    # A conflict may name another card: its entry would count a purchase that never was.
    await harness.store.observe([arrival("a-1")])
    await harness.store.observe([arrival("a-1", card="card-2", digest=b"digest-2")])
    (reply,) = await harness.store.observe([arrival("a-2", card="card-2")])
    assert ids(reply) == []


async def test_an_id_asked_for_repeatedly_is_pending_once(harness):
    for offset in (7, 7, 8, 9):
        await harness.store.observe([arrival("a-1", offset=offset)])
    (reply,) = await harness.store.observe([arrival("a-2")])
    assert ids(reply) == ["a-1"]


async def test_a_idempotency_record_ends_with_its_time(harnesses):
    harness = await harnesses(in_progress_ttl_s=1.5)
    await harness.store.observe([arrival()])
    tries = iter(range(2, 1000))

    async def free() -> bool:
        (reply,) = await harness.store.observe([arrival(received_at=next(tries))])
        return not reply.in_progress_elsewhere

    assert not await free()
    await harness.eventually(free)


async def test_an_answer_ends_with_its_time(harnesses):
    harness = await harnesses(answer_ttl_s=1.5)
    await harness.store.observe([arrival()])
    harness.store.remember([(arrival(), b"answer")])

    async def forgotten() -> bool:
        (reply,) = await harness.store.observe([arrival(received_at=2)])
        return reply.earlier is None

    assert not await forgotten()
    await harness.eventually(forgotten)


async def test_a_released_idempotency_record_is_free_at_once(harness):
    await harness.store.observe([arrival(received_at=1)])
    harness.store.release([arrival(received_at=1)])
    (reply,) = await harness.store.observe([arrival(received_at=2)])
    assert not reply.in_progress_elsewhere


async def test_release_leaves_the_idempotency_records_and_answers_of_others(harness):
    await harness.store.observe([arrival("a-1", offset=1), arrival("a-2", offset=2)])
    harness.store.remember([(arrival("a-2", offset=2), b"answer")])
    harness.store.release([arrival("a-1", offset=5), arrival("a-2", offset=2)])
    records, decided = await harness.store.observe(
        [arrival("a-1", offset=6), arrival("a-2", offset=6)]
    )
    assert records.in_progress_elsewhere
    assert decided.earlier == b"answer"


async def test_the_featurizer_s_answer_replaces_the_idempotency_record_of_a_killed_decider(harness):
    await harness.store.observe([arrival()])
    harness.states.remember([("acme", "a-1", b"digest-1", b"answer")])
    (repeat, conflict) = await harness.store.observe(
        [arrival(received_at=2), arrival(received_at=3, digest=b"digest-2")]
    )
    assert repeat.earlier == b"answer"
    assert conflict.conflict


@pytest.mark.parametrize("kind", ENTITY_KINDS)
async def test_a_view_that_cannot_be_read_is_missing_alone(harness, kind):
    harness.states.write([StateUpdate(k, key, b"", state(1), 5) for k, key in KEYS.items()])
    await harness.break_view(kind)
    (reply,) = await harness.store.observe([arrival()])
    read = {k: getattr(reply, k) for k in ENTITY_KINDS}
    assert read == {k: None if k == kind else state(1) for k in ENTITY_KINDS}
    assert not reply.in_progress_elsewhere


async def test_states_are_read_in_the_order_asked_for(harness):
    harness.states.write([StateUpdate("card", "c-2", b"", state(2), 5)])
    assert harness.states.read([("card", "c-1"), ("card", "c-2"), ("device", "c-2")]) == [
        b"",
        state(2),
        b"",
    ]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 100_000])
async def test_a_state_of_any_size_is_swapped_by_its_version(harness, size):
    old, new = state(1, bytes(size)), state(2, bytes(size))
    assert harness.states.write([StateUpdate("card", "c", b"", old, 5)]) == [True]
    assert harness.states.write([StateUpdate("card", "c", etag(old), new, 6)]) == [True]
    assert harness.states.read([("card", "c")]) == [new]


async def test_of_two_writers_the_second_fails_and_changes_nothing(harness):
    harness.states.write([StateUpdate("card", "c", b"", state(1), 5)])
    seen = etag(state(1))
    won, lost = harness.states.write(
        [
            StateUpdate("card", "c", seen, state(2, b"ours"), 6),
            StateUpdate("card", "c", seen, state(3, b"zombie's"), 7),
        ]
    )
    assert (won, lost) == (True, False)
    assert harness.states.read([("card", "c")]) == [state(2, b"ours")]


async def test_each_of_many_writes_of_all_kinds_hears_what_became_of_it(harness):
    taken = [("terminal", f"e-{i}") for i in range(0, 300, 7)]
    assert all(harness.states.write([StateUpdate(k, key, b"", state(9), 5) for k, key in taken]))
    wanted = [(ENTITY_KINDS[i % 3], f"e-{i // 3}") for i in range(900)]
    done = harness.states.write(
        [StateUpdate(kind, key, b"", state(i + 1), 5) for i, (kind, key) in enumerate(wanted)]
    )
    assert done == [entity not in taken for entity in wanted]
    read = harness.states.read(wanted)
    assert read == [state(i + 1) if ok else state(9) for i, ok in enumerate(done)]


async def test_a_writer_that_expects_nothing_fails_where_something_is(harness):
    harness.states.write([StateUpdate("card", "c", b"", state(1), 5)])
    assert harness.states.write([StateUpdate("card", "c", b"", state(9), 6)]) == [False]


async def test_a_writer_that_expects_something_fails_where_nothing_is(harness):
    assert harness.states.write([StateUpdate("card", "c", etag(state(1)), state(2), 6)]) == [False]
    assert harness.states.read([("card", "c")]) == [b""]


async def test_keys_of_any_script_and_length_are_told_apart(harness):
    keys = ["naïve-卡-🂡", "k" * 5000, "k" * 5001, "a b", "*", "$3\r\nx\r\n"]
    updates = [StateUpdate("merchant", k, b"", state(i), 5) for i, k in enumerate(keys, 1)]
    assert all(harness.states.write(updates))
    read = harness.states.read([("merchant", key) for key in keys])
    assert read == [state(i) for i in range(1, len(keys) + 1)]


async def test_a_batch_of_thousands_keeps_its_order(harness):
    batch = [arrival(f"a-{i}", card=f"c-{i % 900}", offset=i) for i in range(2500)]
    harness.states.write([StateUpdate("card", f"c-{i}", b"", state(i + 1), 5) for i in range(900)])
    replies = await harness.store.observe(batch)
    assert [r.card for r in replies] == [state(i % 900 + 1) for i in range(2500)]
    assert ids(replies[2400]) == [f"a-{2400 - 1800}", f"a-{2400 - 900}"]


async def test_a_store_that_hangs_is_unavailable_and_serves_again_afterwards(harnesses):
    harness = await harnesses(budget_s=0.5)
    await harness.stop()
    with pytest.raises(Unavailable):
        await harness.store.observe([arrival()])
    with pytest.raises(Unavailable):
        harness.states.read([("card", "c")])
    with pytest.raises(Unavailable):
        harness.states.write([StateUpdate("card", "c", b"", state(1), 5)])
    harness.store.remember([(arrival(), b"answer")])
    harness.store.release([arrival()])
    await harness.resume()

    async def serves() -> bool:
        try:
            await harness.store.observe([arrival("a-9", received_at=9)])
            harness.states.read([("card", "c")])
        except Unavailable:
            return False
        return True

    await harness.eventually(serves)


async def test_an_id_alone_is_taken_or_says_who_has_it(harness):
    first = arrival(received_at=1)
    (taken,) = await harness.store.identify([first])
    assert taken == Lookup(None, None, None, None)
    for again in (arrival(received_at=2), arrival(offset=7)):
        (reply,) = await harness.store.identify([again])
        assert reply.in_progress_elsewhere
    (other,) = await harness.store.identify([arrival(digest=b"digest-2", received_at=3)])
    assert other.conflict
    harness.store.remember([(first, b"answer")])
    for ask in (harness.store.observe, harness.store.identify):
        (reply,) = await ask([arrival(received_at=4)])
        assert reply.earlier == b"answer"


@pytest.mark.parametrize("offset", [None, 7])
async def test_an_id_that_a_read_took_before_it_failed_is_taken_up(harness, offset):
    first = arrival(offset=offset)
    await harness.store.observe([first])
    (again,) = await harness.store.identify([first])
    assert again == Lookup(None, None, None, None)
    (elsewhere,) = await harness.store.identify([arrival(received_at=2)])
    assert elsewhere.in_progress_elsewhere


async def test_ids_alone_leave_nothing_pending(harness):
    await harness.store.identify([arrival("a-1")])
    (reply,) = await harness.store.observe([arrival("a-2")])
    assert ids(reply) == []


async def test_an_answer_is_never_overwritten_by_either_side(harness):
    first, second = arrival(received_at=1), arrival(received_at=2)
    await harness.store.observe([first])
    harness.store.remember([(first, b"first")])
    harness.store.remember([(second, b"second"), (arrival("a-2"), b"other")])
    harness.states.remember([("acme", "a-1", b"digest-2", b"third")])
    known, other = await harness.store.observe([arrival(received_at=3), arrival("a-2")])
    assert (known.earlier, other.earlier) == (b"first", b"other")


async def test_an_answer_stands_above_the_idempotency_record_of_whoever_decides_now(harness):
    await harness.store.observe([arrival(received_at=1)])
    harness.store.remember([(arrival(received_at=2), b"answer")])
    harness.store.release([arrival(received_at=1)])
    harness.store.remember([(arrival(received_at=1), b"too late")])
    (reply,) = await harness.store.observe([arrival(received_at=3)])
    assert reply.earlier == b"answer"


async def test_more_answers_than_a_script_takes_are_all_kept(harness):
    many = [arrival(f"a-{n}") for n in range(150)]
    harness.store.remember([(each, b"decider") for each in many[:75]])
    harness.states.remember(
        [("acme", each.auth.authorization_id, each.digest, b"featurizer") for each in many]
    )
    replies = await harness.store.identify(many)
    assert [reply.earlier for reply in replies] == [b"decider"] * 75 + [b"featurizer"] * 75


async def test_ids_of_a_store_that_is_down_are_unavailable(harnesses):
    harness = await harnesses(budget_s=0.5)
    await harness.stop()
    with pytest.raises(Unavailable):
        await harness.store.identify([arrival()])
