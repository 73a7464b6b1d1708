"""The store's watermark on a real Valkey: what featurizer, rebuild and decider make of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sluice.adapters.redis import watermark
from sluice.adapters.redis.blocking import BlockingConnection
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.adapters.redis.watermark import StoreWatermark, Trust
from sluice.application.ports import CATCHING_UP, MISSING, READY, STORE_LOST, Offsets
from sluice.errors import Unavailable

pytestmark = pytest.mark.integration

FIRST, SECOND = ("w.decisions.v1", 0), ("w.decisions.v1", 1)


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedStore]:
    with EmbeddedStore() as running:
        yield running


@pytest.fixture
def connection(server: EmbeddedStore) -> Iterator[BlockingConnection]:
    made = BlockingConnection(server.url, timeout_s=5)
    made.call(pack(b"FLUSHALL") + pack(b"SCRIPT", b"FLUSH"), 2)
    yield made
    made.close()


@pytest.fixture
def mark(connection: BlockingConnection) -> StoreWatermark:
    made = StoreWatermark(connection)
    assert made.initialise()
    return made


@pytest.fixture
def trust(connection: BlockingConnection) -> tuple[Trust, list[str]]:
    reported: list[str] = []
    return Trust(reported.append), reported


def trusts(trust: tuple[Trust, list[str]], connection: BlockingConnection) -> bool:
    (reply,) = connection.call(watermark.READ, 1)
    return trust[0].judge(reply)


def refused(mark: StoreWatermark, *args: Offsets) -> str:
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


def test_a_store_behind_what_it_must_hold_is_marked_lost_for_everyone(mark):
    mark.advance({FIRST: 0}, {FIRST: 10})
    assert "end at offset 10 of w.decisions.v1/0" in refused(mark, {SECOND: 0, FIRST: 11})
    assert "are lost" in refused(mark, {FIRST: 0})
    assert mark.read().applied == {FIRST: 10}


def test_an_emptied_store_takes_no_progress(mark, connection):
    connection.call(pack(b"FLUSHALL"), 1)
    assert "are missing" in refused(mark, {FIRST: 0}, {FIRST: 10})
    assert mark.read().applied == {}


def test_a_lost_store_stays_lost_when_somebody_would_initialise_it(mark, connection):
    connection.call(pack(b"FLUSHALL"), 1)
    mark.lose()
    assert not mark.initialise()
    assert "are lost" in refused(mark, {})


def test_a_rebuild_goes_on_only_with_the_store_it_began_with(mark, connection):
    mark.advance({FIRST: 0}, {FIRST: 99})
    first = mark.begin()
    assert "are rebuilding" in refused(mark, {FIRST: 99})
    second = mark.begin()
    with pytest.raises(Unavailable, match="another rebuild"):
        mark.move(first, CATCHING_UP)
    mark.move(second, CATCHING_UP, {FIRST: 4})
    mark.advance({FIRST: 4}, {FIRST: 6})
    assert mark.read().applied == {FIRST: 6}
    connection.call(pack(b"FLUSHALL"), 1)
    with pytest.raises(Unavailable, match="lost again"):
        mark.move(second, READY)
    assert mark.read().state == MISSING


def test_a_decider_trusts_a_ready_store_alone_and_tells_each_change_once(mark, connection, trust):
    assert trusts(trust, connection)
    assert trusts(trust, connection)
    watermark_id = mark.begin()
    assert not trusts(trust, connection)
    mark.move(watermark_id, CATCHING_UP)
    assert not trusts(trust, connection)
    mark.move(watermark_id, READY)
    assert trusts(trust, connection)
    connection.call(pack(b"FLUSHALL"), 1)
    assert not trusts(trust, connection)
    assert not trusts(trust, connection)
    assert trust[1] == ["", "rebuilding", "catching_up", "", "missing"]


def test_a_decider_notices_a_store_that_went_back_until_it_is_where_it_was(mark, connection, trust):
    for end in range(1, 4):
        mark.advance({FIRST: 0}, {FIRST: end})
    assert trusts(trust, connection)
    connection.call(pack(b"HSET", watermark.KEY, b"epoch", b"2"), 1)  # an older replica takes over
    assert not trusts(trust, connection)
    assert trust[1][-1] == "it went back from epoch 3 to 2"
    mark.advance({FIRST: 3}, {FIRST: 4})
    assert trusts(trust, connection)


def test_a_rebuilt_store_may_count_from_the_beginning_again(mark, connection, trust):
    mark.advance({FIRST: 0}, {FIRST: 1})
    assert trusts(trust, connection)
    mark.move(mark.begin(), READY)
    assert trusts(trust, connection)


def test_a_watermark_that_cannot_be_read_is_not_trusted(mark, connection, trust):
    connection.call(pack(b"DEL", watermark.KEY) + pack(b"SET", watermark.KEY, b"text"), 2)
    assert not trusts(trust, connection)
    with pytest.raises(Unavailable, match="WRONGTYPE"):
        mark.read()
