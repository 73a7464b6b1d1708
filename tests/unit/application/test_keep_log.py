"""The keeper of a log: each offset in exactly one record, whatever comes twice, late or not."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.adapters.kernel_clock import UNKNOWN
from sluice.adapters.tiles.folder import LogFolder
from sluice.application.append_log import AppendLog, File
from sluice.application.keep_log import (
    EMITTER,
    HEARTBEAT_EVERY_US,
    HEARTBEAT_LATE_US,
    RESUME,
    KeepsLog,
)
from sluice.application.ports import TOPIC_REMADE, Count, Message, Partition, uncounted
from sluice.application.told import STATEMENTS_MAX
from sluice.audit.entries import split
from sluice.audit.notes import LOG, WITNESS, Key
from sluice.domain.activation import Activation, statement_of
from sluice.domain.clock import SECOND_US
from sluice.domain.records.authorization import encode
from sluice.domain.records.key_event import KeyEvent
from sluice.domain.records.log_record import (
    AnyRecord,
    GapRecord,
    HeartbeatRecord,
    KeyRotationRecord,
    PolicyRecord,
    Provenance,
    ThresholdRecord,
    TimeSyncBody,
    TimeSyncRecord,
    read,
)
from sluice.domain.records.rollout import Rollout
from sluice.errors import Corrupt, Misconfigured, Unavailable
from sluice.testing.log import (
    ORIGIN,
    PRIVATE,
    KeptCheckpoints,
    PlainEntries,
    at_once,
    log_at,
)
from sluice.testing.records import make_decision
from sluice.testing.store import FakeClock

D, L, R = "decisions.v1", "labels.v1", "rollouts.v1"
NOTHING_RUNS = Provenance(build=None, image=None, config=None, trace=None)


def no_more() -> dict[Partition, int]:
    return {}


def message(offset: int, topic: str = L, partition: int = 0, value: bytes = b"x") -> Message:
    return Message(value, None, topic, partition, offset, None)


def messages(*offsets: int, topic: str = L) -> list[Message]:
    return [message(offset, topic) for offset in offsets]


class KeyEvents:
    """Holds that were placed, and nothing else."""

    emitter = "keystore-1"

    def __init__(self) -> None:
        self.placed = 0

    def events(self, since: int, limit: int) -> list[KeyEvent]:
        return [
            KeyEvent(sequence=at, at=1, kind="hold", who="ann", case="c-1", subject="0" * 32)
            for at in range(since, min(self.placed, since + limit))
        ]


class World:
    """One log on one disk, and its keepers one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept = KeptCheckpoints()
        self.clock = FakeClock(1_790_000_000_000_000)
        self.makes = PlainEntries()
        self.earlier: list[Message] = []
        self.keystore = KeyEvents()
        self.private = PRIVATE
        self.retired: list[Key] = []
        self.witnesses: list[Key] = []
        self.time_sync: Callable[[], TimeSyncBody] | None = None
        self.log: AppendLog | None = None
        self.count: Count = uncounted

    def keeper(self) -> KeepsLog:
        if self.log is not None:
            self.log.close()  # as death does: it writes nothing
        self.log = log_at(
            self.folder / "log", self.kept, private=self.private, retired=self.retired
        )
        made = KeepsLog(
            self.log,
            self.makes,
            LogFolder(self.folder / "resume"),
            self.clock,
            at_once,
            decisions=D,
            earlier=lambda _, first, until: [m for m in self.earlier if first <= m.offset < until],
            provenance=NOTHING_RUNS,
            rollouts=R,
            keystore=self.keystore,
            count=self.count,
            witnesses=self.witnesses,
            time_sync=self.time_sync,
        )
        made.open()
        return made

    def started(self, *partitions: Partition, oldest: int = 0, topic_id: str = "one") -> KeepsLog:
        keeps = self.keeper()
        partitions = partitions or ((L, 0),)
        ids = {topic: topic_id for topic, _ in partitions}
        keeps.starts(partitions, lambda _: oldest, ids)
        return keeps

    def checkpoint(self, keeps: KeepsLog) -> dict[Partition, int]:
        self.clock.advance(1)
        keeps.tick(no_more)
        return dict(keeps.tick(no_more))

    def records(self) -> list[AnyRecord]:
        assert self.log is not None
        self.log.checkpoint()
        size = self.log.signed.size
        return [read(split(entry)[0]) for entry in self.log.entries(0, size)]

    def told(self, topic: str = L, partition: int = 0) -> list[tuple[str, int, int]]:
        """Kind or reason, first and until, of each record of a partition, in order."""
        found: list[tuple[str, int, int]] = []
        for record in self.records():
            if isinstance(record, GapRecord):
                body = record.body
                if (body.topic, body.partition) == (topic, partition):
                    found.append((body.reason, body.first, body.until))
            elif record.source and (record.source.topic, record.source.partition) == (
                topic,
                partition,
            ):
                found.append((record.type, record.source.offset, record.source.offset + 1))
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def balanced(told: Sequence[tuple[str, int, int]]) -> bool:
    return all(one[2] == two[1] for one, two in pairwise(told))


def test_each_offset_is_in_one_record(world: World) -> None:
    keeps = world.started()
    keeps.take(messages(0, 1))
    keeps.take(messages(3, 4, 8))
    assert world.told() == [
        ("label", 0, 1),
        ("label", 1, 2),
        ("transaction_marker", 2, 3),
        ("label", 3, 4),
        ("label", 4, 5),
        ("aborted", 5, 8),
        ("label", 8, 9),
    ]


def test_what_comes_again_is_passed_over(world: World) -> None:
    keeps = world.started()
    keeps.take(messages(0, 1))
    keeps.take(messages(0, 1, 2))
    keeps.take(messages(1))
    assert [one[1] for one in world.told()] == [0, 1, 2]


def test_reading_goes_on_where_the_log_ends_whatever_was_committed(world: World) -> None:
    keeps = world.started()
    keeps.take(messages(0, 1))
    assert world.checkpoint(keeps) == {(L, 0): 2}
    keeps.take(messages(2, 4))
    again = world.keeper()
    assert again.starts([(L, 0), (L, 1)], lambda _: 0, {L: "one"}) == {(L, 0): 5, (L, 1): 0}
    again.take(messages(4, 5))
    assert balanced(world.told())
    assert world.told()[-1] == ("label", 5, 6)


@pytest.mark.parametrize("summary", [None, b"{", b"[]"])
def test_without_its_summary_the_log_is_read_from_the_beginning(
    world: World, summary: bytes | None
) -> None:
    keeps = world.started()
    for at in range(0, 600, 60):
        keeps.take(messages(*range(at, at + 60)))
        world.checkpoint(keeps)
    path = world.folder / "resume" / RESUME
    if summary is None:
        path.unlink()
    else:
        path.write_bytes(summary)
    again = world.keeper()
    assert again.next == {(L, 0): 600}
    assert [r.sequence for r in world.records() if r.emitter == "auditor"] == [0, 1, 2, 3]


def test_a_summary_of_another_tree_is_not_believed(world: World) -> None:
    keeps = world.started()
    keeps.take(messages(0, 1))
    world.checkpoint(keeps)
    path = world.folder / "resume" / RESUME
    held = msgspec.json.decode(path.read_bytes())
    held["next"][f"{L}/0"] = 9
    held["root"] = "00" * 32
    path.write_bytes(msgspec.json.encode(held))
    assert world.keeper().next == {(L, 0): 2}


def test_what_the_log_says_of_itself_is_counted_without_a_hole(world: World) -> None:
    for _ in range(3):
        keeps = world.started()
        at = keeps.next[L, 0]
        keeps.take(messages(at, at + 2))
        world.checkpoint(keeps)
        world.clock.advance(HEARTBEAT_EVERY_US / SECOND_US)
        keeps.tick(no_more)
    own = [record for record in world.records() if record.emitter == "auditor"]
    assert [record.sequence for record in own] == list(range(len(own)))
    assert {record.type for record in own} == {"log_start", "gap", "heartbeat"}


def test_what_is_refused_is_a_gap_with_its_reason(world: World) -> None:
    keeps = world.started()
    keeps.take([message(0), message(1, value=b"forbidden"), message(2, value=bytes(65_000))])
    assert world.told() == [("label", 0, 1), ("forbidden_content", 1, 2), ("label", 2, 3)]


def test_the_log_begins_where_the_topic_does(world: World) -> None:
    keeps = world.started(oldest=40)
    keeps.take(messages(41))
    assert world.told() == [("transaction_marker", 40, 41), ("label", 41, 42)]


def test_what_expired_before_it_was_read_is_told(world: World) -> None:
    keeps = world.started()
    keeps.take(messages(0))
    again = world.started(oldest=7)
    again.take(messages(7))
    assert world.told() == [("label", 0, 1), ("expired", 1, 7), ("label", 7, 8)]


def test_a_topic_that_was_made_again_is_refused(world: World) -> None:
    keeps = world.started()
    keeps.take(messages(0))
    world.checkpoint(keeps)
    with pytest.raises(Corrupt) as refused:
        world.started(topic_id="two")
    assert refused.value.code == TOPIC_REMADE


def test_what_the_broker_has_behind_the_last_record_is_told_with_the_heartbeat(
    world: World,
) -> None:
    keeps = world.started()
    keeps.take(messages(0))
    keeps.tick(lambda: {(L, 0): 2})
    assert world.told() == [("label", 0, 1)]
    world.clock.advance(HEARTBEAT_EVERY_US / SECOND_US)
    keeps.tick(lambda: {(L, 0): 2})
    keeps.take(messages(2))
    assert world.told() == [("label", 0, 1), ("transaction_marker", 1, 2), ("label", 2, 3)]


def test_the_last_checkpoint_tells_all_there_is(world: World) -> None:
    keeps = world.started()
    keeps.take(messages(0))
    assert keeps.stop({(L, 0): 2}, "sigterm") == {(L, 0): 2}
    assert keeps.signed_size == keeps.size
    assert (keeps.signed_at, keeps.checkpoint_s) == (world.clock.now_us(), 0)
    assert world.records()[-1].type == "log_stop"


def test_heartbeats_are_half_as_far_apart_as_promised(world: World) -> None:
    keeps = world.started()
    for _ in range(30):
        world.clock.advance(1)
        keeps.tick(no_more)
    beats = [record.recorded_at for record in world.records() if record.type == "heartbeat"]
    assert len(beats) == 6
    assert max(b - a for a, b in pairwise(beats)) <= 10 * SECOND_US


def test_a_second_record_of_an_id_is_said_to_be_one(world: World) -> None:
    def decision(offset: int, name: str) -> Message:
        return message(offset, D, value=encode(make_decision(name)))

    world.earlier = [decision(3, "a-1"), decision(4, "a-2")]
    keeps = world.started((D, 0), oldest=5)
    keeps.take([decision(5, "a-1"), decision(6, "a-3"), message(7, D, value=b"no json")])
    keeps.take([decision(8, "a-3"), decision(9, "a-4")])
    assert world.makes.superseded == [(0, 5), (0, 8)]


def test_what_happens_to_keys_is_told_once(world: World) -> None:
    world.keystore.placed = 2
    world.checkpoint(world.started())
    world.keystore.placed = 3
    (world.folder / "resume" / RESUME).unlink()
    world.checkpoint(world.started())
    world.checkpoint(world.started())
    told = [record for record in world.records() if record.emitter == "keystore-1"]
    assert [(record.type, record.sequence) for record in told] == [("hold", n) for n in range(3)]


def test_what_cannot_be_made_now_comes_again_whole(world: World) -> None:
    keeps = world.started()
    world.makes.away = [Unavailable("the keystore is away")]
    with pytest.raises(Unavailable, match="keystore"):
        keeps.take(messages(0, 1))
    assert keeps.opened
    keeps.take(messages(0, 1))
    assert [one[1] for one in world.told()] == [0, 1]


def obeyed(offset: int, name: str, epoch: int, emitter: str = "decider-0/1-1") -> Message:
    """A decider says that it decides by a policy, and by whose word."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    said = Activation(
        what="policy", id=name, digest=digest, epoch=epoch, act="activate", who="ann", why="a test"
    )
    step = Rollout(
        at=epoch + 1, emitter=emitter, step="began", role="policy", release=name, digest=digest,
        epoch=epoch, who="ann", why="a test", statement=statement_of(said).statement.decode(),
        signers=["a" * 16], score_ppm=[None, 1, epoch], expected_loss_minor=[None, None, None],
    )  # fmt: skip
    return message(offset, R, value=encode(step))


def changes(world: World) -> list[tuple[str, str | None, int | None]]:
    """Type, id and epoch or last threshold of what was told besides the steps."""
    found: list[tuple[str, str | None, int | None]] = []
    for record in world.records():
        if isinstance(record, PolicyRecord):
            found.append((record.type, record.body.id, record.body.epoch))
        elif isinstance(record, ThresholdRecord):
            found.append((record.type, record.body.before, record.body.score_ppm[2]))
    return found


def test_an_activation_is_told_once_however_many_deciders_obey_it(world: World) -> None:
    keeps = world.started((R, 0))
    keeps.take([obeyed(0, "p-1", 5), obeyed(1, "p-1", 5, "decider-1/1-1")])
    world.checkpoint(keeps)
    keeps.take([obeyed(2, "p-2", 6), obeyed(3, "p-2", 6, "decider-1/1-1"), obeyed(4, "p-1", 7)])
    assert changes(world) == [
        ("policy", "p-1", 5), ("threshold", None, 5),
        ("policy", "p-2", 6), ("threshold", "p-1", 6),
        ("policy", "p-1", 7), ("threshold", "p-2", 7),
    ]  # fmt: skip
    assert world.told(R) == [("label", n, n + 1) for n in range(5)]


@pytest.mark.parametrize("resume", [True, False])
def test_what_was_told_is_not_told_again_after_a_death(world: World, resume: bool) -> None:
    keeps = world.started((R, 0))
    keeps.take([obeyed(0, "p-1", 5)])
    world.checkpoint(keeps)
    keeps.take([obeyed(1, "p-2", 6)])
    if not resume:
        (world.folder / "resume" / RESUME).unlink()
    again = world.started((R, 0))
    again.take([obeyed(n, f"p-{n - 1}", n + 3, "decider-0/2-1") for n in (2, 3)])
    assert [one[:2] for one in changes(world) if one[0] == "policy"] == [
        ("policy", "p-1"), ("policy", "p-2"),
    ]  # fmt: skip


def test_a_death_between_an_activation_and_its_step_loses_and_repeats_nothing(
    world: World,
) -> None:
    keeps = world.started((R, 0))
    whole = sum(path.stat().st_size for path in (world.folder / "log.ahead").glob("*.entries"))
    keeps.take([obeyed(0, "p-1", 5)])
    (ahead,) = (world.folder / "log.ahead").glob("*.entries")
    raw = ahead.read_bytes()
    for cut in range(whole, len(raw) + 1, 7):
        ahead.write_bytes(raw[:cut])
        again = world.started((R, 0))
        if again.next[R, 0] == 0:
            again.take([obeyed(0, "p-1", 5)])
        assert changes(world) == [("policy", "p-1", 5), ("threshold", None, 5)], cut
        assert world.told(R) == [("label", 0, 1)], cut
        (world.folder / "log" / "checkpoint").unlink()
        shutil.rmtree(world.folder / "log" / "tile")
        world.kept.kept.clear()
        (ahead,) = (world.folder / "log.ahead").glob("*.entries")


def test_only_so_many_activations_are_remembered_and_none_is_told_twice(world: World) -> None:
    keeps = world.started((R, 0))
    some = [obeyed(n, f"p-{n}", 100 + n) for n in range(STATEMENTS_MAX + 5)]
    keeps.take(some)
    at = len(some)
    keeps.take([obeyed(at, "p-0", 100), obeyed(at + 1, "older", 1)])
    told = [one for one in changes(world) if one[0] == "policy"]
    assert [one[2] for one in told] == [100 + n for n in range(at)]


def test_how_far_the_clock_may_be_off_is_told_now_and_again(world: World) -> None:
    known = TimeSyncBody(source="kernel", offset_us=-3, bound_us=900)
    said = [known, known, UNKNOWN]
    world.time_sync = lambda: said.pop(0)
    keeps = world.started()
    for _ in range(11 * 60 // 5):
        keeps.tick(no_more)
        world.clock.advance(5)
    told = [record.body for record in world.records() if isinstance(record, TimeSyncRecord)]
    assert told == [known, known]
    world.started().tick(no_more)
    (last,) = [r.body for r in world.records()[-1:] if isinstance(r, TimeSyncRecord)]
    assert (last.offset_us, last.bound_us) == (None, None)


OTHER = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)


def rotations(world: World) -> list[tuple[str, str | None, str]]:
    return [
        (r.body.purpose, r.body.before, r.body.after)
        for r in world.records()
        if isinstance(r, KeyRotationRecord)
    ]


def test_a_log_goes_on_under_another_key_and_says_so_once(world: World) -> None:
    keeps = world.started()
    keeps.take(messages(0, 1))
    world.checkpoint(keeps)
    old = Key(ORIGIN, LOG, PRIVATE.public_key())
    new = Key(ORIGIN, LOG, OTHER.public_key())
    world.private = OTHER
    with pytest.raises(Corrupt, match="is not this log's"):
        world.started()
    world.retired = [old]
    keeps = world.started()  # dies before its first checkpoint
    assert keeps.next == {(L, 0): 2}
    again = world.started()
    again.take(messages(2))
    world.checkpoint(again)
    (world.folder / "resume" / RESUME).unlink()
    world.started()
    assert rotations(world) == [("log", old.short, new.short)]
    world.private, world.retired = PRIVATE, []
    with pytest.raises(Corrupt, match="is not this log's"):
        world.started()


def test_the_key_that_signs_is_not_among_the_retired(world: World) -> None:
    world.retired = [Key(ORIGIN, LOG, PRIVATE.public_key())]
    with pytest.raises(Misconfigured, match="retired"):
        world.started()
    world.retired = [Key("another/log/0", LOG, OTHER.public_key())]
    with pytest.raises(Misconfigured, match="retired"):
        world.started()


@pytest.mark.parametrize("name", ["w.example/1", "Prüfer/1", "w" * 200])
def test_a_witness_with_another_key_is_told_of(world: World, name: str) -> None:
    one, other = (Key(name, WITNESS, key.public_key()) for key in (PRIVATE, OTHER))
    world.witnesses = [one]
    world.checkpoint(world.started())
    world.checkpoint(world.started())
    world.witnesses = [other]
    world.started()
    first, second = rotations(world)
    assert first[:2] == ("witness", None)
    assert second[:2] == ("witness", first[2])
    ids = (one.id.hex(), other.id.hex())
    assert (first[2].rpartition("+")[2], second[2].rpartition("+")[2]) == ids
    assert first[2].startswith("w.example/1+" if name == "w.example/1" else "sha256-")


class Failing(LogFolder):
    """A disk that is full for a while."""

    full = False

    def write(self, files: Iterable[File]) -> None:
        if self.full:
            raise Unavailable("the disk is full", code="log_disk")
        super().write(files)


def test_a_disk_that_was_full_is_gone_on_with(world: World) -> None:
    keeps = world.started()
    keeps.take(messages(0, 1))
    assert world.log is not None
    disk = Failing(world.folder / "log")
    disk.full = True
    world.log._store = disk
    world.clock.advance(1)
    keeps.tick(no_more)
    with pytest.raises(Unavailable, match="full"):
        keeps.tick(no_more)
    assert not keeps.opened
    with pytest.raises(Unavailable, match="not open"):
        keeps.take(messages(2))
    disk.full = False
    keeps.open()
    assert keeps.starts([(L, 0)], lambda _: 0, {}) == {(L, 0): 2}
    keeps.take(messages(2))
    assert world.checkpoint(keeps) == {(L, 0): 3}
    assert balanced(world.told())


def decision(offset: int, **said: object) -> Message:
    made = msgspec.structs.replace(make_decision(f"a-{offset}", sequence=offset), **said)
    return message(offset, D, value=encode(made))


def given_up(world: World) -> list[tuple[int, int]]:
    emitter = make_decision().emitter
    return [
        (record.body.first, record.body.until)
        for record in world.records()
        if isinstance(record, GapRecord) and record.body.emitter == emitter
    ]


def test_numbers_that_an_emitter_gave_up_are_gaps(world: World) -> None:
    keeps = world.started((D, 0))
    keeps.take([decision(0), decision(1, given_up=[(7, 9), (12, 13), (4, 4)])])
    assert given_up(world) == [(7, 9), (12, 13)]
    assert [one[:2] for one in world.told(D)] == [("label", 0), ("label", 1)]
    again = world.started((D, 0))
    again.take([decision(1, given_up=[(7, 9)]), decision(2)])
    assert given_up(world) == [(7, 9), (12, 13)]


def test_a_gap_of_numbers_stands_before_the_record_that_tells_of_it(world: World) -> None:
    """So that it is written again where only a part of a batch was kept."""
    keeps = world.started((D, 0))
    keeps.take([decision(0, given_up=[(3, 4)])])
    types = [record.type for record in world.records()]
    assert types.index("gap") < types.index("label")


def test_gaps_are_counted_once_whatever_is_tried_again(tmp_path: Path) -> None:
    world, counted = World(tmp_path), Counter[str]()
    world.count = lambda metric, *labels, by=1: counted.update({f"{metric} {labels}": int(by)})
    keeps = world.started()
    assert world.log is not None
    batch = [message(0), message(1, value=b"forbidden"), message(4)]
    append, world.log.append = world.log.append, fails  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        keeps.take(batch)
    assert not counted
    world.log.append = append  # type: ignore[method-assign]
    keeps.open()
    keeps.starts([(L, 0)], lambda _: 0, {L: "one"})
    keeps.take(batch)
    assert counted == {
        "sluice_auditor_gaps_total ('forbidden_content',)": 1,
        "sluice_auditor_gaps_total ('aborted',)": 2,
    }


def fails(_: object) -> int:
    raise Unavailable("the disk is full")


def test_while_nothing_can_be_taken_there_are_heartbeats_that_say_so(world: World) -> None:
    keeps = world.started()
    for _ in range(2):
        world.makes.away = [Unavailable("the keystore is away")]
        world.clock.advance(HEARTBEAT_EVERY_US / SECOND_US)
        with pytest.raises(Unavailable):
            keeps.take(messages(0))
        keeps.beat()  # not late yet
        world.clock.advance(HEARTBEAT_LATE_US / SECOND_US)
        keeps.beat()
        keeps.beat()
    keeps.take(messages(0))
    beats = [record for record in world.records() if isinstance(record, HeartbeatRecord)]
    assert [(one.body.taking, one.sequence) for one in beats] == [(False, 1), (False, 2)]
    assert [one[:2] for one in world.told()] == [("label", 0)]


def test_a_heartbeat_is_written_while_a_batch_waits_for_its_entries(world: World) -> None:
    keeps = world.started()
    entries, waits, go_on = world.makes.entries, Event(), Event()

    def slowly(*given: Any) -> Any:
        waits.set()
        assert go_on.wait(30)
        return entries(*given)

    world.makes.entries = slowly  # type: ignore[method-assign]
    taking = Thread(target=keeps.take, args=(messages(0),))
    taking.start()
    try:
        assert waits.wait(30)
        world.clock.advance((HEARTBEAT_EVERY_US + HEARTBEAT_LATE_US) / SECOND_US)
        keeps.beat()
    finally:
        go_on.set()
        taking.join(30)
    records = world.records()
    assert [type(one).__name__ for one in records[1:]] == ["HeartbeatRecord", "LabelRecord"]


def test_two_threads_use_no_number_twice(world: World) -> None:
    """Each batch has a gap of its own, with the next number; heartbeats come between."""
    keeps = world.started()
    stop = Event()

    def beats() -> None:
        while not stop.is_set():
            world.clock.advance((HEARTBEAT_EVERY_US + HEARTBEAT_LATE_US) / SECOND_US)
            keeps.beat()

    beside = Thread(target=beats)
    beside.start()
    try:
        for offset in range(0, 400, 2):
            keeps.take(messages(offset))
            keeps.tick(no_more)
    finally:
        stop.set()
        beside.join(30)
    ours = [one for one in world.records() if one.emitter == EMITTER]
    assert [one.sequence for one in ours] == list(range(len(ours)))
    assert sum(isinstance(one, HeartbeatRecord) for one in ours) > 0
    again = world.started()
    again.take(messages(400))
    ours = [one for one in world.records() if one.emitter == EMITTER]
    assert [one.sequence for one in ours] == list(range(len(ours)))


def test_behind_its_end_and_in_a_log_that_is_not_open_there_is_no_heartbeat(world: World) -> None:
    keeps = world.started()
    keeps.stop({}, "sigterm")
    world.clock.advance(60)
    keeps.beat()
    assert type(world.records()[-1]).__name__ == "LogStopRecord"
