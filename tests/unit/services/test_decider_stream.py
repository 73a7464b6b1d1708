"""The stream processor with the real decision pipeline, over Kafka and a store in memory."""

import asyncio
import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from services.decider.stream import (
    ABORTS_MAX,
    AfterCommit,
    StreamProcessor,
    TransactionLog,
    limits,
)
from services.loop import ConsumerLoop
from sluice import telemetry
from sluice.application.decide import DecisionPipeline
from sluice.application.once import Once
from sluice.application.ports import Arrival
from sluice.domain.policy.policy import Policy
from sluice.domain.records.authorization import EventTimeBounds
from sluice.domain.records.dead_letter import DeadLetter
from sluice.domain.records.decision import Decision, Origin
from sluice.errors import Corrupt, Unavailable
from sluice.telemetry import Health, Metrics, Sampler
from sluice.testing.policy import make_policy
from sluice.testing.scorer import FakeScorer
from sluice.testing.store import FakeClock, FakeStore
from sluice.testing.transactions import FakeTransactions
from tests.support import messages

T = TypeVar("T")
IN, OUT, DEAD = "authorizations.v1", "decisions.v1", "dead-letters.v1"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Now(Generic[T]):
    def __init__(self, value: T) -> None:
        self._value = value

    def current(self) -> T:
        return self._value


class FragilePipeline(DecisionPipeline):
    """Breaks on an authorization whose id is poison, and on reading one of id unreadable, as bugs
    would."""

    memory = False

    def arrive(self, raw: bytes, **more: Any) -> Arrival:
        if b'"toomuch"' in raw and not self.memory:
            raise MemoryError
        if b'"unreadable"' in raw:
            raise IndexError("a bug that repeats 4111111111111111")
        return super().arrive(raw, **more)

    async def decide(self, batch: Any, *, deadline_us: int | None = None) -> Any:
        if any(a.auth.authorization_id == "poison" for a in batch):
            raise ZeroDivisionError("a bug")
        return await super().decide(batch, deadline_us=deadline_us)


class Harness:
    """One stream processor and all around it; made in the event loop that it decides in."""

    def __init__(
        self,
        sampler: Sampler | None = None,
        policy: Policy | None = None,
        scorer: Any = None,
        **loop: Any,
    ) -> None:
        self.clock = FakeClock()
        self.kafka = FakeTransactions()
        self.store = FakeStore(self.clock)
        self.registry = CollectorRegistry()
        self.policy = policy or make_policy()
        self.bounds = EventTimeBounds()
        after_commit = AfterCommit(Once(self.store, self.clock))
        self.decider = FragilePipeline(
            entrypoint="stream",
            emitter="test",
            ids=after_commit,
            scorer=Now(scorer),
            policy=Now(self.policy),
            log=TransactionLog(self.kafka, OUT),
            clock=self.clock,
            bounds=self.bounds,
        )
        metrics = Metrics(self.registry)
        self.recalls: list[None] = []
        self.lack = ""
        self.health = Health()
        handler = StreamProcessor(
            self.kafka,
            self.decider,
            after_commit,
            dead_letters=DEAD,
            clock=self.clock,
            events=asyncio.get_running_loop(),
            recall=lambda: self.recalls.append(None),
            lacks=lambda: self.lack,
            metrics=metrics,
            sampler=sampler,
        )
        self.loop = ConsumerLoop(
            self.kafka, handler, limits(poll_s=0), metrics=metrics, health=self.health, **loop
        )

    async def once(self) -> None:
        await asyncio.to_thread(self.loop.once)

    async def run(self, stop: threading.Event) -> None:
        await asyncio.to_thread(self.loop.run, stop)

    def authorization(self, authorization_id: str, **changes: Any) -> bytes:
        body = messages.authorization(authorization_id, event_at=self.clock.now_us())
        return json.dumps(body | changes).encode()

    def add(self, *ids: str, **changes: Any) -> None:
        for authorization_id in ids:
            self.kafka.add(IN, self.authorization(authorization_id, **changes))

    def arrive_elsewhere(self, raw: bytes) -> Arrival:
        return self.decider.arrive(raw)

    async def drain(self) -> None:
        for _ in range(100):
            ends = {place: len(found) for place, found in self.kafka.group.records.items()}
            if self.kafka.offsets == ends:
                return
            await self.once()
        raise AssertionError(f"stuck, offsets {self.kafka.offsets}")

    def decisions(self) -> list[Decision]:
        return [msgspec.json.decode(v, type=Decision) for v in self.kafka.values(OUT)]

    def dead_letters(self) -> list[DeadLetter]:
        return [msgspec.json.decode(v, type=DeadLetter) for v in self.kafka.values(DEAD)]

    def ids(self) -> list[str]:
        return [d.authorization.authorization_id for d in self.decisions()]

    def dead(self) -> list[tuple[int, str]]:
        return [
            (dead_letter.origin.offset, dead_letter.code) for dead_letter in self.dead_letters()
        ]


@pytest.fixture
async def harness() -> Harness:
    return Harness()


async def test_every_message_becomes_a_decision_or_a_dead_letter(harness: Harness) -> None:
    harness.add("a", "b")
    harness.kafka.add(IN, b"{}")
    harness.add("c")
    await harness.once()
    assert harness.ids() == ["a", "b", "c"]
    assert harness.dead() == [(2, "missing_field")]
    assert harness.kafka.offsets == {(IN, 0): 4}
    assert [str(d.origin) for d in harness.decisions()] == [f"{IN}/0@{i}" for i in (0, 1, 3)]
    assert [d.sequence for d in harness.decisions()] == [0, 1, 2]
    dead_letter = harness.dead_letters()[0]
    assert (dead_letter.origin, dead_letter.size_bytes) == (Origin(IN, 0, 2), 2)


async def test_without_a_release_it_decides_by_rules_and_is_not_ready(harness: Harness) -> None:
    """So that a rollout of a release that none of them takes stops at its first pod."""
    harness.lack = "no release decides: its signature is missing"
    harness.add("a")
    await harness.once()
    assert harness.ids() == ["a"]
    assert (harness.health.ready(), harness.health.why) == (False, harness.lack)
    harness.lack = ""
    await harness.once()
    assert harness.health.ready()


async def test_authorizations_of_one_card_in_a_batch_see_each_other(harness: Harness) -> None:
    harness.add("a", "b")
    await harness.once()
    first, second = harness.decisions()
    assert [p.authorization_id for p in first.pending] == []
    assert [p.authorization_id for p in second.pending] == ["a"]


async def test_a_message_that_waited_for_hours_is_decided_with_the_model() -> None:
    """Lag is no lack of time: a deadline is a caller's, and nobody waits for this answer."""
    harness = Harness(scorer=FakeScorer())
    harness.add("a", "b")
    harness.clock.advance(10 * 3600)
    harness.add("c")
    await harness.drain()
    assert [(d.degradation_level, d.degraded) for d in harness.decisions()] == [("D0", [])] * 3


async def test_the_same_id_again_is_a_duplicate_in_the_batch_and_after_it(harness: Harness) -> None:
    harness.add("a", "a")
    await harness.once()
    harness.add("a")
    await harness.once()
    assert harness.ids() == ["a"]
    assert harness.dead() == [(1, "duplicate"), (2, "duplicate")]


async def test_the_same_id_with_other_content_is_a_conflict(harness: Harness) -> None:
    harness.add("a")
    harness.add("a", amount_minor=5)
    await harness.once()
    harness.add("a", amount_minor=6)
    await harness.once()
    assert harness.ids() == ["a"]
    assert harness.dead() == [(1, "conflict"), (2, "conflict")]


@pytest.mark.parametrize("step", ["begin", "produce", "commit"])
async def test_a_failed_transaction_leaves_no_trace_and_its_batch_comes_again(
    harness: Harness, step: str
) -> None:
    harness.add("a", "b")
    harness.kafka.fail[step] = [Unavailable("the broker is down")]
    await harness.once()
    assert harness.kafka.committed_records == []
    assert harness.kafka.offsets == {}
    await harness.once()
    assert harness.ids() == ["a", "b"]
    assert harness.dead() == []
    assert [d.sequence for d in harness.decisions()] == [0, 1], "the emitter's count has no hole"
    assert harness.registry.get_sample_value(
        "sluice_consumer_aborts_total", {"code": "unavailable"}
    ) == (1)
    decided = {"entrypoint": "stream", "code": "decided"}
    assert harness.registry.get_sample_value("sluice_decider_requests_total", decided) == 2


async def test_numbers_that_may_be_recorded_are_not_used_again(harness: Harness) -> None:
    harness.add("a", "b")
    harness.kafka.fail["lost_commit"] = [Unavailable("the broker said nothing")]
    await harness.once()
    harness.add("c")
    await harness.drain()
    assert harness.ids() == ["a", "b", "c"]
    assert harness.dead() == []
    emitters = [(d.emitter, d.sequence) for d in harness.decisions()]
    assert emitters == [("test", 0), ("test", 1), ("test+1", 0)]


async def test_a_read_that_fails_loses_nothing(harness: Harness) -> None:
    harness.add("a")
    harness.kafka.fail["poll_batch"] = [Unavailable("the broker is down")]
    await harness.once()
    await harness.once()
    assert harness.ids() == ["a"]


async def test_a_message_that_breaks_us_is_buried_and_stops_no_other(harness: Harness) -> None:
    harness.add("a", "poison", "b")
    await harness.drain()
    assert harness.ids() == ["a", "b"]
    assert harness.dead() == [(1, "internal")]
    poison = harness.registry.get_sample_value("sluice_consumer_poison_total", {"code": "internal"})
    assert poison == 1
    assert [d.sequence for d in harness.decisions()] == [0, 1]
    harness.add("c", "d")
    await harness.drain()
    assert harness.ids() == ["a", "b", "c", "d"]
    assert harness.kafka.batches[-1] == 2, "batches are whole again"


@pytest.fixture
def logged() -> Iterator[io.BytesIO]:
    """What the process logs."""
    root, out = logging.getLogger(), io.BytesIO()
    before = root.handlers[:], root.level
    telemetry.configure_logging("test", stream=out)
    yield out
    root.handlers[:], root.level = before


@pytest.mark.parametrize("share", [1, 20])
async def test_what_breaks_while_it_is_read_costs_its_batch_nothing(
    harness: Harness, logged: io.BytesIO, share: int
) -> None:
    rows = 100
    for n in range(rows):
        harness.add("unreadable" if n % 100 < share else f"a-{n}")
    await harness.once()
    assert harness.kafka.batches == [rows]
    assert len(harness.ids()) == rows - share
    assert harness.dead() == [(n, "internal") for n in range(share)]
    poison = harness.registry.get_sample_value("sluice_consumer_poison_total", {"code": "internal"})
    assert poison == share
    aborts = harness.registry.get_sample_value("sluice_consumer_aborts_total", {"code": "internal"})
    assert not aborts
    said = logged.getvalue().decode()
    assert said.count('"event":"message_not_read"') == share
    assert '"kind":"IndexError"' in said
    assert "4111" not in said


async def test_want_of_memory_is_no_fault_of_the_message_that_is_read(harness: Harness) -> None:
    harness.add("a", "toomuch", "b")
    await harness.once()
    assert harness.dead() == harness.ids() == []
    harness.decider.memory = True
    await harness.drain()
    assert harness.ids() == ["a", "toomuch", "b"]


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xfe",
        b"\x00" * 100,
        b"[" * 100_000,
        b'{"a":' * 3_000,
        '{"card_token":"４１１１１１１１１１１１１１１１"}'.encode(),
        b'{"card_token":"\\ud800"}',
        b'{"event_at":' + b"9" * 5_000 + b"}",
        b'{"event_at":1e999999}',
        b"",
    ],
)
async def test_whatever_a_message_is_it_becomes_its_own_dead_letter(
    harness: Harness, raw: bytes
) -> None:
    harness.add("a")
    harness.kafka.add(IN, raw)
    harness.kafka.add(IN, harness.authorization("x", card_token="４１１１１１１１１１１１１１１１"))
    harness.add("b")
    await harness.once()
    assert harness.kafka.batches == [4]
    assert harness.ids() == ["a", "b"]
    assert [offset for offset, _ in harness.dead()] == [1, 2]
    for dead_letter in harness.dead_letters():
        assert dead_letter.error.isprintable()
        assert "4111" not in dead_letter.error


async def test_after_some_failures_it_goes_on_one_by_one(harness: Harness) -> None:
    harness.add("a", "b", "c")
    harness.kafka.fail["commit"] = [Unavailable("too slow") for _ in range(ABORTS_MAX)]
    await harness.drain()
    assert harness.kafka.batches == [3] * ABORTS_MAX + [1, 1, 1]
    assert harness.ids() == ["a", "b", "c"]


async def test_an_id_in_progress_at_the_other_entrypoint_is_waited_for(harness: Harness) -> None:
    raw = harness.authorization("a")
    elsewhere = harness.arrive_elsewhere(raw)
    await harness.store.observe([elsewhere])
    harness.kafka.add(IN, raw)
    batch = asyncio.create_task(harness.once())
    while not harness.kafka.batches:
        await asyncio.sleep(0)
    harness.store.remember([(elsewhere, b"the other entrypoint's answer")])
    await batch
    assert harness.ids() == []
    assert harness.dead() == [(0, "duplicate")]


async def test_an_id_whose_first_holder_gave_up_is_decided(harness: Harness) -> None:
    raw = harness.authorization("a")
    elsewhere = harness.arrive_elsewhere(raw)
    await harness.store.observe([elsewhere])
    harness.kafka.add(IN, raw)
    batch = asyncio.create_task(harness.once())
    while not harness.kafka.batches:
        await asyncio.sleep(0)
    harness.store.release([elsewhere])
    await batch
    assert harness.ids() == ["a"]


async def test_the_trace_of_the_message_goes_on_unchanged(
    harness: Harness, capsysbinary: Any
) -> None:
    harness.kafka.add(IN, harness.authorization("a"), traceparent=TRACE)
    harness.kafka.add(IN, b"{}", traceparent=TRACE)
    await harness.once()
    found = {topic: (key, trace) for topic, key, _, trace in harness.kafka.committed_records}
    assert found == {OUT: ("tok_1", TRACE), DEAD: (f"{IN}/0", TRACE)}
    lines = capsysbinary.readouterr().out.splitlines()
    assert [json.loads(line)["trace_id"] for line in lines] == [TRACE[3:35]] * 2


@pytest.mark.parametrize("trace", ["", "nonsense", TRACE + "\n", TRACE + "\ufffd"])
async def test_without_a_valid_trace_none_is_invented(
    harness: Harness, trace: str, capsysbinary: Any
) -> None:
    harness.kafka.add(IN, harness.authorization("a"), traceparent=trace)
    harness.kafka.add(IN, b"{}", traceparent=trace)
    await harness.once()
    assert [trace for *_, trace in harness.kafka.committed_records] == [None, None]
    assert b"trace_id" not in capsysbinary.readouterr().out


async def test_dead_letters_are_keyed_by_the_place_they_came_from(
    harness: Harness,
) -> None:
    harness.kafka.add(IN, b"{}", partition=7)
    await harness.once()
    assert [key for _, key, _, _ in harness.kafka.committed_records] == [f"{IN}/7"]


async def test_without_the_store_a_repeat_is_known_by_who_decided_it(harness: Harness) -> None:
    harness.add("a")
    await harness.drain()
    harness.store.down = True
    harness.add("a", "b", "b")
    await harness.drain()
    assert harness.ids() == ["a", "b"]
    assert harness.dead() == [(1, "duplicate"), (3, "duplicate")]


async def test_what_was_taken_back_without_the_store_is_decided_when_it_comes_again(
    harness: Harness,
) -> None:
    harness.store.down = True
    harness.add("a", "b")
    harness.kafka.fail["commit"] = [Unavailable("too slow")]
    harness.kafka.fail["produce"] = [Unavailable("its queue stays full")]
    await harness.drain()
    assert harness.ids() == ["a", "b"]
    assert harness.dead() == []
    # When the partition came, and after the commit, whose outcome the log knows.
    assert len(harness.recalls) == 2


async def test_an_id_that_nobody_knows_waits_for_the_store_where_the_policy_refuses() -> None:
    harness = Harness(policy=make_policy(unidentified={}))
    harness.add("a", "b")
    harness.store.down = True
    for _ in range(3):
        await harness.once()
    assert (harness.ids(), harness.dead()) == ([], [])
    aborts = harness.registry.get_sample_value(
        "sluice_consumer_aborts_total", {"code": "unidentified"}
    )
    assert aborts == 3
    harness.store.down = False
    await harness.drain()
    assert harness.ids() == ["a", "b"]


async def test_a_store_that_is_down_degrades_and_decides(harness: Harness) -> None:
    harness.store.down = True
    harness.add("a")
    await harness.once()
    (decision,) = harness.decisions()
    assert (decision.degradation_level, "store" in decision.degraded) == ("D3", True)


async def test_a_fenced_entrypoint_stops(harness: Harness) -> None:
    harness.add("a")
    harness.kafka.fail["commit"] = [Corrupt("fenced", code="fenced")]
    with pytest.raises(Corrupt):
        await harness.run(threading.Event())
    assert harness.kafka.closed
    assert harness.kafka.committed_records == []


async def test_it_stops_when_told_and_leaves_the_group(harness: Harness) -> None:
    harness.add("a", "b")
    stop = threading.Event()
    running = asyncio.create_task(harness.run(stop))
    while not harness.kafka.committed_records:
        await asyncio.sleep(0)
    stop.set()
    await running
    assert harness.kafka.closed
    assert harness.ids() == ["a", "b"]


async def test_each_authorization_gets_its_line_and_tells_no_card(
    harness: Harness, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    harness.add("a", "a")
    await harness.once()
    lines = [msgspec.json.decode(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [line["code"] for line in lines] == ["decided", "duplicate"]
    assert [line["origin"] for line in lines] == [f"{IN}/0@0", f"{IN}/0@1"]
    assert "tok_1" not in str(lines)


async def test_of_the_log_only_what_is_usual_may_be_left_out(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    harness = Harness(sampler=Sampler(sample_ppm=0))
    harness.add("a", "a")
    await harness.once()
    (first, second) = [msgspec.json.decode(x) for x in capfdbinary.readouterr().out.splitlines()]
    assert (first["degradation_level"], second["code"]) == (
        "D2",
        "duplicate",
    )  # no model, and refused
    assert first["sample_ppm"] == second["sample_ppm"] == 1_000_000
    labels = {"entrypoint": "stream", "result": "written"}
    assert harness.registry.get_sample_value("sluice_decider_log_lines_total", labels) == 2


async def test_lag_is_shown(harness: Harness) -> None:
    harness.add("a")
    await harness.once()
    labels = {"topic": IN, "partition": "0"}
    assert harness.registry.get_sample_value("sluice_consumer_lag_messages", labels) == 0


async def test_a_commit_that_never_comes_back_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over, hung = threading.Event(), threading.Event()
    harness = Harness(hang_s=0.05, on_hang=hung.set)
    monkeypatch.setattr(harness.kafka, "commit", lambda _offsets: over.wait(10))
    harness.add("a")
    batch = asyncio.create_task(harness.once())
    assert await asyncio.to_thread(hung.wait, 10), "the process would have ended"
    said = {"code": "decided", "entrypoint": "stream"}
    assert not harness.registry.get_sample_value("sluice_decider_requests_total", said)
    over.set()
    await batch


def test_a_hung_process_ends_though_a_thread_never_will() -> None:
    code = (
        "import threading, time\n"
        "from services.loop import leave_at_once\n"
        "from sluice.telemetry import configure_logging\n"
        "configure_logging('decider')\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "leave_at_once()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=599, check=False
    )
    assert done.returncode == 1, done.stderr
    said = (done.stdout + done.stderr).splitlines()[-1]  # a cold import may warn before it
    assert json.loads(said)["code"] == "hung"
