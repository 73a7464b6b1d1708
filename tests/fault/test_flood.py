"""A small flood at the sync API: more callers than it takes in, each asking again at once."""

from __future__ import annotations

import asyncio
import http.client
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from sluice_simulator.sync_client import SyncClient, SyncClientError

from local import metrics_page
from local.kafka.broker import Node
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.domain.records.authorization import encode
from sluice.testing.factories import make_authorization
from tests.support.deployment import Deployment, make_deployment
from tests.support.traffic import call

pytestmark = [pytest.mark.fault, pytest.mark.slow]

CALLERS = 160
IN_FLIGHT_MAX = 48
EACH = 25
SMALL, LARGE = 500, 200_000
LARGE_EVERY = 10
"""Every tenth caller asks for large amounts: fewer at once than there are places."""


def now_us() -> int:
    return time.time_ns() // 1000


@dataclass
class Heard:
    """What callers were told, by authorization id."""

    answers: dict[str, bytes] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    asked: Counter[int] = field(default_factory=Counter)
    """By amount, as the next."""
    lost: Counter[int] = field(default_factory=Counter)


async def flood(deployment: Deployment, heard: Heard) -> None:
    """CALLERS at once, EACH requests one after the other, none repeated."""
    client = SyncClient(deployment.stack.url)

    async def caller(number: int) -> None:
        for n in range(EACH):
            name = f"f-{number}-{n}"
            amount = LARGE if number % LARGE_EVERY == 0 else SMALL
            auth = make_authorization(
                name, event_at=now_us(), card_token=f"card-{number}", amount_minor=amount
            )
            answer = await client.post(encode(auth), 30.0)
            heard.asked[amount] += 1
            if answer.status == 200:
                heard.answers[name] = answer.body
                continue
            assert answer.status == 503, answer
            assert answer.header("retry-after") == "1"
            assert answer.header("content-type") == "application/problem+json"
            assert msgspec.json.decode(answer.body)["code"] == "overloaded"
            heard.refused.add(name)
            heard.lost[amount] += 1

    try:
        await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    except SyncClientError as error:
        raise AssertionError(deployment.logs()[-3000:]) from error
    finally:
        client.close()


def test_a_flood_is_refused_small_amounts_first_and_the_rest_is_complete(
    kafka: Node, tmp_path: Path
) -> None:
    patient = {
        "SLUICE_DECIDER_IN_FLIGHT_MAX": str(IN_FLIGHT_MAX),
        "SLUICE_DECIDER_DEADLINE_MS": "1000",  # a loaded machine is late, not flooded
        "SLUICE_DECIDER_RECORD_BUDGET_MS": "10000",
    }
    with (
        EmbeddedStore() as store,
        make_deployment(kafka.bootstrap, store.url, tmp_path, environment=patient) as deployment,
    ):
        deployment.start("decider-sync", "featurizer")
        heard = Heard()
        asyncio.run(flood(deployment, heard))

        levels = {msgspec.json.decode(a)["degradation_level"] for a in heard.answers.values()}
        assert levels == {"D0"}
        assert heard.lost[SMALL] > heard.asked[SMALL] // 10
        assert heard.lost[LARGE] / heard.asked[LARGE] < heard.lost[SMALL] / heard.asked[SMALL] / 4

        # As soon as it is over, whoever asks is answered.
        connection = http.client.HTTPConnection("127.0.0.1", deployment.stack.port, timeout=10)
        for n in range(20):
            auth = make_authorization(f"after-{n}", event_at=now_us(), amount_minor=SMALL)
            status, body = call(connection, encode(auth))
            assert (status, msgspec.json.decode(body)["degradation_level"]) == (200, "D0")
            heard.answers[auth.authorization_id] = body
        connection.close()

        page = deployment.stack.processes["decider-sync"].metrics()
        assert metrics_page.total(page, "sluice_decider_shed_total") == len(heard.refused)
        ledger = deployment.recount(heard.answers)
        assert heard.refused.isdisjoint(ledger.answers())
