import json
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
from sluice_simulator.batch import AUTHORIZATION_FIELDS, LABEL_FIELDS

from sluice.cli import main

FLAGS = [
    "--cards",
    "600",
    "--days",
    "4",
    "--start",
    "2026-10-01",
    "--seed",
    "9",
    "--fraud-bp",
    "200",
]


def history(folder: Path, *flags: str) -> int:
    return main(["simulate", "history", "--out", str(folder), *FLAGS, *flags])


def test_two_runs_with_one_seed_write_the_same_bytes(tmp_path: Path) -> None:
    assert history(tmp_path / "a") == 0
    assert history(tmp_path / "b") == 0
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == ["authorizations.parquet", "labels.parquet", "truth.parquet", "world.json"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_world_json_counts_what_the_files_hold(tmp_path: Path) -> None:
    history(tmp_path)
    about = json.loads((tmp_path / "world.json").read_bytes())
    auths = pq.read_table(tmp_path / "authorizations.parquet")
    truth = pq.read_table(tmp_path / "truth.parquet")
    labels = pq.read_table(tmp_path / "labels.parquet")
    assert tuple(auths.column_names) == AUTHORIZATION_FIELDS
    assert tuple(labels.column_names) == LABEL_FIELDS
    assert truth.column_names == [
        "authorization_id",
        "is_fraud",
        "kind",
        "campaign_id",
        "known_at",
    ]
    assert auths["authorization_id"] == truth["authorization_id"]
    assert about["authorizations"] == len(auths)
    assert about["frauds"] == sum(truth["is_fraud"].to_pylist())
    assert about["labels"] == len(labels)
    assert labels["known_at"].to_pylist() == sorted(labels["known_at"].to_pylist())
    assert (about["seed"], about["start"]) == (9, date(2026, 10, 1).isoformat())


def test_a_wrong_configuration_ends_with_78_and_names_the_key(tmp_path: Path, capsys) -> None:
    config = tmp_path / "world.yaml"
    config.write_text("card: 5\n")
    assert history(tmp_path / "out", "--config", str(config)) == 78
    assert "card" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_ends_with_1(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert history(tmp_path / "file" / "out") == 1
    assert "cannot write" in capsys.readouterr().err


def test_somebodys_own_history_is_not_written_over(tmp_path: Path, capsys) -> None:
    mine = tmp_path / "authorizations.parquet"
    mine.write_bytes(b"a bank's own")
    assert history(tmp_path) == 78
    assert "that no simulation wrote" in capsys.readouterr().err
    assert mine.read_bytes() == b"a bank's own"
    mine.unlink()
    assert history(tmp_path) == 0
    assert history(tmp_path) == 0  # a world goes over a world
