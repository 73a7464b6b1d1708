from collections.abc import Sequence

import pytest

from sluice.application import archive
from sluice.application.archive import DAY_MS, Archiver, behind
from sluice.application.ports import TOPIC_REMADE, Message, Partition
from sluice.errors import Corrupt, Misconfigured, Unavailable

P0, P1 = ("decisions.v1", 0), ("decisions.v1", 1)


class FakeFiles:
    def __init__(self, ends: dict[Partition, int] | None = None, of: str = "") -> None:
        self.ends = ends or {}
        self.of = of
        self.written: list[tuple[Partition, list[int]]] = []

    def end(self, partition: Partition) -> int:
        return self.ends.get(partition, 0)

    def topic_id(self, partition: Partition) -> str:
        return self.of

    def write(self, partition: Partition, rows: Sequence[Message], topic_id: str = "") -> int:
        self.of = topic_id
        self.written.append((partition, [row.offset for row in rows]))
        return 1


class FullDisk(FakeFiles):
    def write(self, partition: Partition, rows: Sequence[Message], topic_id: str = "") -> int:
        raise Unavailable("no space")


def record(partition: Partition, offset: int, *, day: int = 0, size: int = 1) -> Message:
    return Message(b"x" * size, None, *partition, offset, None, day * DAY_MS)


def test_a_file_waits_for_its_age_and_is_committed_behind_its_last_record():
    files = FakeFiles()
    archiver = Archiver(files, roll_s=60)
    archiver.add([record(P0, 4), record(P0, 6), record(P1, 9)], now_s=0)
    assert archiver.due(now_s=59) == []
    archiver.add([record(P1, 10)], now_s=59)
    rolled = archiver.roll(archiver.due(now_s=60))
    assert files.written == [(P0, [4, 6]), (P1, [9, 10])]
    assert behind(rolled) == {P0: 7, P1: 11}
    assert archiver.held() == []


def test_a_large_file_is_due_at_once(monkeypatch):
    archiver = Archiver(FakeFiles(), roll_s=60)
    archiver.add([record(P0, 0, size=archive.ROLL_BYTES), record(P1, 0)], now_s=0)
    assert archiver.due(now_s=0) == [P0]


def test_the_largest_are_due_when_all_together_are_too_much():
    archiver = Archiver(FakeFiles(), roll_s=60)
    part = archive.ROLL_BYTES - 1
    for number in range(5):
        archiver.add([record(("decisions.v1", number), 0, size=part - number)], now_s=0)
    assert archiver.due(now_s=0) == [("decisions.v1", 0)]


def test_a_new_day_begins_a_new_file_and_an_earlier_clock_does_not():
    files = FakeFiles()
    archiver = Archiver(files, roll_s=60)
    days = [1, 1, 2, 1, 2]
    rolled = archiver.add([record(P0, i, day=day) for i, day in enumerate(days)], now_s=0)
    assert files.written == [(P0, [0, 1])]
    assert behind(rolled) == {P0: 2}
    archiver.roll([P0])
    assert files.written[1:] == [(P0, [2, 3, 4])]


def never(partition: Partition) -> int:
    raise AssertionError(f"nobody need know where {partition} begins")


def test_reading_goes_on_behind_the_newest_file_whatever_is_committed():
    archiver = Archiver(FakeFiles({P0: 50, P1: 7}), roll_s=60)
    some = [P0, P1, ("labels.v1", 0)]
    assert archiver.start({P0: 30, P1: 7}, some, never) == {P0: 50, P1: 7}
    assert archiver.start({}, some, lambda _: 0) == {P0: 50, P1: 7}


def test_what_expired_unread_is_passed_over_only_once_nothing_is_committed():
    archiver = Archiver(FakeFiles({P0: 50}), roll_s=60)
    assert archiver.start({P0: 50}, [P0], never) == {P0: 50}  # out of range: the consumer says so
    assert archiver.start({}, [P0], lambda _: 80) == {P0: 80}


def test_files_of_a_topic_that_was_made_again_are_not_gone_on_with():
    files = FakeFiles({P0: 50}, of="first")
    assert Archiver(files, roll_s=60, confirm=lambda: {"decisions.v1": "first"}).start(
        {P0: 50}, [P0], never
    ) == {P0: 50}
    another = Archiver(files, roll_s=60, confirm=lambda: {"decisions.v1": "second"})
    with pytest.raises(Misconfigured, match="another topic of this name") as caught:
        another.start({P0: 50}, [P0], never)
    assert caught.value.code == TOPIC_REMADE


def test_nothing_is_written_of_a_topic_that_was_made_again_while_it_was_read():
    def confirm() -> dict[str, str]:
        if remade:
            raise Corrupt("made again", code=TOPIC_REMADE)
        return {"decisions.v1": "first"}

    remade, files = False, FakeFiles()
    archiver = Archiver(files, roll_s=60, confirm=confirm)
    archiver.add([record(P0, 0)], now_s=0)
    archiver.roll([P0])
    assert files.of == "first"
    archiver.add([record(P0, 1)], now_s=0)
    remade = True
    with pytest.raises(Corrupt):
        archiver.roll([P0])
    assert files.written == [(P0, [0])]


@pytest.mark.parametrize("begins", [0, 50])
def test_files_that_are_gone_are_made_again_while_the_topic_holds_their_records(begins):
    archiver = Archiver(FakeFiles({P0: 50}), roll_s=60)
    assert archiver.start({P0: 80}, [P0], lambda _: begins) == {P0: 50}
    assert Archiver(FakeFiles(), roll_s=60).start({P0: 80}, [P0], lambda _: 0) == {P0: 0}


@pytest.mark.parametrize("ends", [{}, {P0: 50}])
def test_a_hole_that_the_topic_cannot_fill_is_refused(ends):
    archiver = Archiver(FakeFiles(ends), roll_s=60)
    with pytest.raises(Misconfigured, match="to 79, which were archived once") as caught:
        archiver.start({P0: 80}, [P0], lambda _: 51)
    assert "decisions.v1/0" in caught.value.where
    assert caught.value.code == "archive_lost"


def test_what_a_full_disk_refused_is_still_held():
    archiver = Archiver(FullDisk(), roll_s=60)
    archiver.add([record(P0, 0)], now_s=0)
    with pytest.raises(Unavailable):
        archiver.roll([P0])
    assert archiver.held() == [P0]


def test_lost_partitions_are_forgotten_without_a_file():
    files = FakeFiles()
    archiver = Archiver(files, roll_s=60)
    archiver.add([record(P0, 0), record(P1, 0)], now_s=0)
    archiver.drop([P0])
    archiver.roll([P0, P1])
    assert files.written == [(P1, [0])]
