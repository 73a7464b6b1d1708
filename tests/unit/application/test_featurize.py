"""Decide, featurize, decide again: served vectors are recomputed from the log alone."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from sluice.application.decide import Decided, DecisionPipeline
from sluice.application.featurize import STATES_MAX, Featurizer
from sluice.application.once import Once
from sluice.application.ports import Arrival, Scorer, StateUpdate
from sluice.application.replay import Replay
from sluice.domain.clock import DAY_US, SECOND_US
from sluice.domain.features import catalogue, states
from sluice.domain.features.events import WIDTH, event_rows
from sluice.domain.features.kernel import FRAUD, Kernel, scratch, update
from sluice.domain.policy.policy import Policy
from sluice.domain.records.authorization import EventTimeBounds, encode
from sluice.domain.records.decision import Decision
from sluice.domain.records.entity import ENTITY_KINDS, key_of
from sluice.domain.records.identifiers import tag32
from sluice.domain.records.label import Label
from sluice.domain.records.observation import ROWS_MAX, Observations
from sluice.domain.records.outcome import Outcome
from sluice.errors import Corrupt, Unavailable
from sluice.testing.factories import NOON_US, make_arrival, make_label
from sluice.testing.history import event_history_of
from sluice.testing.policy import make_policy
from sluice.testing.store import FakeClock, FakeStore

TOPICS = {"decisions.v1": "decisions", "observations.v1": "observations", "labels.v1": "labels"}


@dataclass
class ConsumerRecord:
    topic: str
    partition: int
    offset: int
    value: bytes


@dataclass
class Bus:
    """The topics, in memory: decisions by card over 3 partitions."""

    decisions: list[ConsumerRecord] = field(default_factory=list)
    observations: list[ConsumerRecord] = field(default_factory=list)
    decided: list[tuple[int, int, Decision]] = field(default_factory=list)
    ends: Counter[tuple[str, int]] = field(default_factory=Counter)
    partitions: int = 2

    def put(self, topic: str, partition: int, value: bytes) -> ConsumerRecord:
        record = ConsumerRecord(topic, partition, self.ends[topic, partition], value)
        self.ends[topic, partition] += 1
        return record

    async def append(self, decisions: list[tuple[Arrival, Decision]], became: Any) -> None:
        for _, decision in decisions:
            partition = sum(decision.authorization.card_token.encode()) % 3
            record = self.put("decisions.v1", partition, encode(decision))
            self.decisions.append(record)
            source = states.source(states.DECISIONS, partition)
            self.decided.append((source, record.offset, decision))

    def produce(self, partition: int, value: bytes) -> None:
        self.observations.append(self.put("observations.v1", partition, value))

    def flush(self) -> None: ...


class NoModel:
    def current(self) -> Scorer | None:
        return None


class OnePolicy:
    policy: ClassVar[Policy] = make_policy()

    def current(self) -> Policy:
        return self.policy


@dataclass
class Harness:
    clock: FakeClock = field(default_factory=lambda: FakeClock(NOON_US))
    bus: Bus = field(default_factory=Bus)

    def __post_init__(self) -> None:
        self.store = FakeStore(self.clock)
        self.decider = DecisionPipeline(
            entrypoint="sync",
            emitter="test",
            ids=Once(self.store, self.clock),
            scorer=NoModel(),
            policy=OnePolicy(),
            log=self.bus,
            clock=self.clock,
            bounds=EventTimeBounds(),
        )
        self.featurizer = Featurizer(store=self.store, observations=self.bus, topics=TOPICS)

    def featurize(self, records: list[ConsumerRecord]) -> Counter[tuple[str, str]]:
        done = self.featurizer.apply(records)
        return done.results

    def drain(self) -> None:
        """Bring every state up to date."""
        self.featurize(self.bus.decisions[:])
        self.bus.decisions.clear()
        self.featurize(self.bus.observations[:])
        self.bus.observations.clear()


async def decide(harness: Harness, *arrivals: Arrival) -> list[Decision]:
    results = await harness.decider.decide(arrivals)
    assert all(isinstance(r, Decided) for r in results)
    return [r.decision for r in results if isinstance(r, Decided)]


async def busy(harness: Harness, n: int, seed: int) -> list[Label]:
    """n authorizations of few entities, with the featurizer behind, ahead and redelivering."""
    rng = random.Random(seed)
    labels: list[Label] = []
    for i in range(n):
        harness.clock.advance(rng.choice([0.001, 0.5, 40.0, 3600.0]))
        arrival = make_arrival(
            f"a-{i}",
            event_at=harness.clock.now_us() - rng.choice([0, 0, 5 * SECOND_US]),
            card_token=f"card-{rng.randrange(5)}",
            merchant_id=f"merchant-{rng.randrange(3)}",
            terminal_id=f"terminal-{rng.randrange(4)}",
            device_id=rng.choice([None, "device-1", "device-2"]),
            amount_minor=rng.randrange(0, 250_000),
        )
        await decide(harness, arrival)
        if rng.random() < 0.1:
            labels.append(make_label(arrival.auth, known_at=harness.clock.now_us()))
            put = harness.bus.put("labels.v1", 0, encode(labels[-1]))
            harness.featurize([put, put] if rng.random() < 0.3 else [put])
        if rng.random() < 0.4:
            redelivered = harness.bus.decisions[-3:] if rng.random() < 0.5 else []
            seen = harness.bus.observations[-3:] if rng.random() < 0.5 else []
            harness.drain()
            harness.featurize([*redelivered, *seen])
    return labels


@pytest.mark.parametrize("seed", range(3))
async def test_served_vectors_and_states_are_recomputed_from_the_log_bit_for_bit(seed: int) -> None:
    harness = Harness()
    labels = await busy(harness, 150, seed)
    served = [decision for _, _, decision in harness.bus.decided]
    assert any(d.pending for d in served)
    reported = [
        (
            states.source(states.LABELS, 0),
            i,
            label.is_fraud,
            label.known_at,
            (label.card_token, label.terminal_id, label.merchant_id, label.device_id),
        )
        for i, label in enumerate(labels)
    ]
    replay = Replay(event_history_of(harness.bus.decided, reported))
    np.testing.assert_array_equal(replay.features(served), [d.features for d in served])
    harness.drain()
    for kind in ENTITY_KINDS:
        stored = {
            key: state for (of, key), (state, _) in harness.store.states.items() if of == kind
        }
        again = replay.states(kind, list(stored), [None] * len(stored))
        assert dict(zip(stored, again, strict=True)) == stored


async def test_redelivered_records_change_no_state() -> None:
    harness = Harness()
    await decide(harness, make_arrival("a-1"), make_arrival("a-2", device_id="device-1"))
    decisions = harness.bus.decisions[:]
    harness.drain()
    before = dict(harness.store.states)
    assert harness.featurize(decisions) == {("decisions", "redelivered"): 2}
    assert harness.featurize(harness.bus.observations[:]) == {("observations", "redelivered"): 5}
    assert harness.store.states == before


async def test_an_answer_survives_the_decider_that_died_before_remembering_it() -> None:
    harness = Harness()
    arrival = make_arrival("a-1")
    (result,) = await harness.decider.decide([arrival])
    assert isinstance(result, Decided)
    fresh = FakeStore(harness.clock)
    Featurizer(store=fresh, observations=harness.bus, topics=TOPICS).apply(harness.bus.decisions)
    (reply,) = await fresh.observe([arrival])
    assert reply.earlier == result.answer


async def test_an_answer_that_nobody_asks_for_any_more_is_not_remembered() -> None:
    harness = Harness()
    arrival = make_arrival("a-1")
    (decision,) = await decide(harness, arrival)
    fresh = FakeStore(harness.clock)
    Featurizer(
        store=fresh,
        observations=harness.bus,
        topics=TOPICS,
        answers_since=lambda: decision.decided_at + 1,
    ).apply(harness.bus.decisions)
    (reply,) = await fresh.observe([arrival])
    assert (reply.earlier, reply.card != b"") == (None, True)


def test_a_label_older_than_the_decision_days_is_reported_not_silent() -> None:
    harness = Harness()
    auth = make_arrival("a-1").auth
    late = [
        harness.bus.put("labels.v1", 0, encode(make_label(auth, known_at=NOON_US))),
        harness.bus.put("labels.v1", 0, encode(make_label(auth, known_at=NOON_US - 40 * DAY_US))),
    ]
    harness.featurize(late)
    done = harness.featurize(harness.bus.observations)
    assert done["observations", "too_old"] == 2  # terminal and merchant; a card only counts them


def test_a_fraud_that_was_none_is_no_longer_counted_of_any_entity() -> None:
    harness = Harness()
    auth = make_arrival("a-1", device_id="d-1").auth
    fraud = make_label(auth, known_at=NOON_US)
    other = msgspec.structs.replace(fraud, authorization_id="a-2", known_at=NOON_US + 1)
    verdict = msgspec.structs.replace(
        fraud, known_at=NOON_US + SECOND_US, is_fraud=False, kind="verdict", withdraws=NOON_US
    )
    served = []
    for label in (fraud, other, verdict):
        harness.featurize([harness.bus.put("labels.v1", 0, encode(label))])
        harness.featurize(harness.bus.observations)
        probe = make_arrival("a-3", device_id="d-1", event_at=NOON_US + 2 * SECOND_US)
        keys = [(kind, key_of(probe.auth, kind) or "") for kind in ENTITY_KINDS]
        found = Kernel().finalise(event_rows([probe.row]), [harness.store.read(keys)], [()])
        row = dict(zip(catalogue.NAMES, found.features[0].tolist(), strict=True))
        names = ("card_frauds_reported", *(f"{kind}_frauds_1d" for kind in ENTITY_KINDS[1:]))
        served.append([row[name] for name in names])
    assert served == [[1] * 4, [2] * 4, [1] * 4]
    written = [
        msgspec.json.decode(one.value, type=Observations) for one in harness.bus.observations
    ]
    taken_back = [moment for one in written for moment in one.withdrawn_us or []]
    assert {*taken_back} <= {0, NOON_US}
    assert taken_back.count(NOON_US) == 4
    assert all(kind < 3 for one in written for kind in one.kind)


def test_a_label_that_changes_nothing_changes_no_state_and_is_counted() -> None:
    harness = Harness()
    auth = make_arrival("a-1").auth
    first = make_label(auth, known_at=NOON_US)
    again = msgspec.structs.replace(first, known_at=NOON_US + DAY_US, uncounted="repeats")
    outranked = msgspec.structs.replace(again, is_fraud=False, uncounted="outranked")
    put = [harness.bus.put("labels.v1", 0, encode(one)) for one in (first, again, outranked)]
    assert harness.featurize(put[:1]) == {("labels", "applied"): 1}
    harness.featurize(harness.bus.observations)
    before = dict(harness.store.states)
    left = len(harness.bus.observations)
    done = harness.featurize(put[1:])
    assert done == {("labels", "repeats"): 1, ("labels", "outranked"): 1}
    assert len(harness.bus.observations) == left
    assert dict(harness.store.states) == before


@pytest.mark.parametrize(
    "raw", [b"{}", b"", b"\xff", b'{"v":"\xff"}', b'{"v":' + b"[" * 100_000], ids=repr
)
def test_a_foreign_record_stops_the_featurizer_and_says_where(raw: bytes) -> None:
    harness = Harness()
    for topic in ("decisions.v1", "observations.v1", "labels.v1"):
        with pytest.raises(Corrupt, match=rf"{topic}/2@7".replace(".", r"\.")):
            harness.featurize([ConsumerRecord(topic, 2, 7, raw)])


def observed(harness: Harness) -> list[tuple[int, Observations]]:
    """What lies in the topic, by partition."""
    decode = msgspec.json.Decoder(Observations).decode
    return [(r.partition, decode(r.value)) for r in harness.bus.observations]


async def test_a_batch_leaves_one_record_in_each_partition_with_the_rows_of_its_entities() -> None:
    harness = Harness()
    for i in range(40):
        await decide(harness, make_arrival(f"a-{i}", card_token=f"c-{i}", terminal_id=f"t-{i % 9}"))
    harness.featurize(harness.bus.decisions)
    found = observed(harness)
    assert sorted(partition for partition, _ in found) == [0, 1]
    for partition, table in found:
        assert {tag32(key) % harness.bus.partitions for key in table.key} == {partition}
        for name in set(table.key):
            places = [
                (source, offset)
                for key, source, offset in zip(table.key, table.source, table.offset, strict=True)
                if key == name
            ]
            for source in {source for source, _ in places}:
                offsets = [offset for of, offset in places if of == source]
                assert offsets == sorted(offsets)
    assert sum(len(table.key) for _, table in found) == 80


async def test_a_batch_that_comes_again_and_is_cut_otherwise_changes_no_state() -> None:
    harness, clean = Harness(), Harness()
    for i in range(30):
        device = None if i % 3 else f"d-{i % 2}"
        await decide(
            harness,
            make_arrival(f"a-{i}", card_token=f"c-{i % 7}", terminal_id="t", device_id=device),
        )
    records = harness.bus.decisions[:]
    clean.bus.decisions = records[:]
    clean.drain()
    for some in (records[:12], records[5:9], records[3:25], records[20:]):
        harness.featurize(some)
    harness.featurize(harness.bus.observations)
    assert harness.store.states == clean.store.states


async def test_no_record_has_more_rows_than_its_limit() -> None:
    harness = Harness()
    await decide(
        harness, *(make_arrival(f"a-{i}", card_token=f"c-{i}") for i in range(ROWS_MAX + 1))
    )
    harness.featurize(harness.bus.decisions)
    sizes = [len(table.key) for _, table in observed(harness)]
    assert sum(sizes) == 2 * ROWS_MAX + 2
    assert max(sizes) == ROWS_MAX


def test_more_states_than_one_round_takes_are_all_stored() -> None:
    harness = Harness()
    count = ROWS_MAX
    tables = [
        Observations(
            entity=["device"] * count,
            key=[f"d-{n}-{i}" for i in range(count)],
            source=[0] * count,
            offset=list(range(count)),
            kind=[0] * count,
            at_us=[NOON_US] * count,
            amount_minor=[1] * count,
            card_tag=[7] * count,
            declined=[0] * count,
        )
        for n in range(STATES_MAX // count + 1)
    ]
    done = harness.featurize([harness.bus.put("observations.v1", 0, encode(t)) for t in tables])
    assert done == {("observations", "applied"): len(harness.store.states)}
    assert len(harness.store.states) == len(tables) * count > STATES_MAX


class Contested(FakeStore):
    """Another writer counts a fraud on a card between our read and our write, some times."""

    times = 1

    def write(self, updates: Sequence[StateUpdate]) -> list[bool]:
        if self.times and any(put.key == "c-1" for put in updates):
            self.times -= 1
            before, _ = self.states.get(("card", "c-1"), (b"", 0))
            change = [FRAUD, states.source(states.LABELS, 3), 100 - self.times, NOON_US]
            theirs = update(
                [("card", "c-1")],
                [before],
                np.array([0, 1]),
                np.zeros((1, WIDTH), np.int64),
                np.array([change]),
                scratch(),
            )
            self.states["card", "c-1"] = (theirs.states[0], NOON_US)
        return super().write(updates)


async def test_only_what_another_writer_changed_is_read_and_updated_again() -> None:
    harness = Harness()
    await decide(
        harness, make_arrival("a-1", card_token="c-1"), make_arrival("a-2", card_token="c")
    )
    store = Contested(harness.clock)
    featurizer = Featurizer(store=store, observations=harness.bus, topics=TOPICS)
    done = featurizer.apply(harness.bus.decisions)
    assert done.conflicts == {"card": 1}
    assert done.written == {"card": 2}
    assert done.results == {("decisions", "applied"): 2}
    assert states.etag(store.states["card", "c-1"][0])[0] == 2  # theirs and ours


async def test_a_state_that_others_keep_changing_gives_the_batch_up() -> None:
    harness = Harness()
    await decide(harness, make_arrival("a-1", card_token="c-1"))
    store = Contested(harness.clock)
    store.times = 100
    with pytest.raises(Unavailable, match="1 states keep changing"):
        Featurizer(store=store, observations=harness.bus, topics=TOPICS).apply(
            harness.bus.decisions
        )


def test_a_table_whose_columns_differ_in_length_stops_the_featurizer() -> None:
    harness = Harness()
    column: list[int] = []
    value = msgspec.json.encode(
        {"entity": ["card"], "key": ["c"], "source": [0], "offset": [1], "kind": [0], "at_us": [5]}
        | {"amount_minor": [1], "card_tag": [1], "declined": column}
    )
    with pytest.raises(Corrupt, match="not of one length"):
        harness.featurize([ConsumerRecord("observations.v1", 0, 3, value)])


def decided_again(harness: Harness, place: int, **changes: Any) -> None:
    """A second record of an id that was decided, as by a replica that could not know."""
    source, _, first = harness.bus.decided[place]
    partition = harness.bus.decisions[place].partition
    second = msgspec.structs.replace(first, **({"outcome": Outcome.DECLINE} | changes))
    record = harness.bus.put("decisions.v1", partition, encode(second))
    harness.bus.decisions.append(record)
    harness.bus.decided.append((source, record.offset, second))


async def test_an_id_decided_twice_counts_once_in_every_state_and_the_first_counts() -> None:
    once, twice = Harness(), Harness()
    for harness in (once, twice):
        await decide(harness, make_arrival("a-1", device_id="device-1"), make_arrival("a-2"))
    decided_again(twice, 0)
    once.featurize(once.bus.decisions)
    assert twice.featurize(twice.bus.decisions) == {
        ("decisions", "applied"): 2,
        ("decisions", "superseded"): 1,
    }
    for harness in (once, twice):
        harness.featurize(harness.bus.observations)
    assert {entity[0] for entity in once.store.states} == set(ENTITY_KINDS)
    assert twice.store.states == once.store.states
    replay = Replay(event_history_of(twice.bus.decided))
    for (kind, key), (state, _) in twice.store.states.items():
        assert replay.states(kind, [key], [None]) == [state]


async def test_the_answer_of_a_superseded_record_is_not_remembered() -> None:
    harness = Harness()
    arrival = make_arrival("a-1")
    await decide(harness, arrival)
    decided_again(harness, 0)
    fresh = FakeStore(harness.clock)
    Featurizer(store=fresh, observations=harness.bus, topics=TOPICS).apply(harness.bus.decisions)
    (reply,) = await fresh.observe([arrival])
    assert reply.earlier is not None
    assert b'"outcome":"approve"' in reply.earlier


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
async def test_a_featurizer_that_begins_anywhere_makes_the_states_of_one_that_never_stopped(
    cut: int,
) -> None:
    harness = Harness()
    await decide(harness, make_arrival("a-1"), make_arrival("a-2"), make_arrival("a-3"))
    decided_again(harness, 0)
    decided_again(harness, 1)
    log = harness.bus.decisions[:]
    whole, parts = FakeStore(harness.clock), FakeStore(harness.clock)
    asked: list[tuple[int, int, int]] = []

    def earlier(partition: int, first: int, end: int) -> list[ConsumerRecord]:
        asked.append((partition, first, end))
        return [m for m in log if m.partition == partition and first <= m.offset < end]

    def featurizer(store: FakeStore) -> Featurizer:
        return Featurizer(store=store, observations=harness.bus, topics=TOPICS, earlier=earlier)

    featurizer(whole).apply(log)
    featurizer(parts).apply(log[:cut])
    restarted = featurizer(parts)
    restarted.apply(log[cut:])
    restarted.apply(log[cut:])  # its offsets were not committed
    assert parts.states == whole.states
    assert asked[-1] == (log[0].partition, 0, log[cut].offset)
    restarted.forget([("decisions.v1", log[0].partition), ("labels.v1", 0)])
    restarted.apply(log[cut:])
    assert len(asked) == 4
    assert parts.states == whole.states
