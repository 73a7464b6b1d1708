"""The store's marker on a real Valkey: what featurizer, rebuild and decider make of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sluice.adapters.redis import marker
from sluice.adapters.redis.blocking import BlockingConnection
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.adapters.redis.marker import Marker, Trust
from sluice.application.ports import CATCHING_UP, MISSING, READY, STORE_LOST, Offsets
from sluice.domain.stateformat import NOTE, TABLES, note
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
def mark(connection: BlockingConnection) -> Marker:
    made = Marker(connection)
    assert made.initialise()
    return made


@pytest.fixture
def trust(connection: BlockingConnection) -> tuple[Trust, list[str]]:
    told: list[str] = []
    return Trust(told.append), told


def trusts(trust: tuple[Trust, list[str]], connection: BlockingConnection) -> bool:
    (reply,) = connection.call(marker.READ, 1)
    return trust[0].judge(reply)


def refused(mark: Marker, *args: Offsets) -> str:
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
    mark_id = mark.begin()
    assert not trusts(trust, connection)
    mark.move(mark_id, CATCHING_UP)
    assert not trusts(trust, connection)
    mark.move(mark_id, READY)
    assert trusts(trust, connection)
    connection.call(pack(b"FLUSHALL"), 1)
    assert not trusts(trust, connection)
    assert not trusts(trust, connection)
    assert trust[1] == ["", "rebuilding", "catching_up", "", "missing"]


def test_a_decider_notices_a_store_that_went_back_until_it_is_where_it_was(mark, connection, trust):
    for end in range(1, 4):
        mark.advance({FIRST: 0}, {FIRST: end})
    assert trusts(trust, connection)
    connection.call(pack(b"HSET", marker.KEY, b"beat", b"2"), 1)  # an older replica takes over
    assert not trusts(trust, connection)
    assert trust[1][-1] == "it went back from beat 3 to 2"
    mark.advance({FIRST: 3}, {FIRST: 4})
    assert trusts(trust, connection)


def test_a_rebuilt_store_may_beat_from_the_beginning_again(mark, connection, trust):
    mark.advance({FIRST: 0}, {FIRST: 1})
    assert trusts(trust, connection)
    mark.move(mark.begin(), READY)
    assert trusts(trust, connection)


def test_a_marker_that_cannot_be_read_is_not_trusted(mark, connection, trust):
    connection.call(pack(b"DEL", marker.KEY) + pack(b"SET", marker.KEY, b"text"), 2)
    assert not trusts(trust, connection)
    with pytest.raises(Unavailable, match="WRONGTYPE"):
        mark.read()


CURRENCIES = TABLES["currency"]
OLDER = note({**TABLES, "currency": dict(list(CURRENCIES.items())[:-2])})
NEWER = note({**TABLES, "currency": {**CURRENCIES, "XXX": len(CURRENCIES) + 1}})
FOREIGN = note({**TABLES, "currency": {code: n + 1 for code, n in CURRENCIES.items()}})


def keep(connection: BlockingConnection, text: str) -> None:
    """As if a process with other tables had made the store."""
    connection.call(pack(b"HSET", marker.KEY, b"format", text.encode()), 1)


def test_a_new_store_and_one_that_is_rebuilt_say_what_their_states_mean(mark, connection):
    assert mark.read().format == NOTE
    keep(connection, FOREIGN)
    mark.begin()
    assert mark.read().format == NOTE


def test_states_whose_tables_are_the_beginning_of_ours_are_served_and_taken_over(
    mark, connection, trust
):
    keep(connection, OLDER)
    assert trusts(trust, connection)
    assert mark.read().why_not_written() == ""
    assert mark.read().format == OLDER  # who only reads changes nothing
    mark.advance({FIRST: 0}, {FIRST: 3})
    assert (mark.read().format, mark.read().applied) == (NOTE, {FIRST: 3})
    assert trusts(trust, connection)
    assert trust[1] == [""]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (NEWER, "currency has 157 entries, ours has 156; a newer version wrote them"),
        (FOREIGN, "156 entries of its table of currency are not ours; run `sluice states rebuild`"),
        ("\udcff", "cannot be read; run `sluice states rebuild`"),
    ],
)
def test_states_of_any_other_format_are_neither_served_nor_written(
    mark, connection, trust, text, why
):
    assert trusts(trust, connection)
    raw = text.encode(errors="surrogateescape")
    connection.call(pack(b"HSET", marker.KEY, b"format", raw), 1)
    assert not trusts(trust, connection)
    assert not trusts(trust, connection)
    assert why in trust[1][1]
    assert why in mark.read().why_not_written()
    assert why in refused(mark, {FIRST: 0}, {FIRST: 3})
    with pytest.raises(Unavailable, match="is not used"):
        mark.adopt()
    (found,) = connection.call(pack(b"HMGET", marker.KEY, b"format", b"state"), 1)
    assert found == [raw, READY.encode()]  # to those whose format it is, it is as good as before
    assert mark.read().applied == {}
    keep(connection, NOTE)
    assert trusts(trust, connection)
    assert len(trust[1]) == 3


def test_a_store_that_does_not_say_what_its_states_mean_is_not_used(mark, connection, trust):
    connection.call(pack(b"HDEL", marker.KEY, b"format"), 1)
    assert not trusts(trust, connection)
    assert "does not say what its states mean" in trust[1][0]
    assert "does not say what its states mean" in refused(mark, {FIRST: 0}, {FIRST: 3})
    mark.move(mark.begin(), READY)
    assert trusts(trust, connection)


def test_a_store_without_a_marker_has_no_format_to_adopt(mark, connection):
    connection.call(pack(b"FLUSHALL"), 1)
    mark.adopt()
    assert (mark.read().state, mark.read().format) == (MISSING, "")
