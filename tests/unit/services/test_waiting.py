"""Waiting for a part at the start: what is said, how often, for how long, and what ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest
from prometheus_client import CollectorRegistry

from services.waiting import StoppedError, Waiting
from sluice.errors import Misconfigured, Unavailable
from sluice.telemetry import Health, Metrics

AWAY = Unavailable("no broker answers", where="kafka, b:9092")


class Harness:
    """A part that comes after so many tries. clock: moves on by a second with every look."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.health = Health()
        self.registry = CollectorRegistry()
        self.now = 0.0
        self.tries = 0
        self.waiting = Waiting(
            self.stop,
            health=self.health,
            metrics=Metrics(self.registry),
            clock=self._clock,
            retry_s=0.0,
        )

    def _clock(self) -> float:
        self.now += 1.0
        return self.now

    def shown(self, part: str) -> float | None:
        return self.registry.get_sample_value("sluice_start_waiting", {"part": part})

    def coming(self, errors: Sequence[Exception]) -> Callable[[], str]:
        left = list(errors)

        def come() -> str:
            self.tries += 1
            if left:
                raise left.pop(0)
            return "here"

        return come


def lines(caplog: pytest.LogCaptureFixture, event: str) -> list[object]:
    return [record for record in caplog.records if record.getMessage() == event]


def test_what_is_there_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    harness = Harness()
    assert harness.waiting.until(harness.coming([]), lambda _: "broker") == "here"
    assert harness.shown("broker") is None
    assert lines(caplog, "waiting") == []


def test_a_reason_is_said_once_and_again_when_it_is_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    harness = Harness()
    missing = Unavailable("no topic x", code="no_topic")
    seen: list[tuple[bool, bool, str, float | None, float | None]] = []

    def look(error: Unavailable) -> str:
        health = harness.health
        shown = harness.shown("broker"), harness.shown("topics")
        seen.append((health.live(), health.ready(), health.why, *shown))
        return "topics" if error.code == "no_topic" else "broker"

    come = harness.coming([AWAY, AWAY, AWAY, missing, missing, AWAY])
    assert harness.waiting.until(come, look) == "here"  # type: ignore[arg-type]
    assert harness.tries == 7
    assert len(lines(caplog, "waiting")) == 3
    assert len(lines(caplog, "came")) == 1
    away, topic = f"it waits for the broker: {AWAY}", f"it waits for the topics: {missing}"
    assert [why for _, _, why, _, _ in seen] == ["it starts", away, away, away, topic, topic]
    assert seen[1] == (True, False, away, 1, None)
    assert seen[4] == (True, False, topic, 0, 1)
    assert (harness.shown("broker"), harness.shown("topics")) == (0, 0)
    assert not harness.health.ready(), "it has only begun"


def test_after_the_bound_the_last_reason_is_raised() -> None:
    harness = Harness()
    with pytest.raises(Unavailable, match="no broker answers"):
        harness.waiting.until(harness.coming([AWAY] * 1000), lambda _: "store", at_most_s=20)
    assert 2 <= harness.tries <= 20
    assert harness.shown("store") == 0


def test_a_bound_of_nothing_looks_once() -> None:
    harness = Harness()
    with pytest.raises(Unavailable):
        harness.waiting.until(harness.coming([AWAY] * 9), lambda _: "release", at_most_s=0)
    assert harness.tries == 1


def test_what_a_person_must_mend_ends_it_at_once() -> None:
    harness = Harness()
    wrong = Misconfigured("the brokers do not take our credentials")
    with pytest.raises(Misconfigured, match="credentials"):
        harness.waiting.until(harness.coming([AWAY, wrong]), lambda _: "broker")
    assert harness.tries == 2


def test_it_is_stopped_while_a_question_is_unanswered() -> None:
    harness = Harness()
    asked, ended = threading.Event(), threading.Event()

    def hangs() -> None:
        asked.set()
        ended.wait(60)

    threading.Thread(target=lambda: (asked.wait(30), harness.stop.set()), daemon=True).start()
    with pytest.raises(StoppedError):
        harness.waiting.until(hangs, lambda _: "broker")
    assert asked.is_set()
    ended.set()


def test_nothing_is_asked_once_it_is_stopped() -> None:
    harness = Harness()
    harness.stop.set()
    with pytest.raises(StoppedError):
        harness.waiting.until(harness.coming([]), lambda _: "broker")
    assert harness.tries == 0
