"""The adapter against a server that dies, hangs, fills up, forgets and refuses."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sluice.adapters.layout import COMPILED
from sluice.adapters.redis.address import Address, parse
from sluice.adapters.redis.blocking import BlockingConnection
from sluice.adapters.redis.commands import pack
from sluice.adapters.redis.connection import MAX_IN_FLIGHT, Connection
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.adapters.redis.online import RedisOnlineStore
from sluice.adapters.redis.states import RedisStateStore
from sluice.adapters.redis.watermark import RedisWatermark
from sluice.application.ports import READY, Arrival, StateUpdate
from sluice.bootstrap.services import store_at
from sluice.domain.features.events import event_row
from sluice.domain.records.authorization import Authorization
from sluice.domain.records.decision import Origin
from sluice.errors import Corrupt, Misconfigured, Unavailable
from sluice.testing.counting import Counted
from sluice.testing.store import FakeClock, declare_ready

pytestmark = pytest.mark.integration

PATIENT_S = 10.0
"""A budget that a busy machine keeps too."""
STATE = b"\x01" + (1).to_bytes(8, "little") + b"body"


def arrival(authorization_id: str = "a-1", *, offset: int = 1) -> Arrival:
    auth = Authorization(
        authorization_id=authorization_id,
        event_at=1_780_000_000_000_000,
        card_token="card-1",
        merchant_id="merch-1",
        terminal_id="term-1",
        mcc="5411",
        channel="pos",
        amount_minor=1999,
        currency="EUR",
        merchant_country="FR",
        card_country="FR",
        region="eu",
        tenant="acme",
    )
    row = event_row(auth, 1999)
    return Arrival(auth, 1999, row, b"digest-1", 1, Origin("authorizations.v1", 0, offset))


@pytest.fixture
def server() -> Iterator[EmbeddedStore]:
    with EmbeddedStore() as running:
        declare_ready(store_at(running.url))
        yield running


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest_asyncio.fixture
async def store(server: EmbeddedStore, counted: Counted) -> AsyncIterator[RedisOnlineStore]:
    opened = RedisOnlineStore(server.url, FakeClock(), budget_s=PATIENT_S, count=counted)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def states(server: EmbeddedStore, counted: Counted) -> Iterator[RedisStateStore]:
    made = RedisStateStore(server.url, timeout_s=2.0, count=counted)
    yield made
    made.close()


async def until(true: Callable[[], bool]) -> None:
    for _ in range(6000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come true within a minute")


async def ask(store: RedisOnlineStore, *words: bytes) -> object:
    (answer,) = await store.connection.call(pack(*words), 1, PATIENT_S)
    return answer


def test_a_killed_server_is_met_again_where_it_restarts(server, states):
    port = int(server.url.rsplit(":", 1)[1])
    states.write([StateUpdate("card", "c", b"", STATE, 1)])

    async def story() -> None:
        counted = Counted()
        store = RedisOnlineStore(server.url, FakeClock(), budget_s=PATIENT_S, count=counted)
        await store.open()
        os.kill((await store.info()).process_id, signal.SIGKILL)
        await until(lambda: not store.connection.is_up)
        with pytest.raises(Unavailable):
            await store.observe([arrival()])
        with pytest.raises(Unavailable):
            states.read([("card", "c")])
        server.stop()
        with EmbeddedStore(port=port) as again:
            declare_ready(store_at(again.url))
            await until(lambda: store.connection.is_up)
            (reply,) = await store.observe([arrival()])
            assert reply.card == b""
            assert states.read([("card", "c")]) == [b""]
            assert states.write([StateUpdate("card", "c", b"", STATE, 1)]) == [True]
            assert counted["sluice_store_connects_total made"] == 2
            assert counted["sluice_store_connects_total failed"] > 0
            assert counted["sluice_store_connections_lost_total closed"] == 1
            assert counted["sluice_store_failures_total down"] == 1
            await store.close()

    asyncio.run(story())


async def test_what_waits_when_the_server_is_killed_fails_at_once(store, counted):
    process_id = (await store.info()).process_id
    os.kill(process_id, signal.SIGSTOP)
    waiting = [asyncio.ensure_future(store.observe([arrival(f"a-{i}")])) for i in range(5)]
    await asyncio.sleep(0)
    os.kill(process_id, signal.SIGKILL)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 5
    assert counted["sluice_store_failures_total lost"] == 5


async def test_late_answers_are_never_given_to_a_later_question(store, counted):
    process_id = (await store.info()).process_id
    os.kill(process_id, signal.SIGSTOP)
    with pytest.raises(Unavailable, match="no answer for"):
        await store.connection.call(pack(b"ECHO", b"late"), 1, 0.05)
    os.kill(process_id, signal.SIGCONT)
    replies = await asyncio.gather(*(ask(store, b"ECHO", b"%d" % i) for i in range(50)))
    assert replies == [b"%d" % i for i in range(50)]
    assert counted["sluice_store_failures_total timeout"] == 1
    assert counted["sluice_store_connects_total made"] == 1


async def test_a_server_that_hangs_is_dropped_and_then_refused_without_waiting(server, counted):
    store = RedisOnlineStore(server.url, FakeClock(), budget_s=0.5, count=counted)
    await store.open()
    process_id = (await store.info()).process_id
    os.kill(process_id, signal.SIGSTOP)
    with pytest.raises(Unavailable):
        await store.observe([arrival()])
    await until(lambda: not store.connection.is_up)
    with pytest.raises(Unavailable):
        store.connection.call(pack(b"PING"), 1)  # raises before anything could be awaited
    assert counted["sluice_store_connections_lost_total hang"] == 1
    assert counted["sluice_store_failures_total timeout"] == 1
    assert counted["sluice_store_failures_total down"] == 1
    os.kill(process_id, signal.SIGCONT)
    await until(lambda: store.connection.is_up)
    assert await ask(store, b"PING") == b"PONG"
    await store.close()


async def test_more_batches_than_the_maximum_are_refused_not_queued(store, counted):
    process_id = (await store.info()).process_id
    os.kill(process_id, signal.SIGSTOP)
    calls = [store.connection.call(pack(b"PING"), 1) for _ in range(MAX_IN_FLIGHT)]
    with pytest.raises(Unavailable, match="unanswered"):
        store.connection.call(pack(b"PING"), 1)
    store.remember([(arrival(), b"answer")])
    assert counted["sluice_store_failures_total full"] == 1
    assert counted["sluice_store_posts_lost_total full"] == 1
    os.kill(process_id, signal.SIGCONT)
    assert await asyncio.gather(*calls) == [[b"PONG"]] * MAX_IN_FLIGHT


async def test_a_caller_that_gives_up_disturbs_nobody(store):
    given_up = asyncio.ensure_future(store.observe([arrival("a-1")]))
    stays = asyncio.ensure_future(store.observe([arrival("a-2")]))
    await asyncio.sleep(0)
    given_up.cancel()
    (reply,) = await stays
    assert [entry.authorization_id for entry in reply.pending] == ["a-1"]


def test_it_runs_on_uvloop_too(server):
    async def story() -> None:
        store = RedisOnlineStore(server.url, FakeClock(), budget_s=PATIENT_S)
        await store.open()
        replies = await store.observe([arrival(f"a-{i}") for i in range(500)])
        assert [len(reply.pending) for reply in replies[:65]] == [*range(64), 63]
        await store.close()

    uvloop.run(story())


async def test_a_store_that_is_down_at_the_start_is_found_later(server):
    port = int(server.url.rsplit(":", 1)[1])
    server.stop()
    counted = Counted()
    store = RedisOnlineStore(
        f"redis://127.0.0.1:{port}", FakeClock(), budget_s=PATIENT_S, count=counted
    )
    with pytest.raises(Unavailable, match="cannot connect"):
        await store.open()
    with pytest.raises(Unavailable, match="cannot connect"):
        await store.observe([arrival()])
    store.remember([(arrival(), b"answer")])
    assert counted["sluice_store_posts_lost_total down"] == 1
    with EmbeddedStore(port=port):
        await until(lambda: store.connection.is_up)
        await store.observe([arrival()])
        await store.close()
    with pytest.raises(Unavailable, match="closed"):
        await store.observe([arrival()])


async def test_a_pending_entry_that_nobody_can_read_is_ignored_and_counted(store, counted):
    key = b"sluice:pending:acme:card-1"
    await store.observe([arrival("a-1")])
    for junk in (b"\xc1junk", b"", b"\x93\x01\x02\x03", b"\x9f" * 40):
        await ask(store, b"RPUSH", key, junk)
    (reply,) = await store.observe([arrival("a-2")])
    assert [entry.authorization_id for entry in reply.pending] == ["a-1"]
    assert reply.card == b""
    assert counted["sluice_store_pending_undecodable_total"] == 4


async def test_pending_entries_that_cannot_be_read_make_the_card_s_view_missing(store, counted):
    await ask(store, b"SET", b"sluice:pending:acme:card-1", b"not a list")
    (reply,) = await store.observe([arrival()])
    assert reply.card is None
    assert reply.terminal == b""
    assert counted["sluice_store_states_unreadable_total card"] == 1
    assert counted["sluice_store_pending_refused_total"] == 1
    assert counted["sluice_store_errors_total WRONGTYPE"] == 2


async def test_a_field_that_is_no_state_makes_its_view_missing(store, states, counted):
    view = COMPILED["terminal"]
    await ask(store, b"HSET", view.key("term-1"), view.field, b"\x12\x01x")
    (reply,) = await store.observe([arrival()])
    assert reply.terminal is None
    assert counted["sluice_store_states_unreadable_total terminal"] == 1
    with pytest.raises(Corrupt, match="no terminal state"):
        states.read([("terminal", "term-1")])
    assert counted["sluice_store_states_unreadable_total terminal"] == 2


async def test_a_corrupt_card_state_is_reported_without_its_token(store, states):
    await ask(store, b"SET", COMPILED["card"].key("card-1"), b"x")
    with pytest.raises(Corrupt) as caught:
        states.read([("card", "card-1")])
    assert "card-1" not in str(caught.value)


async def test_a_idempotency_record_of_a_newer_format_is_somebody_else_s(store):
    await ask(store, b"SET", b"sluice:idempotency:acme:a-1", b"\x07" + b"digest-1" + b"whatever")
    (reply,) = await store.observe([arrival()])
    assert reply.in_progress_elsewhere


async def test_idempotency_records_answers_and_pending_lists_all_expire(store):
    await store.observe([arrival("a-1"), arrival("a-2")])
    store.remember([(arrival("a-2"), b"answer")])
    left_ms = [
        await ask(store, b"PTTL", key)
        for key in (
            b"sluice:idempotency:acme:a-1",
            b"sluice:idempotency:acme:a-2",
            b"sluice:pending:acme:card-1",
        )
    ]
    for left, most in zip(left_ms, (10_000, 3_600_000, 30_000), strict=True):
        assert most - 5_000 < left <= most


async def test_states_never_expire(store, states):
    states.write([StateUpdate("card", "card-1", b"", STATE, 1)])
    assert await ask(store, b"PTTL", COMPILED["card"].key("card-1")) == -1


async def test_a_full_store_still_serves_states_and_says_what_it_refused(store, states, counted):
    states.write([StateUpdate("card", "card-1", b"", STATE, 1)])
    await store.observe([arrival("answered"), arrival("in-progress", offset=2)])
    store.remember([(arrival("answered"), b"answer")])
    await ask(store, b"CONFIG", b"SET", b"maxmemory", b"1")
    (reply,) = await store.observe([arrival()])
    assert (reply.card, reply.unidentified) == (STATE, True)
    assert counted["sluice_store_idempotency_refused_total"] == 1
    assert counted["sluice_store_pending_refused_total"] == 1
    assert counted["sluice_store_errors_total OOM"] == 2
    answered, unknown, held = await store.identify(
        [arrival("answered", offset=9), arrival("unknown"), arrival("in-progress", offset=9)]
    )
    assert (answered.earlier, unknown.unidentified) == (b"answer", True)
    assert held.in_progress_elsewhere
    assert counted["sluice_store_errors_total OOM"] == 5
    counted["sluice_store_errors_total OOM"] = 2
    with pytest.raises(Unavailable, match="OOM"):
        states.write([StateUpdate("card", "card-1", STATE[1:9], STATE, 2)])
    assert counted["sluice_store_errors_total OOM"] == 3
    store.remember([(arrival(), b"answer")])
    await store.info()
    assert counted["sluice_store_posts_lost_total refused"] == 1
    info = await store.info()
    assert info.max_memory_bytes == 1
    assert info.used_memory_bytes > 100_000
    assert info.evicted_keys == 0
    assert info.eviction_policy == "noeviction"
    await ask(store, b"CONFIG", b"SET", b"maxmemory-policy", b"allkeys-lru")
    assert states.info().eviction_policy == "allkeys-lru"


async def test_a_server_that_refuses_everything_is_unavailable(store, counted):
    await ask(store, b"CONFIG", b"SET", b"requirepass", b"secret")
    await ask(store, b"ACL", b"SETUSER", b"default", b"-@all")
    with pytest.raises(Unavailable, match="NOPERM"):
        await store.observe([arrival()])
    assert counted["sluice_store_failures_total refused"] == 1
    assert counted["sluice_store_errors_total NOPERM"] == 8


async def test_a_script_that_the_server_forgot_is_loaded_again(store, states, counted):
    assert states.write([StateUpdate("card", "c", b"", STATE, 1)]) == [True]
    await ask(store, b"SCRIPT", b"FLUSH")
    after = STATE[:1] + (2).to_bytes(8, "little")
    swaps = [
        StateUpdate("card", "c", STATE[1:9], after, 2),
        StateUpdate("card", "c", STATE[1:9], after, 3),
    ]
    assert states.write(swaps) == [True, False]
    assert not [counter for counter in counted if "errors" in counter]


async def test_password_and_database_of_the_url_are_used(server, store):
    await ask(store, b"CONFIG", b"SET", b"requirepass", b"p@ss word")
    wrong = Connection(server.url, budget_s=PATIENT_S)
    with pytest.raises(Unavailable, match="NOAUTH"):
        await wrong.open()
    await wrong.close()
    url = server.url.replace("redis://", "valkey://:p%40ss%20word@") + "/3"
    right = Connection(url, budget_s=PATIENT_S)
    await right.open()
    await right.call(pack(b"SET", b"k", b"v"), 1)
    await right.close()
    blocking = BlockingConnection(url, timeout_s=PATIENT_S)
    assert blocking.call(pack(b"GET", b"k"), 1) == [b"v"]
    blocking.close()
    assert await ask(store, b"GET", b"k") is None
    counted = Counted()
    with pytest.raises(Unavailable, match="NOAUTH"):
        BlockingConnection(server.url, timeout_s=PATIENT_S, count=counted).call(pack(b"PING"), 1)
    assert counted["sluice_store_connects_total failed"] == 1


async def test_a_blocking_call_that_gets_no_answer_is_counted_by_its_reason(
    server, states, counted
):
    process_id = states.info().process_id
    os.kill(process_id, signal.SIGSTOP)
    with pytest.raises(Unavailable, match="timed out"):
        states.read([("card", "c")])
    assert counted["sluice_store_failures_total timeout"] == 1
    os.kill(process_id, signal.SIGCONT)
    assert states.read([("card", "c")]) == [b""]
    assert counted["sluice_store_connects_total made"] == 2
    server.stop()
    with pytest.raises(Unavailable, match="refused"):
        states.read([("card", "c")])
    assert counted["sluice_store_failures_total down"] == 1
    assert counted["sluice_store_connections_lost_total closed"] == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://host",
        "redis://",
        "redis://host/notanumber",
        "redis://host:99999",
        "redis://:hunter2@host?ssl=true",
        "unix://",
        "",
    ],
)
def test_a_url_that_cannot_be_used_names_the_setting_and_no_secret(url):
    with pytest.raises(Misconfigured, match=r"store\.url") as caught:
        parse(url)
    assert "hunter2" not in str(caught.value)


def test_an_address_shows_no_password():
    address = parse("rediss://user:hunter2@host:7000/1")
    assert address == Address("host", 7000, "", 1, "user", "hunter2", True)
    assert "hunter2" not in repr(address) + str(address)


def test_a_unix_socket_is_an_address_too(tmp_path):
    path = tmp_path / "s"
    with answering(b"+PONG\r\n", unix=path):
        blocking = BlockingConnection(f"unix://{path}", timeout_s=PATIENT_S)
        assert blocking.call(pack(b"PING"), 1) == [b"PONG"]
        blocking.close()

        async def story() -> object:
            connection = Connection(f"unix://{path}", budget_s=PATIENT_S)
            await connection.open()
            answer = await connection.call(pack(b"PING"), 1)
            await connection.close()
            return answer

        assert asyncio.run(story()) == [b"PONG"]


def test_tls_speaks_only_to_a_server_whose_certificate_is_trusted(tmp_path, monkeypatch):
    trusted = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted)

    async def story(url: str) -> object:
        connection = Connection(url, budget_s=PATIENT_S)
        try:
            await connection.open()
            return await connection.call(pack(b"PING"), 1)
        finally:
            await connection.close()

    with answering(b"+PONG\r\n", tls=context) as port:
        url = f"rediss://localhost:{port}"
        with pytest.raises(Unavailable, match="of no CA that we trust"):
            asyncio.run(story(url))
        with pytest.raises(Unavailable, match="of no CA that we trust"):
            BlockingConnection(url, timeout_s=PATIENT_S).call(pack(b"PING"), 1)
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        assert asyncio.run(story(url)) == [b"PONG"]
        blocking = BlockingConnection(url, timeout_s=PATIENT_S)
        assert blocking.call(pack(b"PING"), 1) == [b"PONG"]
        blocking.close()


def test_a_connection_that_the_server_closed_while_it_was_idle_costs_no_call(server, counted):
    blocking = BlockingConnection(server.url, timeout_s=PATIENT_S, count=counted)
    other = BlockingConnection(server.url, timeout_s=PATIENT_S)
    mark = RedisWatermark(server.url, count=counted)
    assert blocking.call(pack(b"PING"), 1) == [b"PONG"]
    assert mark.read().state == READY
    assert other.call(pack(b"CLIENT", b"KILL", b"TYPE", b"normal", b"SKIPME", b"yes"), 1) == [2]
    assert blocking.call(pack(b"PING"), 1) == [b"PONG"]
    assert mark.read().state == READY
    assert counted["sluice_store_connections_lost_total closed"] == 2
    assert not any("failures" in name for name in counted)
    for one in (blocking, other, mark):
        one.close()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+PONG\r\n+PONG\r\n"])
def test_a_server_that_does_not_speak_the_protocol_is_unavailable(answer):
    async def story(port: int) -> None:
        connection = Connection(f"redis://127.0.0.1:{port}", budget_s=PATIENT_S)
        try:
            await connection.open()
            await connection.call(pack(b"PING"), 1)
        finally:
            await connection.close()

    with answering(answer) as port, pytest.raises(Unavailable):
        asyncio.run(story(port))


def test_the_embedded_store_leaves_nothing_behind():
    with EmbeddedStore(max_memory_mb=64) as running:
        port = int(running.url.rsplit(":", 1)[1])
        directory = running._directory
        assert directory is not None
        assert directory.exists()
    assert not directory.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
    with pytest.raises(RuntimeError):
        _ = running.url


@contextmanager
def answering(
    answer: bytes, *, unix: Path | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[int]:
    """A server that gives one answer to whatever it reads."""
    listener = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    listener.bind(str(unix) if unix else ("127.0.0.1", 0))
    listener.listen()

    def serve(peer: socket.socket) -> None:
        try:
            with tls.wrap_socket(peer, server_side=True) if tls else peer as talk:
                while talk.recv(4096):
                    talk.sendall(answer)
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(peer,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield 0 if unix else listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def certificate(directory: Path) -> Path:
    """Key and self-signed certificate of localhost in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "localhost.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path
