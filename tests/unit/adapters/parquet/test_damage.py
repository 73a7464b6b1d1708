"""Whatever of the archive's readers meets a damaged file, and wherever: the file is named."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sluice.adapters.parquet.archive import Archive, ParquetFiles
from sluice.adapters.parquet.authorizations import ArchivedAuthorizations
from sluice.adapters.parquet.drift import ArchiveDriftLog
from sluice.adapters.parquet.event_history import ArchiveEventHistory, Bucket
from sluice.adapters.parquet.feature_log import FeatureLog
from sluice.adapters.parquet.held_back import write_held_back
from sluice.adapters.parquet.history import HistoryFiles
from sluice.adapters.parquet.samples import ArchiveSampleSource
from sluice.application.archive import DAY_MS
from sluice.application.ports import Message
from sluice.cli import main
from sluice.domain.records.authorization import encode
from sluice.errors import Corrupt
from sluice.testing.factories import NOON_US, make_authorization, make_label
from sluice.testing.records import make_decision

LATER = 2**62
FOLDERS = {"d": "decisions", "l": "labels"}


def rewind(root: Path) -> None:
    """Behind the newest file, as an archiver that starts."""
    files = ParquetFiles(root, FOLDERS)
    files.end(("d", 0))
    files.end(("l", 0))


def more(root: Path) -> None:
    """A further file, whose superseded records are looked for in the one before."""
    ParquetFiles(root, FOLDERS).write(("d", 0), [record(7, "a-7")])


def sample(root: Path) -> None:
    source = ArchiveSampleSource(root)
    source.decisions(list(source.drawn(1_000_000, {}, {0: 9})))


READERS: dict[str, Callable[[Path], object]] = {
    "tables": lambda root: [list(Archive(root).tables(kind)) for kind in FOLDERS.values()],
    "decisions": lambda root: list(Archive(root).decisions()),
    "decided_since": lambda root: list(Archive(root).decided_since(0)),
    "find": lambda root: Archive(root).find("a-1"),
    "labels_of": lambda root: Archive(root).labels_of("a-1"),
    "events": lambda root: ArchiveEventHistory(root).read(Bucket(0, 1)),
    "sample": sample,
    "feature log": lambda root: [
        FeatureLog(root, 0, LATER).rows(0, LATER),
        FeatureLog(root, 0, LATER).labels(0, LATER),
    ],
    "drift": lambda root: list(ArchiveDriftLog(root, 0, LATER, LATER, ()).pieces()),
    "held back": lambda root: write_held_back(root, root / "held", LATER, 0),
    "authorizations": lambda root: ArchivedAuthorizations(root).find({("test", "a-1"): None}),
    "what a file follows": more,
}
OF_LABELS = {"tables", "labels_of", "events", "feature log", "drift", "held back"}
OF_DECISIONS = set(READERS) - {"labels_of"}
FOOTERS: dict[str, Callable[[Path], object]] = {
    "an archiver's start": rewind,
    "ends": lambda root: [Archive(root).ends(kind) for kind in FOLDERS.values()],
    "ids": lambda root: [Archive(root).topic_ids(kind) for kind in FOLDERS.values()],
    "a backfill": lambda root: HistoryFiles(root, "other"),
}


def record(offset: int, name: str, topic: str = "d") -> Message:
    value = (
        make_decision(name, sequence=offset)
        if topic == "d"
        else make_label(make_authorization(name), known_at=NOON_US + 9)
    )
    return Message(encode(value), None, topic, 0, offset, None, 20_000 * DAY_MS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = ParquetFiles(tmp_path, FOLDERS)
    files.write(("d", 0), [record(n, f"a-{n}") for n in range(4)])
    files.write(("l", 0), [record(n, f"a-{n}", "l") for n in range(4)])
    for reader in READERS.values():  # all of them read it while it is whole
        reader(tmp_path)
    for path in [*tmp_path.glob("*/*/part-*-*7.parquet"), *(tmp_path / "held").rglob("*.parquet")]:
        path.unlink()
    return tmp_path


def break_pages(path: Path) -> None:
    """Its row group: every page, but not the footer that says where they lie."""
    raw = bytearray(path.read_bytes())
    footer = int.from_bytes(raw[-8:-4], "little") + 8
    raw[4:-footer] = bytes(len(raw) - footer - 4)
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        *(("decisions", name) for name in sorted(OF_DECISIONS)),
        *(("labels", name) for name in sorted(OF_LABELS)),
    ],
)
def test_a_damaged_row_group_is_named_by_whoever_reads_it(
    root: Path, folder: str, name: str
) -> None:
    [path] = root.glob(f"{folder}/*/part-*")
    break_pages(path)
    with pytest.raises(Corrupt, match="cannot be read") as raised:
        READERS[name](root)
    assert raised.value.where == str(path)
    assert raised.value.code == "damaged_file"
    assert "restore it from a copy" in raised.value.fix


@pytest.mark.parametrize("name", sorted(FOOTERS))
def test_a_damaged_footer_is_named_too(root: Path, name: str) -> None:
    [path] = root.glob("decisions/*/part-*")
    if name == "a backfill":
        path = root / "history/date=2026-01-01/part-00000-00000000000000000000.parquet"
        path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1 it ends PAR1")
    with pytest.raises(Corrupt, match="cannot be read") as raised:
        FOOTERS[name](root)
    assert raised.value.where == str(path)


def test_every_flipped_bit_of_a_page_is_seen(root: Path) -> None:
    [path] = root.glob("decisions/*/part-*")
    whole = path.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    before = Archive(root).read()
    seen = set()
    for at in range(4, len(whole) - footer, 7):
        raw = bytearray(whole)
        raw[at] ^= 1 << at % 8
        path.write_bytes(raw)
        try:
            read = Archive(root).read()
        except Corrupt as error:
            seen.add(error.where)
        else:
            assert read == before, f"byte {at} changed what was read"
    assert seen == {str(path)}


def test_a_record_that_is_none_is_named_with_its_offset(root: Path) -> None:
    [path] = root.glob("decisions/*/part-*")
    held = pq.read_table(path, partitioning=None)
    at = held.column_names.index("record")
    broken = [*held["record"].to_pylist()[:-1], b"\xff[[["]
    about = pq.read_schema(path).metadata
    pq.write_table(
        held.set_column(at, held.field(at), [broken]).replace_schema_metadata(about), path
    )
    for name in ("decisions", "decided_since", "sample"):
        with pytest.raises(Corrupt, match="cannot read") as raised:
            READERS[name](root)
        assert raised.value.where == f"{path}, offset 3"


def test_a_file_that_no_archiver_named_is_told_and_not_a_traceback(root: Path) -> None:
    path = root / "decisions/date=2024-10-04/part-00000 (copy).parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    with pytest.raises(Corrupt, match="whose name no archiver gave it") as raised:
        Archive(root).files()
    assert raised.value.where == str(path)


def test_a_file_that_does_not_say_where_it_ends_is_named(root: Path) -> None:
    [path] = root.glob("decisions/*/part-*")
    pq.write_table(pq.read_table(path, partitioning=None).replace_schema_metadata(None), path)
    with pytest.raises(Corrupt) as raised:
        ParquetFiles(root, FOLDERS).end(("d", 0))
    assert raised.value.where == str(path)


def test_explain_says_which_file_and_what_to_do(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [path] = root.glob("decisions/*/part-*")
    break_pages(path)
    status = main(["explain", "a-1", "--archive", str(root)])
    said = capsys.readouterr().err
    assert status == 1
    assert said.startswith("sluice explain: a file of the archive cannot be read")
    assert str(path) in said
    assert "restore it from a copy" in said


def test_what_a_process_of_a_rebuild_finds_is_told_whole_by_its_parent(root: Path) -> None:
    [path] = root.glob("decisions/*/part-*")
    break_pages(path)
    with pytest.raises(Corrupt) as raised:
        READERS["events"](root)
    told = pickle.loads(pickle.dumps(raised.value))
    assert str(told) == str(raised.value)
    assert (told.where, told.code) == (str(path), "damaged_file")
