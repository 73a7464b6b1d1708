"""The store's watermark: the fake and the adapter on a real Valkey keep the same promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import pytest

from sluice.adapters.redis.blocking_cluster import blocking
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.adapters.redis.watermark import KEY
from sluice.application.ports import (
    CATCHING_UP,
    LOST,
    MISSING,
    READY,
    REBUILDING,
    STORE_LOST,
    UNKNOWN,
    Offsets,
    StateUpdate,
    Store,
    WatermarkStore,
)
from sluice.bootstrap.services import store_at
from sluice.domain.features.stateformat import NOTE, TABLES, note
from sluice.errors import Unavailable
from sluice.testing.store import FakeClock, FakeStore, FakeStores

FIRST, SECOND = ("w.decisions.v1", 0), ("w.decisions.v1", 1)


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedStore]:
    with EmbeddedStore() as running:
        yield running


class Emptied(NamedTuple):
    store: Store
    empty: Callable[[], object]
    keep: Callable[[str], object]
    """As if a process with other tables had made the store."""


@pytest.fixture(
    params=[
        "fake",
        pytest.param("server", marks=pytest.mark.integration),
        pytest.param("store_cluster", marks=pytest.mark.integration),
    ]
)
def emptied(request: pytest.FixtureRequest) -> Iterator[Emptied]:
    """A new store, and what empties it as a restart without a disk does."""
    if request.param == "fake":
        fake = FakeStore(FakeClock())
        fake.empty()

        def made_by(text: str) -> None:
            fake.mark = replace(fake.mark, format=text)

        yield Emptied(FakeStores(fake), fake.empty, made_by)
        return
    url = request.getfixturevalue(request.param).url
    connection = blocking(url, timeout_s=5)
    keys = connection.marks(KEY)

    def empty() -> None:
        for node in connection.everywhere:
            node.call(pack(b"FLUSHALL") + pack(b"SCRIPT", b"FLUSH"), 2)

    def keep(text: str) -> None:
        connection.each([pack(b"HSET", key, b"format", text.encode()) for key in keys], keys)

    empty()
    yield Emptied(store_at(url), empty, keep)
    connection.close()


@pytest.fixture
def mark(emptied: Emptied) -> Iterator[WatermarkStore]:
    made = emptied.store.watermark()
    assert made.initialise()
    yield made
    made.close()


def refused(mark: WatermarkStore, *args: Offsets) -> str:
    with pytest.raises(Unavailable) as caught:
        mark.advance(*args)
    assert caught.value.code == STORE_LOST
    return caught.value.what


def test_a_store_is_initialised_once(mark):
    first = mark.read()
    assert (first.state, first.applied) == (READY, {})
    assert not mark.initialise()
    assert mark.read() == first


def test_offsets_only_rise_whoever_writes_them(mark):
    mark.advance({FIRST: 0, SECOND: 0}, {FIRST: 10})
    mark.advance({FIRST: 5}, {FIRST: 7})
    assert mark.read().applied == {FIRST: 10}


def test_what_is_known_alone_is_compared_and_changes_nothing(mark):
    mark.advance({FIRST: 0}, {FIRST: 10})
    before = mark.read()
    mark.advance({FIRST: 10, SECOND: 0})
    mark.advance({})
    assert mark.read() == before


def test_a_store_behind_what_it_must_hold_is_marked_lost_for_everyone(mark):
    mark.advance({FIRST: 0}, {FIRST: 10})
    assert "end at offset 10 of w.decisions.v1/0" in refused(mark, {SECOND: 0, FIRST: 11})
    assert "are lost" in refused(mark, {FIRST: 0})
    assert mark.read().applied == {FIRST: 10}


def test_states_of_another_topic_of_the_same_name_are_lost(mark):
    mark.bind({})
    mark.bind({"decisions.v1": "one"})
    mark.bind({"decisions.v1": "one", "labels.v1": "two"})
    with pytest.raises(Unavailable) as caught:
        mark.bind({"labels.v1": "two", "decisions.v1": "three"})
    assert caught.value.code == STORE_LOST
    assert (mark.read().state, mark.read().applied) == (LOST, {})
    assert mark.read().why == "decisions.v1 was deleted and made again"
    assert "are lost" in refused(mark, {})
    rebuilt = mark.begin()
    mark.move(rebuilt, READY)
    mark.bind({"decisions.v1": "three", "labels.v1": "two"})


def test_an_emptied_store_takes_no_progress(mark, emptied):
    emptied.empty()
    assert "are missing" in refused(mark, {FIRST: 0}, {FIRST: 10})
    assert mark.read().applied == {}


def test_a_lost_store_stays_lost_when_somebody_would_initialise_it(mark, emptied):
    emptied.empty()
    mark.lose("it was emptied")
    assert mark.read().state == LOST
    assert not mark.initialise()
    assert "are lost" in refused(mark, {})


def test_a_rebuild_goes_on_only_with_the_store_it_began_with(mark, emptied):
    mark.advance({FIRST: 0}, {FIRST: 99})
    first = mark.begin()
    assert (mark.read().state, mark.read().applied) == (REBUILDING, {})
    assert "are rebuilding" in refused(mark, {FIRST: 99})
    second = mark.begin()
    with pytest.raises(Unavailable, match="another rebuild"):
        mark.move(first, CATCHING_UP)
    mark.move(second, CATCHING_UP, {FIRST: 4})
    mark.advance({FIRST: 4}, {FIRST: 6})
    assert mark.read().applied == {FIRST: 6}
    emptied.empty()
    with pytest.raises(Unavailable, match="lost again"):
        mark.move(second, READY)
    assert mark.read().state == MISSING


CURRENCIES = TABLES["currency"]
OLDER = note({**TABLES, "currency": dict(list(CURRENCIES.items())[:-2])})
NEWER = note({**TABLES, "currency": {**CURRENCIES, "XXX": len(CURRENCIES) + 1}})
FOREIGN = note({**TABLES, "currency": {code: n + 1 for code, n in CURRENCIES.items()}})


def test_a_new_store_and_one_that_is_rebuilt_say_what_their_states_mean(mark, emptied):
    assert mark.read().format == NOTE
    emptied.keep(FOREIGN)
    mark.begin()
    assert mark.read().format == NOTE


def test_a_store_whose_tables_are_the_beginning_of_ours_takes_our_note_when_it_is_written(
    mark, emptied
):
    emptied.keep(OLDER)
    assert (mark.read().why_not_served(), mark.read().why_not_written()) == ("", "")
    assert mark.read().format == OLDER
    mark.advance({FIRST: 0}, {FIRST: 3})
    assert (mark.read().format, mark.read().applied) == (NOTE, {FIRST: 3})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (NEWER, "currency has 170 entries, ours has 169; a newer version wrote them"),
        (FOREIGN, "169 entries of its table of currency are not ours; run `sluice states rebuild`"),
        ("", "does not say what its states mean; run `sluice states rebuild`"),
    ],
)
def test_a_store_of_any_other_format_is_left_as_it_is(mark, emptied, text, why):
    emptied.keep(text)
    assert why in mark.read().why_not_served()
    assert why in mark.read().why_not_written()
    assert why in refused(mark, {FIRST: 0}, {FIRST: 3})
    with pytest.raises(Unavailable, match="is not used"):
        mark.adopt()
    left = mark.read()
    assert (left.state, left.applied, left.format) == (READY, {}, text)


def test_a_store_without_a_watermark_has_no_format_to_adopt(mark, emptied):
    emptied.empty()
    mark.adopt()
    assert (mark.read().state, mark.read().format) == (MISSING, "")


def test_why_it_was_lost_is_read_again_and_a_rebuild_forgets_it(mark):
    mark.lose("it evicted 7 keys")
    assert (mark.read().state, mark.read().why) == (LOST, "it evicted 7 keys")
    assert "are lost (it evicted 7 keys)" in mark.read().why_not_written()
    mark.begin()
    assert mark.read().why == ""


def test_what_was_evicted_before_a_store_was_declared_is_no_loss(mark, emptied):
    states = emptied.store.states()
    figures = states.info()
    assert mark.read().why_forgetful(figures) == ""
    later = replace(figures, evicted_keys=figures.evicted_keys + 3)
    assert mark.read().why_forgetful(later) == "it evicted 3 keys"
    restarted = replace(figures, run_id="another", evicted_keys=0)
    assert mark.read().why_forgetful(restarted) == ""
    restarted = replace(restarted, evicted_keys=1)
    assert mark.read().why_forgetful(restarted) == "it evicted 1 keys"
    states.close()


@pytest.mark.parametrize("policy", ["volatile-lru", "allkeys-lru", "volatile-ttl"])
def test_any_policy_but_noeviction_may_forget(mark, emptied, policy):
    states = emptied.store.states()
    figures = states.info()
    assert policy in mark.read().why_forgetful(replace(figures, eviction_policy=policy))
    assert mark.read().why_forgetful(replace(figures, eviction_policy=UNKNOWN)) == ""
    states.close()


def test_two_connections_see_one_watermark(mark, emptied):
    other = emptied.store.watermark()
    mark.advance({FIRST: 0}, {FIRST: 3})
    assert other.read() == mark.read()
    other.close()


def test_clearing_takes_the_states_and_leaves_the_watermark(mark, emptied):
    states = emptied.store.states()
    updates = [
        StateUpdate(kind, f"e-{number}", b"", b"\x01" + bytes(8), 5)
        for kind in ("card", "terminal", "merchant", "device")
        for number in range(700)
    ]
    assert all(states.write(updates))
    states.remember([("acme", "a-1", b"digest-1", b"answer")])
    before = mark.read()
    assert states.clear() == len(updates)
    assert states.read([("card", "e-1"), ("device", "e-699")]) == [b"", b""]
    assert mark.read() == before
    assert states.clear() == 0
    states.close()
