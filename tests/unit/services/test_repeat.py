"""Work that is due again and again: it goes on, and shows when it does not."""

from __future__ import annotations

import threading
import time

import pytest
from prometheus_client import CollectorRegistry

from services.repeat import Repeated
from sluice.errors import Unavailable
from sluice.telemetry import Metrics

COMPLETED = "sluice_task_completed_timestamp_seconds"
FAILURES = "sluice_task_failures_total"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def shown(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, {"task": "look"} | labels)


def test_no_exception_ends_it_and_each_is_counted_by_its_code(registry, caplog) -> None:
    failures = [Unavailable("down", code="not_started"), ValueError("month"), IndexError(), None]
    done = threading.Event()

    def work() -> None:
        failure = failures.pop(0) if failures else None
        if failure is not None:
            raise failure
        done.set()

    repeated = Repeated("look", 0.001, work, metrics=Metrics(registry)).start()
    assert done.wait(10)
    repeated.stop()
    assert shown(registry, FAILURES, code="not_started") == 1
    assert shown(registry, FAILURES, code="internal") == 2
    failed = [record for record in caplog.records if record.message == "task_failed"]
    assert [record.fields["reason"] for record in failed] == ["down", "month", ""]
    assert [bool(record.exc_info) for record in failed] == [False, True, True]


def test_only_one_that_comes_to_its_end_counts_as_done(registry) -> None:
    fails = [True]

    def work() -> None:
        if fails[0]:
            raise Unavailable("down")

    repeated = Repeated("look", 3600, work, metrics=Metrics(registry)).start()
    began = shown(registry, COMPLETED)
    assert began is not None, "one that never ends is late from the start on"
    assert began == pytest.approx(time.time(), abs=60)
    assert shown(registry, "sluice_task_every_seconds") == 3600
    repeated.once()
    assert shown(registry, COMPLETED) == began
    fails[0] = False
    repeated.once()
    assert shown(registry, COMPLETED) > began
    repeated.stop()
