"""Users of a sync API: ``locust -f benchmarks/locustfile.py --host http://localhost:8080``.

Each request is a new authorization of the simulator's world, as an acquirer would send it. An
answer other than 200 is a failure. With ``--tenant`` and ``--seed`` several runs do not repeat ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

from locust import FastHttpUser, constant, events, task

from benchmarks.traffic import bodies

PATH = "/v1/authorizations"


@events.init_command_line_parser.add_listener
def _arguments(parser: Any) -> None:
    parser.add_argument("--cards", type=int, default=10_000, help="of the simulated bank")
    parser.add_argument("--seed", type=int, default=1, help="of the simulated bank")
    parser.add_argument("--first-day", default="", help="of the traffic (default: yesterday)")
    parser.add_argument("--tenant", default="bank")


@events.test_start.add_listener
def _start(environment: Any, **_: Any) -> None:
    given = environment.parsed_options
    first = (
        date.fromisoformat(given.first_day)
        if given.first_day
        else (datetime.now(UTC) - timedelta(days=1)).date()
    )
    Acquirer.bodies = bodies(given.cards, given.seed, first, given.tenant)


class Acquirer(FastHttpUser):
    """Asks again as soon as it is answered."""

    wait_time = constant(0)
    bodies: Iterator[bytes]

    @task
    def authorize(self) -> None:
        """Send the world's next authorization."""
        self.ask(next(self.bodies))

    def ask(self, body: bytes) -> None:
        """Send one, once."""
        with self.client.post(
            PATH,
            data=body,
            headers={"Content-Type": "application/json"},
            catch_response=True,
        ) as answer:
            if answer.status_code != 200:
                answer.failure(f"{answer.status_code} {answer.text}")
