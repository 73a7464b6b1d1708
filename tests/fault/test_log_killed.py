"""The writer of a log is killed at every named point, again and again, and the log is recounted.

Each seed is a life story: what comes, in which batches, at which points the writer dies, and what a
write that was under way left behind. In the end the tree leads to every checkpoint that was ever
published, each offset is told of once, and what the log says of itself is counted without a hole.
"""

import os
import random
import signal
import sys
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest

from sluice import faultpoints
from sluice.adapters.tiles.ahead import WriteAheadFiles
from sluice.adapters.tiles.folder import LogFolder
from sluice.application.append_log import AppendLog
from sluice.application.keep_log import KeepsLog
from sluice.application.ports import Message, Partition
from sluice.audit.checkpoints import Checkpoint, open_checkpoint
from sluice.audit.entries import split
from sluice.audit.merkle import root_of
from sluice.audit.tiles import reader
from sluice.domain.records.log_record import GapRecord, Provenance, read
from sluice.testing.log import ORIGIN, PRIVATE, PlainEntries
from sluice.testing.store import FakeClock

pytestmark = pytest.mark.fault

POINTS = (
    "auditor.before_ahead",
    "auditor.after_ahead",
    "auditor.after_tiles",
    "auditor.after_publish",
    "auditor.after_checkpoint",
    "auditor.after_forget",
    "auditor.after_resume",
)
LIVES = 6
PARTITIONS = 3
NOTHING_RUNS = Provenance(build=None, image=None, config=None, trace=None)


class FilePublished:
    """The port Published: checkpoints in one file, each behind its length."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> list[bytes]:
        raw = self._path.read_bytes() if self._path.exists() else b""
        found = []
        while raw:
            length = int.from_bytes(raw[:4], "big")
            found.append(raw[4 : 4 + length])
            raw = raw[4 + length :]
        return found

    def last(self) -> bytes | None:
        found = self.all()
        return found[-1] if found else None

    def publish(self, signed: bytes) -> None:
        with self._path.open("ab") as file:
            file.write(len(signed).to_bytes(4, "big") + signed)


def world(seed: int) -> list[Message]:
    """What the broker shows, in the order in which it comes: with holes in the offsets."""
    chance = random.Random(seed)
    places = [(topic, number) for topic in ("a", "b") for number in range(PARTITIONS)]
    offsets: Counter[Partition] = Counter()
    found = []
    for number in range(chance.randrange(50, 900)):
        place = chance.choice(places)
        offsets[place] += chance.choice((0, 0, 0, 0, 1, 4))
        value = b"forbidden" if chance.random() < 0.01 else b"%d" % number
        found.append(Message(value, None, *place, offsets[place], None))
        offsets[place] += 1
    return found


def keeper(folder: Path, clock: FakeClock) -> tuple[AppendLog, KeepsLog, ThreadPoolExecutor]:
    log = AppendLog(
        LogFolder(folder / "log"),
        WriteAheadFiles(folder / "ahead"),
        FilePublished(folder / "published"),
        origin=ORIGIN,
        private=PRIVATE,
    )
    beside = ThreadPoolExecutor(1)
    keeps = KeepsLog(
        log,
        PlainEntries(),
        LogFolder(folder / "resume"),
        clock,
        beside.submit,
        decisions="none",
        earlier=lambda _, __, ___: [],
        provenance=NOTHING_RUNS,
    )
    return log, keeps, beside


def live(folder: Path, messages: list[Message], chance: random.Random) -> None:
    """Read on behind what the log tells of, to the end."""
    clock = FakeClock()
    log, keeps, beside = keeper(folder, clock)
    keeps.open()
    places = {(message.topic, message.partition) for message in messages}
    starts = keeps.starts(sorted(places), lambda _: 0, {})
    left = (m for m in messages if m.offset >= starts[m.topic, m.partition])
    while batch := list(islice(left, chance.randrange(1, 64))):
        keeps.take(batch)
        clock.advance(chance.random() * 2)
        keeps.tick(lambda: {})
    keeps.stop({}, "sigterm")
    beside.shutdown()
    log.close()


def killed(folder: Path, messages: list[Message], chance: random.Random, point: str) -> int:
    """A life of a process of its own. Returns its wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        faultpoints._point, faultpoints._left = point, chance.randrange(1, 6)
        live(folder, messages, chance)
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        os._exit(1)
    os._exit(0)


def tear(folder: Path, chance: random.Random) -> None:
    """Leave what a write that was under way may have left: part of it, or nothing."""
    files = sorted((folder / "ahead").glob("*.entries"))
    if files and chance.random() < 0.5:
        with files[-1].open("ab") as file:
            file.write(chance.randbytes(chance.randrange(1, 40)))


def told(log: AppendLog) -> tuple[dict[Partition, list[int]], list[int]]:
    """Each offset of each partition, as often as it is told of, and the writer's own numbers."""
    offsets: dict[Partition, list[int]] = {}
    own = []
    for entry in log.entries(0, log.signed.size):
        record = read(split(entry)[0])
        if record.emitter == "auditor":
            assert record.sequence is not None
            own.append(record.sequence)
        if record.source is not None:
            place = record.source.topic, record.source.partition
            offsets.setdefault(place, []).append(record.source.offset)
        elif isinstance(record, GapRecord):
            assert record.body.topic is not None
            assert record.body.partition is not None
            place = record.body.topic, record.body.partition
            offsets.setdefault(place, []).extend(range(record.body.first, record.body.until))
    return offsets, own


def story(folder: Path, seed: int) -> int:
    """Returns how often it was killed."""
    folder.mkdir()
    chance = random.Random(-seed)
    messages = world(seed)
    deaths = 0
    for _ in range(LIVES):
        status = killed(folder, messages, chance, chance.choice(POINTS))
        assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL, f"seed {seed}: {status}"
        deaths += status != 0
        tear(folder, chance)
    assert killed(folder, messages, chance, "") == 0
    log, _, beside = keeper(folder, FakeClock())
    log.open()
    beside.shutdown()
    published = [
        open_checkpoint(raw, ORIGIN, log.key).checkpoint
        for raw in FilePublished(folder / "published").all()
    ]
    assert [one.size for one in published] == sorted(one.size for one in published)
    complete = reader(log.signed.size, LogFolder(folder / "log").read)
    for one in published:
        assert Checkpoint(ORIGIN, one.size, root_of(one.size, complete)) == one
    offsets, own = told(log)
    ends: dict[Partition, int] = {}
    for message in messages:
        ends[message.topic, message.partition] = message.offset + 1
    assert {place: sorted(found) for place, found in offsets.items()} == {
        place: list(range(end)) for place, end in ends.items()
    }
    assert own == list(range(len(own)))
    log.close()
    return deaths


def test_a_killed_writer_takes_back_nothing_and_leaves_nothing_out(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seeds = request.config.getoption("--seeds")
    deaths = sum(story(tmp_path / str(seed), seed) for seed in range(seeds))
    assert deaths >= seeds
