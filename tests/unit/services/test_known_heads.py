"""Requests behind a known head are served as the parser would have it, byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httptools
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from services.decider.access import Peer
from services.decider.asgi import Header
from services.decider.http import Respond, SyncApi
from services.decider.protocol import HEAD_MAX_BYTES, HEADS_MAX, Heads, HttpProtocol
from sluice.testing.deciding import FakePipeline


class _Api(SyncApi):
    """Answers each authorization at once with its own body, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(FakePipeline(), name="m", columns=["a"], in_flight_max=8)
        self.asked: list[tuple[list[Header], bytes]] = []

    def authorize(
        self, headers: Sequence[Header], body: bytes, respond: Respond, peer: Peer | None = None
    ) -> None:
        self.asked.append((list(headers), body))
        respond(200, [(b"content-type", b"application/json")], body)


class _Forgetful(Heads):
    """Knows no head: everything is parsed."""

    def find(self, piece: bytes) -> None:
        return None


class _Transport:
    def __init__(self) -> None:
        self.written = b""
        self.closing = False

    def write(self, data: bytes) -> None:
        assert not self.closing
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def get_extra_info(self, _name: str, default: Any = None) -> Any:
        return default

    abort = close

    def pause_reading(self) -> None: ...

    resume_reading = pause_reading


class _Port:
    def __init__(self, api: SyncApi, heads: Heads) -> None:
        self.config = uvicorn.Config(
            api, ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False
        )
        self.config.load()
        self.state = ServerState()
        self.loop = asyncio.get_running_loop()
        self.heads = heads
        self.closed: list[str] = []

    def left(self, _connection: HttpProtocol) -> None: ...

    def count_closed(self, reason: str) -> None:
        self.closed.append(reason)

    def hold(self, _size: int) -> bool:
        return True

    def let_go(self, _size: int) -> None: ...


async def _serve(chunks: Sequence[bytes], heads: Heads) -> tuple[Any, ...]:
    api = _Api()
    port = _Port(api, heads)
    transport = _Transport()
    protocol = HttpProtocol(port, "10.0.0.7")
    protocol.connection_made(transport)
    for chunk in chunks:
        if not transport.closing:
            protocol.data_received(chunk)
        for _ in range(8):
            await asyncio.sleep(0)
    said = api.asked, transport.written, transport.closing, port.closed, protocol.idle_since is None
    protocol.connection_lost(None)
    await api.close()
    return said


def request(
    body: bytes = b"{}",
    *headers: bytes,
    line: bytes = b"POST /v1/authorizations HTTP/1.1",
    length: bytes | None = None,
) -> bytes:
    announced = b"content-length: " + (b"%d" % len(body) if length is None else length)
    return b"\r\n".join((line, b"host: sluice", *headers, announced, b"", body))


LINES = [
    *[b"POST /v1/authorizations HTTP/1.1"] * 6,
    b"POST /v1/authorizations HTTP/1.0",
    b"POST /v1/authorizations?a=b HTTP/1.1",
    b"POST /v1/%61uthorizations HTTP/1.1",
    b"PUT /v1/authorizations HTTP/1.1",
    b"POST /v2 HTTP/1.1",
]
HEADERS = [
    b"content-type: application/json",
    b"X-Deadline-Ms: 20",
    b"connection: close",
    b"connection: keep-alive",
    b"transfer-encoding: chunked",
    b"expect: 100-continue",
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b"upgrade: h2c",
    b"content-length: 2",
    b"x-long: " + b"a" * HEAD_MAX_BYTES,
    b"broken",
    b"x-bare: 1\n\nPOST /v1/authorizations HTTP/1.1",
]
requests = st.builds(
    request,
    st.sampled_from([b"{}", b"[]", b"", b"{}\r\n\r\n{}", b"x" * 40]),
    st.sampled_from([b"accept: */*", *HEADERS]),
    st.sampled_from([b"accept: */*"] * 6 + HEADERS),
    line=st.sampled_from(LINES),
    length=st.sampled_from([*[None] * 8, b"0", b"1", b"2", b"+2", b"02", b"x"]),
)
chunks = st.lists(
    st.tuples(requests, st.integers(1, 3), st.none() | st.integers(0, 200)), min_size=1, max_size=5
)


@given(chunks)
def test_a_known_head_changes_nothing_that_a_sender_or_the_entrypoint_sees(
    sent: list[tuple[bytes, int, int | None]],
) -> None:
    """sent: request, how often, and where it is cut in two."""
    pieces: list[bytes] = []
    for raw, times, cut in sent:
        for _ in range(times):
            pieces += [raw] if cut is None else [raw[:cut], raw[cut:]]
    pieces = [piece for piece in pieces if piece]
    heads = Heads()
    first = asyncio.run(_serve(pieces, heads))
    again = asyncio.run(_serve(pieces, heads))
    assert first == again == asyncio.run(_serve(pieces, _Forgetful()))


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the parser was fed."""
    fed: list[bytes] = []

    class Counting(httptools.HttpRequestParser):
        def feed_data(self, data: Any) -> None:
            fed.append(bytes(data))
            super().feed_data(data)

    monkeypatch.setattr(httptools, "HttpRequestParser", Counting)
    return fed


def test_an_ordinary_request_is_parsed_once(parsed: list[bytes]) -> None:
    heads = Heads()
    raw = request(b"{}", b"content-type: application/json")
    asked, written, *_ = asyncio.run(_serve([raw, raw], heads))
    assert len(asked) == 2
    assert written.count(b"200 OK") == 2
    assert len(parsed) == 1, "the second has the head of the first"
    asyncio.run(_serve([raw], heads))
    assert len(parsed) == 1, "and so has one of another connection"


@pytest.mark.parametrize(
    "header",
    [
        h
        for h in HEADERS
        if h.partition(b":")[0].lower()
        in (b"connection", b"transfer-encoding", b"expect", b"traceparent", b"upgrade", b"x-long")
    ],
)
def test_a_head_that_makes_the_rest_another_is_not_remembered(header: bytes) -> None:
    heads = Heads()
    asyncio.run(_serve([request(b"{}", header)], heads))
    assert len(heads) == 0


def test_heads_are_bounded_and_begin_anew() -> None:
    heads = Heads()
    many = [request(b"{}", b"x-request-id: %d" % i) for i in range(HEADS_MAX + 3)]
    asked, *_ = asyncio.run(_serve(many, heads))
    assert len(asked) == len(many)
    assert len(heads) == 3
