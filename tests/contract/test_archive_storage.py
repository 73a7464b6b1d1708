"""One suite for where the archive lies: a folder, and a prefix in a bucket of a real S3 server."""

from __future__ import annotations

import io
import itertools
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from sluice.adapters.parquet.archive import Archive, ParquetFiles
from sluice.adapters.parquet.authorizations import ArchivedAuthorizations
from sluice.adapters.parquet.compact import Compacted, compact
from sluice.adapters.parquet.damage import HeldFile
from sluice.adapters.parquet.erasure import ERASED, erase_rows
from sluice.adapters.parquet.feature_log import FeatureLog
from sluice.adapters.storage import AnyPath, at, folder
from sluice.adapters.storage.patience import WAITS_S
from sluice.application.ports import Message
from sluice.domain.records.authorization import encode
from sluice.errors import Corrupt, Misconfigured, Unavailable
from sluice.testing.factories import NOON_US
from sluice.testing.records import make_decision
from tests.support.certificates import Authority
from tests.support.s3_server import BUCKET, REGION, S3Server
from tests.support.tls_front import tls_front

pytestmark = pytest.mark.integration
NAMES = itertools.count(1)
TENANT = make_decision("a").authorization.tenant
DAY_MS = 86_400_000
LISTED = 1_000
"""Names in one answer of S3."""
NOON_MS = NOON_US // 1000
DECISIONS = ("decisions.v1", 2)
FOLDERS = {"decisions.v1": "decisions"}


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> AnyPath:
    if request.param == "folder":
        return at(tmp_path / "archive")
    endpoint = request.getfixturevalue("s3").endpoint
    return at(f"s3://{BUCKET}/bank/{next(NAMES)}/", endpoint, REGION)


def decided(*offsets: int, day: int = 0, card: str = "card-1") -> list[Message]:
    return [
        Message(
            encode(make_decision(f"a-{o}", card_token=card, sequence=o)),
            *(None, *DECISIONS, o, None),
            NOON_MS + day * DAY_MS + o,
        )
        for o in offsets
    ]


def offsets(root: AnyPath) -> list[int]:
    found: list[int] = Archive(root).read(columns=["offset"])["offset"].to_pylist()
    return found


def test_a_name_is_taken_once_and_what_lies_there_stays(root: AnyPath) -> None:
    files = folder(root)
    files.prepare()
    path = root / "decisions" / "date=2026-05-29" / "part-00002-1.parquet"
    assert files.create(path, b"first")
    assert not files.create(path, b"second")
    assert path.read_bytes() == b"first"
    version = files.version(path)
    files.replace(path, b"third", version)
    assert path.read_bytes() == b"third"
    with pytest.raises(Unavailable) as caught:
        files.replace(path, b"fourth", version)
    assert caught.value.code == "changed"
    assert path.read_bytes() == b"third"
    files.remove(path)
    files.remove(path)
    assert not path.exists()


def test_days_outside_of_those_asked_for_are_not_listed(root: AnyPath) -> None:
    files = folder(root)
    days = ["2026-05-09", "2026-05-10", "2026-05-11", "2026-06-01"]
    for day in days:
        for name in ("part-00000-5.parquet", "part-00001-0.parquet", "note.txt"):
            files.create(root / "decisions" / f"date={day}" / name, b"x")
    files.create(root / "labels" / "date=2026-05-10" / "part-00000-0.parquet", b"x")

    def listed(*bounds: str) -> list[str]:
        return [
            f"{path.parent.name[5:]} {path.name[5:10]}"
            for path in files.listed("decisions", *bounds)
        ]

    assert files.days("decisions") == days
    assert listed() == [f"{day} {part}" for day in days for part in ("00000", "00001")]
    assert listed("2026-05-10", "2026-05-10") == ["2026-05-10 00000", "2026-05-10 00001"]
    assert [one[:10] for one in listed("2026-05-11")[::2]] == days[2:]
    assert files.days("shadow_scores") == []
    assert list(files.listed("shadow_scores")) == []
    files.create(root / "decisions" / "date=2026-05-10" / "part-00010-3.parquet", b"x")
    for partition, names in ((0, ["part-00000-5.parquet"]), (1, ["part-00001-0.parquet"]), (2, [])):
        found = files.of_partition("decisions", "2026-05-10", partition)
        assert [path.name for path in found] == names


def test_rows_come_back_as_they_were_and_a_second_archiver_is_refused(root: AnyPath) -> None:
    first = ParquetFiles(root, FOLDERS)
    assert first.end(DECISIONS) == 0
    rows = [*decided(3, 4), *decided(7, day=1)]
    first.write(DECISIONS, rows[:2], "topic-id")
    first.write(DECISIONS, rows[2:], "topic-id")
    second = ParquetFiles(root, FOLDERS)
    assert second.end(DECISIONS) == 8
    assert second.topic_id(DECISIONS) == "topic-id"
    with pytest.raises(Unavailable) as caught:
        second.write(DECISIONS, decided(3, 4))
    assert caught.value.code == "overtaken"
    with pytest.raises(Corrupt, match="another record"):
        second.write(DECISIONS, decided(3, card="other"))
    held = Archive(root).read()
    assert held["record"].to_pylist() == [row.value for row in rows]
    log = FeatureLog(root, NOON_US, NOON_US + 1)
    assert log.rows(NOON_US, NOON_US + 1)["authorization_id"].to_pylist() == ["a-3", "a-4", "a-7"]
    assert [name.rpartition("/")[0] for name in log.files()] == [
        "decisions/date=2026-05-29",
        "decisions/date=2026-05-30",
    ]
    found = ArchivedAuthorizations(root).find({(TENANT, "a-7"): NOON_US})
    assert [of for _, of in found] == ["a-7"]


def test_a_large_file_is_read_by_range(root: AnyPath) -> None:
    """Larger than what is read at once: columns come from its middle."""
    rows = decided(*range(6_000))
    rows = [
        replace(row, value=row.value[:-1] + b',"x":"' + os.urandom(200).hex().encode() + b'"}')
        for row in rows
    ]
    size = ParquetFiles(root, FOLDERS).write(DECISIONS, rows)
    assert size > 1_200_000
    assert Archive(root).read()["record"].to_pylist() == [row.value for row in rows]
    assert [one.offset for one in Archive(root).find("a-4321")] == [4321]


def test_a_write_lists_nothing_and_a_start_no_other_partition(s3: S3Server) -> None:
    """Late in the day an archive of twelve partitions has 17,000 files of it."""
    root = at(f"s3://{BUCKET}/bank/{next(NAMES)}/", s3.endpoint, REGION)
    files = ParquetFiles(root, FOLDERS)
    files.write(DECISIONS, decided(1))
    [day] = folder(root).days("decisions")
    for number in (1, 3):
        for n in range(LISTED):
            folder(root).create(
                root / "decisions" / f"date={day}" / f"part-{number:05}-{n:020}.parquet", b"x"
            )
    before = s3.requests()
    for offset in range(2, 6):
        files.write(DECISIONS, decided(offset))
    assert (s3.requests() - before)["ListObjectsV2"] == 0
    assert ParquetFiles(root, FOLDERS).end(DECISIONS) == 6
    assert (s3.requests() - before)["ListObjectsV2"] == 2, "the days, and its own of the newest"


def listing(root: AnyPath) -> list[str]:
    return [path.name for path in folder(root).listed("decisions")]


def test_small_files_become_one_and_nobody_sees_a_row_twice_or_never(root: AnyPath) -> None:
    files = ParquetFiles(root, FOLDERS)
    for day, some in enumerate(((1, 2), (3,), (5, 6), (8,))):
        files.write(DECISIONS, decided(*some, day=day // 3), "topic-id")
    held = Archive(root).read()
    before = Archive(root).files()
    later = NOON_US + 10 * DAY_MS * 1000
    assert compact(root, later, keep_s=3600) == Compacted(1, 3, 0)
    assert len(listing(root)) == 5, "what it was made from stays for who listed it"
    assert Archive(root).read().equals(held)
    assert [HeldFile(file.path).last for file in before] == [2, 3, 6, 8]
    assert compact(root, later, keep_s=3600) == Compacted(0, 0, 0)
    assert erase_rows(root, lambda *_: "") == 0
    assert compact(root, 2**52, keep_s=0) == Compacted(0, 0, 3)
    assert len(listing(root)) == 2
    assert Archive(root).read().equals(held)
    assert [(file.first, file.last) for file in Archive(root).files()] == [(1, 6), (8, None)]
    again = ParquetFiles(root, FOLDERS)
    assert (again.end(DECISIONS), again.topic_id(DECISIONS)) == (9, "topic-id")
    assert Archive(root).topic_ids() == {"topic-id"}
    # One that believes it owns the partition still, and writes what was written: it counts not.
    again.write(DECISIONS, decided(3))
    assert Archive(root).read().equals(held)


def test_a_file_that_was_put_together_is_not_claimed_by_one_around_it(root: AnyPath) -> None:
    files = ParquetFiles(root, FOLDERS)
    later = NOON_US + 10 * DAY_MS * 1000
    for some in ((5,), (6,)):
        files.write(DECISIONS, decided(*some))
    assert compact(root, later, keep_s=0) == Compacted(1, 2, 0)
    for some in ((1,), (9,)):
        files.write(DECISIONS, decided(*some))
    assert compact(root, later, keep_s=3600) == Compacted(0, 0, 0)
    assert offsets(root) == [1, 5, 6, 9]


def test_a_file_of_another_day_between_them_is_not_claimed(root: AnyPath) -> None:
    """About midnight, when a writer's clock is behind another's."""
    files = ParquetFiles(root, FOLDERS)
    for offset, day in ((1, 0), (2, 0), (3, 1), (4, 0), (5, 0), (6, 1)):
        files.write(DECISIONS, decided(offset, day=day))
    assert ParquetFiles(root, FOLDERS).end(DECISIONS) == 7
    later = NOON_US + 10 * DAY_MS * 1000
    assert compact(root, later, keep_s=0) == Compacted(2, 4, 0)
    assert offsets(root) == [1, 2, 3, 4, 5, 6]
    assert compact(root, 2**52, keep_s=0) == Compacted(0, 0, 4)
    assert offsets(root) == [1, 2, 3, 4, 5, 6]
    files.write(DECISIONS, decided(7, day=0))
    assert files.end(DECISIONS) == 8, "of the day before, and the newest all the same"


def test_what_a_late_archiver_wrote_again_is_not_put_together(root: AnyPath) -> None:
    """Its file begins elsewhere, and holds what others hold."""
    files = ParquetFiles(root, FOLDERS)
    files.write(DECISIONS, decided(1, 2))
    files.write(DECISIONS, decided(3))
    later = NOON_US + 10 * DAY_MS * 1000
    compact(root, later, keep_s=3600)
    held = Archive(root).read()
    files.write(DECISIONS, decided(2, 3))
    assert Archive(root).read().equals(held)
    assert compact(root, 2**52, keep_s=0) == Compacted(0, 0, 3)
    assert Archive(root).read().equals(held)


KILLS = ("compact.after_create:1", "compact.after_create:2", "compact.after_delete:1")


@pytest.mark.parametrize("point", KILLS)
def test_a_compaction_that_is_killed_leaves_each_row_once(root: AnyPath, point: str) -> None:
    files = ParquetFiles(root, FOLDERS)
    for day, some in enumerate(((1, 2), (3,), (4,), (5, 6), (7,))):
        files.write(DECISIONS, decided(*some, day=day // 3))
    held = Archive(root).read()
    sluice = str(Path(sys.executable).with_name("sluice"))
    verb = [sluice, "archive", "compact", "--archive", str(root)]
    if "delete" in point:
        compact(root, NOON_US + 10 * DAY_MS * 1000, keep_s=3600)
    killed = subprocess.run(
        [*verb, "--keep-h", "0"], env=os.environ | {"SLUICE_KILL_AT": point}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert Archive(root).read().equals(held)
    compact(root, 2**52, keep_s=0)
    compact(root, 2**52, keep_s=0)
    assert Archive(root).read().equals(held)
    assert len(listing(root)) == 2


def rows_lying_there(root: AnyPath) -> list[tuple[int, int]]:
    """Partition and offset of every row of every file, whatever their names say."""
    found: list[tuple[int, int]] = []
    for path in folder(root).listed("decisions"):
        table = pq.read_table(io.BytesIO(path.read_bytes()), columns=["partition", "offset"])
        found += zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    return sorted(found)


def in_partition(number: int, *offsets: int, day: int = 0) -> list[Message]:
    return [replace(row, partition=number) for row in decided(*offsets, day=day)]


def test_a_run_whose_files_another_put_together_and_deleted_goes_on(root: AnyPath) -> None:
    files = ParquetFiles(root, FOLDERS)
    for number in (1, 2, 3):
        for offset in (1, 2, 3, 4):
            rows = in_partition(number, offset, day=(offset - 1) // 2)
            files.write(("decisions.v1", number), rows)
    held = Archive(root).read()
    others: list[Compacted] = []

    def another_run(_: str) -> None:
        if not others:
            others.append(Compacted())
            others.extend(compact(root, 2**52, keep_s=0) for _ in range(2))

    assert compact(root, 2**52, keep_s=0, progress=another_run) == Compacted(1, 2, 0)
    assert others[1:] == [Compacted(5, 10, 2), Compacted(0, 0, 10)]
    assert Archive(root).read().equals(held)
    assert rows_lying_there(root) == [(n, offset) for n in (1, 2, 3) for offset in (1, 2, 3, 4)]


def test_a_damaged_file_is_not_taken_for_one_that_another_run_deleted(root: AnyPath) -> None:
    files = ParquetFiles(root, FOLDERS)
    for offset in (1, 2):
        files.write(DECISIONS, decided(offset))
    [_, second] = Archive(root).files()
    store = folder(root)
    store.replace(second.path, b"torn", store.version(second.path))
    with pytest.raises(Corrupt, match="cannot be read"):
        compact(root, 2**52, keep_s=0)


def test_runs_at_once_beside_an_archiver_that_is_late_lose_no_row(root: AnyPath) -> None:
    """It catches up on days that are over, so that no two runs list the same files."""
    files = ParquetFiles(root, FOLDERS)
    partitions, last = (1, 2), 40
    written = threading.Event()

    def archive() -> None:
        try:
            for offset in range(1, last + 1):
                for number in partitions:
                    rows = in_partition(number, offset, day=offset // 15)
                    files.write(("decisions.v1", number), rows)
        finally:
            written.set()

    def again_and_again() -> int:
        made = 0
        while not written.is_set():
            made += compact(root, 2**52, keep_s=0).made
        return made

    with ThreadPoolExecutor(4) as pool:
        late = pool.submit(archive)
        made = [run.result() for run in [pool.submit(again_and_again) for _ in range(3)]]
        late.result()
        assert sum(made) > 0
        for run in [pool.submit(compact, root, 2**52, 0) for _ in range(3)]:
            run.result()
    compact(root, 2**52, keep_s=0)
    every = [(number, offset) for number in partitions for offset in range(1, last + 1)]
    assert rows_lying_there(root) == every
    held = Archive(root).read(columns=["partition", "offset"])
    assert list(zip(*held.to_pydict().values(), strict=True)) == every


def test_what_was_erased_while_files_were_put_together_does_not_come_back(root: AnyPath) -> None:
    files = ParquetFiles(root, FOLDERS)
    files.write(DECISIONS, decided(1, card="gone"))
    files.write(DECISIONS, decided(2))
    later = NOON_US + 10 * DAY_MS * 1000
    compact(root, later, keep_s=3600)
    [made] = Archive(root).files()
    unerased = made.path.read_bytes()
    assert erase_rows(root, lambda _, token: "2026Q4" if token == "gone" else "") == 2
    # As if it had been read before the erasure, and had appeared after it.
    store = folder(root)
    store.replace(made.path, unerased, store.version(made.path))
    assert "gone" in Archive(root).read()["card_token"].to_pylist()
    compact(root, 2**52, keep_s=0)
    assert "gone" not in Archive(root).read()["card_token"].to_pylist()
    assert offsets(root) == [1, 2]


def test_a_card_is_erased_from_every_file(root: AnyPath) -> None:
    files = ParquetFiles(root, FOLDERS)
    files.write(DECISIONS, decided(1, 2, card="gone"))
    files.write(DECISIONS, decided(3, card="stays"))
    through = {"gone": "2026Q4"}
    assert erase_rows(root, lambda _, token: through.get(token, "")) == 2
    assert erase_rows(root, lambda _, token: through.get(token, "")) == 0
    tokens = Archive(root).read(columns=["card_token"])["card_token"].to_pylist()
    assert [token.startswith(ERASED) for token in tokens] == [True, True, False]


def test_a_column_that_an_older_file_has_not_is_read_as_null(root: AnyPath) -> None:
    files = ParquetFiles(root, FOLDERS)
    files.write(DECISIONS, decided(1))
    files.write(DECISIONS, decided(2))
    [old, _] = Archive(root).files()
    source = old.path if isinstance(old.path, Path) else old.path.open()
    table = pq.read_table(source, partitioning=None).drop_columns(["region", "superseded"])
    out = pa.BufferOutputStream()
    pq.write_table(table, out)
    store = folder(root)
    store.replace(old.path, out.getvalue().to_pybytes(), store.version(old.path))
    held = Archive(root).read(columns=["offset", "region", "superseded"])
    assert held["region"].to_pylist() == [None, "eea"]
    assert held["superseded"].to_pylist() == [None, False]


def test_duckdb_reads_it_as_what_it_is(tmp_path: Path) -> None:
    """Hive-partitioned parquet: a day's folder is a column, and other days are not opened."""
    root = tmp_path / "archive"
    files = ParquetFiles(root, FOLDERS)
    files.write(DECISIONS, decided(1, 2))
    files.write(DECISIONS, decided(3, day=1))
    rows = duckdb.sql(
        f'select date::text, count(*), max("offset") from read_parquet('
        f"'{root}/decisions/*/*.parquet', hive_partitioning=true, union_by_name=true) "
        f"group by all order by all"
    ).fetchall()
    assert rows == [("2026-05-29", 2, 2), ("2026-05-30", 1, 3)]


def test_a_server_of_ones_own_is_trusted_by_the_ca_that_is_named(
    s3: S3Server, tmp_path: Path
) -> None:
    ours, others = Authority(tmp_path / "ours"), Authority(tmp_path / "others", "others")
    with tls_front(s3.port, ours.issue("storage", hosts=("localhost",))) as port:
        endpoint = f"https://localhost:{port}"

        def write(ca: Path | str) -> None:
            root = at(f"s3://{BUCKET}/tls", endpoint, REGION, str(ca))
            ParquetFiles(root, FOLDERS).write(DECISIONS, decided(1))
            assert offsets(root) == [1]

        write(ours.ca)
        for wrong in (others.ca, ""):
            with pytest.raises(Unavailable, match="does not answer"):
                write(wrong)


def test_a_server_that_is_away_is_said_and_nothing_is_lost(s3: S3Server) -> None:
    root = at(f"s3://{BUCKET}/away", s3.endpoint, REGION)
    files = ParquetFiles(root, FOLDERS)
    files.write(DECISIONS, decided(1))
    [file] = Archive(root).files()
    s3.stop()
    try:
        for ask in (
            lambda: files.write(DECISIONS, decided(2)),
            lambda: Archive(root).files(),
            lambda: HeldFile(file.path),
        ):
            with pytest.raises(Unavailable, match=f"s3://{BUCKET}/away") as caught:
                ask()
            assert caught.value.code == "storage"
    finally:
        s3.start()
    files.write(DECISIONS, decided(2))
    assert offsets(root) == [1, 2]


def test_a_compaction_outlives_a_storage_that_is_away_and_ends_where_it_stays_away(
    s3: S3Server,
) -> None:
    root = at(f"s3://{BUCKET}/patient", s3.endpoint, REGION)
    files = ParquetFiles(root, FOLDERS)
    for partition in (1, 2):
        for offset in (1, 2, 3):
            rows = [replace(row, partition=partition) for row in decided(offset)]
            files.write(("decisions.v1", partition), rows)
    held = Archive(root).read()
    waits: list[float] = []

    def comes_back(wait_s: float) -> None:
        waits.append(wait_s)
        if len(waits) == 2:
            s3.start()

    def goes_away(line: str) -> None:
        if not waits and "files to 1" in line:
            s3.stop()

    did = compact(root, 2**52, 0, progress=goes_away, pause=comes_back)
    assert (waits, did) == ([1, 2], Compacted(2, 6, 0))
    assert Archive(root).read().equals(held)
    waits.clear()
    s3.stop()
    try:
        with pytest.raises(Unavailable, match="does not answer"):
            compact(root, 2**52, 0, pause=waits.append)
    finally:
        s3.start()
    assert waits == list(WAITS_S)
    assert compact(root, 2**52, 0) == Compacted(0, 0, 6)
    assert Archive(root).read().equals(held)


def test_what_is_no_place_is_refused(s3: S3Server) -> None:
    for text in ("http://x/y", "s3://"):
        with pytest.raises(Misconfigured, match="no place"):
            at(text)
    with pytest.raises(Misconfigured, match="cannot be read") as caught:
        ParquetFiles(at(f"s3://{BUCKET}/a", s3.endpoint, REGION, "/nowhere/ca.pem"), FOLDERS)
    assert caught.value.fix == "storage.ca_file"
    with pytest.raises(Unavailable, match="nobodys"):
        ParquetFiles(at("s3://nobodys/a", s3.endpoint, REGION), FOLDERS)
