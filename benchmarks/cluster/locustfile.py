"""The Locust file of the loader: a ramp past one pod's capacity, a plateau, and a calm after it.

``benchmarks/locustfile.py`` with three things more. Users keep a pace, so that the rate is known.
An authorization that is not answered with 200 is sent again, as an acquirer does, and each such try
is counted. Each connection is given up after CONNECTION_REQUESTS: behind a Service a connection
stays at its pod, and new pods would hear nothing.

Workers send the master what happened in each second. It prints a line of JSON a second, and at the
end leaves the answered ids in a file, for the recount.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gevent
import msgspec
from locust import LoadTestShape, constant_throughput, events, runners
from locust.runners import MasterRunner, WorkerRunner

from benchmarks import locustfile
from benchmarks.cluster.ramp import add_arguments, given
from benchmarks.cluster.seconds import Seconds

USER_RATE = 5
"""Requests a second of one user: with answers in 20 ms it waits nine tenths of the time."""
CONNECTION_REQUESTS = 25
SPAWN_RATE = 50
TRIES_MAX = 300
RETRY_S = 0.1
"""Half a minute of tries: longer than an idempotency record of a pod that died."""
LATE_S = 8.0
"""Workers report every 3 s: what a second held is complete after two reports and a bit."""
HEADERS = {"Content-Type": "application/json"}
LAST = {**HEADERS, "Connection": "close"}

runners.HEARTBEAT_LIVENESS = 30
"""Seconds. Locust's own 3 give up a worker that a busy node starved so long, and end the run."""

seconds = Seconds()
answered: list[str] = []
given_up: list[str] = []


class _Named(msgspec.Struct):
    authorization_id: str


_named = msgspec.json.Decoder(_Named).decode


@events.init_command_line_parser.add_listener
def _arguments(parser: Any) -> None:
    add_arguments(parser)
    parser.add_argument("--bodies", default="/tmp/bodies.jsonl", help="of this worker, a line each")
    parser.add_argument("--ids", default="/tmp/ids.json", help="file of what was answered")


@events.test_start.add_listener
def _start(environment: Any, **_: Any) -> None:
    if isinstance(environment.runner, MasterRunner):
        gevent.spawn(_print, environment)
        return
    lines = Path(environment.parsed_options.bodies).read_bytes().splitlines()
    Paced.bodies = iter(lines)


@events.report_to_master.add_listener
def _report(data: dict[str, Any], **_: Any) -> None:
    data["seconds"] = seconds.take()
    data["answered"], data["given_up"] = list(answered), list(given_up)
    answered.clear()
    given_up.clear()


@events.worker_report.add_listener
def _reported(data: dict[str, Any], **_: Any) -> None:
    seconds.put(data["seconds"])
    answered.extend(data["answered"])
    given_up.extend(data["given_up"])


def _print(environment: Any) -> None:
    while True:
        _say(time.time() - LATE_S, environment)
        gevent.sleep(1)


def _say(before: float, environment: Any) -> None:
    shape = environment.shape_class
    for line in seconds.lines(before, shape.offered(before) if shape else 0):
        print(msgspec.json.encode({"second": line}).decode(), flush=True)


@events.quitting.add_listener
def _quit(environment: Any, **_: Any) -> None:
    if isinstance(environment.runner, WorkerRunner):
        return
    _say(time.time() + 1, environment)
    ids = {"answered": answered, "given_up": given_up}
    Path(environment.parsed_options.ids).write_bytes(msgspec.json.encode(ids))


class Shape(LoadTestShape):
    """The users that the ramp asks for."""

    def tick(self) -> tuple[int, float] | None:
        """Users, and how many may begin or end a second. None until the last reports have come:
        what a worker has not reported, its master would take for decided and never asked."""
        assert self.runner is not None
        ramp = given(self.runner.environment.parsed_options)
        rate = ramp.at(self.get_run_time())
        if rate is not None:
            return max(1, round(rate / USER_RATE)), SPAWN_RATE
        return (0, SPAWN_RATE) if self.get_run_time() < ramp.seconds + LATE_S else None

    def offered(self, moment: float) -> float:
        """Requests a second that were meant at a moment of the wall clock."""
        assert self.runner is not None
        ago = time.time() - moment
        ramp = given(self.runner.environment.parsed_options)
        return ramp.at(max(0.0, self.get_run_time() - ago)) or 0.0


class Paced(locustfile.Acquirer):
    """Sends at its pace what the world's next card does, and again until it is answered."""

    wait_time = constant_throughput(USER_RATE)
    sent = 0

    def ask(self, body: bytes) -> None:
        """Send one, until it is answered."""
        name = _named(body).authorization_id
        began = time.time()
        for _ in range(TRIES_MAX):
            self.sent += 1
            with self.client.post(
                locustfile.PATH,
                data=body,
                headers=HEADERS if self.sent % CONNECTION_REQUESTS else LAST,
                catch_response=True,
            ) as answer:
                if answer.status_code == 200:
                    now = time.time()
                    seen = seconds.at(now)
                    seen.latencies_us.append(round((now - began) * 1e6))
                    seen.degraded += b'"degradation_level":"D0"' not in answer.content
                    answered.append(name)
                    return
                answer.failure(f"{answer.status_code} {answer.text}")
                seconds.at(time.time()).refused += 1
            gevent.sleep(RETRY_S)
        seconds.at(time.time()).given_up += 1
        given_up.append(name)
