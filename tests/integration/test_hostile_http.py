"""What strangers may send to the sync API's socket: a clear answer in its order, or a clear end.

An HTTP request is refused before anything is decided, or answered once; what one connection does
costs the others nothing.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from services.decider.connections import ADMIN_CONNECTIONS_MAX, FILES_BESIDE
from services.decider.protocol import (
    HEADERS_MAX,
    MAX_HEADER_BYTES,
    UNREAD_TIMEOUT_S,
)
from tests.support.messages import authorization
from tests.support.sync_server import Answers, Server, get, post, request, serving

pytestmark = pytest.mark.integration

MANY = 1_000
ENDLESS_BYTES = 1_000 * MAX_HEADER_BYTES
"""More than buffers of the kernel hold on the way."""
ROOM = 16
"""Connections of a server that may open few files."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("hostile"), in_flight_max=1024) as server:
        yield server


@pytest.fixture(autouse=True)
def alive(server: Server) -> Iterator[None]:
    """Whatever was sent: the process lives, and answers the next as if nothing had been."""
    yield
    assert server.process.poll() is None, server.log.read_text()
    assert get(f"{server.url}/v2/health/live").status_code == 200
    assert not [e for e in server.events() if e["event"] == "request_failed"]


def decided(server: Server, name: str) -> bool:
    """Whether an authorization was decided before; if not, it is now."""
    with server.connect() as connection:
        connection.sendall(request(name))
        answer = Answers(connection).next()
    assert answer is not None
    assert answer.status == 200
    return "idempotent-replay" in answer.headers


# ---------------------------------------------------------------- many in one write


def test_a_thousand_authorizations_in_one_write_are_answered_in_order(server: Server) -> None:
    names = [f"pipe-{n:x}" for n in range(MANY)]
    with server.connect() as connection:
        connection.sendall(b"".join(map(request, names)))
        answers = Answers(connection)
        found = [answers.next() for _ in names]
    assert [a and (a.status, a.json["authorization_id"]) for a in found] == [
        (200, name) for name in names
    ]


@pytest.mark.parametrize(
    ("one", "status"),
    [
        (b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (
            b"POST /v1/authorizations HTTP/1.1\r\ncontent-type: application/json\r\n"
            b"content-length: 2\r\n\r\n{}",
            422,
        ),
        (
            b"POST /v2/models/sluice/infer HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}",
            400,
        ),
    ],
    ids=["probes", "unknown paths", "refused at once", "tensors"],
)
def test_thousands_of_small_requests_in_one_write_are_all_answered(
    server: Server, one: bytes, status: int
) -> None:
    with server.connect() as connection:
        connection.sendall(one * 3 * MANY)
        answers = Answers(connection)
        found = [answers.next() for _ in range(3 * MANY)]
    assert [a and a.status for a in found] == [status] * 3 * MANY


def test_a_large_header_may_stand_behind_other_requests(server: Server) -> None:
    large = request("large-header", *(f"x-{n}: {'y' * 1000}" for n in range(60)))
    with server.connect() as connection:
        connection.sendall(request("slow-before") + large * 20)
        answers = Answers(connection)
        assert [a and a.status for a in (answers.next() for _ in range(21))] == [200] * 21


# ---------------------------------------------------------------- no HTTP


def test_garbage_behind_a_request_is_refused_after_its_answer(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(request("slow-garbage") + request("b-garbage") + b"\x00nonsense\r\n\r\n")
        first, second, third = Answers(connection).rest()
    assert (first.status, first.json["authorization_id"]) == (200, "slow-garbage")
    assert (second.status, second.json["authorization_id"]) == (200, "b-garbage")
    assert (third.status, third.json["code"]) == (400, "invalid_http")
    assert third.headers["connection"] == "close"


def test_a_request_that_breaks_in_its_body_is_refused_and_not_decided(server: Server) -> None:
    head = request("broken-body").partition(b"content-length")[0]
    body = request("broken-body").partition(b"\r\n\r\n")[2]
    broken = (
        head + b"transfer-encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\nnot-hex\r\n"
    )
    with server.connect() as connection:
        connection.sendall(request("slow-whole") + broken)
        first, second = Answers(connection).rest()
    assert (first.status, second.status) == (200, 400)
    assert not decided(server, "broken-body")


ODD = {
    "not a method": b"FOO / HTTP/1.1\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    "a path of bytes": b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
    "a path that is none": b"GET ://:// HTTP/1.1\r\n\r\n",
    "an asterisk": b"OPTIONS * HTTP/1.1\r\n\r\n",
    "a tunnel": b"CONNECT a:443 HTTP/1.1\r\n\r\n",
    "two lengths": b"POST /v1/authorizations HTTP/1.1\r\ncontent-length: 1\r\n"
    b"content-length: 2\r\n\r\nxx",
    "length and chunks": b"POST /v1/authorizations HTTP/1.1\r\ncontent-length: 5\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "length below nothing": b"POST /v1/authorizations HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    "5,000 digits of length": b"POST /v1/authorizations HTTP/1.1\r\ncontent-length: "
    + b"9" * 5000
    + b"\r\n\r\n",
    "5,000 zeros of length": b"POST /v2/models/sluice/infer HTTP/1.1\r\ncontent-length: "
    + b"0" * 5000
    + b"2\r\n\r\n{}",
    "a chunk of 2^64 bytes": b"POST /v1/authorizations HTTP/1.1\r\n"
    b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\n: x\r\n\r\n",
    "a null in a header": b"GET / HTTP/1.1\r\nx: \x00\r\n\r\n",
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_no_request_of_ours_is_a_4xx(server: Server, case: str) -> None:
    with server.connect() as connection:
        connection.sendall(ODD[case])
        answer = Answers(connection).next()
    assert answer is not None
    assert 400 <= answer.status < 500
    assert answer.json["code"]


HEADERS = {
    "x-deadline-ms": [
        *("9" * 405, "00050" + "0" * 400, "9" * 5000, "５０", "٥٠", "-1", "5e1", "0x32", "5_0"),
    ],
    "inference-header-content-length": ["9" * 5000, "５０", "-1", "0x10", "1_0", "99999999"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in HEADERS.items() for value in values]
)
def test_a_number_in_a_header_that_is_none_is_a_4xx_and_decides_nothing(
    server: Server, name: str, value: str
) -> None:
    key = f"number-{name}-{HEADERS[name].index(value)}"
    sent = request(key).replace(b"host: x", b"host: x\r\n" + name.encode() + b": " + value.encode())
    if name != "x-deadline-ms":
        body = json.dumps(
            {
                "inputs": [
                    {
                        "name": "authorizations",
                        "shape": [1],
                        "datatype": "BYTES",
                        "data": [json.dumps(authorization(key))],
                    }
                ]
            }
        ).encode()
        sent = (
            b"POST /v2/models/sluice/infer HTTP/1.1\r\n%s: %s\r\ncontent-length: %d\r\n\r\n"
            % (name.encode(), value.encode(), len(body))
        ) + body
    with server.connect() as connection:
        connection.sendall(sent)
        answer = Answers(connection).next()
    assert answer is not None
    assert 400 <= answer.status < 500
    assert not decided(server, key)


# ---------------------------------------------------------------- another protocol


def test_an_offer_of_http_2_is_passed_over(server: Server) -> None:
    """As the JDK's client offers it; the body may come with the header or later."""
    offer = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEAAEAA")
    for apart in (False, True):
        whole = request(f"h2c-{apart}", *offer)
        with server.connect() as connection:
            if apart:
                at = whole.index(b"\r\n\r\n") + 4
                connection.sendall(whole[:at])
                time.sleep(0.1)
                whole = whole[at:]
            connection.sendall(whole + request(f"after-h2c-{apart}"))
            answers = Answers(connection)
            for name in ("h2c", "after-h2c"):
                answer = answers.next()
                assert answer is not None
                assert (answer.status, answer.json["authorization_id"]) == (200, f"{name}-{apart}")


def test_the_body_of_an_upgrade_is_no_request_of_its_own(server: Server) -> None:
    smuggled = request("smuggled")
    head = (
        "POST /v2/models/sluice/infer HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        f"content-length: {len(smuggled)}\r\n\r\n"
    )
    with server.connect() as connection:
        connection.sendall(head.encode() + smuggled + request("honest"))
        answers = Answers(connection)
        first, second = answers.next(), answers.next()
    assert first is not None
    assert first.status == 400
    assert second is not None
    assert second.json["authorization_id"] == "honest"
    assert not decided(server, "smuggled")


# ---------------------------------------------------------------- too much


ENDLESS = {
    "headers": (b"GET / HTTP/1.1\r\n", b"x: " + b"y" * 1000 + b"\r\n"),
    "short headers": (b"GET / HTTP/1.1\r\n", b"a:\r\n"),
    "a header's value": (b"GET / HTTP/1.1\r\nx: ", b"y" * 1000),
    "a path": (b"GET /", b"y" * 1000),
    "a trailer": (
        b"POST /v1/authorizations HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
        b"x: " + b"y" * 1000 + b"\r\n",
    ),
    "chunk extensions": (
        b"POST /v2/models/sluice/infer HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;",
        b"y" * 1000,
    ),
    "chunks of a byte": (
        b"POST /v2/models/sluice/infer HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"1\r\n \r\n" * 200,
    ),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_what_never_ends_beside_a_body_is_refused(server: Server, case: str) -> None:
    begin, again = ENDLESS[case]
    sent = 0
    with server.connect() as connection:
        connection.sendall(begin)
        with suppress(ConnectionResetError, BrokenPipeError):  # closed while we were writing
            while sent < ENDLESS_BYTES:
                connection.sendall(again)
                sent += len(again)
        with suppress(ConnectionResetError):
            answer = Answers(connection).next()
            assert answer is None or (answer.status, answer.json["code"]) == (
                431,
                "headers_too_large",
            )
    assert sent < ENDLESS_BYTES


def test_too_many_headers_are_refused_and_not_decided(server: Server) -> None:
    for more, status in ((HEADERS_MAX + 1, 431), (HEADERS_MAX - 8, 200)):
        name = f"headers-{status}"
        with server.connect() as connection:
            connection.sendall(request(name, *(f"x{n}: y" for n in range(more))))
            answer = Answers(connection).next()
        assert answer is not None
        assert answer.status == status
        assert decided(server, name) == (status == 200)


@pytest.mark.parametrize("path", ["/v1/models/sluice:predict", "/v2/models/sluice/infer"])
def test_chunks_past_4_mib_are_refused_and_their_sender_hears_why(
    server: Server, path: str
) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(80):
            yield b" " * 65_536

    answer = post(f"{server.url}{path}", content=chunks())
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    deep = b'{"instances":' + b"[" * 1_000 + b"]" * 1_000 + b"}"
    assert post(f"{server.url}{path}", content=deep).status_code in (400, 422)


@pytest.mark.parametrize("size", [100_000, 4 * 1024 * 1024])
def test_a_large_body_is_read_whole(server: Server, size: int) -> None:
    text = json.dumps(authorization(f"large-{size}")).encode()
    body = b'{"instances":[' + text + b"]" + b" " * (size - len(text) - 16) + b"}"
    answer = post(f"{server.url}/v1/models/sluice:predict", content=body)
    assert answer.json()["predictions"][0]["outcome"] == "approve"


# ---------------------------------------------------------------- who does not read, or not write


def test_senders_that_never_read_are_cut_and_cost_little(server: Server) -> None:
    before = server.memory_mb()
    flood = [
        b"GET / HTTP/1.1\r\n\r\n" * 14_000,
        b"GET /openapi.json HTTP/1.1\r\n\r\n" * 8_000,
        b"".join(request(f"unread-{n:x}") for n in range(500)),
        b"POST /v2/models/sluice/infer HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}" * 4_000,
    ]
    most = before
    with ExitStack() as stack:
        connections = []
        for n in range(40):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            connection.setblocking(False)
            connections.append((connection, flood[n % len(flood)]))
        cut: set[socket.socket] = set()
        until = time.monotonic() + 6 * UNREAD_TIMEOUT_S
        while len(cut) < len(connections) and time.monotonic() < until:
            for connection, data in connections:
                try:
                    connection.send(data)
                except BlockingIOError:
                    pass
                except OSError:
                    cut.add(connection)
            most = max(most, server.memory_mb())
            asked = get(f"{server.url}/v2/health/live")
            assert asked.status_code == 200
            time.sleep(0.02)
        assert len(cut) == len(connections)
    assert most - before < 100
    page = get(f"{server.admin}/metrics").text
    shown = 'sluice_decider_connections_closed_total{port="api",reason="slow_reader"}'
    assert float(page.split(shown)[1].split()[0]) >= len(connections)


def test_a_sender_that_reads_late_gets_all_its_answers(server: Server) -> None:
    names = [f"late-{n:x}" for n in range(MANY)]
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.settimeout(30)
        sent = b"".join(map(request, names))
        found: list[str] = []
        answers = Answers(connection)
        at = 0
        connection.setblocking(False)
        paused = time.monotonic() + UNREAD_TIMEOUT_S / 3
        while time.monotonic() < paused:  # writes all it can, and reads nothing
            with suppress(BlockingIOError):
                at += connection.send(sent[at:])
            time.sleep(0.01)
        connection.settimeout(30)
        while len(found) < len(names):
            if at < len(sent):
                at += connection.send(sent[at : at + 2000])
            answer = answers.next()
            assert answer is not None
            found.append(answer.json["authorization_id"])
    assert found == names


def test_a_dawdler_behind_a_whole_request_is_cut_off(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(request("before-dawdling") + request("dawdling")[:-3])
        answers = Answers(connection)
        first = answers.next()
        assert first is not None
        assert first.status == 200
        assert answers.next() is None
    assert not decided(server, "dawdling")


# ---------------------------------------------------------------- who only connects


@pytest.fixture
def little(tmp_path: Path) -> Iterator[Server]:
    """With room for ROOM connections."""
    files = ROOM + ADMIN_CONNECTIONS_MAX + FILES_BESIDE
    with serving(tmp_path, files_max=files) as server:
        yield server


def test_idle_connections_make_room_for_newcomers(little: Server) -> None:
    with ExitStack() as stack:
        for n in range(4 * ROOM):
            connection = stack.enter_context(little.connect())
            if n % 2:  # used, then idle
                connection.sendall(request(f"idle-{n}"))
                assert Answers(connection).next() is not None
        body = authorization("newcomer")
        assert post(f"{little.url}/v1/authorizations", json=body).status_code == 200
        page = get(f"{little.admin}/metrics").text
    assert 'sluice_decider_connections_closed_total{port="api",reason="idle"}' in page


def test_health_and_metrics_answer_when_the_public_port_is_full(little: Server) -> None:
    with ExitStack() as stack:
        senders = [stack.enter_context(little.connect()) for _ in range(ROOM)]
        for sender in senders:  # none is idle: each is sending
            sender.sendall(b"POST /v1/authorizations HTTP/1.1\r\n")
        little.catch_up()
        with little.connect() as refused:
            answer = Answers(refused).next()
        assert answer is not None
        assert (answer.status, answer.json["code"]) == (503, "overloaded")
        assert answer.headers["retry-after"] == "1"
        for path in ("/v2/health/live", "/v2/health/ready", "/metrics"):
            assert get(f"{little.admin}{path}").status_code == 200
    statuses = {503}
    while 200 not in statuses:  # their ends are being read
        with little.connect() as connection:
            connection.sendall(request("after-the-crowd"))
            answer = Answers(connection).next()
        assert answer is not None
        statuses.add(answer.status)
        assert statuses <= {200, 503}


def test_one_address_has_a_bound_and_its_idle_connections_go_first(tmp_path: Path) -> None:
    with serving(tmp_path, per_address_max=4) as server, ExitStack() as stack:
        busy = [stack.enter_context(server.connect()) for _ in range(3)]
        for connection in busy:
            connection.sendall(b"POST /v1/authorizations HTTP/1.1\r\n")
        idle = stack.enter_context(server.connect())
        server.catch_up()
        newcomer = stack.enter_context(server.connect())
        newcomer.sendall(request("newcomer"))
        answer = Answers(newcomer).next()
        assert answer is not None
        assert answer.status == 200
        assert Answers(idle).next() is None
        newcomer.sendall(b"POST /v1/authorizations HTTP/1.1\r\n")
        server.catch_up()
        with server.connect() as fifth:
            refused = Answers(fifth).next()
        assert refused is not None
        assert refused.status == 503


def test_newcomers_are_accepted_many_in_a_turn_of_a_busy_loop(server: Server) -> None:
    """Each heavy authorization keeps the loop busy for a turn: newcomers wait for a few of them."""
    newcomers = 300
    with ExitStack() as stack:
        busy = stack.enter_context(server.connect())
        busy.sendall(b"".join(request(f"heavy-{n:x}") for n in range(2 * newcomers)))
        assert Answers(busy).next() is not None
        with server.stopped():  # they come all at once, however slow we are
            burst = [stack.enter_context(server.connect()) for _ in range(newcomers)]
            for connection in burst:
                connection.sendall(b"GET /v2/health/live HTTP/1.1\r\n\r\n")
        for connection in burst:
            answer = Answers(connection).next()
            assert answer is not None
            assert answer.status == 200
        busy.setblocking(False)
        answered = b""
        with suppress(BlockingIOError):
            while data := busy.recv(1 << 20):
                answered += data
    assert 0 < answered.count(b'"decided_at"') < newcomers / 8


def test_a_request_past_the_memory_limit_is_refused_and_the_process_goes_on(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, memory_max_mb=2048) as server:
        url = f"{server.url}/v1/authorizations"
        answer = post(url, json=authorization("hungry-1"))
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
        assert post(url, json=authorization("modest-1")).status_code == 200
