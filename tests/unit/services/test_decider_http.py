"""The sync API as an ASGI application: no socket."""

import asyncio
import json
import tracemalloc
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from fastapi.openapi.models import OpenAPI
from prometheus_client import CollectorRegistry

from services.decider.admin import Admin
from services.decider.http import BODIES_MAX_BYTES, SyncApi
from services.decider.open_inference import AUTHORIZATIONS, FEATURES, MAX_ROWS
from services.decider.problems import KINDS
from sluice.application.decide import Busy, Unidentified, Unrecorded
from sluice.domain.records.authorization import MAX_BODY_BYTES
from sluice.errors import Corrupt, Unavailable
from sluice.telemetry import Metrics, Sampler
from sluice.testing.deciding import COLUMNS, FakePipeline
from tests.support import messages

NOW_US = messages.NOW_US
SECRET = "s3cr3t-value"
PAN = "4111111111111111"
PREDICT = "/v1/models/sluice:predict"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def authorization(**changes: Any) -> dict[str, Any]:
    return messages.authorization("auth-1") | changes


def without(field: str) -> bytes:
    body = authorization()
    del body[field]
    return json.dumps(body).encode()


def with_(**changes: Any) -> bytes:
    return json.dumps(authorization(**changes)).encode()


@pytest.fixture
def decider() -> FakePipeline:
    return FakePipeline()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def make_entrypoint(decider: FakePipeline, registry: CollectorRegistry, **more: Any) -> SyncApi:
    return SyncApi(
        decider,
        name="sluice",
        columns=COLUMNS,
        in_flight_max=4,
        metrics=Metrics(registry),
        **more,
    )


@pytest.fixture
def entrypoint(decider: FakePipeline, registry: CollectorRegistry) -> SyncApi:
    return make_entrypoint(decider, registry)


async def ask(
    entrypoint: SyncApi | Admin,
    path: str = "/v1/authorizations",
    body: bytes | Iterable[bytes] = b"",
    method: str = "POST",
    also: Iterable[tuple[str, str]] = (),
    **headers: str,
) -> Answer:
    """One request. Chunks past what the entrypoint wants to read are counted in x-unread.

    also: headers of which there may be two.
    """
    chunks = [body] if isinstance(body, bytes) else list(body)
    given = {"content-type": "application/json"} | {
        k.replace("_", "-"): v for k, v in headers.items()
    }
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(k.encode(), v.encode()) for k, v in [*given.items(), *also] if v],
    }
    sent: list[Any] = []

    async def receive() -> Any:
        chunk = chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}

    async def send(message: Any) -> None:
        sent.append(message)

    await entrypoint(scope, receive, send)
    start, *rest = sent
    answered = {k.decode(): v.decode() for k, v in start["headers"]}
    return Answer(
        start["status"],
        answered | {"x-unread": str(len(chunks))},
        b"".join(m.get("body", b"") for m in rest),
    )


async def test_an_authorization_gets_its_decision(entrypoint: SyncApi) -> None:
    answer = await ask(entrypoint, body=with_())
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert (answer.json["authorization_id"], answer.json["outcome"]) == ("auth-1", "approve")
    assert "idempotent-replay" not in answer.headers


async def test_the_same_authorization_again_gets_the_same_bytes(entrypoint: SyncApi) -> None:
    first, second = await ask(entrypoint, body=with_()), await ask(entrypoint, body=with_())
    assert second.body == first.body
    assert second.headers["idempotent-replay"] == "true"


BAD: dict[str, tuple[bytes, int, str]] = {
    "unknown field": (with_(surname=SECRET), 422, "unknown_field"),
    "missing field": (without("merchant_id"), 422, "missing_field"),
    "wrong type": (with_(amount_minor=SECRET), 422, "wrong_type"),
    "float amount": (with_(amount_minor=19.99), 422, "wrong_type"),
    "NaN": (with_(amount_minor=float("nan")), 400, "invalid_json"),
    "negative amount": (with_(amount_minor=-31337), 422, "out_of_range"),
    "huge amount": (with_(amount_minor=31337 * 10**9), 422, "out_of_range"),
    "amount past 64 bits": (with_(amount_minor=31337 * 10**30), 422, "out_of_range"),
    "unknown currency": (with_(currency="QQQ"), 422, "unknown_currency"),
    "unknown country": (with_(card_country="QQ"), 422, "unknown_country"),
    "unknown channel": (with_(channel=SECRET), 422, "unknown_value"),
    "bad format": (with_(mcc=SECRET), 422, "bad_format"),
    "far future": (with_(event_at=NOW_US + 10**10), 422, "event_in_future"),
    "far past": (with_(event_at=NOW_US - 40 * 86_400 * 10**6), 422, "event_too_old"),
    "one megabyte": (b'{"x":"' + b"s" * 1_000_000 + b'"}', 413, "too_large"),
    "invalid UTF-8": (with_().replace(b"tok_1", b"tok_\xff"), 400, "invalid_json"),
    "deep nesting": (b'{"v":' + b"[" * 16_000, 422, "wrong_type"),
    "deep nesting in a field": (
        with_().replace(b'"tok_1"', b"[" * 7_000 + b"]" * 7_000),
        422,
        "wrong_type",
    ),
    "not JSON": (SECRET.encode(), 400, "invalid_json"),
    "nothing": (b"", 400, "invalid_json"),
    "a list": (b"[1]", 422, "wrong_type"),
} | {
    f"card number in {field}": (with_(**{field: PAN}), 422, "card_number")
    for field in (
        "authorization_id",
        "card_token",
        "merchant_id",
        "terminal_id",
        "customer_id",
        "device_id",
        "mcc",
        "channel",
        "currency",
        "merchant_country",
        "card_country",
        "ip_prefix",
        "three_ds",
        "sca_exemption",
        "region",
        "tenant",
        "surname",
    )
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_input_is_refused_with_a_problem_that_repeats_no_value(
    entrypoint: SyncApi, decider: FakePipeline, case: str
) -> None:
    body, status, code = BAD[case]
    answer = await ask(entrypoint, body=body)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["status"] == status
    assert answer.json["type"] == f"urn:sluice:problem:{code}"
    assert answer.json["fix"]
    for value in (SECRET, PAN, "31337", "QQQ", "19.99", "ssss"):
        assert value not in answer.body.decode(), value
    assert decider.batches == []


async def test_the_same_id_with_another_body_is_a_conflict(entrypoint: SyncApi) -> None:
    await ask(entrypoint, body=with_())
    answer = await ask(entrypoint, body=with_(amount_minor=2000))
    assert (answer.status, answer.json["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "text/plain"},
        {"content_type": "application/json; charset=latin-1"},
        {"content_type": ""},
        {"content_encoding": "gzip"},
    ],
)
async def test_an_unknown_content_type_is_refused(
    entrypoint: SyncApi, headers: dict[str, str]
) -> None:
    answer = await ask(entrypoint, body=with_(), **headers)
    assert (answer.status, answer.json["code"]) == (415, "unsupported_content_type")


@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "application/json; charset=utf-8"},
        {"content_type": 'application/json; charset="utf-8"'},
        {"content_type": 'Application/JSON;charset="UTF-8";'},
        {"content_encoding": "identity"},
        {"content_encoding": "Identity"},
        {"content_encoding": ""},
    ],
)
@pytest.mark.parametrize("path", ["/v1/authorizations", PREDICT])
async def test_what_says_that_a_body_is_as_it_is_changes_nothing(
    entrypoint: SyncApi, path: str, headers: dict[str, str]
) -> None:
    body = with_() if path != PREDICT else b'{"instances":[' + with_() + b"]}"
    assert (await ask(entrypoint, path, body, **headers)).status == 200


async def test_a_field_or_key_that_comes_twice_is_refused_at_every_path(
    entrypoint: SyncApi, decider: FakePipeline
) -> None:
    twice = with_()[:-1] + b', "amount_minor": 1}'
    answer = await ask(entrypoint, body=twice)
    assert (answer.status, answer.json["code"]) == (422, "duplicate_field")
    answer = await ask(entrypoint, PREDICT, b'{"instances":[' + twice + b"]}")
    assert (answer.status, answer.json["code"]) == (422, "duplicate_field")
    rows = {"name": "authorizations", "shape": [1], "datatype": "BYTES", "data": [twice.decode()]}
    answer = await ask(entrypoint, INFER, inference(rows))
    assert (answer.status, answer.json["code"]) == (422, "duplicate_field")
    instances = b'"instances":[' + with_() + b"]"
    answer = await ask(entrypoint, PREDICT, b"{" + instances + b"," + instances + b"}")
    assert (answer.status, answer.json["code"]) == (400, "invalid_inference")
    rows["data"] = [with_().decode()]
    named = json.dumps(rows)[:-1] + ', "name": "authorizations"}'
    answer = await ask(entrypoint, INFER, f'{{"inputs": [{named}]}}'.encode())
    assert (answer.status, answer.json["code"]) == (400, "invalid_inference")
    assert decider.batches == []


@pytest.mark.parametrize(
    ("datatype", "said"),
    [("FP32", "not FP32"), ("INT64", "not INT64"), ("4111111111111111", "unknown to the protocol")],
)
async def test_an_error_is_where_the_protocol_has_it_and_names_the_datatype(
    entrypoint: SyncApi, datatype: str, said: str
) -> None:
    rows = {"name": "authorizations", "shape": [1], "datatype": datatype, "data": ["x"]}
    answer = await ask(entrypoint, INFER, inference(rows))
    assert (answer.status, answer.json["code"]) == (400, "invalid_inference")
    assert "the datatype of authorizations is BYTES, " in answer.json["error"]
    assert said in answer.json["error"]
    assert answer.json["error"] == f"{answer.json['title']}: {answer.json['detail']}"
    assert b"4111" not in answer.body


async def test_a_body_without_length_is_cut_where_the_limit_is_passed(entrypoint: SyncApi) -> None:
    answer = await ask(entrypoint, body=(b"x" * 8192 for _ in range(10_000)))
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert int(answer.headers["x-unread"]) > 9_000, "it lingers for 2 MiB, not for 80"


async def test_a_body_of_exactly_the_limit_is_read(entrypoint: SyncApi) -> None:
    body = with_()
    assert (await ask(entrypoint, body=body + b" " * (MAX_BODY_BYTES - len(body)))).status == 200
    assert (
        await ask(entrypoint, body=body + b" " * (MAX_BODY_BYTES + 1 - len(body)))
    ).status == 413


@pytest.mark.parametrize(
    ("instead", "code"),
    [
        (Busy(), "busy"),
        (Unrecorded("broker 10.0.0.7 is down"), "unrecorded"),
        (Unidentified(), "unidentified"),
        (Unavailable("the store is down at 10.0.0.7"), "unavailable"),
    ],
)
async def test_what_may_pass_is_a_503_that_says_when_to_retry(
    entrypoint: SyncApi, decider: FakePipeline, instead: Any, code: str
) -> None:
    decider.instead["auth-1"] = instead
    answer = await ask(entrypoint, body=with_())
    assert (answer.status, answer.json["code"]) == (503, code)
    assert answer.headers["retry-after"] == "1"
    assert "10.0.0.7" not in answer.body.decode()


@pytest.mark.parametrize("failure", [Corrupt("hole"), ValueError("bug")])
async def test_a_failure_inside_is_a_500_and_nobody_waits_forever(
    entrypoint: SyncApi, decider: FakePipeline, failure: Exception
) -> None:
    decider.instead["auth-1"] = failure
    answer = await ask(entrypoint, body=with_())
    assert (answer.status, answer.json["code"]) == (500, "internal")


async def test_requests_of_one_turn_are_decided_together(
    entrypoint: SyncApi, decider: FakePipeline, registry: CollectorRegistry
) -> None:
    bodies = [with_(authorization_id=f"auth-{i}") for i in range(4)]
    # A deadline that a busy machine does not miss: what is late is decided apart.
    asked = (ask(entrypoint, body=body, x_deadline_ms="1000") for body in bodies)
    answers = await asyncio.gather(*asked)
    assert [a.json["authorization_id"] for a in answers] == [f"auth-{i}" for i in range(4)]
    assert [len(batch) for batch in decider.batches] == [4]
    await entrypoint.close()
    name = "sluice_decider_batch_rows"
    assert registry.get_sample_value(f"{name}_count", {"entrypoint": "sync"}) == 1
    assert registry.get_sample_value(f"{name}_sum", {"entrypoint": "sync"}) == 4


async def test_a_request_past_the_bound_is_refused_at_once_not_queued(
    entrypoint: SyncApi, decider: FakePipeline
) -> None:
    decider.gate = asyncio.Event()
    waiting = [
        asyncio.create_task(ask(entrypoint, body=with_(authorization_id=f"auth-{i}")))
        for i in range(4)
    ]
    while not decider.batches:
        await asyncio.sleep(0)
    refused = await ask(entrypoint, body=with_(authorization_id="auth-5"))
    assert (refused.status, refused.json["code"]) == (503, "overloaded")
    assert refused.headers["retry-after"] == "1"
    decider.gate.set()
    assert [a.status for a in await asyncio.gather(*waiting)] == [200] * 4
    assert (await ask(entrypoint, body=with_(authorization_id="auth-5"))).status == 200


async def test_the_deadline_of_the_caller_reaches_the_walk(
    entrypoint: SyncApi, decider: FakePipeline
) -> None:
    await ask(entrypoint, body=with_())
    await ask(entrypoint, body=with_(authorization_id="auth-2"), x_deadline_ms="7")
    received = [batch[0].received_at for batch in decider.batches]
    assert decider.deadlines == [received[0] + 50_000, received[1] + 7_000]


@pytest.mark.parametrize(
    "deadline",
    ["4", "1001", "-5", "5.5", "soon", "9" * 21, "00050" + "0" * 400, "9" * 5000, "\uff15\uff10"],
)
async def test_a_wrong_deadline_is_refused(
    entrypoint: SyncApi, decider: FakePipeline, deadline: str
) -> None:
    answer = await ask(entrypoint, body=with_(), x_deadline_ms=deadline)
    assert (answer.status, answer.json["code"]) == (400, "invalid_deadline")
    assert decider.batches == [], "its caller hears 400, so nobody may decide it"


async def test_the_callers_trace_goes_on_unchanged(
    entrypoint: SyncApi, decider: FakePipeline
) -> None:
    answer = await ask(entrypoint, body=with_(), traceparent=TRACE)
    assert answer.headers["traceparent"] == TRACE
    assert decider.batches[0][0].traceparent == TRACE


@pytest.mark.parametrize("callers", [(), ("nonsense",)], ids=["none", "invalid"])
async def test_without_one_valid_trace_none_is_invented(
    entrypoint: SyncApi, decider: FakePipeline, callers: tuple[str, ...], capsysbinary: Any
) -> None:
    headers = [("traceparent", caller) for caller in callers]
    answer = await ask(entrypoint, body=with_(), also=headers)
    text = with_(authorization_id="auth-2").decode()
    rows = {"name": "authorizations", "shape": [1], "datatype": "BYTES", "data": [text]}
    body = json.dumps({"inputs": [rows]}).encode()
    await ask(entrypoint, "/v2/models/sluice/infer", body=body, also=headers)
    body = b'{"instances":[' + with_(authorization_id="auth-3") + b"]}"
    await ask(entrypoint, PREDICT, body=body, also=headers)
    assert "traceparent" not in answer.headers
    assert [arrival.traceparent for batch in decider.batches for arrival in batch] == [None] * 3
    await entrypoint.close()
    lines = capsysbinary.readouterr().out.splitlines()
    assert len(lines) == 3
    assert not any(b"trace_id" in line for line in lines)


async def test_of_two_traces_neither_goes_on_and_a_new_one_begins(
    entrypoint: SyncApi, decider: FakePipeline
) -> None:
    also = [("traceparent", TRACE), ("traceparent", TRACE.replace("4b", "4c"))]
    answers = [await ask(entrypoint, body=with_(), also=also)]
    answers.append(await ask(entrypoint, body=with_(authorization_id="auth-2"), also=also))
    await ask(
        entrypoint, PREDICT, b'{"instances":[' + with_(authorization_id="a-3") + b"]}", also=also
    )
    begun = [arrival.traceparent for batch in decider.batches for arrival in batch]
    assert [answer.headers["traceparent"] for answer in answers] == begun[:2]
    assert len({trace[3:35] for trace in begun if trace} - {TRACE[3:35]}) == 3


async def test_the_trace_of_the_v1_protocol_goes_on(
    entrypoint: SyncApi, decider: FakePipeline
) -> None:
    body = b'{"instances":[' + with_() + b"]}"
    await ask(entrypoint, PREDICT, body, traceparent=TRACE)
    assert decider.batches[0][0].traceparent == TRACE


async def test_a_refused_request_carries_the_trace_too(entrypoint: SyncApi) -> None:
    answer = await ask(entrypoint, body=b"{}", traceparent=TRACE)
    assert answer.headers["traceparent"] == TRACE


async def test_another_method_is_405_and_says_which_is_allowed(entrypoint: SyncApi) -> None:
    answer = await ask(entrypoint, method="GET")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


METADATA = ("/v2", "/v2/models", "/v2/models/sluice", "/v1/models", "/v1/models/sluice")


@pytest.mark.parametrize("path", METADATA)
async def test_both_ports_say_what_is_served_here(
    entrypoint: SyncApi, registry: CollectorRegistry, path: str
) -> None:
    """What they say is compared with KServe in tests/contract/test_kserve_metadata.py."""
    own = await ask(entrypoint, path, method="GET")
    assert own.status == 200
    assert (await ask(Admin(entrypoint, "sluice", registry), path, method="GET")).json == own.json
    refused = await ask(entrypoint, path, b"{}")
    assert (refused.status, refused.headers["allow"]) == (405, "GET")


async def test_a_model_that_is_not_ready_says_so_by_the_v1_protocol_too(
    entrypoint: SyncApi, decider: FakePipeline
) -> None:
    decider.healthy = False
    answer = await ask(entrypoint, "/v1/models/sluice", method="GET")
    assert (answer.status, answer.json["code"]) == (503, "not_ready")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docs",
        "/metrics",
        "/v2/repository/models/sluice/unload",
        "/v2/models/sluice/versions/1",
        "/v2/models/sluice/versions/1/infer",
        "/v2/models/other/infer",
        "/v1/models/sluice:explain",
        "/v1/models/other:predict",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_nothing_of_kserve_but_metadata_is_on_the_public_port(
    entrypoint: SyncApi, path: str, method: str
) -> None:
    answer = await ask(entrypoint, path, b"{}", method=method)
    assert (answer.status, answer.json["code"]) == (404, "not_found")


async def test_readiness_is_a_rehearsal_that_counts_for_a_second(
    entrypoint: SyncApi, decider: FakePipeline
) -> None:
    answers = await asyncio.gather(
        *(ask(entrypoint, "/v2/health/ready", method="GET") for _ in range(10))
    )
    assert {a.status for a in answers} == {200}
    assert decider.rehearsals == 1


async def test_not_ready_while_the_rehearsal_fails_but_alive(
    entrypoint: SyncApi, decider: FakePipeline
) -> None:
    decider.healthy = False
    for path in ("/v2/health/ready", "/v2/models/sluice/ready"):
        answer = await ask(entrypoint, path, method="GET")
        assert (answer.status, answer.json["code"]) == (503, "not_ready")
    assert (await ask(entrypoint, "/v2/health/live", method="GET")).status == 200


async def test_why_it_is_not_ready_is_told_to_operators_and_logged_once(
    decider: FakePipeline, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """Also that no broker is there, which no rehearsal of the model would show."""
    away: list[str] = ["b:9092 is away"]

    async def reachable() -> None:
        if away:
            raise Unavailable(away[0])

    entrypoint = make_entrypoint(decider, registry, reachable=reachable)
    admin = Admin(entrypoint, "sluice", registry)

    async def readiness(asked: SyncApi | Admin) -> tuple[int, str]:
        answer = await ask(asked, "/v2/health/ready", method="GET")
        return answer.status, answer.json.get("detail", "")

    for _ in range(3):
        assert await readiness(admin) == (503, "b:9092 is away")
        assert await readiness(entrypoint) == (503, "the rehearsal failed, see the log")
    away[0] = "b:9093 is away"
    assert await readiness(admin) == (503, "b:9093 is away")
    said = [record for record in caplog.records if record.getMessage() == "not_ready"]
    assert len(said) == 2, "once a reason"
    assert registry.get_sample_value("sluice_decider_ready") == 0
    assert (await ask(admin, "/v2/health/live", method="GET")).status == 200
    away.clear()
    assert await readiness(admin) == (200, "")
    assert registry.get_sample_value("sluice_decider_ready") == 1


async def test_a_draining_entrypoint_answers_but_is_not_ready(entrypoint: SyncApi) -> None:
    assert (await ask(entrypoint, "/v2/health/ready", method="GET")).status == 200
    entrypoint.draining = True
    assert (await ask(entrypoint, "/v2/health/ready", method="GET")).status == 503
    answer = await ask(entrypoint, body=with_())
    assert (answer.status, answer.headers["connection"]) == (200, "close")


async def test_requests_are_counted_and_logged_by_how_they_ended(
    entrypoint: SyncApi, registry: CollectorRegistry, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    await ask(entrypoint, body=with_())
    await ask(entrypoint, body=with_())
    await ask(entrypoint, body=b"{}")
    await entrypoint.close()
    for code in ("decided", "replayed", "missing_field"):
        labels = {"entrypoint": "sync", "code": code}
        assert registry.get_sample_value("sluice_decider_requests_total", labels) == 1, code
    lines = [msgspec.json.decode(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [line["code"] for line in lines] == ["decided", "replayed", "missing_field"]
    assert lines[0]["outcome"] == "approve"
    assert "tok_1" not in str(lines)


@pytest.mark.parametrize(
    ("amount", "codes"), [(1999, ["missing_field"]), (100_001, ["decided", "missing_field"])]
)
async def test_usual_answers_and_no_declines_may_be_left_out_of_the_log_and_are_counted(
    decider: FakePipeline,
    registry: CollectorRegistry,
    capfdbinary: pytest.CaptureFixture[bytes],
    amount: int,
    codes: list[str],
) -> None:
    entrypoint = make_entrypoint(decider, registry, sampler=Sampler(sample_ppm=0))
    await ask(entrypoint, body=with_(amount_minor=amount))
    await ask(entrypoint, body=with_(amount_minor=amount))
    await ask(entrypoint, body=b"{}")
    await entrypoint.close()
    lines = [msgspec.json.decode(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [line["code"] for line in lines] == codes
    assert {line["sample_ppm"] for line in lines} == {1_000_000}
    for result, count in (("written", len(codes)), ("left_out", 3 - len(codes))):
        labels = {"entrypoint": "sync", "result": result}
        assert registry.get_sample_value("sluice_decider_log_lines_total", labels) == count


# ---------------------------------------------------------------- Open Inference v2

INFER = "/v2/models/sluice/infer"
Tensor = dict[str, Any]


def tensor(**changes: Any) -> Tensor:
    rows = {"name": "features", "shape": [2, 3], "datatype": "INT64", "data": [1, 2, 3, 4, 5, 6]}
    return rows | changes


def inference(*inputs: Tensor, **more: Any) -> bytes:
    return json.dumps({"inputs": inputs or (tensor(),), **more}).encode()


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]])
async def test_feature_rows_are_scored(entrypoint: SyncApi, data: Any) -> None:
    answer = await ask(Admin(entrypoint, "sluice"), INFER, inference(tensor(data=data), id="r1"))
    assert answer.json == {
        "id": "r1",
        "model_name": "sluice",
        "model_version": "fake-release",
        "outputs": [{"name": "score_ppm", "datatype": "INT64", "shape": [2], "data": [6, 15]}],
    }


async def test_binary_tensors_come_and_go(entrypoint: SyncApi) -> None:
    rows = np.arange(6, dtype="<i8")
    head = inference(
        {
            "name": "features",
            "shape": [2, 3],
            "datatype": "INT64",
            "parameters": {"binary_data_size": rows.nbytes},
        },
        parameters={"binary_data_output": True},
    )
    answer = await ask(
        Admin(entrypoint, "sluice"),
        INFER,
        head + rows.tobytes(),
        inference_header_content_length=str(len(head)),
    )
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.body[:length])["outputs"][0]["parameters"] == {"binary_data_size": 16}
    assert np.frombuffer(answer.body[length:], "<i8").tolist() == [3, 12]


async def test_authorizations_in_a_tensor_are_decided_and_a_bad_row_stops_none(
    entrypoint: SyncApi,
) -> None:
    texts = [with_().decode(), "{}", with_(authorization_id="auth-2").decode()]
    rows = {"name": "authorizations", "shape": [3], "datatype": "BYTES", "data": texts}
    output = (await ask(entrypoint, INFER, inference(rows))).json["outputs"][0]
    answers = [json.loads(text) for text in output["data"]]
    assert (output["name"], output["shape"]) == ("answer", [3])
    assert [a.get("outcome", a.get("code")) for a in answers] == [
        "approve",
        "missing_field",
        "approve",
    ]


async def test_past_the_limit_an_inference_is_refused_as_a_whole(
    entrypoint: SyncApi, decider: FakePipeline, registry: CollectorRegistry
) -> None:
    """Its rows count: one that was let in while there was room leaves none for another."""
    decider.gate = asyncio.Event()
    texts = [with_(authorization_id=f"auth-{i}").decode() for i in range(10)]
    rows = {"name": "authorizations", "shape": [10], "datatype": "BYTES", "data": texts}
    first = asyncio.create_task(ask(entrypoint, INFER, inference(rows)))
    while not decider.batches:
        await asyncio.sleep(0)
    second = await ask(entrypoint, INFER, inference(rows))
    assert (second.status, second.json["code"]) == (503, "overloaded")
    assert second.headers["retry-after"] == "1"
    alone = await ask(entrypoint, body=with_(authorization_id="auth-11"))
    assert (alone.status, alone.json["code"]) == (503, "overloaded")
    decider.gate.set()
    assert (await first).status == 200
    assert (await ask(entrypoint, INFER, inference(rows))).status == 200
    await entrypoint.close()
    refused = {"reason": "full", "priority": "low"}
    assert registry.get_sample_value("sluice_decider_shed_total", refused) == 1


async def test_two_inferences_that_are_read_at_once_do_not_both_come_in(
    entrypoint: SyncApi, decider: FakePipeline
) -> None:
    """Both began while there was room."""
    texts = [with_(authorization_id=f"auth-{i}").decode() for i in range(10)]
    rows = {"name": "authorizations", "shape": [10], "datatype": "BYTES", "data": texts}
    whole = inference(rows)
    answers = await asyncio.gather(*(ask(entrypoint, INFER, whole) for _ in range(2)))
    assert sorted(answer.status for answer in answers) == [200, 503]


async def test_under_overload_the_refused_are_counted_and_have_no_line(
    decider: FakePipeline, registry: CollectorRegistry, capsysbinary: Any
) -> None:
    entrypoint = make_entrypoint(decider, registry)
    decider.gate = asyncio.Event()
    waiting = [
        asyncio.create_task(ask(entrypoint, body=with_(authorization_id=f"auth-{i}")))
        for i in range(6)
    ]
    while not decider.batches:
        await asyncio.sleep(0)
    decider.gate.set()
    assert sorted(a.status for a in await asyncio.gather(*waiting)) == [200] * 4 + [503] * 2
    await entrypoint.close()
    requests = {"entrypoint": "sync", "code": "overloaded"}
    assert registry.get_sample_value("sluice_decider_requests_total", requests) == 2
    assert registry.get_sample_value("sluice_decider_limit") == 4
    assert b"overloaded" not in capsysbinary.readouterr().out


async def test_a_tensor_in_which_nothing_was_decided_is_a_problem(entrypoint: SyncApi) -> None:
    rows = {"name": "authorizations", "shape": [1], "datatype": "BYTES", "data": ["{}"]}
    answer = await ask(entrypoint, INFER, inference(rows))
    assert (answer.status, answer.json["code"]) == (422, "missing_field")


def binary(data: bytes, name: str, shape: list[int], datatype: str, size: Any = None) -> bytes:
    """Head and blob, where the head says that the blob has ``size`` bytes."""
    size = len(data) if size is None else size
    head = {"name": name, "shape": shape, "datatype": datatype}
    return inference(head | {"parameters": {"binary_data_size": size}}) + data


async def test_scores_are_not_for_those_who_send_authorizations(entrypoint: SyncApi) -> None:
    answer = await ask(entrypoint, INFER, inference())
    assert (answer.status, answer.json["code"]) == (403, "not_on_this_port")
    rows = {"name": "authorizations", "shape": [1], "datatype": "BYTES", "data": [with_().decode()]}
    answer = await ask(Admin(entrypoint, "sluice"), INFER, inference(rows))
    assert (answer.status, answer.json["code"]) == (403, "not_on_this_port")


async def test_the_admin_port_shows_metrics_and_health_and_nothing_else(
    entrypoint: SyncApi, registry: CollectorRegistry, decider: FakePipeline
) -> None:
    admin = Admin(entrypoint, "sluice", registry)
    await ask(entrypoint, body=with_())
    entrypoint.report()
    page = await ask(admin, "/metrics", method="GET")
    assert b"sluice_decider_decisions_total" in page.body
    assert (await ask(admin, "/v2/health/live", method="GET")).status == 200
    assert (await ask(admin, "/v2/health/ready", method="GET")).status == 200
    assert (await ask(admin, body=with_(authorization_id="auth-2"))).status == 404
    assert (await ask(admin, "/metrics")).status == 405
    assert len(decider.batches) == 1


V1_WRONG = {
    "nested 1,000 deep": b'{"instances":' + b"[" * 1_000 + b"]" * 1_000 + b"}",
    "nested 100,000 deep": b'{"instances":' + b"[" * 100_000,
    "not JSON": b"x",
    "no instances": b"{}",
    "none": b'{"instances":[]}',
    "no list": b'{"instances":{}}',
    "not UTF-8": b'{"instances":["\xff"]}',
}


@pytest.mark.parametrize("case", V1_WRONG)
async def test_a_wrong_request_of_the_v1_protocol_is_a_4xx(entrypoint: SyncApi, case: str) -> None:
    answer = await ask(entrypoint, PREDICT, V1_WRONG[case])
    assert 400 <= answer.status < 500
    assert answer.json["code"]


async def test_a_request_of_the_v1_protocol_in_chunks_past_4_mib_is_refused(
    entrypoint: SyncApi,
) -> None:
    answer = await ask(entrypoint, PREDICT, (b" " * 65_536 for _ in range(80)))
    assert (answer.status, answer.json["code"]) == (413, "too_large")


async def test_the_v1_protocol_answers_rows_and_problems(entrypoint: SyncApi) -> None:
    answer = await ask(entrypoint, PREDICT, b'{"instances":[' + with_() + b',{"v":1}, 5]}')
    codes = [row.get("outcome", row.get("code")) for row in answer.json["predictions"]]
    assert codes == ["approve", "missing_field", "wrong_type"]


async def test_bodies_of_inferences_are_bounded_together(
    entrypoint: SyncApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 4 * 1024 * 1024 - 2
    monkeypatch.setattr(entrypoint.admission.limit, "value", 10 * (BODIES_MAX_BYTES // size))
    waiting, statuses, going = slow_inferences(entrypoint, size, BODIES_MAX_BYTES // size)
    await asyncio.sleep(0)
    refused = await ask(entrypoint, INFER, b" " * size)
    assert (refused.status, refused.json["code"]) == (503, "overloaded")
    going.set()
    await asyncio.gather(*waiting)
    assert set(statuses) == {400}
    assert (await ask(entrypoint, INFER, b" " * size)).status == 400


async def test_inferences_that_arrive_slowly_keep_no_authorization_out(
    entrypoint: SyncApi,
) -> None:
    waiting, statuses, going = slow_inferences(entrypoint, 0, 40)
    await asyncio.sleep(0)
    assert (await ask(entrypoint, body=with_())).status == 200
    going.set()
    await asyncio.gather(*waiting)
    assert statuses == [400] * 40


def slow_inferences(
    entrypoint: SyncApi, size: int, count: int
) -> tuple[list[asyncio.Task[None]], list[int], asyncio.Event]:
    """So many, of each of which ``size`` bytes have come; the rest comes with the event."""
    going, statuses = asyncio.Event(), list[int]()

    async def send(message: Any) -> None:
        if "status" in message:
            statuses.append(message["status"])

    def one() -> Any:
        parts = [b" " * size]

        async def receive() -> Any:
            if parts:
                return {"type": "http.request", "body": parts.pop(), "more_body": True}
            await going.wait()
            return {"type": "http.request", "body": b"{}", "more_body": False}

        return entrypoint(
            {"type": "http", "method": "POST", "path": INFER, "headers": []}, receive, send
        )

    return [asyncio.create_task(one()) for _ in range(count)], statuses, going


async def test_a_process_at_its_memory_limit_refuses_and_goes_on(
    entrypoint: SyncApi, decider: FakePipeline
) -> None:
    decider.instead["auth-1"] = MemoryError()
    rows = {"name": "authorizations", "shape": [1], "datatype": "BYTES", "data": [with_().decode()]}
    for path, body in (("/v1/authorizations", with_()), (INFER, inference(rows))):
        answer = await ask(entrypoint, path, body)
        assert (answer.status, answer.json["code"]) == (503, "overloaded")
    assert (await ask(entrypoint, body=with_(authorization_id="auth-2"))).status == 200


WRONG: dict[str, bytes] = {
    "not JSON": b"x",
    "no input": b'{"inputs":[]}',
    "two inputs": inference(tensor(), tensor()),
    "unknown input": inference(tensor(name="pixels")),
    "unknown type": inference(tensor(datatype="FP32")),
    "floats": inference(tensor(data=[1.5] * 6)),
    "texts": inference(tensor(data=["1"] * 6)),
    "past 64 bits": inference(tensor(data=[2**70] * 6)),
    "one past 64 bits": inference(tensor(data=[2**63] + [0] * 5)),
    "5,000 digits": inference(tensor(data=[0] * 6)).replace(b"[0,", b"[" + b"9" * 5000 + b","),
    "booleans": inference(tensor(data=[True] * 6)),
    "nulls": inference(tensor(data=[None] * 6)),
    "whole floats": inference(tensor(data=[1.0] * 6)),
    "one long text": inference(tensor(data=["x" * 1_000_000, *"12345"])),
    "many texts and one long": inference(tensor(data=["x" * 1_000_000, *["y"] * 500_000])),
    "a million empty rows": inference(tensor(data=[[]] * 1_000_000)),
    "nested deeper": inference(tensor(data=[[[1, 2, 3]], [[4, 5, 6]]])),
    "rows of another width": inference(tensor(data=[[1, 2], [3, 4], [5, 6]])),
    "an object": inference(tensor(data={"a": [1, 2, 3, 4, 5, 6]})),
    "shape that lies": inference(tensor(shape=[512, 3])),
    "shape of 10^12 rows of none": inference(tensor(shape=[2, 3, 10**12], data=[])),
    "shape of texts": inference(tensor(shape=["2", "3"])),
    "shape of booleans": inference(tensor(shape=[True, 3], data=[1, 2, 3])),
    "a list for the binary size": inference(tensor(data=None, parameters={"binary_data_size": []})),
    "negative binary size": inference(tensor(data=None, parameters={"binary_data_size": -1})),
    "10^18 bytes": inference(tensor(data=None, parameters={"binary_data_size": 10**18})),
    "an id of a megabyte": inference(id="x" * 1_000_000),
    "ragged": inference(tensor(data=[[1, 2], [3]])),
    "wrong width": inference(tensor(shape=[3, 2])),
    "too few values": inference(tensor(data=[1])),
    "no rows": inference(tensor(shape=[0, 3], data=[])),
    "negative shape": inference(tensor(shape=[-1, 3])),
    "no data": inference(tensor(data=None)),
    "unknown output": inference(outputs=[{"name": "wish"}]),
    "deep nesting": b"[" * 100_000,
}


@pytest.mark.parametrize("case", WRONG)
async def test_a_wrong_inference_request_is_a_400(entrypoint: SyncApi, case: str) -> None:
    answer = await ask(Admin(entrypoint, "sluice"), INFER, WRONG[case])
    assert (answer.status, answer.json["code"]) == (400, "invalid_inference")


TEXTS = ("authorizations", [1], "BYTES")
ROWS = ("features", [2, 3], "INT64")
BINARY_WRONG = {
    "longer than it says": (binary(b"\1\0\0\0xy", *TEXTS, 5), AUTHORIZATIONS),
    "size of a text that lies": (binary(b"\xff\xff\xff\xffx", *TEXTS), AUTHORIZATIONS),
    "half a size": (binary(b"\1\0", *TEXTS), AUTHORIZATIONS),
    "a million empty texts": (binary(b"\0\0\0\0" * 1_000_000, *TEXTS), AUTHORIZATIONS),
    "too few numbers": (binary(b"\0" * 40, *ROWS), FEATURES),
    "no numbers": (binary(b"", *ROWS), FEATURES),
}


@pytest.mark.parametrize("case", BINARY_WRONG)
async def test_a_wrong_binary_tensor_is_a_400(
    entrypoint: SyncApi, decider: FakePipeline, case: str
) -> None:
    body, name = BINARY_WRONG[case]
    port = Admin(entrypoint, "sluice") if name == FEATURES else entrypoint
    length = str(body.index(b"]}") + 2)
    answer = await ask(port, INFER, body, inference_header_content_length=length)
    assert (answer.status, answer.json["code"]) == (400, "invalid_inference")
    assert decider.batches == []


async def test_two_header_lengths_are_refused(entrypoint: SyncApi) -> None:
    also = [("inference-header-content-length", "5"), ("inference-header-content-length", "6")]
    assert (await ask(entrypoint, INFER, inference(), also=also)).status == 400


async def test_four_megabytes_of_texts_cost_no_memory(entrypoint: SyncApi) -> None:
    bodies = [
        WRONG["many texts and one long"],
        WRONG["a million empty rows"],
        b'{"inputs":[{"name":"features","shape":[1,3],"datatype":"INT64","parameters":{'
        + b",".join(b'"%d":{}' % n for n in range(300_000))
        + b"}}]}",
    ]
    for body in bodies:
        tracemalloc.start()
        assert (await ask(Admin(entrypoint, "sluice"), INFER, body)).status == 400
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 6 * len(body)


async def test_too_many_rows_are_refused(entrypoint: SyncApi) -> None:
    rows = MAX_ROWS + 1
    body = inference(tensor(shape=[rows, 3], data=[0] * 3 * rows))
    assert (await ask(Admin(entrypoint, "sluice"), INFER, body)).status == 413


@pytest.mark.parametrize(
    "length", ["0", "999999", "-1", "abc", "1.0", "9" * 5000, "0" * 5000 + "5", "\uff11\uff12"]
)
async def test_a_header_length_that_does_not_fit_is_refused(
    entrypoint: SyncApi, length: str
) -> None:
    answer = await ask(
        Admin(entrypoint, "sluice"), INFER, inference(), inference_header_content_length=length
    )
    assert (answer.status, answer.json["code"]) == (400, "invalid_inference")


async def test_a_model_that_is_down_is_a_503(entrypoint: SyncApi, decider: FakePipeline) -> None:
    decider.healthy = False
    assert (await ask(Admin(entrypoint, "sluice"), INFER, inference())).status == 503


# ---------------------------------------------------------------- description


async def test_the_openapi_document_is_valid_and_its_references_resolve(
    entrypoint: SyncApi,
) -> None:
    document = (await ask(entrypoint, "/openapi.json", method="GET")).json
    OpenAPI.model_validate(document)
    schemas = document["components"]["schemas"]
    assert set(schemas) >= {"Authorization", "Answer", "Problem"}

    def references(node: Any) -> Iterable[str]:
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas


def test_every_code_of_the_decoder_is_in_the_table_of_problems() -> None:
    from sluice.domain.records import authorization as module

    for _, code in module._CODES:
        assert code in KINDS


async def test_every_refusal_has_the_status_that_openapi_promises(entrypoint: SyncApi) -> None:
    document = (await ask(entrypoint, "/openapi.json", method="GET")).json
    promised = document["paths"]["/v1/authorizations"]["post"]["responses"]
    for _, status, _ in BAD.values():
        assert str(status) in promised
