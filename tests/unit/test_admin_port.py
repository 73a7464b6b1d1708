"""The admin port of a service without HTTP: what it shows, and what a stranger cannot do to it."""

from __future__ import annotations

import socket
import time
import urllib.error
import urllib.request
from contextlib import ExitStack

import pytest

from sluice.telemetry import Health, start_admin_server
from sluice.telemetry.admin import ANSWER_MAX_S, ANSWERS_MAX


def status(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            found: int = answer.status
            return found
    except urllib.error.HTTPError as error:
        return error.code


def test_liveness_and_readiness_follow_the_turns_of_the_work() -> None:
    health = Health()
    port = start_admin_server(0, host="127.0.0.1", health=health)
    paths = ("/v2/health/live", "/v2/health/ready")
    assert [status(port, path) for path in paths] == [200, 503], "it starts"
    health.beat(ready=True)
    assert [status(port, path) for path in paths] == [200, 200]
    health.beat(ready=False)
    assert [status(port, path) for path in paths] == [200, 503], "its last batch failed"
    health.beat(ready=True)
    health.silent_max_s = 0.0
    assert [status(port, path) for path in paths] == [503, 503], "it has stopped turning"


def test_it_shows_metrics_and_nothing_else() -> None:
    port = start_admin_server(0, host="127.0.0.1", health=Health())
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        assert b"python_info" in page.read()
    assert status(port, "/v2/models/sluice/infer") == 404
    assert status(port, "/../etc/passwd") == 404


def test_senders_that_say_nothing_are_cut_off_and_never_more_than_the_bound_wait() -> None:
    port = start_admin_server(0, host="127.0.0.1", health=Health())
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            for _ in range(ANSWERS_MAX)
        ]
        for connection in silent:
            connection.sendall(b"GET /metrics HTTP/1.0\r\n")
        time.sleep(0.2)
        with socket.create_connection(("127.0.0.1", port), timeout=30) as late:
            assert late.recv(1) == b"", "turned away at once"
        until = time.monotonic() + 4 * ANSWER_MAX_S
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
    assert status(port, "/v2/health/live") == 200


@pytest.mark.parametrize("sent", [b"\x00" * 1000, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
def test_what_is_no_http_does_not_end_it(sent: bytes) -> None:
    port = start_admin_server(0, host="127.0.0.1", health=Health())
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(65_536)
    assert status(port, "/v2/health/live") == 200
