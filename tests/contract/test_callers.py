"""Common HTTP clients and proxies as they come, against the sync API: each request is answered.

What cannot be had on a machine is left out by name. Versions and results: docs/reference/http.md.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import aiohttp
import httpx
import pytest
import requests

from local.kafka.jars import class_path
from local.kafka.java import java
from local.stack import free_port
from sluice.errors import Unavailable
from tests.support.debian import MissingError, unpacked
from tests.support.messages import authorization
from tests.support.sync_server import Server, serving

pytestmark = pytest.mark.integration

CLIENTS = Path(__file__).parent / "clients"
RUN_MAX_S = 600
"""A first build of the Go client on a busy machine."""
EACH = 3
Sent = Callable[[str, list[str]], list[tuple[int, str]]]
"""URL and bodies to status and body of the answer to each, in order; each body is sent twice."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("callers"), in_flight_max=256) as server:
        yield server


def ran(*command: str | Path) -> list[tuple[int, str]]:
    """What a client printed: status and body, a line each."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_MAX_S, check=False)
    assert done.returncode == 0, done.stderr
    found = [line.partition(" ") for line in done.stdout.splitlines()]
    return [(int(status), body) for status, _, body in found]


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not on this machine")
    return found


def java_source(name: str, jars: str = "") -> Sent:
    def sent(url: str, bodies: list[str]) -> list[tuple[int, str]]:
        binary = java()
        listed = subprocess.run(
            [binary, "--list-modules"], capture_output=True, text=True, check=True
        )
        if "jdk.compiler" not in listed.stdout:
            pytest.skip("java here runs no sources: it has no compiler")
        path = []
        if jars:
            try:
                path = ["-cp", class_path(CLIENTS / jars)]
            except Unavailable as error:
                pytest.skip(f"the jars of {name} cannot be had: {error}")
        return ran(binary, "-XX:TieredStopAtLevel=1", *path, CLIENTS / f"{name}.java", url, *bodies)

    return sent


def go(url: str, bodies: list[str]) -> list[tuple[int, str]]:
    return ran(tool("go"), "run", CLIENTS / "client.go", url, *bodies)


def node(url: str, bodies: list[str]) -> list[tuple[int, str]]:
    return ran(tool("node"), CLIENTS / "fetch.mjs", url, *bodies)


def curl(url: str, bodies: list[str]) -> list[tuple[int, str]]:
    """It offers h2c, and asks leave to send."""
    found = []
    for how in (
        ["--http2", "-H", "expect: 100-continue"],
        ["--http1.1", "-H", "connection: close"],
    ):
        for body in bodies:
            form = [*how, "-sS", "-w", "\n%{http_code}", "-H", "content-type: application/json"]
            done = subprocess.run(
                [tool("curl"), *form, "--data-binary", body, url],
                capture_output=True,
                text=True,
                timeout=RUN_MAX_S,
                check=True,
            )
            text, _, status = done.stdout.rpartition("\n")
            found.append((int(status), text))
    return found


def by_requests(url: str, bodies: list[str]) -> list[tuple[int, str]]:
    with requests.Session() as session:
        kept = [session.post(url, json=json.loads(body)) for body in bodies]
    closed = [requests.post(url, json=json.loads(body), timeout=30) for body in bodies]
    return [(answer.status_code, answer.text) for answer in kept + closed]


def by_httpx(url: str, bodies: list[str]) -> list[tuple[int, str]]:
    with httpx.Client(timeout=30) as client:
        kept = [client.post(url, json=json.loads(body)) for body in bodies]
    closed = [httpx.post(url, json=json.loads(body), timeout=30) for body in bodies]
    return [(answer.status_code, answer.text) for answer in kept + closed]


def by_aiohttp(url: str, bodies: list[str]) -> list[tuple[int, str]]:
    async def send() -> list[tuple[int, str]]:
        found = []
        for close in (False, True):
            connector = aiohttp.TCPConnector(force_close=close)
            async with aiohttp.ClientSession(connector=connector) as session:
                for body in bodies:
                    async with session.post(url, json=json.loads(body), expect100=close) as answer:
                        found.append((answer.status, await answer.text()))
        return found

    return asyncio.run(send())


def dotnet_like(url: str, bodies: list[str]) -> list[tuple[int, str]]:
    """What HttpClient of .NET writes: names with capitals, a charset, leave asked for before the
    body; then the same in small letters, in chunks."""
    host, _, rest = url.removeprefix("http://").partition("/")
    name, port = host.split(":")
    found = []
    for small in (False, True):
        with socket.create_connection((name, int(port)), timeout=30) as connection:
            answers = connection.makefile("rb")
            for body in bodies:
                head = f"Host: {host}\r\nContent-Type: application/json; charset=utf-8\r\n"
                if small:
                    head = head.lower() + "transfer-encoding: chunked\r\n"
                    data = f"{len(body):X}\r\n{body}\r\n0\r\n\r\n"
                else:
                    head += f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n"
                    data = body
                connection.sendall(f"POST /{rest} HTTP/1.1\r\n{head}\r\n".encode())
                if not small:
                    assert answers.readline() == b"HTTP/1.1 100 Continue\r\n"
                    assert answers.readline() == b"\r\n"
                connection.sendall(data.encode())
                status = int(answers.readline().split()[1])
                length = 0
                while (line := answers.readline()) != b"\r\n":
                    key, _, value = line.partition(b":")
                    if key.lower() == b"content-length":
                        length = int(value)
                found.append((status, answers.read(length).decode()))
    return found


SENDERS: dict[str, Sent] = {
    "jdk": java_source("Jdk"),
    "apache": java_source("Apache", "jars.lock"),
    "okhttp": java_source("OkHttp", "jars.lock"),
    "dotnet_like": dotnet_like,
    "go": go,
    "node": node,
    "curl": curl,
    "requests": by_requests,
    "httpx": by_httpx,
    "aiohttp": by_aiohttp,
}


def bodies(name: str) -> list[str]:
    return [json.dumps(authorization(authorization_id=f"{name}-{n}")) for n in range(EACH)]


def check_answers(found: list[tuple[int, str]], name: str) -> None:
    """Each was answered, and the second time round with the bytes of the first."""
    assert [status for status, _ in found] == [200] * 2 * EACH, found
    answers = [json.loads(body) for _, body in found]
    assert [a["authorization_id"] for a in answers] == [f"{name}-{n}" for n in range(EACH)] * 2
    assert found[:EACH] == found[EACH:]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "go" else ()) for n in SENDERS]
)
def test_a_client_as_it_comes_is_answered(server: Server, name: str) -> None:
    check_answers(SENDERS[name](f"{server.url}/v1/authorizations", bodies(name)), name)


NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream sluice {{ server 127.0.0.1:{to}; keepalive 8; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://sluice; {more} }}
  }}
}}
"""
HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
listen sluice
  bind 127.0.0.1:{port}
  {more}
  server sluice 127.0.0.1:{to}
"""
PROXIES = {
    "nginx-1.0": ("nginx", NGINX, ""),
    "nginx-1.1": ("nginx", NGINX, 'proxy_http_version 1.1; proxy_set_header connection "";'),
    "haproxy-keep": ("haproxy", HAPROXY, "option http-keep-alive"),
    "haproxy-close": ("haproxy", HAPROXY, "option httpclose"),
}


@contextmanager
def proxied(name: str, to: int, folder: Path) -> Iterator[str]:
    program, template, more = PROXIES[name]
    port = free_port()
    config = folder / "proxy.conf"
    config.write_text(template.format(folder=folder, port=port, to=to, more=more))
    installed = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    where = nullcontext(Path("/")) if installed else unpacked(program, program, needs=True)
    words = ["-p", folder, "-c", config] if program == "nginx" else ["-f", config]
    try:
        with where as found:
            binary = installed or found / "usr" / "sbin" / program
            own = [] if installed else sorted({str(p.parent) for p in found.rglob("*.so*")})
            process = subprocess.Popen(
                [binary, *words], env={"LD_LIBRARY_PATH": ":".join(own)}, stderr=subprocess.PIPE
            )
            try:
                wait_for(port, process)
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()
                process.communicate(timeout=120)
    except MissingError as error:
        pytest.skip(str(error))


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < deadline, "the proxy does not listen"
            time.sleep(0.05)
        else:
            return


@pytest.mark.parametrize("name", PROXIES)
def test_through_a_proxy_each_is_answered(server: Server, name: str, tmp_path: Path) -> None:
    with proxied(name, server.port, tmp_path) as url:
        check_answers(by_httpx(f"{url}/v1/authorizations", bodies(name)), name)


def test_envoy_as_it_speaks_to_its_clusters_is_answered(server: Server) -> None:
    """HTTP/1.1 in small letters with its own headers, requests of several callers on one
    connection: no Envoy is packaged where this runs."""
    extra = {
        "x-forwarded-proto": "http",
        "x-request-id": "5a9e2f3c-8d1b-4c6e-9f00-0c1d2e3f4a5b",
        "x-envoy-expected-rq-timeout-ms": "15000",
        "x-envoy-internal": "true",
    }
    with httpx.Client(headers=extra, timeout=30) as client:
        found = [
            client.post(
                f"{server.url}/v1/authorizations",
                content=body,
                headers={"content-type": "application/json"},
            )
            for body in bodies("envoy") * 2
        ]
    check_answers([(answer.status_code, answer.text) for answer in found], "envoy")
