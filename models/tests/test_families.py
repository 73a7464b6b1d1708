"""Another family is one class and one entry: here it is, and it goes all the way to a score."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import KEY, PLAN, ROOT
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression
from sluice.adapters.onnx import load, read_trust, verify
from sluice.domain.features import catalogue
from sluice.domain.policy.fx import Fx
from sluice.errors import Misconfigured

from sluice_models.dataset import TRAINED_ON, trained_on
from sluice_models.export import finish as finished
from sluice_models.families import FAMILIES, Family
from sluice_models.models import check_columns
from sluice_models.train import Material, TrainingPlan, compare, finish, gather, install, tune


def squashed(features: np.ndarray) -> np.ndarray:
    return np.sign(features) * np.log1p(np.abs(features))


class Line:
    def __init__(self, names: Any, weights: np.ndarray, bias: float) -> None:
        self.names = tuple(names)
        self.weights = weights
        self.bias = bias

    def predict(self, names: Any, features: np.ndarray) -> np.ndarray:
        check_columns(self.names, names)
        logit = squashed(features.astype(np.float32)) @ self.weights + np.float32(self.bias)
        return 1 / (1 + np.exp(-logit.astype(np.float64)))


@dataclass(frozen=True)
class Logistic(Family):
    """All that another family takes."""

    name = "logistic"
    short = "logistic"
    kind = "Logistic regression over signed logarithms"
    negatives = 20

    seeds: tuple[int, ...] = (1,)

    def fit(self, names, features, label, shift, *, seed):
        solver = LogisticRegression(C=0.01, max_iter=2000, random_state=seed)
        solver.fit(squashed(features), label)
        return Line(names, solver.coef_[0].astype(np.float32), solver.intercept_[0] - shift)

    def export(self, model):
        tensors = {
            "one": np.ones(1, np.float32),
            "w": model.weights[:, None],
            "b": np.array([model.bias], np.float32),
        }
        steps = [
            ("Abs", ["features"], "size"), ("Add", ["size", "one"], "more"),
            ("Log", ["more"], "log"), ("Sign", ["features"], "sign"), ("Mul", ["log", "sign"], "x"),
            ("MatMul", ["x", "w"], "sum"), ("Add", ["sum", "b"], "logit"),
            ("Sigmoid", ["logit"], "probability"),
        ]  # fmt: skip
        graph = helper.make_graph(
            [helper.make_node(kind, inputs, [output]) for kind, inputs, output in steps],
            "logistic",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", len(model.names)])],
            [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", 1])],
            [numpy_helper.from_array(value, name) for name, value in tensors.items()],
        )
        opsets = [helper.make_opsetid("", 18)]
        return finished(helper.make_model(graph, opset_imports=opsets, ir_version=9), model.names)


WITH_LOGISTIC: TrainingPlan = replace(
    PLAN, families=(*PLAN.families, Logistic()), released="logistic"
)


@pytest.fixture(scope="module")
def gathered(fx: Fx, tmp_path_factory: pytest.TempPathFactory) -> Material:
    return gather(WITH_LOGISTIC, fx, tmp_path_factory.mktemp("worlds"))


def test_a_family_in_the_table_is_fitted_exported_packed_and_scores(
    gathered: Material, fx: Fx, tmp_path: Path
) -> None:
    policy_dir = shutil.copytree(ROOT / "policies/default", tmp_path / "default")
    model, findings = compare(WITH_LOGISTIC, fx, gathered)
    tune(model, policy_dir, gathered, findings)
    root, trust = tmp_path / "releases", tmp_path / "trust"
    trust.mkdir()
    name = finish(WITH_LOGISTIC, gathered, model, findings, fx, root, KEY)
    install(root, name, trust, KEY)

    assert name.startswith("logistic-")
    manifest, files, _ = verify(root / "current", read_trust(trust))
    assert manifest.provenance.kind == Logistic.kind
    assert manifest.opset == 18
    assert len(onnx.load_from_string(files["model.onnx"]).graph.node) == 8
    card = files["card.md"].decode()
    assert "(1): logistic | net | LightGBM |" in card
    assert "1:20 (logistic), 1:30 (net), 1:10 (LightGBM)" in card
    assert "ties LightGBM" not in card  # a limit of the net's
    scorer = load(root / "current", read_trust(trust), catalogue.FEATURES, fx.reference)
    features = gathered.later.tables[0].features[:100]
    expected = model.predict(TRAINED_ON, trained_on(features))
    assert np.abs(scorer.score(features).ppm - 1e6 * expected).max() < 5


def test_a_family_put_last_leaves_the_samples_of_the_others_as_they_are(
    gathered: Material, material: Material
) -> None:
    for family in PLAN.families:
        ours, theirs = material.samples[family.name], gathered.samples[family.name]
        assert (ours.features[0] == theirs.features[0]).all()
        assert (ours.labels[0] == theirs.labels[0]).all()


def test_what_ships_is_of_the_table() -> None:
    assert TrainingPlan().family is FAMILIES[0]
    with pytest.raises(Misconfigured, match=r"no family oracle.* one of mlp, lightgbm"):
        _ = replace(PLAN, released="oracle").family


def test_a_yardstick_says_that_it_cannot_be_released(trees: Any) -> None:
    with pytest.raises(Misconfigured, match="LightGBM has no export"):
        FAMILIES[1].export(trees)
