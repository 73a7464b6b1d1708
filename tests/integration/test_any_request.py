"""Whatever bytes come to either port of the sync API: no 5xx but 503, and the process lives."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from tests.support.messages import authorization
from tests.support.sync_server import Server, request, serving

pytestmark = pytest.mark.integration

STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
QUIET_S = 0.1
"""Without a byte for so long, the rest of a request is being waited for."""
LAST = b"GET /v2/health/live HTTP/1.1\r\nconnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("any")) as server:
        yield server


numbers: st.SearchStrategy[Any] = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, -1, 1.5, 1e308, 10**400, True, None, "1", [], {}]),
)
scalars = st.one_of(numbers, st.text(max_size=20), st.none(), st.booleans(), st.floats())
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)


def changed(valid: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some keys with another value, some added."""
    keys = st.sampled_from([*valid, "surname", ""])
    return st.dictionaries(keys, values, max_size=3).map(lambda changes: valid | changes)


authorizations = changed(authorization("any-1"))
tensors = st.one_of(
    changed({"name": "features", "shape": [1, 3], "datatype": "INT64", "data": [1, 2, 3]}),
    changed(
        {
            "name": "authorizations",
            "shape": [1],
            "datatype": "BYTES",
            "data": [json.dumps(authorization("any-2"))],
        }
    ),
    st.builds(
        lambda size, name, datatype: {
            "name": name,
            "shape": [1, 3],
            "datatype": datatype,
            "parameters": {"binary_data_size": size},
        },
        st.one_of(st.integers(0, 64), numbers),
        st.sampled_from(["features", "authorizations"]),
        st.sampled_from(["INT64", "BYTES", "FP32"]),
    ),
)
inferences = st.lists(tensors, max_size=2).flatmap(lambda inputs: changed({"inputs": inputs}))
instances = st.lists(st.one_of(authorizations, values), max_size=3).map(
    lambda rows: {"instances": rows}
)
texts = st.one_of(authorizations, inferences, instances, values).map(
    lambda value: json.dumps(value).encode("utf-8", "surrogatepass")
)
bodies = st.one_of(
    texts,
    st.binary(max_size=200),
    st.tuples(texts, st.binary(max_size=64)).map(b"".join),
    st.tuples(texts, st.integers(0, 400)).map(lambda cut: cut[0][: cut[1]]),
    st.integers(1, 3000).map(lambda depth: b"[" * depth),
    st.integers(1, 3000).map(lambda depth: b'{"inputs":' * depth),
)
header_values = st.one_of(
    st.integers(-5, 3000).map(lambda n: str(n).encode()),
    st.sampled_from(
        [b"", b"9" * 405, b"9" * 5000, b"0" * 5000, "５０".encode(), b"1e3", b"\xff", b"close"]
    ),
    st.sampled_from([b"application/json", b"gzip", b"chunked", b"100-continue"]),
    st.sampled_from([b"upgrade", b"upgrade, close", b"h2c", b"websocket"]),
    st.binary(max_size=30).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b"")),
)
header_names = st.sampled_from(
    [
        *(b"content-type", b"content-length", b"content-encoding", b"transfer-encoding"),
        *(b"x-deadline-ms", b"inference-header-content-length", b"traceparent", b"connection"),
        *(b"upgrade", b"expect", b"accept", b"host", b"x-other", b"trailer"),
    ]
)
paths = st.one_of(
    st.sampled_from(
        [
            *(b"/v1/authorizations", b"/v2/models/sluice/infer", b"/v1/models/sluice:predict"),
            *(b"/v2", b"/v2/models", b"/v2/models/sluice", b"/v1/models", b"/v1/models/sluice"),
            *(b"/v2/health/live", b"/v2/health/ready", b"/v2/models/sluice/ready", b"/metrics"),
            *(b"/openapi.json", b"/docs", b"/", b"*", b"/v2/repository/models/sluice/unload"),
            *(b"/v2/models/sluice/versions/1/infer", b"/v1/models/sluice:explain", b"//", b"/%00"),
        ]
    ),
    st.binary(min_size=1, max_size=20),
)
methods = st.sampled_from([b"POST", b"GET", b"HEAD", b"PUT", b"OPTIONS", b"CONNECT", b"PRI", b"X"])


def framed(body: bytes, how: str, more: int) -> tuple[bytes, bytes]:
    """A header that tells of the body, and the body on the wire. more: by how much it lies."""
    if how == "chunks":
        step = max(1, more % 300)
        chunks = [body[at : at + step] for at in range(0, len(body), step)]
        sized = [b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks]
        return b"transfer-encoding: chunked\r\n", b"".join((*sized, b"0\r\n\r\n"))
    if how == "lie":
        return b"content-length: %d\r\n" % max(0, len(body) + more), body
    return (b"", body) if how == "nothing" else (b"content-length: %d\r\n" % len(body), body)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request, or what looks like one."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.one_of(st.binary(max_size=300), st.just(request("any-whole"))))
    head, body = framed(
        draw(bodies),
        draw(st.sampled_from(["true", "true", "true", "chunks", "lie", "nothing"])),
        draw(st.integers(-50, 50)),
    )
    lines = draw(st.lists(st.tuples(header_names, header_values), max_size=4))
    if draw(st.booleans()):
        lines.append((b"content-type", b"application/json"))
    headers = b"".join(name + b": " + value + b"\r\n" for name, value in lines)
    first = draw(methods) + b" " + draw(paths) + b" HTTP/1.1\r\n"
    return first + headers + head + b"\r\n" + body


@examples(300)
@given(
    sent=st.lists(requests(), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 2000), max_size=3),
    admin=st.booleans(),
)
def test_no_request_makes_a_5xx_or_ends_the_process(
    server: Server, sent: list[bytes], cuts: list[int], admin: bool
) -> None:
    data = b"".join(sent) + LAST
    statuses = [int(status) for status in STATUS.findall(_answers(server, data, cuts, admin))]
    assert all(status < 500 or status == 503 for status in statuses), statuses
    assert server.process.poll() is None
    assert [e for e in server.events() if e["level"] == "error"] == []


def _answers(server: Server, data: bytes, cuts: list[int], admin: bool) -> bytes:
    """What comes back until the connection ends, or nothing more comes."""
    port = server.admin_port if admin else server.port
    heard = b""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(QUIET_S)
        try:
            at = 0
            for cut in (*sorted(cuts), len(data)):
                connection.sendall(data[at:cut])
                at = max(at, cut)
            while more := connection.recv(65_536):
                heard += more
        except (TimeoutError, ConnectionResetError, BrokenPipeError):
            pass
    return heard
