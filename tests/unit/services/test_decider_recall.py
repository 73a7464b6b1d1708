"""A replica that starts learns from the log what others, and itself before, have answered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest
from msgspec import structs
from prometheus_client import CollectorRegistry

from services.decider import recall as module
from services.decider.recall import PIECE, Recall
from sluice.application.once import Once
from sluice.application.ports import Message
from sluice.domain.records.authorization import encode
from sluice.domain.records.decision import Decision, answer
from sluice.errors import Unavailable
from sluice.telemetry import Metrics
from sluice.testing.factories import NOON_US, make_arrival
from sluice.testing.records import make_decision
from sluice.testing.store import FakeClock, FakeStore

Tail = Callable[[], Iterator[Message]]


def decision(offset: int, name: str) -> Decision:
    return structs.replace(make_decision(name), decided_at=NOON_US + offset)


def message(offset: int, name: str) -> Message:
    return Message(encode(decision(offset, name)), b"card-1", "decisions.v1", 0, offset, None)


class Harness:
    def __init__(self, tail: Tail) -> None:
        self.clock = FakeClock(NOON_US)
        self.store = FakeStore(self.clock)
        self.store.down = True
        self.once = Once(self.store, self.clock)
        self.registry = CollectorRegistry()
        self.recall = Recall(
            self.once, tail, asyncio.get_running_loop(), metrics=Metrics(self.registry)
        )

    async def run(self) -> None:
        """Let it end by itself."""
        self.recall.start()
        for thread in threading.enumerate():
            if thread.name == "recall":
                await asyncio.to_thread(thread.join, 10)
                assert not thread.is_alive()
        await asyncio.sleep(0)

    def counted(self, name: str) -> float | None:
        return self.registry.get_sample_value(name)


async def test_answers_of_the_tail_are_known_without_the_store() -> None:
    messages = [message(n, f"a-{n}") for n in range(2 * PIECE + 1)]
    harness = Harness(lambda: iter(messages))
    await harness.run()
    assert len(harness.once) == len(messages)
    assert harness.counted("sluice_decider_recalled_total") == len(messages)
    (found,), _ = await harness.once.look_up([make_arrival("a-7")], late=False)
    assert found.earlier == encode(answer(decision(7, "a-7")))


async def test_a_log_that_cannot_be_read_stops_nothing_and_is_counted() -> None:
    def tail() -> Iterator[Message]:
        yield message(0, "a-0")
        raise Unavailable("the broker went away")

    harness = Harness(tail)
    await harness.run()
    assert harness.counted("sluice_decider_recall_failures_total") == 1


async def test_a_record_that_cannot_be_read_costs_its_own_answer_alone() -> None:
    broken = structs.replace(message(1, "a-1"), value=b'{"authorization": ' + b"[" * 100_000)
    harness = Harness(lambda: iter([message(0, "a-0"), broken, message(2, "a-2")]))
    await harness.run()
    assert harness.counted("sluice_decider_recalled_total") == 2
    assert harness.counted("sluice_decider_recall_failures_total") == 1
    found, _ = await harness.once.look_up([make_arrival("a-2")], late=False)
    assert found[0].earlier == encode(answer(decision(2, "a-2")))


async def test_a_tail_without_end_is_left_when_the_process_ends_or_time_is_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def tail() -> Iterator[Message]:
        n = 0
        while True:
            yield message(n, f"a-{n}")
            n += 1

    harness = Harness(tail)
    harness.recall.start()
    await asyncio.to_thread(harness.recall.close)
    monkeypatch.setattr(module, "READ_MAX_S", 0.0)
    await Harness(tail).run()
