"""What a witness answers, by C2SP tlog-witness."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.witness.http import BODY_MAX_BYTES, WitnessApi
from sluice import telemetry
from sluice.application.cosign import Witness
from sluice.audit.checkpoints import open_checkpoint
from sluice.audit.submissions import Submission
from sluice.domain.clock import SystemClock
from sluice.errors import Unavailable
from sluice.testing.witness import (
    OF_WITNESS,
    ORIGIN,
    WITNESS_NAME,
    GrownLog,
    MemoryRemembered,
)

LOG = GrownLog(20)
FORK = GrownLog(20, shares=3, fork="other")
STRANGER = GrownLog(20, private=Ed25519PrivateKey.from_private_bytes(bytes([7] * 32)))
OTHER = GrownLog(3, origin="test/eu/1")


async def ask(
    api: WitnessApi, body: bytes = b"", *, path: str = "/add-checkpoint", method: str = "POST"
) -> tuple[int, bytes, dict[bytes, bytes]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await api({"path": path, "method": method, "headers": []}, receive, send)
    return sent[0]["status"], sent[1]["body"], dict(sent[0]["headers"])


@pytest.fixture
def witness() -> Witness:
    made = Witness(WITNESS_NAME, OF_WITNESS, [LOG.key], MemoryRemembered(), SystemClock())
    made.add_checkpoint(LOG.submission(0, 8))
    return made


async def test_a_cosignature_is_the_answer(witness: Witness) -> None:
    status, body, headers = await ask(WitnessApi(witness), LOG.submission(8, 9))
    assert status == 200
    assert headers[b"content-type"].startswith(b"text/plain")
    opened = open_checkpoint(LOG.signed(9) + body, ORIGIN, LOG.key, [witness.key])
    assert list(opened.cosigned) == [WITNESS_NAME]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"old 8\n", 400, b"malformed\n"),
        (bytes(Submission(9, [], LOG.signed(8))), 400, b"shrinks\n"),
        (STRANGER.submission(8, 9), 403, b"not_signed\n"),
        (OTHER.submission(0, 3), 404, b"unknown_log\n"),
        (LOG.submission(7, 9), 409, b"8\n"),
        (FORK.submission(8, 8), 409, b"8\n"),
        (FORK.submission(8, 9), 422, b"inconsistent\n"),
    ],
)
async def test_a_refusal_has_the_status_of_the_specification(
    witness: Witness, body: bytes, status: int, said: bytes
) -> None:
    got, answer, headers = await ask(WitnessApi(witness), body)
    assert (got, answer) == (status, said)
    if status == 409:
        assert headers[b"content-type"] == b"text/x.tlog.size"


async def test_what_was_cosigned_last_may_be_asked_for(witness: Witness) -> None:
    api = WitnessApi(witness)
    status, body, _ = await ask(api, path=f"/checkpoint/{ORIGIN}", method="GET")
    assert status == 200
    opened = open_checkpoint(body, ORIGIN, LOG.key, [witness.key])
    assert opened.checkpoint.size == 8
    assert list(opened.cosigned) == [WITNESS_NAME]
    for path in ("/checkpoint/other", "/checkpoint/", "/checkpoint/../lock", "/"):
        assert (await ask(api, path=path, method="GET"))[0] == 404


async def test_another_method_or_a_body_too_large_is_refused(witness: Witness) -> None:
    api = WitnessApi(witness)
    assert (await ask(api, method="GET"))[0] == 405
    assert (await ask(api, path=f"/checkpoint/{ORIGIN}"))[0] == 405
    assert (await ask(api, bytes(BODY_MAX_BYTES + 1)))[:2] == (400, b"too_large\n")


async def test_it_is_ready_until_it_drains(witness: Witness) -> None:
    health = telemetry.Health()
    api = WitnessApi(witness, health)
    assert (await ask(api, path="/v2/health/live", method="GET"))[0] == 200
    assert (await ask(api, path="/v2/health/ready", method="GET"))[0] == 503
    health.beat(ready=True)
    assert (await ask(api, path="/v2/health/ready", method="GET"))[0] == 200
    api.draining = True
    status, _, headers = await ask(api, path="/v2/health/ready", method="GET")
    assert (status, headers[b"connection"]) == (503, b"close")


class Stuck:
    """A witness that fails, or waits until it is let."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.let = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def add_checkpoint(self, raw: bytes) -> bytes:
        if self.error:
            raise self.error
        asyncio.run_coroutine_threadsafe(self.let.wait(), self._loop).result(60)
        return b"done"

    def last(self, origin: str) -> bytes | None:
        return None


async def test_a_disk_that_fails_and_a_bug_have_an_answer() -> None:
    full = WitnessApi(Stuck(Unavailable("full", code="not_remembered")))
    assert (await ask(full))[:2] == (503, b"not_remembered\n")
    assert (await ask(WitnessApi(Stuck(ValueError("bug")))))[:2] == (500, b"internal\n")


async def test_past_the_bound_nobody_waits() -> None:
    stuck = Stuck()
    api = WitnessApi(stuck)
    asked = [asyncio.create_task(ask(api)) for _ in range(70)]
    while sum(one.done() for one in asked) < 6:
        await asyncio.sleep(0)
    stuck.let.set()
    answers = await asyncio.gather(*asked)
    assert sorted(answer[0] for answer in answers) == [200] * 64 + [503] * 6
