"""Old runs go, a DAG's newest stay, and nothing that somebody else made is touched."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sluice.application.retention import delete, old_runs
from sluice.errors import Misconfigured

NOW = datetime(2026, 11, 26, tzinfo=UTC)
MONTH = timedelta(days=30)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    for name in (
        *("retrain/20260801T020000", "retrain/20260901T020000", "retrain/20261001T020000"),
        *("retrain/20261120T020000", "nightly/20260801T010000"),
        *("retrain/notes", "retrain/20269999T020000", "retrain/20260801T020000 copy"),
    ):
        (tmp_path / name / "run").mkdir(parents=True)
        (tmp_path / name / "run" / "scores.parquet").write_bytes(b"x" * 1000)
    (tmp_path / "README").write_text("of somebody\n")
    return tmp_path


def names(work: Path) -> set[str]:
    return {str(path.relative_to(work)) for path in work.glob("*/*")}


def test_what_began_long_ago_is_chosen_oldest_first_and_the_newest_stay(work: Path) -> None:
    chosen = old_runs(work, now=NOW, keep=MONTH, keep_runs=2)
    assert [run.folder.name for run in chosen] == ["20260801T020000", "20260901T020000"]
    assert [run.size_bytes for run in chosen] == [1000, 1000]
    everything = old_runs(work, now=NOW, keep=MONTH, keep_runs=0)
    assert [run.folder.parent.name for run in everything].count("nightly") == 1
    assert all(NOW - run.began > MONTH for run in everything)


def test_only_what_was_chosen_is_deleted(work: Path) -> None:
    before = names(work)
    chosen = old_runs(work, now=NOW, keep=MONTH, keep_runs=2)
    delete(chosen, work)
    assert before - names(work) == {"retrain/20260801T020000", "retrain/20260901T020000"}
    assert (work / "README").exists()
    assert old_runs(work, now=NOW, keep=MONTH, keep_runs=2) == []


def test_a_deletion_that_was_interrupted_is_ended_by_the_next(work: Path) -> None:
    run = work / "retrain/20260801T020000"
    run.rename(run.with_name(run.name + ".deleted"))
    other = work / "retrain/mine.deleted"
    other.mkdir()
    delete([], work)
    assert not list(work.glob("retrain/2026*.deleted"))
    assert other.exists()


def test_a_link_out_of_the_folder_is_not_followed(
    work: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "kept").write_text("x")
    (work / "retrain/20260101T000000").symlink_to(elsewhere)
    delete(old_runs(work, now=NOW, keep=MONTH, keep_runs=0), work)
    assert (elsewhere / "kept").exists()


def test_before_the_first_run_there_is_nothing_to_delete(tmp_path: Path) -> None:
    assert old_runs(tmp_path / "runs", now=NOW, keep=MONTH, keep_runs=1) == []
    delete([], tmp_path / "runs")


def test_a_folder_with_nothing_above_it_is_named() -> None:
    with pytest.raises(Misconfigured, match="no such folder") as refused:
        old_runs(Path("/nowhere/runs"), now=NOW, keep=MONTH, keep_runs=1)
    assert refused.value.where == "/nowhere/runs"
