"""The admin port of a service without HTTP: what it shows, and what a stranger cannot do to it."""

from __future__ import annotations

import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from sluice.telemetry import WHY_MAX, AdminServer, Health
from sluice.telemetry.admin import ANSWER_MAX_S, ANSWERS_MAX
from tests.support.kafka import wait_until


def status(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            found: int = answer.status
            return found
    except urllib.error.HTTPError as error:
        return error.code


def test_liveness_and_readiness_follow_the_turns_of_the_work() -> None:
    health = Health()
    port = AdminServer(0, host="127.0.0.1", health=health).port
    paths = ("/v2/health/live", "/v2/health/ready")
    assert [status(port, path) for path in paths] == [200, 503], "it starts"
    health.beat(ready=True)
    assert [status(port, path) for path in paths] == [200, 200]
    health.beat(ready=False)
    assert [status(port, path) for path in paths] == [200, 503], "its last batch failed"
    health.beat(ready=True)
    health.silent_max_s = 0.0
    assert [status(port, path) for path in paths] == [503, 503], "it has stopped turning"


def body(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=10) as page:
            return str(page.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


def test_readiness_says_why_not() -> None:
    health = Health()
    port = AdminServer(0, host="127.0.0.1", health=health).port
    assert body(port) == '{"ready":false,"why":"it starts"}'
    health.beat(ready=False, why="x" * 2 * WHY_MAX)
    assert body(port) == '{"ready":false,"why":"' + "x" * WHY_MAX + '"}'
    health.beat(ready=True)
    assert body(port) == '{"ready":true}'
    health.silent_max_s = 0.0
    assert body(port) == '{"ready":false,"why":"its work stands still"}'


def test_another_server_takes_the_port_over_and_nobody_is_turned_away() -> None:
    admin = AdminServer(0, host="127.0.0.1", health=Health())
    statuses: list[int] = []
    over = threading.Event()

    def probe() -> None:
        while not over.is_set():
            statuses.append(status(admin.port, "/v2/health/live"))

    prober = threading.Thread(target=probe)
    prober.start()
    taken = admin.hand_over()
    other = HTTPServer(("127.0.0.1", 0), _Other, bind_and_activate=False)
    other.socket.close()
    other.socket = taken
    threading.Thread(target=other.serve_forever, daemon=True).start()
    until = time.monotonic() + 30
    while 204 not in statuses and time.monotonic() < until:
        time.sleep(0.01)
    over.set()
    prober.join()
    other.shutdown()
    taken.close()
    assert set(statuses) <= {200, 204}
    assert statuses[-1] == 204


class _Other(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


def test_it_shows_metrics_and_nothing_else() -> None:
    port = AdminServer(0, host="127.0.0.1", health=Health()).port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        assert b"python_info" in page.read()
    assert status(port, "/v2/models/sluice/infer") == 404
    assert status(port, "/../etc/passwd") == 404


def test_senders_that_say_nothing_are_cut_off_and_never_more_than_the_bound_wait() -> None:
    port = AdminServer(0, host="127.0.0.1", health=Health()).port
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            for _ in range(ANSWERS_MAX)
        ]
        for connection in silent:
            connection.sendall(b"GET /metrics HTTP/1.0\r\n")
        with socket.create_connection(("127.0.0.1", port), timeout=30) as late:
            assert late.recv(1) == b"", "turned away: it comes behind them"
        until = time.monotonic() + 10 * ANSWER_MAX_S
        for connection in silent:
            while True:  # drips on, as long as it is let
                try:
                    connection.sendall(b"x: y\r\n")
                    connection.settimeout(0.5)
                    if connection.recv(1) == b"":
                        break
                except TimeoutError:
                    assert time.monotonic() < until
                except OSError:
                    break

    def answers() -> bool:
        try:
            return status(port, "/v2/health/live") == 200
        except OSError:
            return False

    wait_until(answers, "a thread that was cut off has ended, and another is answered")


@pytest.mark.parametrize("sent", [b"\x00" * 1000, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
def test_what_is_no_http_does_not_end_it(sent: bytes) -> None:
    port = AdminServer(0, host="127.0.0.1", health=Health()).port
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(65_536)
    assert status(port, "/v2/health/live") == 200
