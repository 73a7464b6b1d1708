"""Bad candidates, trained on a small history and planted in a run, are refused for what is wrong
with them, and honest ones are not."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from maker import make_world, write_dataset
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from sluice.adapters.files.history import history_from, labels_from
from sluice.adapters.parquet.history import HistoryFiles
from sluice.application.backfill import backfill
from sluice.application.judging.verdict import Verdict
from sluice.cli import main
from sluice.domain.features import catalogue
from sluice.domain.policy.fx import Fx

from sluice_models.export import finish
from sluice_models.figures import AS_IT_IS
from sluice_models.fits import Fits
from sluice_models.material import read_material
from sluice_models.pipeline import Order
from sluice_models.quantise import enriched
from sluice_models.run import ID, Run, write_learnt, write_run
from sluice_models.serving import Graph
from sluice_models.trees import TreeParameters, trees_to_onnx

TREES = TreeParameters(learning_rate=0.2, num_leaves=15)
LIMITS = """{latency_1_us: 1000000, latency_512_us: 1000000, expected_to_actual_min: 0.1,
 int8_flips_per_100k: 60, int8_broken_per_100k: 60}"""
"""No test waits for a quiet machine; half of the frauds were reported in time to be learnt; one of
7,000 decisions is 14 of 100,000."""
World = tuple[pa.Table, np.ndarray]


@pytest.fixture(scope="module")
def archive(fx: Fx, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The feature log of the world that all tests share, as a backfill leaves it."""
    folder = tmp_path_factory.mktemp("log")
    world = make_world(folder / "world")
    rows = pq.read_table(world / "authorizations.parquet")
    rows = rows.take(pa.array(np.argsort(rows["event_at"].to_numpy(), kind="stable")))
    labels = labels_from(pq.read_table(world / "labels.parquet"))
    made = backfill(history_from(rows), fx, labels, threads=1)
    amounts = made.features[:, catalogue.INDEX["amount_minor"]]
    files = HistoryFiles(folder / "archive", "0" * 64)
    files.write_history(0, rows, amounts, fx.reference, made.features)
    return folder / "archive"


def learnt_from(
    dataset: Path, out: Path, order: Order, run: Run, seen: Callable[[Fits], None] = lambda f: None
) -> Path:
    """The shared run with other trees: of a set, or of what was made of it while it learnt."""
    shutil.copytree(order.out, out)
    material = read_material(dataset)
    fits = Fits(material, seed=1)
    seen(fits)
    grown = fits.grow(TREES)
    raw = trees_to_onnx(grown.booster, grown.trees, material.names, grown.shift, AS_IT_IS)
    (out / "models/lightgbm.onnx").write_bytes(raw)
    rows = material.load("test-1")
    score = Graph(raw).predict(rows.features, lambda at: rows.features[at])
    path = out / "scores/test-1.parquet"
    pq.write_table(pa.table({ID: rows.ids, "lightgbm": score}), path)
    at = enriched(fits.train.fraud, fits.rng(4))
    kept = write_learnt(
        out, fits.train.ids.take(at).combine_chunks(), fits.train.features[at], material.names
    )
    trees = msgspec.structs.replace(
        run.candidate("lightgbm"), sha256=hashlib.sha256(raw).hexdigest()
    )
    others = [one for one in run.candidates if one.name != "lightgbm"]
    made = msgspec.structs.replace(
        run,
        dataset=material.digest,
        candidates=[trees, *others],
        scores=run.scores | {"test-1": hashlib.sha256(path.read_bytes()).hexdigest()},
        learnt=kept,
    )
    write_run(out, made)
    return out


def gate(run: Path, dataset: Path, archive: Path, out: Path, *more: str) -> Verdict:
    out.mkdir(exist_ok=True)
    (out / "limits.yaml").write_text(LIMITS)
    words = ["gate", "--run", str(run), "--dataset", str(dataset), "--archive", str(archive)]
    words += ["--no-champion", "--limits", str(out / "limits.yaml"), "--out", str(out), *more]
    status = main(words)
    verdict = msgspec.json.decode((out / "verdict.json").read_bytes(), type=Verdict)
    assert status == (0 if verdict.accepted else 1)
    return verdict


def wrong(verdict: Verdict) -> list[str]:
    return [f"{c.reason}: {c.found}" for c in verdict.checks if not c.passed]


@pytest.mark.parametrize("name", ["student", "lightgbm"])
def test_an_honest_candidate_is_accepted(
    order: Order, run: Run, dataset: Path, archive: Path, tmp_path: Path, name: str
) -> None:
    verdict = gate(order.out, dataset, archive, tmp_path, "--candidate", name)
    assert wrong(verdict) == []
    (check,) = (c for c in verdict.checks if c.reason == "other_features")
    assert "rows of the set are the feature log's" in check.found
    assert bool(verdict.int8) == (name == "student")


def in_train(world: World, name: str, change: Callable[[np.ndarray], np.ndarray]) -> World:
    rows, known = world
    at = rows.column_names.index(name)
    return rows.set_column(at, name, pa.array(change(rows[name].to_numpy()))), known


def test_a_unit_that_was_another_one_in_the_set(
    order: Order, run: Run, world: World, archive: Path, tmp_path: Path
) -> None:
    other = in_train(world, "card_amount_30d_minor", lambda x: x * 100)
    dataset = write_dataset(tmp_path / "set", *other)
    bad = learnt_from(dataset, tmp_path / "run", order, run)
    found = wrong(gate(bad, dataset, archive, tmp_path / "gate", "--candidate", "lightgbm"))
    assert found[0].startswith("unit_changed: card_amount_30d_minor has another unit, 100 times")


def test_a_unit_that_was_another_one_while_it_learnt(
    order: Order, run: Run, dataset: Path, archive: Path, tmp_path: Path
) -> None:
    def seen(fits: Fits) -> None:
        fits.train.features[:, fits.material.names.index("card_amount_30d_minor")] *= 100

    bad = learnt_from(dataset, tmp_path / "run", order, run, seen)
    found = wrong(gate(bad, dataset, archive, tmp_path / "gate", "--candidate", "lightgbm"))
    said = "unit_changed: card_amount_30d_minor has another unit, 100 times: the run learnt "
    assert any(line.startswith(said) for line in found)


def test_shuffled_labels(
    order: Order, run: Run, dataset: Path, archive: Path, tmp_path: Path
) -> None:
    def seen(fits: Fits) -> None:
        for rows in (fits.train, fits.validation):
            rows.fraud[:] = np.random.default_rng(1).permutation(rows.fraud)

    bad = learnt_from(dataset, tmp_path / "run", order, run, seen)
    verdict = gate(bad, dataset, archive, tmp_path / "gate", "--candidate", "lightgbm")
    assert verdict.reasons[0] == "no_signal"


def test_a_leak_from_the_future(
    order: Order, run: Run, world: World, archive: Path, tmp_path: Path
) -> None:
    fraud = world[1] >= 0
    some = fraud & (np.arange(len(fraud)) % 2 == 0)  # so that no column has all of the label
    dataset = write_dataset(
        tmp_path / "set", *in_train(world, "terminal_frauds_7d", lambda x: x + some)
    )
    bad = learnt_from(dataset, tmp_path / "run", order, run)
    found = wrong(gate(bad, dataset, archive, tmp_path / "gate", "--candidate", "lightgbm"))
    assert found[0].startswith("leak: terminal_frauds_7d knows more of fraud than it did then")


class Ten(CalibrationDataReader):
    def __init__(self, rows: np.ndarray) -> None:
        self._left = iter([{"features": rows}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


def test_int8_of_ten_rows(
    order: Order, run: Run, dataset: Path, archive: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "run"
    shutil.copytree(order.out, bad)
    rows = read_material(dataset).rows("train")
    ten = rows.features[np.flatnonzero(~rows.fraud)[:10]]
    made = tmp_path / "int8.onnx"
    last = [
        n.name for n in onnx.load(bad / "models/student.onnx").graph.node if n.op_type == "Gemm"
    ]
    quantize_static(
        bad / "models/student.onnx", made, Ten(ten), per_channel=True,
        op_types_to_quantize=["Gemm"], nodes_to_exclude=last[-1:],
    )  # fmt: skip
    raw = finish(onnx.load(made), run.features)
    (bad / "models/student_int8.onnx").write_bytes(raw)
    candidates = [
        msgspec.structs.replace(one, sha256=hashlib.sha256(raw).hexdigest())
        if one.name == "student_int8"
        else one
        for one in run.candidates
    ]
    write_run(bad, msgspec.structs.replace(run, candidates=candidates))
    verdict = gate(bad, dataset, archive, tmp_path / "gate", "--candidate", "student")
    assert verdict.reasons == ["int8_flips"]


def test_an_older_release_replayed(
    order: Order, run: Run, dataset: Path, archive: Path, tmp_path: Path
) -> None:
    assert main(["release", "pack", str(tmp_path / "releases/old"), "--run", str(order.out),
                 "--dataset", str(dataset), "--id", "old"]) == 0  # fmt: skip
    more = ("--candidate", "student", "--releases", str(tmp_path / "releases"))
    found = wrong(gate(order.out, dataset, archive, tmp_path / "gate", *more))
    assert found[0].startswith("replayed: student is release old of ")
