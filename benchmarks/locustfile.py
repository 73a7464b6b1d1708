"""Users of a sync API: ``locust -f benchmarks/locustfile.py --host http://localhost:8080``.

Each request is a new authorization of the simulator's world, as an acquirer would send it. An
answer other than 200 is a failure. With ``--tenant`` and ``--seed`` several runs do not repeat ids.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

from locust import FastHttpUser, constant, events, task
from sluice_simulator.batch import Batch
from sluice_simulator.config import Config
from sluice_simulator.world import World

from sluice.domain.records.authorization import encode

CHUNK = 2048


@events.init_command_line_parser.add_listener
def _arguments(parser: Any) -> None:
    parser.add_argument("--cards", type=int, default=10_000, help="of the simulated bank")
    parser.add_argument("--seed", type=int, default=1, help="of the simulated bank")
    parser.add_argument("--first-day", default="", help="of the traffic (default: yesterday)")
    parser.add_argument("--tenant", default="bank")


def _bodies(cards: int, seed: int, first: date, tenant: str) -> Iterator[bytes]:
    world = World(Config(cards=cards, tenant=tenant), seed)
    for days in itertools.count():
        for day in world.days(first + timedelta(days=days), 1):
            for at in range(0, len(day), CHUNK):
                yield from map(encode, Batch(world, day.rows[at : at + CHUNK]).structs())


@events.test_start.add_listener
def _start(environment: Any, **_: Any) -> None:
    given = environment.parsed_options
    first = (
        date.fromisoformat(given.first_day)
        if given.first_day
        else (datetime.now(UTC) - timedelta(days=1)).date()
    )
    Acquirer.bodies = _bodies(given.cards, given.seed, first, given.tenant)


class Acquirer(FastHttpUser):
    """Asks again as soon as it is answered."""

    wait_time = constant(0)
    bodies: Iterator[bytes]

    @task
    def authorize(self) -> None:
        """Send the world's next authorization."""
        with self.client.post(
            "/v1/authorizations",
            data=next(self.bodies),
            headers={"Content-Type": "application/json"},
            catch_response=True,
        ) as answer:
            if answer.status_code != 200:
                answer.failure(f"{answer.status_code} {answer.text}")
