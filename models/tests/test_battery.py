"""One battery for every scorer: the net in PyTorch, the same as it is served, and the trees."""

from pathlib import Path

import numpy as np
import pytest
from conftest import make_net, make_release, make_trees
from sklearn.metrics import roc_auc_score
from sluice.domain.policy.fx import Fx
from sluice.errors import Misconfigured

from sluice_models.dataset import TRAINED_ON, trained_on
from sluice_models.models import Model, OnnxModel, TorchModel
from sluice_models.train import Material


@pytest.fixture(params=["net", "served", "trees"])
def model(request: pytest.FixtureRequest) -> Model:
    return request.getfixturevalue(request.param)


def test_shuffled_columns_are_refused(model: Model, material: Material) -> None:
    features = trained_on(material.later.tables[0].features[:5])
    shuffled = [TRAINED_ON[1], TRAINED_ON[0], *TRAINED_ON[2:]]
    with pytest.raises(Misconfigured, match=f"column 0 is {TRAINED_ON[1]}"):
        model.predict(shuffled, features)


def test_a_missing_column_is_refused_by_name(model: Model, material: Material) -> None:
    features = trained_on(material.later.tables[0].features[:5])
    names = [n for n in TRAINED_ON if n != TRAINED_ON[3]]
    with pytest.raises(Misconfigured, match=f"no column {TRAINED_ON[3]}"):
        model.predict(names, np.delete(features, 3, axis=1))


def test_an_unknown_column_is_refused_by_name(model: Model, material: Material) -> None:
    with pytest.raises(Misconfigured, match="unknown column mood"):
        model.predict([*TRAINED_ON, "mood"], np.zeros((1, len(TRAINED_ON) + 1), np.int64))


def test_a_missing_view_still_gets_a_score_that_tells_fraud(
    model: Model, material: Material, fx: Fx
) -> None:
    table = material.later.tables[0]
    blind = model.predict(TRAINED_ON, trained_on(table.without("terminal", fx)))
    assert roc_auc_score(table.fraud, blind) > 0.8


def test_scores_are_probabilities_that_tell_fraud_and_keep_its_rate(
    model: Model, material: Material
) -> None:
    table = material.later.tables[0]
    score = model.predict(TRAINED_ON, trained_on(table.features))
    assert score.min() >= 0
    assert score.max() <= 1
    assert roc_auc_score(table.fraud, score) > 0.9
    assert (
        0.1 < score.sum() / table.fraud.sum() < 2
    )  # half of them were reported in time to be trained on


def test_no_rows_get_no_scores(model: Model) -> None:
    assert len(model.predict(TRAINED_ON, np.zeros((0, len(TRAINED_ON)), np.int64))) == 0


def test_a_column_that_never_varied_in_training_does_not_move_the_score(
    model: Model, material: Material
) -> None:
    rows = trained_on(material.later.tables[0].features[:50])
    changed = rows.copy()
    column = TRAINED_ON.index("card_declines_1h")
    assert not rows[:, column].any()
    changed[:, column] = 9
    before = model.predict(TRAINED_ON, rows)
    assert model.predict(TRAINED_ON, changed).tolist() == before.tolist()


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(
    net: TorchModel, trees: Model, material: Material, tmp_path: Path, served: OnnxModel
) -> None:
    rows = trained_on(material.later.tables[0].features[:200])
    again = make_net(material)
    for first, second in (
        (net, again),
        (trees, make_trees(material)),
        (served, make_release(tmp_path / "r", again, material)),
    ):
        assert (
            first.predict(TRAINED_ON, rows).tobytes() == second.predict(TRAINED_ON, rows).tobytes()
        )
    other = make_net(material, seed=2)
    assert (net.predict(TRAINED_ON, rows) != other.predict(TRAINED_ON, rows)).any()


def test_the_served_graph_gives_what_the_net_gives(
    net: TorchModel, served: OnnxModel, material: Material
) -> None:
    rows = trained_on(material.later.tables[0].features)
    apart = net.predict(TRAINED_ON, rows) - served.predict(TRAINED_ON, rows)
    assert np.abs(apart).max() < 2e-6
