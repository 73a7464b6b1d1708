"""The sync API as a real process, asked by KServe's and Triton's own clients."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

from services.decider.protocol import MAX_HEADER_BYTES, READ_TIMEOUT_S
from tests.support.messages import authorization
from tests.support.sync_server import WAIT_S, Server, get, post, request, serving

pytestmark = pytest.mark.integration

DRAIN_S = 4.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def draining(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path, drain_s=DRAIN_S, slow_s=DRAIN_S) as server:
        yield server


def test_an_authorization_is_decided_over_a_socket(server: Server) -> None:
    body = authorization("socket-1")
    first, second = (post(f"{server.url}/v1/authorizations", json=body) for _ in range(2))
    assert first.status_code == second.status_code == 200
    assert first.content == second.content
    assert second.headers["idempotent-replay"] == "true"


def read_until(connection: socket.socket, answers: int) -> bytes:
    """What was sent back up to the last byte of so many JSON answers."""
    connection.settimeout(WAIT_S)
    data = b""
    while data.count(b'"decided_at"') < answers or not data.endswith(b"}"):
        received = connection.recv(65_536)
        assert received, data
        data += received
    return data


def test_pipelined_authorizations_are_answered_in_their_order(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"".join(request(f"{name}-pipelined") for name in ("slow", "a", "b")))
        data = read_until(connection, 3)
    at = [data.index(f'"{name}-pipelined"'.encode()) for name in ("slow", "a", "b")]
    assert at == sorted(at)
    assert data.count(b"HTTP/1.1 200 OK") == 3


def test_a_body_that_comes_in_pieces_is_put_together(server: Server) -> None:
    whole = request("pieces-1")
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(whole), 97):
            connection.sendall(whole[at : at + 97])
        assert b'"pieces-1"' in read_until(connection, 1)


def test_a_sender_that_asks_leave_to_send_gets_it(server: Server) -> None:
    head, _, body = request("expect-1", "expect: 100-continue").partition(b"\r\n\r\n")
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.settimeout(WAIT_S)
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(body)
        assert b'"expect-1"' in read_until(connection, 1)


@pytest.mark.parametrize(("version", "headers"), [("1.0", ()), ("1.1", ("connection: close",))])
def test_a_sender_that_wants_no_more_is_told_and_let_go(
    server: Server, version: str, headers: tuple[str, ...]
) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(request(f"last-{version}", *headers, version=version))
        assert b"connection: close" in read_until(connection, 1)
        assert connection.recv(1) == b""


def test_a_sender_that_leaves_before_its_answer_is_decided_all_the_same(server: Server) -> None:
    asked = request("slow-left")
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(asked)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        # It comes while the first is being decided, so it is decided after it.
        connection.sendall(asked)
        assert b"idempotent-replay: true" in read_until(connection, 1)


def test_a_megabyte_is_refused_and_its_sender_hears_why(server: Server) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(16):
            yield b"x" * 65_536

    for content in (b"x" * 2**20, chunks()):
        answer = post(
            f"{server.url}/v1/authorizations",
            content=content,
            headers={"content-type": "application/json"},
        )
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_kserves_own_client_is_served(server: Server) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    for url in (server.url, server.admin):
        assert await client.is_server_live(url)
        assert await client.is_server_ready(url)
        assert await client.is_model_ready(url, "sluice")
    rows = np.arange(6, dtype=np.int64).reshape(2, 3)
    for binary in (False, True):
        tensor = InferInput("features", [2, 3], "INT64")
        tensor.set_data_from_numpy(rows, binary_data=binary)
        response = await client.infer(
            server.admin, InferRequest("sluice", [tensor]), model_name="sluice"
        )
        assert response.outputs[0].name == "score_ppm"
        assert response.outputs[0].as_numpy().tolist() == [3, 12]
    await client.close()


async def test_kserves_own_client_is_served_by_the_v1_protocol(server: Server) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v1"))
    response = await client.infer(
        server.url, {"instances": [authorization("v1-1"), {"v": 1}]}, model_name="sluice"
    )
    decided, refused = response["predictions"]
    assert (decided["outcome"], refused["code"]) == ("approve", "missing_field")
    await client.close()


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_is_served(server: Server, binary: bool) -> None:
    with (
        closing(triton.InferenceServerClient(f"127.0.0.1:{server.port}")) as client,
        closing(triton.InferenceServerClient(f"127.0.0.1:{server.admin_port}")) as operator,
    ):
        for one in (client, operator):
            assert one.is_server_live()
            assert one.is_server_ready()
            assert one.is_model_ready("sluice")
        metadata = client.get_model_metadata("sluice")
        assert operator.get_model_metadata("sluice") == metadata
        described = {
            t["name"]: (t["datatype"], t["shape"]) for t in metadata["inputs"] + metadata["outputs"]
        }
        assert described == {
            "features": ("INT64", [-1, 3]),
            "authorizations": ("BYTES", [-1]),
            "score_ppm": ("INT64", [-1]),
            "answer": ("BYTES", [-1]),
        }
        rows = np.arange(6, dtype=np.int64).reshape(2, 3)
        features = triton.InferInput("features", [2, 3], "INT64")
        features.set_data_from_numpy(rows, binary_data=binary)
        wanted = triton.InferRequestedOutput("score_ppm", binary_data=binary)
        scored = operator.infer("sluice", [features], outputs=[wanted], request_id="r1")
        assert scored.as_numpy("score_ppm").tolist() == [3, 12]
        assert scored.get_response()["id"] == "r1"

        text = json.dumps(authorization(f"triton-{binary}")).encode()
        auths = triton.InferInput("authorizations", [1], "BYTES")
        auths.set_data_from_numpy(np.array([text], dtype=np.object_), binary_data=binary)
        answered = client.infer("sluice", [auths]).as_numpy("answer")
        assert json.loads(answered[0])["outcome"] == "approve"


def test_a_wrong_tensor_is_told_to_tritons_client(server: Server) -> None:
    with closing(triton.InferenceServerClient(f"127.0.0.1:{server.admin_port}")) as client:
        features = triton.InferInput("features", [1, 2], "INT64")
        features.set_data_from_numpy(np.zeros((1, 2), np.int64))
        with pytest.raises(triton.InferenceServerException, match="400"):
            client.infer("sluice", [features])


def test_metrics_hold_ours_and_kserves(server: Server) -> None:
    post(f"{server.url}/v1/authorizations", json=authorization("metrics-1"))
    deadline = time.monotonic() + WAIT_S
    while "sluice_decider_decisions_total" not in (page := get(f"{server.admin}/metrics").text):
        assert time.monotonic() < deadline, page
    assert 'sluice_build_info{service="decider"' in page
    assert "request_predict_seconds" in page


def test_an_unknown_path_is_404_and_another_method_405(server: Server) -> None:
    assert get(f"{server.url}/nothing").status_code == 404
    assert get(f"{server.url}/v1/authorizations").status_code == 405
    for url in (server.url, server.admin):
        assert post(f"{url}/v2/repository/models/sluice/unload").status_code == 404
    assert get(f"{server.url}/metrics").status_code == 404
    assert post(f"{server.admin}/v1/authorizations", json={}).status_code == 404


def test_a_sender_that_dawdles_is_cut_off(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(b"POST /v1/authorizations HTTP/1.1\r\nhost: x\r\n")
        slow.settimeout(READ_TIMEOUT_S + 10)
        with suppress(ConnectionResetError):
            assert slow.recv(1) == b""


def test_an_endless_header_is_refused(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as endless:
        endless.settimeout(WAIT_S)
        endless.sendall(b"GET / HTTP/1.1\r\nx: ")
        with suppress(ConnectionResetError, BrokenPipeError):  # closed while we were writing
            for _ in range(64):
                endless.sendall(b"a" * (MAX_HEADER_BYTES // 8))
            assert b" 431 " in endless.recv(100)


def test_it_is_ready_soon_and_small(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert server.memory_mb() < 400


def test_no_request_is_lost_while_draining(draining: Server) -> None:
    """Senders go on until a probe has seen 503, as a load balancer does; then SIGTERM is done."""
    gone = threading.Event()
    lost: list[object] = []
    counts = {"answered": 0, "while_draining": 0}
    lock = threading.Lock()

    def send(number: int) -> None:
        with httpx.Client(timeout=WAIT_S) as client:
            for i in range(1_000_000):
                if gone.is_set():
                    return
                body = authorization(f"drain-{number}-{i:x}")
                try:
                    answer = client.post(f"{draining.url}/v1/authorizations", json=body)
                except httpx.HTTPError as error:
                    lost.append(error)
                    return
                if answer.status_code != 200:
                    lost.append(answer.content)
                with lock:
                    counts["answered"] += 1
                    counts["while_draining"] += answer.headers.get("connection") == "close"

    senders = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for sender in senders:
        sender.start()
    late: list[int] = []

    def send_slowly() -> None:
        body = authorization("slow-1")
        answer = post(f"{draining.url}/v1/authorizations", json=body)
        late.append(answer.status_code)

    deadline = time.monotonic() + WAIT_S
    while counts["answered"] < 50 and time.monotonic() < deadline:
        time.sleep(0.01)
    draining.process.terminate()
    while get(f"{draining.url}/v2/health/ready").status_code != 503 or not counts["while_draining"]:
        assert time.monotonic() < deadline
    assert get(f"{draining.url}/v2/health/live").status_code == 200
    last = threading.Thread(target=send_slowly)  # still in flight when the listener closes
    last.start()
    gone.set()
    for sender in senders:
        sender.join()
    assert draining.process.wait(WAIT_S) == 0
    last.join()
    assert lost == []
    assert late == [200]
    assert [e["event"] for e in draining.events()][-2:] == ["flushed", "stopped"]
