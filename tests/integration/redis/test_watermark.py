"""The store's watermark on a real Valkey: what a decider makes of it, and what goes wrong.

What it promises to featurizer and rebuild: ``tests/contract/test_watermark_contract.py``.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from sluice.adapters.redis import watermark
from sluice.adapters.redis.blocking import BlockingConnection
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.adapters.redis.watermark import RedisWatermark, Trust
from sluice.application.ports import CATCHING_UP, READY
from sluice.domain.features.stateformat import NOTE, TABLES, note
from sluice.errors import Misconfigured, Unavailable

pytestmark = pytest.mark.integration

FIRST = ("w.decisions.v1", 0)


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
def mark(server: EmbeddedStore, connection: BlockingConnection) -> Iterator[RedisWatermark]:
    made = RedisWatermark(server.url)
    assert made.initialise()
    yield made
    made.close()


@pytest.fixture
def trust(connection: BlockingConnection) -> tuple[Trust, list[str]]:
    reported: list[str] = []
    return Trust(reported.append), reported


def trusts(trust: tuple[Trust, list[str]], connection: BlockingConnection) -> bool:
    (reply,) = connection.call(watermark.READ, 1)
    return trust[0].judge({watermark.KEY: [(watermark.KEY, reply)]})


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


def test_a_forgotten_script_is_sent_again(mark, connection):
    mark.advance({FIRST: 0}, {FIRST: 1})
    connection.call(pack(b"SCRIPT", b"FLUSH"), 1)
    mark.advance({FIRST: 1}, {FIRST: 2})
    assert mark.read().applied == {FIRST: 2}


def test_a_refused_password_names_the_setting_and_no_secret(server, connection):
    connection.call(pack(b"CONFIG", b"SET", b"requirepass", b"right"), 1)
    try:
        for user in ("", ":hunter2@"):
            wrong = RedisWatermark(server.url.replace("redis://", f"redis://{user}"))
            with pytest.raises(Misconfigured, match=r"store\.url") as caught:
                wrong.read()
            assert "SLUICE_STORE_URL" in str(caught.value)
            assert "hunter2" not in str(caught.value)
        right = RedisWatermark(server.url.replace("redis://", "redis://:right@"))
        assert right.initialise()
        right.close()
    finally:
        connection.call(pack(b"CONFIG", b"SET", b"requirepass", b""), 1)


def test_a_server_that_is_silent_or_gone_is_unavailable_within_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        watermark = RedisWatermark(f"redis://127.0.0.1:{port}", timeout_s=0.1)
        with pytest.raises(Unavailable, match="did not serve us"):
            watermark.read()
    with pytest.raises(Unavailable, match="did not serve us"):
        watermark.read()


def keep(connection: BlockingConnection, text: bytes) -> None:
    """As if a process with other tables had made the store."""
    connection.call(pack(b"HSET", watermark.KEY, b"format", text), 1)


CURRENCIES = TABLES["currency"]
OLDER = note({**TABLES, "currency": dict(list(CURRENCIES.items())[:-2])})
NEWER = note({**TABLES, "currency": {**CURRENCIES, "XXX": len(CURRENCIES) + 1}})


def test_a_decider_serves_states_whose_tables_are_the_beginning_of_ours(mark, connection, trust):
    keep(connection, OLDER.encode())
    assert trusts(trust, connection)
    assert mark.read().format == OLDER  # who only reads changes nothing
    mark.advance({FIRST: 0}, {FIRST: 3})
    assert trusts(trust, connection)
    assert trust[1] == [""]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (NEWER.encode(), "currency has 170 entries, ours has 169; a newer version wrote them"),
        (b"\xff 7", "cannot be read; run `sluice states rebuild`"),
    ],
)
def test_a_decider_serves_no_states_of_another_format_until_it_is_ours(
    mark, connection, trust, text, why
):
    assert trusts(trust, connection)
    keep(connection, text)
    assert not trusts(trust, connection)
    assert not trusts(trust, connection)
    assert why in trust[1][1]
    assert why in mark.read().why_not_written()
    keep(connection, NOTE.encode())
    assert trusts(trust, connection)
    connection.call(pack(b"HDEL", watermark.KEY, b"format"), 1)
    assert not trusts(trust, connection)
    assert "does not say what its states mean" in trust[1][3]
    mark.move(mark.begin(), READY)
    assert trusts(trust, connection)
    assert len(trust[1]) == 5
