"""The archiver's handler over a group in memory and files in memory."""

from __future__ import annotations

from collections.abc import Sequence

import prometheus_client
import pytest

from services.archiver.main import LIMITS, RETRIES_MAX, Archiving
from services.loop import ConsumerLoop
from sluice.application.archive import Archiver
from sluice.application.ports import TOPIC_REMADE, Message, Partition
from sluice.errors import Corrupt, Misconfigured, Unavailable
from sluice.testing.consumer import FakeConsumer, FakeGroup

A = ("decisions.v1", 0)
DOWN = Unavailable("the broker is down")


class Disk:
    """Files as they lie on a disk: a name is taken once."""

    def __init__(self) -> None:
        self.rows: dict[Partition, list[int]] = {}
        self.fail: list[Exception] = []
        self.of = ""

    def end(self, partition: Partition) -> int:
        return max(self.rows.get(partition, [-1])) + 1

    def topic_id(self, partition: Partition) -> str:
        return self.of

    def write(self, partition: Partition, rows: Sequence[Message], topic_id: str = "") -> int:
        self.of = topic_id
        if self.fail:
            raise self.fail.pop(0)
        held = self.rows.setdefault(partition, [])
        if rows[0].offset in held:
            raise Unavailable("the name is taken", code="overtaken")
        held += [row.offset for row in rows]
        return 1


class World:
    def __init__(self, disk: Disk | None = None, group: FakeGroup | None = None) -> None:
        self.disk = disk or Disk()
        self.group = group or FakeGroup(A)
        self.consumer = FakeConsumer(self.group, A)
        handler = Archiving(
            self.consumer, Archiver(self.disk, roll_s=0, confirm=self.consumer.confirm)
        )
        self.loop = ConsumerLoop(self.consumer, handler, LIMITS)

    def add(self, count: int) -> None:
        for _ in range(count):
            self.group.add(A[0], b"x", partition=A[1])


@pytest.mark.parametrize("step", ["poll_batch", "commit", "rewind", "committed"])
def test_a_broker_that_is_away_is_waited_for_and_each_row_is_archived_once(step):
    world = World()
    world.add(3)
    world.consumer.fail = {"commit": [DOWN], step: [DOWN] * (1 if step == "commit" else 5)}
    pauses = [world.loop.once() for _ in range(20)]
    world.add(2)
    world.loop.once()
    assert world.disk.rows == {A: [0, 1, 2, 3, 4]}
    assert world.group.offsets == {A: 5}
    assert max(pauses) > 0


def test_a_full_disk_is_waited_for():
    world = World()
    world.add(3)
    world.disk.fail = [Unavailable("no space")] * 4
    for _ in range(5):
        world.loop.once()
    assert world.disk.rows == {A: [0, 1, 2]}


def test_it_waits_no_longer_than_it_says():
    world = World()
    world.add(1)
    world.disk.fail = [DOWN] * (RETRIES_MAX + 1)
    for _ in range(RETRIES_MAX):
        world.loop.once()
    with pytest.raises(Unavailable):
        world.loop.once()


def test_an_empty_folder_is_filled_again_from_the_topic_and_that_is_counted():
    world = World()
    world.add(4)
    world.loop.once()
    shown = prometheus_client.REGISTRY.get_sample_value
    before = shown("sluice_archiver_refilled_total", {"topic": A[0]}) or 0
    again = World(group=world.group)
    again.loop.once()
    assert again.disk.rows == {A: [0, 1, 2, 3]}
    assert shown("sluice_archiver_refilled_total", {"topic": A[0]}) == before + 4


def test_an_empty_folder_that_the_topic_cannot_fill_stops_it():
    world = World()
    world.add(4)
    world.loop.once()
    world.group.oldest[A] = 2
    with pytest.raises(Misconfigured, match="lacks offsets 0 to 3"):
        World(group=world.group).loop.once()


def test_a_topic_that_is_made_again_ends_it_before_a_file_holds_two():
    world = World()
    world.add(2)
    world.loop.once()
    world.group.remake(A[0])
    world.add(5)
    with pytest.raises(Corrupt) as caught:
        world.loop.once()
    assert caught.value.code == TOPIC_REMADE
    with pytest.raises(Misconfigured, match="another topic of this name"):
        World(world.disk, world.group).loop.once()
    assert world.disk.rows == {A: [0, 1]}
