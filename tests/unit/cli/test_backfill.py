"""A backfill leaves the archive and the states; the stream goes on from there without a seam."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sluice_simulator.config import Config
from sluice_simulator.history import write
from sluice_simulator.world import World as Simulated

from sluice.adapters.files.past import Past, map_past, read_past
from sluice.adapters.parquet.archive import Archive
from sluice.adapters.parquet.event_history import ArchiveEventHistory, Bucket
from sluice.adapters.parquet.feature_log import FeatureLog
from sluice.adapters.policyfiles.files import PolicyFiles
from sluice.application.decide import content_digest
from sluice.application.load_history import store_states
from sluice.application.ports import Arrival, StateUpdate
from sluice.application.replay import Replay
from sluice.bootstrap.verbs import archive_past
from sluice.cli import main
from sluice.cli.parameters import instant
from sluice.domain.clock import DAY_US
from sluice.domain.features import catalogue
from sluice.domain.features.events import event_row
from sluice.domain.policy.fx import Fx
from sluice.domain.records.authorization import Authorization, encode
from sluice.domain.records.decision import Decision
from sluice.domain.records.entity import ENTITY_KINDS
from sluice.domain.records.label import Label
from sluice.errors import Corrupt, Misconfigured, Rejected
from tests.support.mapping import LABELS, MAPPING
from tests.unit.application.test_featurize import Harness, decide

FX = PolicyFiles(Path("policies/default"), catalogue.FEATURES).current().fx


def archive(past: Past, fx: Fx, root: Path, threads: int = 1) -> list[StateUpdate]:
    return archive_past(past, fx, root, threads=threads).states


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some days of a few hundred cards."""
    made = tmp_path_factory.mktemp("history")
    write(Simulated(Config(cards=200, fraud_bp=300), 5), date(2026, 1, 1), 3, made)
    return made


@pytest.fixture(scope="module")
def past(folder: Path) -> Past:
    return read_past(folder / "authorizations.parquet", folder / "labels.parquet")


async def stream(harness: Harness, past: Past) -> list[Decision]:
    """Judge a past one by one, each label at its time; states are up to date each time."""
    labels = [Label(**row) for row in past.labels.to_pylist()]
    names = past.authorizations.column_names
    decided = []
    for fields in past.authorizations.to_pylist():
        auth = Authorization(**{n: fields[n] for n in names if n != "declined"})
        while labels and labels[0].known_at <= auth.event_at:
            harness.featurize([harness.bus.put("labels.v1", 0, encode(labels.pop(0)))])
            harness.drain()
        harness.clock._now_us = auth.event_at
        amount = FX.to_reference(auth.amount_minor, auth.currency)
        row = event_row(auth, amount)
        decided += await decide(
            harness, Arrival(auth, amount, row, content_digest(auth), auth.event_at, None)
        )
        harness.drain()
    return decided


def without_versions(state: bytes) -> bytes:
    """A state but for its list of [source, offset]: the count of events applied, then content."""

    def number(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            value |= (state[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if state[at - 1] < 128:
                return value, at

    pairs, at = number(9)
    for _ in range(2 * pairs):
        _, at = number(at)
    return state[:9] + state[at:]


async def test_half_by_backfill_and_half_by_stream_is_all_by_stream(
    past: Past, tmp_path: Path
) -> None:
    at = past.authorizations["event_at"].to_numpy()
    cut = int(at[len(at) // 2])
    whole = past.between(None, int(at[-1]) + 1)
    first = past.between(None, cut)
    second = Past(
        whole.authorizations.slice(len(first.authorizations)),
        whole.labels.slice(len(first.labels)),
    )
    assert len(first.labels), "no label is known by then"

    alone = Harness()
    decided = await stream(alone, whole)
    declined = [d.outcome == "decline" for d in decided[: len(first.authorizations)]]
    reported = first.authorizations.append_column("declined", pa.array(declined))

    both = Harness()
    assert store_states(archive(Past(reported, first.labels), FX, tmp_path), both.store).others == 0
    after = await stream(both, second)

    wanted = [d.features for d in decided[len(first.authorizations) :]]
    assert len(wanted) > 300
    np.testing.assert_array_equal([d.features for d in after], wanted)
    log = Archive(tmp_path).read("history", ["features"])["features"].to_pylist()
    assert log == [d.features for d in decided[: len(first.authorizations)]]
    assert both.store.states.keys() == alone.store.states.keys()
    for key, (state, newest_us) in both.store.states.items():
        other, its_newest_us = alone.store.states[key]
        assert (without_versions(state), newest_us) == (without_versions(other), its_newest_us)


def test_states_are_made_again_from_the_archive_alone(past: Past, tmp_path: Path) -> None:
    end = past.between(None, int(past.authorizations["event_at"][-1].as_py()))
    states = archive(end, FX, tmp_path, threads=2)
    replay = Replay(ArchiveEventHistory(tmp_path).read(Bucket(0, 1)))
    for kind in ENTITY_KINDS:
        kept = {u.key: u.state for u in states if u.entity == kind}
        assert kept
        again = replay.states(kind, list(kept), [None] * len(kept))
        assert dict(zip(kept, again, strict=True)) == kept


def test_the_same_backfill_again_changes_nothing(past: Past, tmp_path: Path) -> None:
    harness = Harness()
    assert store_states(archive(past, FX, tmp_path), harness.store).others == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.parquet")}
    one_less = next(iter(before))
    one_less.unlink()
    assert store_states(archive(past, FX, tmp_path), harness.store).others == 0
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.parquet")} == before


def test_another_history_is_refused_before_anything_is_written(past: Past, tmp_path: Path) -> None:
    archive(past.between(None, instant("2026-01-02T12:00:00Z")), FX, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Misconfigured, match="another history") as refused:
        archive(past.between(instant("2026-01-02T12:00:00Z"), None), FX, tmp_path)
    assert "archiver.root" in refused.value.fix
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_holds_a_day_and_its_rows_know_their_place(past: Past, tmp_path: Path) -> None:
    archive(past, FX, tmp_path)
    for kind, partition, time in (("history", 0, "event_at"), ("history_labels", 1, "known_at")):
        table = Archive(tmp_path).read(kind)
        assert table["offset"].to_pylist() == list(range(len(table)))
        assert set(table["partition"].to_pylist()) == {partition}
        for file in Archive(tmp_path).files(kind):
            days = pq.read_table(file.path, columns=[time])[time].to_numpy() // DAY_US
            assert {f"date={np.datetime64(int(d), 'D')}" for d in days} == {file.path.parent.name}
    row = Archive(tmp_path).read("history").slice(3, 1).to_pylist()[0]
    fields = past.authorizations.slice(3, 1).to_pylist()[0]
    assert {name: row[name] for name in fields} == fields
    assert (row["reference_currency"], row["catalogue"]) == (FX.reference, catalogue.DIGEST)
    assert row["declined"] is False


def test_an_entity_with_another_state_keeps_it_and_is_counted(past: Past, tmp_path: Path) -> None:
    harness = Harness()
    states = archive(past, FX, tmp_path)
    kind, key = states[0].entity, states[0].key
    harness.store.states[kind, key] = (b"another state", 5)
    assert store_states(states, harness.store).others == 1
    assert harness.store.states[kind, key] == (b"another state", 5)
    assert len(harness.store.states) == len(states)


def test_a_firms_own_columns_are_mapped_as_for_publish(tmp_path: Path) -> None:
    (tmp_path / "bank.yaml").write_text(MAPPING)
    (tmp_path / "labels.yaml").write_text(LABELS)
    (tmp_path / "bank.csv").write_text(
        "id,at,who,cents,fraud\n"
        "b,2026-01-03T00:00:00,2,700,1\n"
        "a,2026-01-01T00:00:00,1,500,1\n"
        "c,never,1,500,0\n"
    )
    bad = []
    past = map_past(
        tmp_path / "bank.csv",
        str(tmp_path / "bank.yaml"),
        str(tmp_path / "labels.yaml"),
        bad.append,
    )
    assert [row.line for row in bad] == [4]
    assert past.bad == 1
    assert past.authorizations["authorization_id"].to_pylist() == ["a", "b"]
    assert past.authorizations["card_token"].to_pylist() == ["card-1", "card-2"]
    assert past.labels["authorization_id"].to_pylist() == ["a", "b"]
    # b's label is known a day after b, so the history ends without it.
    assert past.between(None, None).labels["authorization_id"].to_pylist() == ["a"]
    assert len(archive(past.between(None, None), FX, tmp_path / "archive")) == 4


def test_bounds_are_half_open_for_events_and_for_what_was_known(past: Past) -> None:
    at = past.authorizations["event_at"].to_numpy()
    some = past.between(int(at[10]), int(at[200]))
    assert (
        some.authorizations["event_at"].to_pylist() == at[(at >= at[10]) & (at < at[200])].tolist()
    )
    assert all(known < at[200] for known in some.labels["known_at"].to_pylist())
    assert all(event >= at[10] for event in some.labels["event_at"].to_pylist())


def test_labels_known_after_the_end_come_along_where_no_stream_brings_them(past: Past) -> None:
    at = past.authorizations["event_at"].to_numpy()
    cut = int(at[len(at) // 2])
    by_then = past.between(None, cut).labels
    every = past.between(None, cut, later_labels=True).labels
    event = past.labels["event_at"].to_numpy()
    assert len(every) == int((event < cut).sum()) > len(by_then)


def test_without_a_store_the_archive_alone_is_written(
    folder: Path,
    past: Past,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No store listens at that port."""
    monkeypatch.setenv("SLUICE_STORE_URL", "redis://127.0.0.1:1/0")
    words = [
        "backfill", str(folder / "authorizations.parquet"), "--labels",
        str(folder / "labels.parquet"), "--archive", str(tmp_path / "archive"), "--threads", "1",
    ]  # fmt: skip
    assert main([*words, "--no-store"]) == 0
    said = capsys.readouterr().out
    assert "stored" not in said
    archive = Archive(tmp_path / "archive")
    assert len(archive.read("history", ["offset"])) == len(past.authorizations)
    assert len(archive.read("history_labels", ["offset"])) == len(past.labels)
    assert main(words) == 1
    assert "store did not serve us" in capsys.readouterr().err


def test_empty_cells_are_refused_by_column(past: Past, tmp_path: Path) -> None:
    table = past.authorizations.slice(0, 3)
    index = table.column_names.index("mcc")
    table = table.set_column(index, "mcc", pa.array(["5999", None, None]))
    pq.write_table(table, tmp_path / "holes.parquet")
    with pytest.raises(Rejected, match="2 empty cells in mcc"):
        read_past(tmp_path / "holes.parquet", None)


def test_part_files_of_our_own_columns_are_one_past(past: Past, tmp_path: Path) -> None:
    table = past.authorizations
    (tmp_path / "h").mkdir()
    for number, rows in enumerate((table.slice(0, 7), table.slice(7, 5).drop(["device_id"]))):
        pq.write_table(rows, tmp_path / "h" / f"part-{number}.parquet")
    (tmp_path / "h" / "_SUCCESS").touch()
    read = read_past(tmp_path / "h", None).authorizations
    ids = table["authorization_id"].to_pylist()[:12]
    assert sorted(read["authorization_id"].to_pylist()) == sorted(ids)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_of_any_unit_are_times(past: Past, tmp_path: Path, unit: str) -> None:
    table = past.authorizations.slice(0, 3)
    whole = [at // 1_000_000 * 1_000_000 for at in table["event_at"].to_pylist()]
    stamps = pa.array(whole).cast(pa.timestamp("us", "UTC")).cast(pa.timestamp(unit, "UTC"))
    index = table.column_names.index("event_at")
    pq.write_table(table.set_column(index, "event_at", stamps), tmp_path / "t.parquet")
    read = read_past(tmp_path / "t.parquet", None).authorizations
    assert read["event_at"].to_pylist() == whole


@pytest.mark.parametrize(
    ("name", "column", "says"),
    [
        ("event_at", pa.array([1, -1, 2**62]), "event_at: 2 times out of range, in row 2 first"),
        ("event_at", pa.array([1, 2**61, 2], pa.timestamp("ms")), "event_at"),
        ("amount_minor", pa.array(["x", "1", "2"]), "amount_minor of type string"),
        ("amount_minor", pa.array([0.5, 1.0, 2.0]), "amount_minor of type double"),
        ("mcc", pa.array([[1], [2], [3]]), "mcc of type list"),
    ],
)
def test_a_column_that_does_not_fit_is_named(
    past: Past, tmp_path: Path, name: str, column: pa.Array, says: str
) -> None:
    table = past.authorizations.slice(0, 3)
    index = table.column_names.index(name)
    pq.write_table(table.set_column(index, name, column), tmp_path / "t.parquet")
    with pytest.raises(Rejected, match=says):
        read_past(tmp_path / "t.parquet", None)


def test_damaged_parquet_is_refused_whatever_became_of_its_bytes(
    past: Past, tmp_path: Path
) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(past.authorizations.slice(0, 50), path, write_page_checksum=True)
    whole = path.read_bytes()
    numbers = np.random.default_rng(1)
    refused = 0
    for _ in range(150):
        raw = bytearray(whole)
        at = int(numbers.integers(0, len(raw)))
        raw[at : at + 4] = bytes(numbers.integers(0, 256, 4, dtype=np.uint8))
        path.write_bytes(bytes(raw[: len(raw) if at % 3 else at]))
        try:
            read_past(path, None)
        except Rejected:
            refused += 1
    assert refused > 75


def with_flags(past: Past, folder: Path, flags: pa.Array) -> tuple[Path, Path]:
    """Our own names, in which somebody else wrote is_fraud."""
    labels = past.labels.slice(0, len(flags))
    index = labels.column_names.index("is_fraud")
    pq.write_table(labels.set_column(index, "is_fraud", flags), folder / "labels.parquet")
    pq.write_table(past.authorizations.slice(0, 3), folder / "authorizations.parquet")
    return folder / "authorizations.parquet", folder / "labels.parquet"


@pytest.mark.parametrize(
    "flags",
    [
        pa.array([1, 0]),
        pa.array([1.0, 0.0]),
        pa.array(["Yes", "no"]),
        pa.array(["1.0", "0"]).dictionary_encode(),
        pa.array([b"\x01", b"\x00"]),
    ],
    ids=lambda flags: str(flags.type),
)
def test_true_and_false_of_our_own_columns_have_any_type(
    past: Past, tmp_path: Path, flags: pa.Array
) -> None:
    labels = read_past(*with_flags(past, tmp_path, flags)).labels
    assert sorted(labels["is_fraud"].to_pylist()) == [False, True]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (pa.array([2, 2, 1]), '"2" is neither true nor false, in 2 rows'),
        (pa.array([0.5, 1.0]), '"0.5" is neither true nor false, in 1 rows'),
        (pa.array([float("nan"), 1.0]), '"nan" is neither true nor false'),
        (pa.array(["maybe", "1"]), '"maybe" is neither true nor false'),
        (pa.array([1.0, None]), "1 empty cells in is_fraud"),
    ],
)
def test_what_is_neither_is_refused_with_its_value_and_count(
    past: Past, tmp_path: Path, flags: pa.Array, says: str
) -> None:
    with pytest.raises(Rejected, match=says):
        read_past(*with_flags(past, tmp_path, flags))


def test_ids_of_floats_are_refused_in_our_own_columns_too(past: Past, tmp_path: Path) -> None:
    table = past.authorizations.slice(0, 2)
    index = table.column_names.index("card_token")
    path = tmp_path / "floats.parquet"
    pq.write_table(table.set_column(index, "card_token", pa.array([70001.0, 70002.0])), path)
    with pytest.raises(Rejected, match="a column of floats, where ids are") as caught:
        read_past(path, None)
    assert caught.value.where == f"{path}: card_token"


@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_file_of_the_archive_is_named_to_who_builds_a_training_set(
    past: Past, tmp_path: Path, cut: bool
) -> None:
    archive(past, FX, tmp_path)
    at = past.authorizations["event_at"].to_numpy()
    first, until = int(at[0]), int(at[-1]) + 1
    assert len(FeatureLog(tmp_path, first, until).rows(first, until)) == len(at)
    file = Archive(tmp_path).files("history")[1].path
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 4 : len(raw) // 4 * 3] = b"\xff" * (len(raw) // 4 * 3 - len(raw) // 4)
    file.write_bytes(bytes(raw[: len(raw) // 2] if cut else raw))
    with pytest.raises(Corrupt, match="cannot be read") as caught:
        FeatureLog(tmp_path, first, until).rows(first, until)
    assert caught.value.where == str(file)
    with pytest.raises(Corrupt, match="cannot be read") as caught:
        list(Archive(tmp_path).tables("history"))
    assert caught.value.where == str(file)
