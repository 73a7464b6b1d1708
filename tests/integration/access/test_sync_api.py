"""The sync API as a real process that asks for credentials: TLS, client certificates, tokens."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.decider.access import API, OPERATORS, thumbprint
from sluice.domain.records.authorization import MAX_BODY_BYTES
from tests.support.certificates import Authority, Pem
from tests.support.issuer import AUDIENCE, ISSUER, Issuer
from tests.support.messages import authorization

pytestmark = pytest.mark.integration

WAIT_S = 120.0
URI = "spiffe://bank/acquirer"
SECOND = timedelta(seconds=1)
JUDGED = ("/v1/authorizations", "/v2/models/sluice/infer", "/v1/models/sluice:predict")


class Server:
    """A process, its log, and clients of it."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, ca: Path) -> None:
        self.process = process
        self.log = log
        self._ca = ca
        self.port = self.admin_port = 0

    def events(self, name: str = "") -> list[dict[str, Any]]:
        lines = self.log.read_text().split("\n")[:-1]
        return [e for e in map(json.loads, lines) if not name or e["event"] == name]

    def decided(self) -> list[str]:
        return [one for event in self.events("decided") for one in event["ids"]]

    def context(self, client: Pem | None = None) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=self._ca)
        if client is not None:
            made.load_cert_chain(client.cert, client.key)
        return made

    def client(self, client: Pem | None = None) -> httpx.Client:
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.port}", verify=self.context(client), timeout=WAIT_S
        )

    def operator(self) -> httpx.Client:
        """Of the admin port, which is plain HTTP."""
        return httpx.Client(base_url=f"http://127.0.0.1:{self.admin_port}", timeout=WAIT_S)


@contextmanager
def serving(folder: Path, ca: Path, settings: Mapping[str, str]) -> Iterator[Server]:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")}
    with log.open("wb") as stderr, (folder / "lines").open("wb") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.access.process"],
            stdout=stdout,
            stderr=stderr,
            env=environment | settings,
            cwd=Path(__file__).parents[3],
        )
    server = Server(process, log, ca)
    try:
        wait(lambda: process.poll() is not None or server.events("listening"), log)
        listening = server.events("listening")
        if listening:
            server.port, server.admin_port = listening[0]["port"], listening[0]["admin_port"]
        yield server
    finally:
        process.kill()
        process.wait()


def wait(until: Any, log: Path) -> None:
    deadline = time.monotonic() + WAIT_S
    while not until():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("access")


@pytest.fixture(scope="module")
def servers(folder: Path) -> Authority:
    return Authority(folder / "servers", "servers")


@pytest.fixture(scope="module")
def clients(folder: Path) -> Authority:
    return Authority(folder / "clients", "clients")


@pytest.fixture(scope="module")
def issuer(folder: Path) -> Issuer:
    return Issuer(folder)


def tokens_of(issuer: Issuer) -> dict[str, str]:
    return {
        "SLUICE_ACCESS_MODE": "required",
        "SLUICE_ACCESS_ISSUER": ISSUER,
        "SLUICE_ACCESS_AUDIENCE": AUDIENCE,
        "SLUICE_ACCESS_KEYS": str(issuer.keys),
    }


def tls_of(server: Pem) -> dict[str, str]:
    return {
        "SLUICE_DECIDER_CERT_FILE": str(server.cert),
        "SLUICE_DECIDER_KEY_FILE": str(server.key),
    }


@pytest.fixture(scope="module")
def with_tokens(folder: Path, servers: Authority, issuer: Issuer) -> Iterator[Server]:
    """TLS, and a bearer token in each request."""
    pem = servers.issue("api", hosts=("127.0.0.1",))
    with serving(folder / "tokens", servers.ca, tls_of(pem) | tokens_of(issuer)) as server:
        yield server


@pytest.fixture(scope="module")
def with_both(
    folder: Path, servers: Authority, clients: Authority, issuer: Issuer
) -> Iterator[Server]:
    """Client certificates, of which one is listed, and tokens."""
    pem = servers.issue("api-mutual", hosts=("127.0.0.1",))
    listed = folder / "clients.yaml"
    row = {"certificate": f"URI:{URI}", "tenants": ["bank"], "scopes": ["authorize"]}
    listed.write_text(json.dumps({"clients": [row]}))
    more = {
        "SLUICE_DECIDER_CLIENT_CA_FILE": str(clients.ca),
        "SLUICE_ACCESS_CLIENTS_FILE": str(listed),
    }
    settings = tls_of(pem) | tokens_of(issuer) | more
    with serving(folder / "both", servers.ca, settings) as server:
        yield server


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


# ------------------------------------------------------------ tokens over TLS


def test_a_token_over_tls_gets_a_decision(with_tokens: Server, issuer: Issuer) -> None:
    with with_tokens.client() as client:
        for name in ("tls-1", "tls-2"):  # on one connection
            body = authorization(name)
            answer = client.post("/v1/authorizations", json=body, headers=bearer(issuer.token()))
            assert (answer.status_code, answer.json()["outcome"]) == (200, "approve")
            assert "score_ppm" not in answer.json()


@pytest.mark.parametrize("port", ["api", "admin"])
def test_on_each_route_a_wrong_credential_gets_nothing(
    with_tokens: Server, issuer: Issuer, port: str
) -> None:
    now = int(time.time())
    every = {"scope": "authorize score admin"}
    wrong = {
        "none": ("", 401),
        "expired": (issuer.token(exp=now - 100, **every), 401),
        "not yet valid": (issuer.token(nbf=now + 100, **every), 401),
        "wrong aud": (issuer.token(aud="elsewhere", **every), 401),
        "wrong issuer": (issuer.token(iss="https://else.example", **every), 401),
        "wrong algorithm": (issuer.token(alg="RS512", **every), 401),
        "other tenant": (issuer.token(tenant="other-bank"), 403),
        "wrong scope": (issuer.token(scope="settle"), 403),
    }
    before = with_tokens.decided()
    client = with_tokens.client() if port == "api" else with_tokens.operator()
    routes = API if port == "api" else OPERATORS
    guarded = [path.replace("{name}", "sluice") for path, s in routes.table.items() if s]
    for path, (name, (token, status)) in product(guarded, wrong.items()):
        judged = port == "api" and path in JUDGED
        if name == "other tenant" and not judged:
            continue  # nothing there is of a tenant
        auth = authorization(f"matrix-{path}-{name}".replace("/", "-").replace(" ", "-"))
        rows = {"name": "authorizations", "shape": [1], "datatype": "BYTES"}
        bodies: dict[str, Any] = {
            "/v1/authorizations": auth,
            "/v2/models/sluice/infer": {"inputs": [rows | {"data": [json.dumps(auth)]}]},
            "/v1/models/sluice:predict": {"instances": [auth]},
        }
        headers = bearer(token) if token else {}
        method = "POST" if path in bodies else "GET"
        answer = client.request(method, path, json=bodies.get(path), headers=headers)
        assert answer.status_code == status, (path, name, answer.text)
        assert not token or token not in answer.text
    client.close()
    assert with_tokens.decided() == before


def test_what_kserve_has_besides_is_nobodys(with_tokens: Server, issuer: Issuer) -> None:
    every = bearer(issuer.token(scope="authorize score admin"))
    with with_tokens.client() as client:
        for path in ("/", "/metrics", "/docs", "/v2/repository/models/sluice/unload"):
            assert client.post(path, headers=every).status_code == 404, path
            assert client.get(path).status_code == 401, path


def test_rows_of_kserves_v1_protocol_are_the_callers_own(
    with_tokens: Server, issuer: Issuer
) -> None:
    rows = [authorization("v1-own"), authorization("v1-other", tenant="other-bank")]
    with with_tokens.client() as client:
        answer = client.post(
            "/v1/models/sluice:predict", json={"instances": rows}, headers=bearer(issuer.token())
        )
    own, other = answer.json()["predictions"]
    assert (own["outcome"], other["code"]) == ("approve", "other_tenant")
    assert "score_ppm" not in own


def test_metrics_count_the_refused(with_tokens: Server) -> None:
    with with_tokens.client() as client, with_tokens.operator() as operator:
        client.post("/v1/authorizations", json=authorization("nobody"))
        page = operator.get("/metrics").text
    assert 'sluice_decider_access_refused_total{reason="none"}' in page
    assert "sluice_decider_access_open" not in page


def test_large_and_announced_bodies_go_through_tls_too(with_tokens: Server, issuer: Issuer) -> None:
    with with_tokens.client() as client:
        body = json.dumps(authorization("large")).encode()
        for padding, status in ((MAX_BODY_BYTES - len(body), 200), (2**20, 413)):
            answer = client.post(
                "/v1/authorizations",
                content=body + b" " * padding,
                headers=bearer(issuer.token()) | {"content-type": "application/json"},
            )
            assert answer.status_code == status
        answer = client.post("/v1/authorizations", content=b" " * 2**20)
        assert answer.status_code == 401, "a stranger's body is not read"
        announced = bearer(issuer.token()) | {"expect": "100-continue"}
        answer = client.post(
            "/v1/authorizations", json=authorization("announced"), headers=announced
        )
        assert answer.status_code == 200


def test_who_speaks_no_tls_is_left_without_an_answer(with_tokens: Server, issuer: Issuer) -> None:
    with socket.create_connection(("127.0.0.1", with_tokens.port)) as plain:
        plain.settimeout(WAIT_S)
        plain.sendall(b"POST /v1/authorizations HTTP/1.1\r\nhost: x\r\n\r\n")
        with suppress(ConnectionResetError):
            assert b"HTTP" not in plain.recv(100)
    with with_tokens.client() as client:
        answer = client.post(
            "/v1/authorizations", json=authorization("after"), headers=bearer(issuer.token())
        )
        assert answer.status_code == 200


def test_no_token_is_in_any_log(with_tokens: Server, issuer: Issuer) -> None:
    """After all the others."""
    good, broken = issuer.token(), issuer.token(aud="elsewhere")
    with with_tokens.client() as client:
        for token in (good, broken, "nonsense-credential"):
            client.post("/v1/authorizations", json=authorization("logged"), headers=bearer(token))
    said = with_tokens.log.read_text() + (with_tokens.log.parent / "lines").read_text()
    assert "eyJ" not in said
    assert "nonsense-credential" not in said
    assert with_tokens.events("access_refused")


# ------------------------------------------------------------ client certificates


def test_a_listed_certificate_is_a_credential(with_both: Server, clients: Authority) -> None:
    acquirer = clients.issue("acquirer", uri=URI)
    with with_both.client(acquirer) as client:
        answer = client.post("/v1/authorizations", json=authorization("mtls-1"))
        assert answer.status_code == 200
        other = client.post("/v1/authorizations", json=authorization("mtls-2", tenant="other-bank"))
        assert (other.status_code, other.json()["code"]) == (403, "other_tenant")
        assert client.get("/metrics").status_code == 404


def test_a_token_on_a_connection_with_a_certificate_decides(
    with_both: Server, clients: Authority, issuer: Issuer
) -> None:
    """Bound to another certificate (RFC 8705) it is worth nothing."""
    nobody = clients.issue("nobody")
    der = ssl.PEM_cert_to_DER_cert(nobody.cert.read_text())
    bound = {"x5t#S256": thumbprint(der)}
    with with_both.client(nobody) as client:
        answer = client.post("/v1/authorizations", json=authorization("unlisted"))
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        for cnf, status in ((bound, 200), ({"x5t#S256": "other"}, 401)):
            answer = client.post(
                "/v1/authorizations",
                json=authorization("bound"),
                headers=bearer(issuer.token(cnf=cnf)),
            )
            assert answer.status_code == status


@pytest.mark.parametrize("case", ["none", "another CA", "expired", "not yet valid"])
def test_without_a_good_certificate_there_is_no_connection(
    with_both: Server, clients: Authority, servers: Authority, case: str
) -> None:
    made = {
        "none": lambda: None,
        "another CA": lambda: servers.issue("stranger", uri=URI),
        "expired": lambda: clients.issue("late", uri=URI, ends=-SECOND),
        "not yet valid": lambda: clients.issue("early", uri=URI, begins=60 * SECOND),
    }
    before = with_both.decided()
    with with_both.client(made[case]()) as client, pytest.raises(httpx.TransportError):
        client.post("/v1/authorizations", json=authorization("no-connection"))
    assert with_both.decided() == before


# ------------------------------------------------------------ while it runs, and at the start


def test_a_new_certificate_is_taken_and_a_broken_one_is_not(
    tmp_path: Path, servers: Authority, issuer: Issuer
) -> None:
    def shown(server: Server) -> bytes:
        address = "127.0.0.1", server.port
        with (
            socket.create_connection(address) as plain,
            server.context().wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            return secure.getpeercert(True) or b""

    pem = servers.issue("rotated", hosts=("127.0.0.1",))
    with serving(tmp_path, servers.ca, tls_of(pem) | tokens_of(issuer)) as server:
        first = shown(server)
        servers.issue("rotated", hosts=("127.0.0.1",))
        wait(lambda: shown(server) != first, server.log)
        second = shown(server)
        pem.cert.write_text("nonsense")
        wait(lambda: server.events("refused"), server.log)
        assert server.events("refused")[-1]["what"] == "certificate"
        assert shown(server) == second
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(WAIT_S) == 0


def test_a_setting_that_cannot_work_ends_the_start_and_is_named(
    tmp_path: Path, servers: Authority, clients: Authority, issuer: Issuer
) -> None:
    good = servers.issue("good", hosts=("127.0.0.1",))
    late = servers.issue("expired-server", hosts=("127.0.0.1",), ends=-SECOND)
    (tmp_path / "none.json").write_text('{"keys": []}')
    cases: dict[str, tuple[dict[str, str], str]] = {
        "no credential": ({"SLUICE_ACCESS_MODE": "required"}, "access.mode"),
        "no audience": (tokens_of(issuer) | {"SLUICE_ACCESS_AUDIENCE": ""}, "access.audience"),
        "no keys": (
            tokens_of(issuer) | {"SLUICE_ACCESS_KEYS": str(tmp_path / "none.json")},
            "none of the 0 keys",
        ),
        "a shared secret": (
            tokens_of(issuer) | {"SLUICE_ACCESS_ALGORITHMS": "HS256"}, "access.algorithms"
        ),
        "an unsigned token": (
            tokens_of(issuer) | {"SLUICE_ACCESS_ALGORITHMS": "none"}, "access.algorithms"
        ),
        "keys over http": (
            tokens_of(issuer) | {"SLUICE_ACCESS_KEYS": "http://issuer.example/keys"},
            "an https URL",
        ),
        "expired": (tls_of(late), "expired at"),
        "another's key": (
            tls_of(Pem(good.cert, late.key)), "the private key is not the certificate's"
        ),
        "no key": (tls_of(good) | {"SLUICE_DECIDER_KEY_FILE": ""}, "decider.key_file"),
        "no file": (tls_of(Pem(tmp_path / "no.pem", good.key)), "decider.cert_file"),
        "nobody listed": (
            tls_of(good)
            | {
                "SLUICE_ACCESS_MODE": "required",
                "SLUICE_DECIDER_CLIENT_CA_FILE": str(clients.ca),
            },
            "access.clients_file",
        ),
    }  # fmt: skip
    for name, (settings, said) in cases.items():
        with serving(tmp_path / name.replace(" ", "-"), servers.ca, settings) as server:
            assert server.process.wait(WAIT_S) == 1, name
            (stopped,) = server.events("stopped")
            assert stopped["code"] == "misconfigured", name
            assert said in stopped["reason"], (name, stopped)
