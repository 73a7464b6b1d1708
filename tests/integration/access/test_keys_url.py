"""The issuer's keys behind an https URL, over real TLS."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from sluice.adapters.identity.keys import MAX_BYTES, KeySet
from sluice.adapters.identity.tokens import JwtTokens
from sluice.errors import Misconfigured, SluiceError, Unavailable
from tests.support.certificates import Authority, Pem
from tests.support.issuer import AUDIENCE, ISSUER, Issuer

pytestmark = pytest.mark.integration


class KeyServer(HTTPServer):
    """Answers what it is told to, over TLS."""

    def __init__(self, pem: Pem) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem.cert, pem.key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.answer: tuple[int, bytes] = (200, b"")
        self.asked = 0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_port}/keys"

    def handle_error(self, request: object, address: object) -> None:
        """A client that does not trust us leaves."""


class _Handler(BaseHTTPRequestHandler):
    server: KeyServer

    def do_GET(self) -> None:
        self.server.asked += 1
        status, body = self.server.answer
        self.send_response(status)
        if status == 302:
            self.send_header("location", body.decode())
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def serving(pem: Pem) -> Iterator[KeyServer]:
    server = KeyServer(pem)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def server(authority: Authority) -> Iterator[KeyServer]:
    yield from serving(authority.issue("keys", hosts=("127.0.0.1",)))


def keys_of(url: str, authority: Authority) -> KeySet:
    return KeySet(url, ["RS256", "ES256"], ca_file=str(authority.ca))


def test_keys_come_over_tls(server: KeyServer, authority: Authority, tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    server.answer = 200, issuer.keys.read_bytes()
    keys = keys_of(server.url, authority)
    keys.read()
    assert keys.find("rsa-1")


@pytest.mark.parametrize("case", ["other CA", "expired", "other host"])
def test_a_server_that_cannot_prove_itself_gives_no_keys(
    authority: Authority, tmp_path: Path, case: str
) -> None:
    cases = {
        "other CA": lambda: Authority(tmp_path, "other").issue("k", hosts=("127.0.0.1",)),
        "expired": lambda: authority.issue("k", hosts=("127.0.0.1",), ends=-timedelta(seconds=1)),
        "other host": lambda: authority.issue("k", hosts=("keys.example",)),
    }
    for server in serving(cases[case]()):
        server.answer = 200, Issuer(tmp_path).keys.read_bytes()
        with pytest.raises(Unavailable, match="certificate verify failed"):
            keys_of(server.url, authority).read()
        assert server.asked == 0


def test_without_its_ca_bundle_the_setting_is_named(server: KeyServer, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"access\.keys_ca_file"):
        KeySet(server.url, ["RS256"], ca_file=str(tmp_path / "absent")).read()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (302, b"https://elsewhere.example/keys"),
        (404, b""),
        (200, b"no"),
        (200, b" " * MAX_BYTES * 2),
    ],
    ids=["redirect", "not found", "nonsense", "large"],
)
def test_another_answer_is_no_key_set(
    server: KeyServer, authority: Authority, status: int, body: bytes
) -> None:
    server.answer = status, body
    with pytest.raises(Unavailable, match=r"access\.keys"):
        keys_of(server.url, authority).read()


async def test_a_new_key_is_read_when_a_token_names_it(
    server: KeyServer, authority: Authority, tmp_path: Path
) -> None:
    """By the follower, at the next token of that key; the server may be away meanwhile."""
    issuer = Issuer(tmp_path)
    now = [0.0]
    keys = KeySet(server.url, ["RS256"], ca_file=str(authority.ca), monotonic=lambda: now[0])
    issuer.publish("rsa-1")
    server.answer = 200, issuer.keys.read_bytes()
    keys.read()
    reads: asyncio.Queue[SluiceError | None] = asyncio.Queue()
    tokens = JwtTokens(
        keys, issuer=ISSUER, audience=AUDIENCE, leeway_s=0, tenant_claim="tenant",
        scope_claim="scope", refresh_s=3600, read=reads.put_nowait,
    )  # fmt: skip
    following = asyncio.create_task(tokens.follow())
    for answer, wrong in (((500, b""), Unavailable), ((200, b""), type(None))):
        now[0] += 100
        if answer[0] == 200:
            issuer.publish("rsa-1", "rsa-2")
        server.answer = answer[0], issuer.keys.read_bytes() if answer[0] == 200 else b""
        with pytest.raises(SluiceError, match="is being read"):
            tokens.verify(issuer.token(kid="rsa-2").encode())
        assert isinstance(await reads.get(), wrong)
        assert tokens.verify(issuer.token(kid="rsa-1").encode()).name == "acquirer-1"
    assert tokens.verify(issuer.token(kid="rsa-2").encode()).name == "acquirer-1"
    following.cancel()
