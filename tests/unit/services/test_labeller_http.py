"""Reports over HTTP: answered when they are durable, refused with a reason, lost never."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from services.decider.access import Access, Limits
from services.labeller.http import REPORTS_MAX, WAITING_MAX, LabelApi
from sluice import telemetry
from sluice.application.access import Identity, Refused
from sluice.application.access import Scope as May
from sluice.application.label import Labeller, NoAuthorizations, Result
from sluice.domain.clock import DAY_US
from sluice.domain.records.report import Report
from sluice.testing.factories import NOON_US
from sluice.testing.labels import FakeLabelTopic
from sluice.testing.store import FakeClock

TOLD = {
    "source": "visa-tc40",
    "report_id": "r-1",
    "kind": "issuer_report",
    "is_fraud": True,
    "authorization_id": "a-1",
    "tenant": "bank",
    "known_at": NOON_US,
    "event_at": NOON_US,
    "card_token": "card-1",
    "merchant_id": "merchant-1",
    "terminal_id": "terminal-1",
}


JSON = (b"content-type", b"application/json")


def told(name: str = "r-1", **changes: Any) -> dict[str, Any]:
    made = TOLD | {"report_id": name} | changes
    return {key: value for key, value in made.items() if value is not None}


class Answer:
    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.raw = b""

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


class Harness:
    def __init__(self, labeller: Any = None, access: Access | None = None) -> None:
        self.topic = FakeLabelTopic()
        self.labeller = labeller or Labeller(
            self.topic, NoAuthorizations(), FakeClock(NOON_US + DAY_US)
        )
        self.health = telemetry.Health()
        self.health.beat(ready=True)
        self.api = LabelApi(self.labeller, access=access, health=self.health)

    async def ask(
        self,
        body: Any = None,
        *,
        method: str = "POST",
        path: str = "/v1/labels",
        headers: Sequence[tuple[bytes, bytes]] = (JSON,),
    ) -> Answer:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = Answer()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": raw, "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = dict(message["headers"])
            else:
                answer.raw += message["body"]

        scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
        await self.api(scope, receive, send)
        return answer


async def test_a_report_is_answered_when_its_label_is_durable() -> None:
    harness = Harness()
    answer = await harness.ask(told())
    assert (answer.status, answer.body) == (
        200,
        {"outcome": "new", "authorization_id": "a-1", "report_id": "r-1", "is_fraud": True},
    )
    assert len(harness.topic.log.labels) == 1
    assert (await harness.ask(told())).body["outcome"] == "duplicate"
    assert len(harness.topic.log.labels) == 1


async def test_of_a_list_each_report_has_its_answer_or_its_problem_in_order() -> None:
    harness = Harness()
    answer = await harness.ask(
        [told("r-1"), {"source": "x"}, told("r-2", card_token=None), told("r-3", is_fraud=False)]
    )
    assert answer.status == 200
    said = [one.get("outcome") or (one["status"], one["code"]) for one in answer.body]
    assert said == ["new", (422, "missing_field"), (422, "missing_field"), "turned"]
    assert "card_token" in answer.body[2]["detail"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[{]", 400, "invalid_json"),
        (b"[]", 422, "missing_field"),
        (told(kind="rumour"), 422, "unknown_value"),
        (told(amount=5), 422, "unknown_field"),
        (told(card_token="4111111111111111"), 422, "card_number"),
        (told(card_token=None), 422, "missing_field"),
        (told(known_at=NOON_US + 9 * DAY_US), 422, "event_in_future"),
        ([told(f"r-{i}") for i in range(REPORTS_MAX + 1)], 413, "too_large"),
        (b" " * (1024 * 1024 + 1), 413, "too_large"),
    ],
)
async def test_what_cannot_be_taken_is_a_problem_with_its_code(
    body: Any, status: int, code: str
) -> None:
    harness = Harness()
    answer = await harness.ask(body)
    assert (answer.status, answer.body["code"]) == (status, code)
    assert answer.headers[b"content-type"] == b"application/problem+json"
    assert harness.topic.log.labels == []


async def test_a_report_id_with_other_content_is_a_conflict() -> None:
    harness = Harness()
    await harness.ask(told())
    answer = await harness.ask(told(is_fraud=False))
    assert (answer.status, answer.body["code"]) == (409, "report_conflict")


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"method": "GET"}, 405),
        ({"path": "/v1/authorizations"}, 404),
        ({"path": "/metrics", "method": "GET"}, 404),
        ({"headers": [(b"content-type", b"text/csv")]}, 415),
        (
            {"headers": [(b"content-type", b"application/json"), (b"content-encoding", b"gzip")]},
            415,
        ),
        ({"path": "/v2/health/live", "method": "GET"}, 200),
        ({"path": "/v2/health/ready", "method": "GET"}, 200),
        ({"path": "/v2/health/ready", "method": "POST"}, 405),
    ],
)
async def test_what_is_served_where(asked: dict[str, Any], status: int) -> None:
    assert (await Harness().ask(told(), **asked)).status == status


async def test_while_the_brokers_are_away_it_says_so_and_takes_the_same_report_afterwards() -> None:
    harness = Harness()
    harness.topic.fail = "unheard"
    answer = await harness.ask(told())
    assert (answer.status, answer.body["code"]) == (503, "unavailable")
    assert b"retry-after" in answer.headers
    assert (await harness.ask(told())).body["outcome"] == "duplicate"
    harness.health.beat(ready=False, why="no broker")
    assert (await harness.ask(method="GET", path="/v2/health/ready")).status == 503


class Slow:
    """Takes one batch at a time, when told."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.go = threading.Event()
        self.inner = Harness().labeller

    def take(self, reports: Sequence[Report]) -> list[Result]:
        self.batches.append(len(reports))
        assert self.go.wait(10)
        return self.inner.take(reports)


async def test_requests_that_come_meanwhile_are_written_together() -> None:
    slow = Slow()
    harness = Harness(slow)
    asked = [asyncio.create_task(harness.ask(told(f"r-{i}"))) for i in range(20)]
    while not slow.batches:
        await asyncio.sleep(0)
    more = [asyncio.create_task(harness.ask(told(f"s-{i}"))) for i in range(5)]
    await asyncio.sleep(0)
    slow.go.set()
    assert [one.status for one in await asyncio.gather(*asked, *more)] == [200] * 25
    assert sum(slow.batches) == 25
    assert len(slow.batches) <= 3


async def test_more_than_may_wait_is_refused_and_nothing_queues() -> None:
    slow = Slow()
    harness = Harness(slow)
    requests = WAITING_MAX // REPORTS_MAX
    asked = [
        asyncio.create_task(harness.ask([told(f"r-{n}-{i}") for i in range(REPORTS_MAX)]))
        for n in range(requests)
    ]
    while not slow.batches:
        await asyncio.sleep(0)
    answer = await harness.ask(told("too-many"))
    assert (answer.status, answer.body["code"]) == (503, "overloaded")
    slow.go.set()
    assert all(one.status == 200 for one in await asyncio.gather(*asked))
    assert (await harness.ask(told("too-many"))).status == 200


class Broken:
    def take(self, reports: Sequence[Report]) -> list[Result]:
        raise ZeroDivisionError


async def test_a_bug_of_ours_is_a_500_and_the_next_request_is_served() -> None:
    harness = Harness(Broken())
    assert (await harness.ask(told())).status == 500
    assert (await harness.ask(told())).status == 500
    assert (await harness.ask(method="GET", path="/v2/health/live")).status == 200


class OneToken:
    """Bearer tokens that are the name of a scope."""

    generation = 0

    def verify(self, token: bytes) -> Identity:
        if token == b"stranger":
            raise Refused("signature", "nobody we know", code="invalid_token")
        return Identity("client", frozenset({"bank"}), frozenset({May(token.decode())}))

    async def follow(self) -> None: ...


async def test_who_may_send_reports_is_ruled_as_at_the_sync_api() -> None:
    access = Access(OneToken(), None, limits=Limits())
    harness = Harness(access=access)

    async def status(token: bytes, **changes: Any) -> tuple[int, str]:
        headers = [JSON]
        headers += [(b"authorization", b"Bearer " + token)] if token else []
        answer = await harness.ask(told(**changes), headers=headers)
        return answer.status, answer.body.get("code", "")

    assert await status(b"") == (401, "unauthenticated")
    assert await status(b"stranger") == (401, "invalid_token")
    assert await status(b"authorize") == (403, "insufficient_scope")
    assert await status(b"label", tenant="other") == (403, "other_tenant")
    assert await status(b"label") == (200, "")
    assert (await harness.ask(method="GET", path="/v2/health/ready")).status == 200
    assert (await harness.ask(method="GET", path="/nothing")).status == 401
    assert len(harness.topic.log.labels) == 1


async def test_while_it_drains_it_answers_and_closes() -> None:
    harness = Harness()
    harness.api.draining = True
    answer = await harness.ask(told())
    assert (answer.status, answer.headers[b"connection"]) == (200, b"close")
    assert (await harness.ask(method="GET", path="/v2/health/ready")).status == 503
