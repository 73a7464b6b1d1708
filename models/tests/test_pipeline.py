"""A run as a whole: its folder, its search, its resumption, its tracking, several processes."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from mlflow import MlflowClient
from sluice.cli import main
from sluice.errors import Corrupt, Misconfigured, Unavailable

from sluice_models.figures import calibrate, probability
from sluice_models.fits import Fits
from sluice_models.pipeline import Order, train
from sluice_models.run import Run, read_model, read_run, read_scores
from sluice_models.search import Box
from sluice_models.tracking import Tracking


def test_a_run_says_what_it_was_made_from(run: Run, order: Order, fits: Fits) -> None:
    assert read_run(order.out) == run
    assert run.dataset == fits.material.digest
    assert run.frauds == int(fits.train.fraud.sum()) > 100
    assert run.features == list(fits.material.names)
    assert "card_frauds_reported" not in run.features  # counted since the log began
    assert [one.name for one in run.candidates] == [
        "lightgbm",
        "teacher",
        "student",
        "student_int8",
    ]
    assert len(run.reference_row) == len(run.features)
    student = run.candidate("student")  # of so few rows all are learnt from
    assert (student.rows, student.prior_correction_milli) == (run.rows, 0)
    with pytest.raises(Misconfigured, match="no candidate oracle"):
        run.candidate("oracle")


def test_a_run_keeps_rows_as_they_were_learnt(run: Run, order: Order, fits: Fits) -> None:
    path = order.out / "learnt.parquet"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == run.learnt
    kept = pq.read_table(path)
    assert kept.column_names == ["authorization_id", *run.features]
    place = {one: i for i, one in enumerate(fits.train.ids.to_pylist())}
    at = [place[one] for one in kept["authorization_id"].to_pylist()]
    found = np.stack([kept[name].to_numpy() for name in run.features], axis=1)
    assert found.dtype == np.float32
    assert (found == fits.train.features[at]).all()
    assert fits.train.fraud[at].sum() == min(fits.train.fraud.sum(), len(at) // 4)


def test_the_same_order_again_only_reads(run: Run, order: Order) -> None:
    before = (order.out / "run.json").stat().st_mtime_ns
    assert train(order) == run
    assert (order.out / "run.json").stat().st_mtime_ns == before


def test_a_folder_of_another_order_is_left_alone(run: Run, order: Order, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="another order: seed, trials differ"):
        train(replace(order, seed=2, trials=7))
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(Misconfigured, match="holds something else"):
        train(replace(order, out=tmp_path))
    assert [one.name for one in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(Misconfigured, match="no finished run"):
        train(replace(order, out=tmp_path / "new", like=tmp_path))


def test_a_graph_or_score_that_was_written_over_is_refused(
    run: Run, order: Order, tmp_path: Path
) -> None:
    student = run.candidate("student")
    (tmp_path / "models").mkdir()
    (tmp_path / student.model).write_bytes(b"another")
    with pytest.raises(Corrupt, match="the run says"):
        read_model(tmp_path, student)
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores/test-1.parquet").write_bytes(b"another")
    with pytest.raises(Corrupt, match="the run says"):
        read_scores(tmp_path, run, "test-1")
    with pytest.raises(Misconfigured, match="no scores of test-9"):
        read_scores(order.out, run, "test-9")
    with pytest.raises(Misconfigured, match="no finished run"):
        read_run(tmp_path)


def test_the_verb_trains_and_says_what_is_missing(
    run: Run, order: Order, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", "--dataset", str(order.dataset), "--out", str(order.out)]
    argv += ["--time-box", "0s", "--trials", "1", "--tracking", "none"]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()[:4]] == [o.name for o in run.candidates]
    assert main(["train", "--dataset", str(tmp_path), "--out", str(tmp_path / "run")]) == 1
    assert "no training set" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*argv, "--time-box", "soon"]) == 64


def box(folder: Path, trials: int, seconds: float = 1e9) -> Box:
    return Box(folder / "search.db", 1, trials, seconds, lambda kind, n, of, left: None)


def ask(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", 0, 10)}


def test_a_search_that_was_ended_goes_on_with_the_draws_that_it_would_have_had(
    tmp_path: Path,
) -> None:
    seen: list[float] = []

    def worth(given, report):
        seen.append(given["x"])
        return -((given["x"] - 3) ** 2)

    for folder in ("whole", "twice"):
        (tmp_path / folder).mkdir()
    best = box(tmp_path / "whole", 9).best("student", [{"x": 9.0}], ask, worth)
    whole, seen[:] = list(seen), []
    box(tmp_path / "twice", 4).best("student", [{"x": 9.0}], ask, worth)
    again = box(tmp_path / "twice", 9)
    assert again.best("student", [{"x": 9.0}], ask, worth) == best
    assert seen == whole
    assert whole[0] == 9.0
    assert best["x"] == min(whole, key=lambda x: (x - 3) ** 2)
    assert (again.tally.finished, again.tally.ended_by) == (9, "trials")


def test_a_search_of_no_time_tries_the_defaults_alone(tmp_path: Path) -> None:
    mine = box(tmp_path, 50, seconds=0)
    found = mine.best("teacher", [{"x": 1.0}, {"x": 2.0}], ask, lambda given, report: given["x"])
    assert found == {"x": 2.0}
    assert (mine.tally.finished, mine.tally.ended_by) == (2, "time_box")


def test_a_search_says_how_much_of_its_time_is_left(tmp_path: Path) -> None:
    told: list[tuple[int, float]] = []
    mine = replace(
        box(tmp_path, 2, seconds=1_000), say=lambda kind, n, of, left: told.append((n, left))
    )
    for kind in ("lightgbm", "teacher", "student"):
        mine.best(kind, [{"x": 1.0}], ask, lambda given, report: given["x"])
    assert [n for n, _ in told] == [0, 1] * 3
    left = [seconds for _, seconds in told]
    assert left == sorted(left, reverse=True)
    assert 900 < left[-1] < left[0] <= 1_000


def test_a_hopeless_trial_is_pruned(tmp_path: Path) -> None:
    def worth(given, report):
        for step in range(1, 5):
            report(step, given["x"])
        return given["x"]

    mine = box(tmp_path, 20)
    mine.best("lightgbm", [{"x": 9.0}], ask, worth)
    assert mine.tally.pruned > 3
    assert mine.tally.finished + mine.tally.pruned == 20


def test_calibration_undoes_what_was_bent_and_leaves_alone_what_is_too_little(fits: Fits) -> None:
    rows = fits.train
    n = len(rows.fraud)
    rng = np.random.default_rng(1)
    true = rng.normal(-3, 1.5, n)
    told = msgspec_rows(rows, fraud=rng.random(n) < 1 / (1 + np.exp(-true)))
    found = calibrate(2 * true + 1, told)
    assert found.slope == pytest.approx(0.5, abs=0.03)
    assert found.offset == pytest.approx(-0.5, abs=0.1)
    few = calibrate(true, msgspec_rows(rows, fraud=np.arange(n) < 9))
    assert (few.slope, few.offset, few.frauds) == (1.0, 0.0, 9)
    turned = calibrate(-true, told)
    assert turned.slope == 1.0
    assert calibrate(true, None).rows == 0


def test_few_frauds_of_a_calibration_split_set_how_many_are_expected(fits: Fits) -> None:
    """Trees of 182 frauds expected half as many as there were, and 39 were too few to say so."""
    rows = fits.train
    n = len(rows.fraud)
    rng = np.random.default_rng(2)
    logit = rng.normal(-8, 1.5, n)
    told = msgspec_rows(rows, fraud=rng.permutation(np.arange(n) < 30))
    few = calibrate(logit, told)
    assert (few.slope, few.frauds) == (1.0, 30)
    at = told.labelled
    expected = told.weight[at] @ probability(logit[at] + few.offset)
    assert expected == pytest.approx((told.weight * told.fraud)[at].sum(), rel=1e-6)


@pytest.mark.parametrize(("mean", "few"), [(-11.5, True), (-6.5, False)], ids=["few", "many"])
def test_frauds_that_are_not_known_yet_are_not_taken_for_genuine_ones(
    fits: Fits, mean: float, few: bool
) -> None:
    """Where a quarter was still unknown, scores promised .85 of the frauds that there were."""
    n = 200_000
    rng = np.random.default_rng(3)
    logit = rng.normal(mean, 2.5, n)
    true = rng.random(n) < probability(logit)
    share = np.where(np.arange(n) % 2, 0.9, 0.55)
    known = true & (rng.random(n) < share)
    assert (known.sum() < 50) == few
    rows = replace(
        fits.train,
        fraud=known,
        labelled=np.ones(n, np.bool_),
        weight=np.where(known, 1 / share, 1.0),
        share=share,
    )
    found = calibrate(logit + 0.7, rows)
    promised = probability(found.slope * (logit + 0.7) + found.offset).sum()
    assert promised == pytest.approx((1 / share)[known].sum(), rel=1e-3)
    if not few:
        assert found.slope == pytest.approx(1, abs=0.05)


def msgspec_rows(rows, **given):
    return replace(rows, **given)


def test_mlflow_has_the_runs_parameters_curves_figures_and_files(
    run: Run, order: Order, tracking: str
) -> None:
    client = MlflowClient(tracking_uri=tracking)
    found = client.get_experiment_by_name("sluice")
    assert found is not None
    made = {one.info.run_name: one for one in client.search_runs([found.experiment_id])}
    whole = made["first"]
    assert whole.data.params["dataset"] == run.dataset
    curve = client.get_metric_history(whole.info.run_id, "student_loss")
    assert [one.step for one in curve] == list(range(1, 13))
    student = made["student"]
    assert student.data.tags["mlflow.parentRunId"] == whole.info.run_id
    assert student.data.metrics["validation_average_precision"] == pytest.approx(
        run.candidate("student").validation["average_precision"]
    )
    assert student.data.params["sha256"] == run.candidate("student").sha256
    assert [one.path for one in client.list_artifacts(student.info.run_id)] == ["student.onnx"]
    assert [one.path for one in client.list_artifacts(whole.info.run_id)] == ["run.json"]


def test_an_alias_names_one_release_and_moves(run: Run, tracking: str, tmp_path: Path) -> None:
    store = Tracking(tracking)
    assert store.under("champion") is None
    first = store.register("mlp-1", tmp_path, "champion")
    second = store.register("mlp-2", tmp_path, "challenger")
    assert (first, second) == (1, 2)
    assert (store.under("champion"), store.under("challenger")) == ("mlp-1", "mlp-2")
    assert store.register("mlp-2", tmp_path, "champion") == 2
    assert store.under("champion") == "mlp-2"


def test_the_verb_registers_a_release_by_its_id(
    tracking: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ROOT / "models/releases/current"
    assert main(["register", str(folder), "--alias", "challenger", "--tracking", tracking]) == 0
    assert "and its challenger" in capsys.readouterr().out
    assert Tracking(tracking).under("challenger") == folder.resolve().name
    assert main(["register", str(folder), "--alias", "boss"]) == 64


def test_a_store_that_cannot_be_reached_is_told_before_anything_is_trained(
    order: Order, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    wrong = replace(order, out=tmp_path / "run", tracking=f"sqlite:///{tmp_path}/file/mlflow.db")
    with pytest.raises(Unavailable, match="MLflow"):
        train(wrong)
    assert not (tmp_path / "run" / "run.json").exists()
    assert not list((tmp_path / "run").glob("checkpoints/*.pt"))


def test_two_processes_of_torchrun_train_one_run(order: Order, tmp_path: Path) -> None:
    """About half a minute: each loads PyTorch. A GPU is not needed: they talk by gloo."""
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
    argv += ["--nproc-per-node", "2", str(Path(sys.executable).parent / "sluice"), "train"]
    argv += ["--tracking", "none"]
    argv += ["--dataset", str(order.dataset), "--out", str(tmp_path / "run")]
    argv += ["--time-box", "0s", "--trials", "1"]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    made = read_run(tmp_path / "run")
    assert made.candidate("student").validation["auc"] > 0.8
    assert ran.stdout.count("run.json") == 1
    about = json.loads((tmp_path / "run/checkpoints/order.json").read_text())
    assert about["seed"] == 1
    assert msgspec.json.encode(made)
