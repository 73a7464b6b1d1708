"""What the loop promises to every service, over a group in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.loop import NOTHING, ConsumerLoop, Done, Handler, Limits, whole
from sluice.application.ports import Message, Offsets, Partition
from sluice.errors import Corrupt, Misconfigured, Rejected, Unavailable
from sluice.telemetry import Health, Metrics
from sluice.testing.consumer import FakeConsumer, FakeGroup

A, B = ("t.v1", 0), ("t.v1", 1)
DOWN = Unavailable("the outside is down")


class Keep(Handler):
    """A new service: all that it has to write is what it does with a batch."""

    def __init__(self) -> None:
        self.kept: list[int] = []

    def handle(self, batch: Sequence[Message]) -> Done:
        self.kept += [message.offset for message in batch]
        return whole(batch)


class Recording(Handler):
    """Fails as it is told, and writes down what it is told. holds: commits only when asked to."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = [*failures]
        self.happened: list[Any] = []
        self.holds = False
        self.held: list[Message] = []
        self.starts: Offsets = {}
        self.breaks_on: int | None = None
        self.buried: list[int] = []
        self.buries = True

    def handle(self, batch: Sequence[Message]) -> Done:
        offsets = [message.offset for message in batch]
        self.happened.append(offsets)
        if self.failures:
            raise self.failures.pop(0)
        if self.breaks_on in offsets and self.breaks_on not in self.buried:
            raise ZeroDivisionError("a bug")
        self.held += batch
        return NOTHING if self.holds else self._all()

    def committed(self, done: Done) -> None:
        self.happened.append(dict(done.offsets))

    def rewound(self) -> None:
        self.held.clear()
        self.happened.append("rewound")

    def assigned(self, partitions: Sequence[Partition]) -> Offsets:
        self.happened.append(("assigned", *partitions))
        return self.starts

    def revoked(self, partitions: Sequence[Partition], *, lost: bool) -> Done:
        self.happened.append(("lost" if lost else "revoked", *partitions))
        return NOTHING if lost else self._all()

    def poison(self, message: Message, code: str) -> bool:
        self.happened.append((message.offset, code))
        self.buried.append(message.offset)
        return self.buries

    def _all(self) -> Done:
        done = whole(self.held)
        self.held.clear()
        return done


class Harness:
    def __init__(self, handler: Handler, *mine: Partition, **limits: Any) -> None:
        self.group = FakeGroup(A, B)
        self.consumer = FakeConsumer(self.group, *(mine or (A,)))
        self.registry = CollectorRegistry()
        given = {"batch_max": 10, "poll_s": 0, **limits}
        self.health = Health()
        self.loop = ConsumerLoop(
            self.consumer,
            handler,
            Limits(**given),
            metrics=Metrics(self.registry),
            health=self.health,
        )

    def add(self, count: int, place: Partition = A) -> None:
        for _ in range(count):
            self.group.add(place[0], partition=place[1])

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def rounds(self, count: int) -> list[float]:
        return [self.loop.once() for _ in range(count)]


def test_a_new_service_is_a_handler_and_nothing_else():
    handler, stop = Keep(), threading.Event()
    harness = Harness(handler, A, B)
    harness.add(3, A)
    harness.add(2, B)
    harness.loop.once()
    stop.set()
    harness.loop.run(stop)
    assert sorted(handler.kept) == [0, 0, 1, 1, 2]
    assert harness.group.offsets == {A: 3, B: 2}
    assert harness.value("sluice_consumer_messages_total", topic="t.v1") == 5
    assert harness.value("sluice_consumer_batches_total") == 1
    assert harness.value("sluice_consumer_lag_messages", topic="t.v1", partition="1") == 0
    assert harness.consumer.closed


def test_a_batch_that_fails_is_neither_committed_nor_made_known():
    handler = Recording()
    harness = Harness(handler)
    harness.add(2)
    handler.failures = [DOWN]
    with pytest.raises(Unavailable):
        harness.loop.once()
    assert harness.group.offsets == {}
    assert handler.happened == [("assigned", A), [0, 1], "rewound"]


def test_what_failed_comes_again_after_a_pause_that_doubles_up_to_a_bound():
    handler = Recording(*[DOWN] * 4)
    harness = Harness(handler, pause_s=0.5, pause_max_s=1.5, failures_max=None)
    harness.add(2)
    assert harness.rounds(5) == [0.5, 1.0, 1.5, 1.5, 0.0]
    assert harness.group.offsets == {A: 2}
    assert harness.value("sluice_consumer_aborts_total", code="unavailable") == 4
    assert harness.value("sluice_consumer_messages_total", topic="t.v1") == 2
    assert harness.value("sluice_consumer_batches_total") == 1, "given up four times, handled once"


def test_it_is_ready_while_its_batches_go_well_and_live_as_long_as_it_turns():
    handler = Recording(DOWN)
    harness = Harness(handler, failures_max=None)
    harness.add(2)
    seen = [(harness.health.live(), harness.health.ready())]
    for _ in range(2):
        harness.loop.once()
        seen.append((harness.health.live(), harness.health.ready()))
    assert seen == [(True, False), (True, False), (True, True)]


def test_it_is_not_ready_while_no_broker_is_there_and_live_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("services.loop.LAG_EVERY_S", 0.0)
    handler = Recording()
    harness = Harness(handler)
    harness.consumer.broker_away = True
    harness.loop.once()
    health = harness.health
    assert (health.live(), health.ready(), health.why) == (True, False, "no broker can be reached")
    harness.consumer.broker_away = False
    harness.loop.once()
    assert (health.live(), health.ready()) == (True, True)


def test_what_works_without_a_part_it_must_have_is_not_ready_and_says_what_it_lacks():
    class Poor(Keep):
        lack = "no release decides"

        def lacks(self) -> str:
            return self.lack

    handler = Poor()
    harness = Harness(handler)
    harness.add(2)
    harness.loop.once()
    assert (harness.health.ready(), harness.health.why) == (False, "no release decides")
    assert handler.kept == [0, 1], "it works all the same"
    handler.lack = ""
    harness.loop.once()
    assert harness.health.ready()


def test_it_says_why_its_last_batch_failed():
    handler = Recording(DOWN)
    harness = Harness(handler, failures_max=None)
    harness.add(2)
    harness.loop.once()
    assert (harness.health.ready(), harness.health.why) == (False, str(DOWN))


def test_an_outage_of_days_only_pauses():
    handler = Recording(*[DOWN] * 3000)
    harness = Harness(handler, failures_max=None)
    harness.add(1)
    assert harness.rounds(3000)[-1] == 5.0
    harness.loop.once()
    assert harness.group.offsets == {A: 1}


def test_a_service_ends_when_more_batches_in_a_row_failed_than_it_allows():
    handler = Recording(DOWN, DOWN)
    harness = Harness(handler, failures_max=2)
    harness.add(1)
    harness.rounds(3)
    handler.failures = [DOWN] * 3
    harness.add(1)
    harness.rounds(2)
    with pytest.raises(Unavailable):
        harness.loop.once()
    assert harness.group.offsets == {A: 1}


def test_an_empty_round_does_not_end_a_row_of_failed_batches_but_of_failed_idle_rounds():
    handler = Recording()
    harness = Harness(handler, failures_max=1)
    for _ in range(3):
        handler.failures = [DOWN]
        harness.rounds(2)
    harness.add(1)
    handler.failures = [DOWN]
    harness.loop.once()
    harness.consumer.take(A)
    harness.loop.once()
    harness.consumer.give(A)
    handler.failures = [DOWN]
    with pytest.raises(Unavailable):
        harness.loop.once()


@pytest.mark.parametrize("error", [Corrupt("broken"), Misconfigured("wrong")])
def test_what_waiting_cannot_heal_ends_the_service_at_once(error):
    handler = Recording(error)
    harness = Harness(handler, failures_max=None, singly_after=1)
    harness.add(1)
    with pytest.raises(type(error)):
        harness.loop.run(threading.Event())
    assert harness.group.offsets == {}
    assert handler.happened[-1] == ("lost", A), "what is unfinished is dropped"
    assert harness.consumer.closed


def test_a_code_that_the_service_named_ends_it_at_once():
    handler = Recording(Unavailable("gone", code="store_lost"))
    harness = Harness(handler, failures_max=None, leave_at=frozenset({"store_lost"}))
    with pytest.raises(Unavailable):
        harness.loop.once()


def test_a_bug_ends_a_service_that_does_not_take_messages_one_by_one():
    handler = Recording()
    handler.breaks_on = 1
    harness = Harness(handler, failures_max=None)
    harness.add(3)
    with pytest.raises(ZeroDivisionError):
        harness.loop.once()
    assert harness.group.offsets == {}


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), Rejected("too large")])
def test_a_message_that_breaks_the_handler_is_found_and_stops_no_other(error):
    handler = Recording(error)
    handler.breaks_on = 1
    harness = Harness(handler, failures_max=None, singly_after=5)
    harness.add(3)
    assert harness.rounds(5) == [0.0] * 5
    assert harness.consumer.batches == [3, 1, 1, 1, 1]
    assert handler.buried == [1]
    assert harness.group.offsets == {A: 3}
    harness.add(2)
    harness.loop.once()
    assert harness.consumer.batches[-1] == 2, "batches are whole again"


def test_a_message_that_nobody_buries_ends_the_service():
    handler = Recording()
    handler.breaks_on, handler.buries = 0, False
    harness = Harness(handler, failures_max=None, singly_after=5)
    harness.add(1)
    with pytest.raises(ZeroDivisionError):
        harness.loop.once()


def test_after_some_failures_messages_come_one_by_one():
    handler = Recording(*[DOWN] * 2)
    harness = Harness(handler, failures_max=None, singly_after=2)
    harness.add(3)
    harness.rounds(5)
    assert harness.consumer.batches == [3, 3, 1, 1, 1]


@pytest.mark.parametrize("step", ["poll_batch", "commit", "rewind"])
def test_a_consumer_that_fails_loses_nothing_and_repeats_only_what_was_not_committed(step):
    handler = Recording()
    harness = Harness(handler, failures_max=None)
    harness.loop.once()
    harness.add(2)
    harness.consumer.fail[step] = [DOWN]
    if step == "rewind":
        harness.consumer.fail["commit"] = [DOWN]
    harness.rounds(3)
    assert harness.group.offsets == {A: 2}
    assert handler.happened.count([0, 1]) == (1 if step == "poll_batch" else 2)


def test_a_rewind_that_failed_is_made_before_the_next_batch():
    handler = Recording(DOWN)
    harness = Harness(handler, failures_max=None)
    harness.add(2)
    harness.consumer.fail["rewind"] = [DOWN, DOWN]
    harness.rounds(2)
    assert harness.consumer.batches == [2], "nothing is read over the gap"
    harness.loop.once()
    assert harness.consumer.batches == [2, 2]
    assert harness.group.offsets == {A: 2}


def test_a_code_that_the_service_named_ends_it_also_where_the_way_back_fails():
    handler = Recording(DOWN)
    harness = Harness(handler, failures_max=None, leave_at=frozenset({"store_lost"}))
    harness.consumer.fail["rewind"] = [Unavailable("gone", code="store_lost")]
    with pytest.raises(Unavailable):
        harness.loop.once()


def test_after_a_failure_reading_goes_on_where_the_handler_says():
    class Further(Keep):
        def resumes(self, partitions: Sequence[Partition]) -> Offsets:
            return {A: 1}

    handler = Further()
    harness = Harness(handler, failures_max=None)
    harness.add(3)
    harness.consumer.fail["commit"] = [DOWN]
    harness.rounds(2)
    assert handler.kept == [0, 1, 2, 1, 2]
    assert harness.group.offsets == {A: 3}


def test_partitions_start_where_the_handler_says_and_leave_with_their_work_committed():
    handler = Recording()
    handler.holds, handler.starts = True, {A: 1}
    harness = Harness(handler)
    harness.add(3)
    harness.loop.once()
    assert harness.group.offsets == {}
    harness.consumer.take(A)
    harness.loop.once()
    assert handler.happened == [("assigned", A), [1, 2], ("revoked", A), {A: 3}, []]
    assert harness.group.offsets == {A: 3}


def test_what_was_lost_is_not_committed():
    handler = Recording()
    handler.holds = True
    harness = Harness(handler)
    harness.add(3)
    harness.loop.once()
    harness.consumer.take(A, lost=True)
    harness.loop.once()
    assert ("lost", A) in handler.happened
    assert harness.group.offsets == {}


def test_stopped_it_finishes_what_it_holds_once_and_leaves():
    handler, stop = Recording(), threading.Event()
    handler.holds = True
    harness = Harness(handler)
    harness.add(3)
    harness.loop.once()
    stop.set()
    harness.loop.run(stop)
    assert harness.group.offsets == {A: 3}
    assert handler.happened[-3:] == [("revoked", A), {A: 3}, ("lost", A)]
    assert harness.consumer.closed


def test_stop_is_noticed_in_a_pause():
    handler, stop = Recording(*[DOWN] * 2), threading.Event()
    harness = Harness(handler, failures_max=None, pause_s=1000, pause_max_s=1000)
    harness.add(1)
    thread = threading.Thread(target=harness.loop.run, args=(stop,))
    thread.start()
    while "rewound" not in handler.happened:
        time.sleep(0.001)
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert harness.consumer.closed


def test_a_commit_that_does_not_come_back_is_called_hung():
    hung = threading.Event()
    group = FakeGroup(A)

    class Waiting(FakeConsumer):
        def commit(self, offsets: Offsets) -> None:
            assert hung.wait(30), "nobody noticed"
            super().commit(offsets)

    group.add(A[0])
    ConsumerLoop(
        Waiting(group), Keep(), Limits(batch_max=1, poll_s=0), hang_s=0.01, on_hang=hung.set
    ).once()
    assert group.offsets == {A: 1}


def test_lag_goes_on_while_there_is_no_way_back_to_what_was_given_up():
    harness = Harness(Recording(DOWN), failures_max=None)
    harness.add(2)
    harness.consumer.fail["rewind"] = [DOWN, DOWN]
    shown = []
    for _ in range(2):
        harness.loop.once()
        shown.append(harness.value("sluice_consumer_lag_messages", topic="t.v1", partition="0"))
        harness.add(3)
    assert shown == [2, 5]
    assert harness.consumer.fail["rewind"] == [], "one try before each pause"


def test_who_cannot_be_asked_for_the_lag_is_asked_again():
    harness = Harness(Recording(DOWN), failures_max=None)
    harness.add(2)
    harness.consumer.fail = {"rewind": [DOWN, DOWN], "uncommitted": [DOWN]}
    harness.rounds(2)
    assert harness.value("sluice_consumer_lag_messages", topic="t.v1", partition="0") == 2
