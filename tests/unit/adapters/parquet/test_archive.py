from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from sluice.adapters.parquet.archive import Archive, ParquetFiles
from sluice.adapters.parquet.event_history import ArchiveEventHistory, Bucket
from sluice.adapters.parquet.feature_log import FeatureLog
from sluice.application.archive import DAY_MS
from sluice.application.ports import Message
from sluice.domain.records.authorization import encode
from sluice.domain.records.superseded import REACH
from sluice.errors import Corrupt, Unavailable
from sluice.testing.factories import NOON_US, make_authorization, make_label
from sluice.testing.records import make_decision, make_shadow_scores

DECISIONS, LABELS, SHADOW = "t.decisions.v1", "t.labels.v1", "t.shadow-scores.v1"
FOLDERS = {DECISIONS: "decisions", LABELS: "labels", SHADOW: "shadow_scores"}
DAY = NOON_US // 1_000_000 // 86_400


@pytest.fixture
def files(tmp_path: Path) -> ParquetFiles:
    return ParquetFiles(tmp_path, FOLDERS)


def record(offset: int, value: bytes, topic: str = DECISIONS, partition: int = 2) -> Message:
    return Message(value, None, topic, partition, offset, None, DAY * DAY_MS + offset)


def decided(*offsets: int, partition: int = 2) -> list[Message]:
    return [
        record(o, encode(make_decision(f"a-{partition}-{o}", sequence=o)), partition=partition)
        for o in offsets
    ]


def test_a_decision_comes_back_with_every_field_and_its_very_bytes(files, tmp_path):
    rows = decided(5, 7)
    files.write((DECISIONS, 2), rows)
    found = list(Archive(tmp_path).decisions())
    assert [(one.partition, one.offset) for one in found] == [(2, 5), (2, 7)]
    assert found[0].decision == make_decision("a-2-5", sequence=5)
    table = Archive(tmp_path).read()
    assert table["record"].to_pylist() == [row.value for row in rows]
    first = table.slice(0, 1).to_pylist()[0]
    assert first["features"] == [1, -2, 2**62, 0]
    assert first["card_token"] == "card-1"
    assert first["amount_minor"] == 1234
    assert first["outcome"] == "approve"
    assert first["origin_offset"] is None
    assert first["degraded"] == ["terminal"]


def test_labels_come_back(files, tmp_path):
    label = make_label(make_authorization(), known_at=9)
    files.write((LABELS, 0), [record(3, encode(label), LABELS, 0)])
    [row] = Archive(tmp_path).read("labels").to_pylist()
    assert (row["offset"], row["authorization_id"], row["known_at"]) == (3, "a-1", 9)
    assert row["is_fraud"] is True


def test_what_a_shadow_said_comes_back_by_decision(files, tmp_path):
    some = [make_shadow_scores("a-1", "a-2"), make_shadow_scores("a-3")]
    rows = [record(n, encode(one), SHADOW, 1) for n, one in enumerate(some)]
    files.write((SHADOW, 1), rows)
    held = Archive(tmp_path).read("shadow_scores")
    assert held["record"].to_pylist() == [row.value for row in rows]
    assert held["release"].to_pylist() == ["release-2", "release-2"]
    of = pc.list_parent_indices(held["authorization_ids"])
    flat = {name: held[name].take(of).to_pylist() for name in ("offset", "release")}
    for name in ("authorization_ids", "score_ppm", "served_ppm", "outcomes"):
        flat[name] = pc.list_flatten(held[name]).to_pylist()
    assert flat == {
        "offset": [0, 0, 1],
        "release": ["release-2"] * 3,
        "authorization_ids": ["a-1", "a-2", "a-3"],
        "score_ppm": [900_000, 900_001, 900_000],
        "served_ppm": [1_200] * 3,
        "outcomes": [3, 3, 3],
    }


def test_every_label_and_those_of_one_authorization_are_found(files, tmp_path):
    one, other = (make_label(make_authorization(name), known_at=9) for name in ("a-1", "a-2"))
    files.write(
        (LABELS, 0), [record(3, encode(one), LABELS, 0), record(4, encode(other), LABELS, 0)]
    )
    files.write((LABELS, 1), [record(7, encode(one), LABELS, 1)])
    assert list(Archive(tmp_path).labels()) == [one, other, one]
    assert Archive(tmp_path).labels_of("a-1") == [one, one]
    assert Archive(tmp_path).labels_of("a-3") == []


def test_rows_come_by_partition_and_offset_over_all_files(files, tmp_path):
    files.write((DECISIONS, 2), decided(10, 11))
    files.write((DECISIONS, 1), decided(4, 5, partition=1))
    files.write((DECISIONS, 2), decided(12, 14))
    table = Archive(tmp_path).read(columns=["partition", "offset"])
    assert table.to_pydict() == {"partition": [1, 1, 2, 2, 2, 2], "offset": [4, 5, 10, 11, 12, 14]}
    assert files.end((DECISIONS, 2)) == 15
    assert files.end((DECISIONS, 1)) == 6
    assert files.end((DECISIONS, 0)) == 0


def test_an_authorization_is_found_by_its_id(files, tmp_path):
    files.write((DECISIONS, 2), decided(10, 11))
    files.write((DECISIONS, 2), decided(12))
    [found] = Archive(tmp_path).find("a-2-11")
    assert found is not None
    assert (found.offset, found.decision.sequence) == (11, 11)
    assert Archive(tmp_path).find("nobody") == []


def test_a_second_archiver_of_the_same_run_is_refused(files, tmp_path):
    files.write((DECISIONS, 2), decided(10, 11))
    with pytest.raises(Unavailable) as caught:
        files.write((DECISIONS, 2), decided(10, 11, 12))
    assert caught.value.code == "overtaken"
    assert Archive(tmp_path).read().num_rows == 2


def test_a_topic_made_anew_is_not_mixed_with_the_old_one(files):
    files.write((DECISIONS, 2), decided(10))
    with pytest.raises(Corrupt, match="another record"):
        files.write((DECISIONS, 2), [record(10, encode(make_decision("other")))])


@pytest.mark.parametrize("raw", [b'{"v":9}', b'{"v":"\xff"}', b'{"v":' + b"[" * 100_000], ids=len)
def test_a_record_that_does_not_decode_stops_the_archive_and_names_its_place(files, tmp_path, raw):
    with pytest.raises(Corrupt, match=r"t\.decisions\.v1/2@8"):
        files.write((DECISIONS, 2), [record(8, raw)])
    assert Archive(tmp_path).files() == []


def test_overlapping_files_are_not_read_as_if_they_were_one_archive(files, tmp_path):
    files.write((DECISIONS, 2), decided(10, 11, 12))
    files.write((DECISIONS, 2), decided(11, 12))
    with pytest.raises(Corrupt, match="overlap"):
        Archive(tmp_path).read()


def test_a_file_of_an_older_release_reads_with_nulls_for_its_missing_columns(files, tmp_path):
    files.write((DECISIONS, 2), decided(10))
    [file] = Archive(tmp_path).files()
    old = pq.read_table(file.path).drop_columns(["score_ppm", "degradation_level"])
    file.path.unlink()
    pq.write_table(old, file.path)
    [row] = Archive(tmp_path).read().to_pylist()
    assert row["score_ppm"] is None
    assert row["authorization_id"] == "a-2-10"


def test_an_empty_archive_has_no_rows_and_all_columns(tmp_path):
    table = Archive(tmp_path).read()
    assert table.num_rows == 0
    assert "record" in table.column_names


def test_a_file_left_aside_by_a_dead_process_is_not_read(files, tmp_path):
    files.write((DECISIONS, 2), decided(10))
    [file] = Archive(tmp_path).files()
    file.path.with_name(f".{file.path.name}.dead").write_bytes(b"half a file")
    assert Archive(tmp_path).read().num_rows == 1


@pytest.mark.parametrize("kind", ["history", "history_labels"])
def test_an_archive_without_a_backfill_holds_no_history(tmp_path, kind):
    found = Archive(tmp_path).read(kind)
    assert len(found) == 0
    assert found.schema.names[:3] == ["partition", "offset", "authorization_id"]


def again(offset: int, first: int) -> Message:
    """A second record of the id that was decided at an earlier offset."""
    return record(offset, encode(make_decision(f"a-2-{first}", sequence=offset)))


def test_a_second_record_of_an_id_is_marked_and_left_out_by_who_asks_for_what_counts(
    files, tmp_path
):
    files.write((DECISIONS, 2), [*decided(10, 11), again(12, 10)])
    files.write((DECISIONS, 1), decided(10, partition=1))
    files.write((DECISIONS, 2), [again(14, 11), *decided(15), again(16, 15)])
    table = Archive(tmp_path).read(columns=["offset", "superseded"])
    assert table.to_pydict() == {
        "offset": [10, 10, 11, 12, 14, 15, 16],
        "superseded": [False, False, False, True, True, False, True],
    }
    since = [one.offset for one in Archive(tmp_path).decided_since(0)]
    assert since == [10, 10, 11, 15]
    found = Archive(tmp_path).find("a-2-10")
    assert [(one.offset, one.superseded) for one in found] == [(10, False), (12, True)]


def test_an_archiver_that_restarts_or_takes_over_marks_as_one_that_never_stopped(files, tmp_path):
    other = ParquetFiles(tmp_path, FOLDERS)
    files.write((DECISIONS, 2), decided(10, 11))
    other.write((DECISIONS, 2), [*decided(12), again(13, 10)])
    assert files.end((DECISIONS, 2)) == 14, "asked when a partition comes back"
    files.write((DECISIONS, 2), [again(14, 12), again(15, 10)])
    ParquetFiles(tmp_path, FOLDERS).write((DECISIONS, 2), [again(16, 14), again(17, 11)])
    table = Archive(tmp_path).read(columns=["offset", "superseded"])
    marked = [o for o, s in zip(*table.to_pydict().values(), strict=True) if s]
    assert marked == [13, 14, 15, 17]


def test_a_record_beyond_reach_counts_again(files, tmp_path):
    files.write((DECISIONS, 2), decided(10))
    files.write((DECISIONS, 2), decided(REACH // 2))
    files.write((DECISIONS, 2), [again(10 + REACH, 10)])
    files.write((DECISIONS, 2), [again(11 + 2 * REACH, 10)])
    table = Archive(tmp_path).read(columns=["superseded"])
    assert table["superseded"].to_pylist() == [False, False, True, False]


def test_a_file_of_an_older_release_says_of_no_record_that_it_is_superseded(files, tmp_path):
    files.write((DECISIONS, 2), [*decided(10), again(11, 10)])
    [file] = Archive(tmp_path).files()
    old = pq.read_table(file.path).drop_columns(["superseded"])
    pq.write_table(old, file.path)
    assert [one.offset for one in Archive(tmp_path).decided_since(0)] == [10, 11]
    assert [one.superseded for one in Archive(tmp_path).find("a-2-10")] == [False, False]


def test_a_superseded_record_is_no_event_and_no_row_of_the_feature_log(files, tmp_path):
    files.write((DECISIONS, 2), [*decided(10, 11), again(12, 10)])
    history = ArchiveEventHistory(tmp_path).read(Bucket(0, 1))
    assert history.changes[:, 2].tolist() == [10, 11]
    assert len(history.events) == len(history.entities[0]) == 2
    log = FeatureLog(tmp_path, NOON_US, NOON_US + 1)
    assert log.rows(NOON_US, NOON_US + 1)["authorization_id"].to_pylist() == ["a-2-10", "a-2-11"]
    assert log.per_second(NOON_US, NOON_US + 1).tolist() == [2]
    assert log.holes() == 0  # of its emitter's sequence it is a part
