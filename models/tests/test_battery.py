"""One battery for every candidate, as its graph: what it reads, what it says, how it fails."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sluice.adapters.onnx.scorer import graph_of
from sluice.domain.release import FEATURES_KEY

from sluice_models.export import blended, calibrated, to_onnx
from sluice_models.figures import AS_IT_IS, probability
from sluice_models.fits import Fits, Learnt, Taught
from sluice_models.fitting import Batches, Epoch, logits
from sluice_models.material import PAST, STEP, Material
from sluice_models.nets import TOGETHER, Inputs
from sluice_models.pipeline import Order, train
from sluice_models.quantise import SAMPLE_FRAUDS, enriched, rounded
from sluice_models.run import CANDIDATES, Calibration, Run, read_model, read_scores
from sluice_models.search import NetParameters
from sluice_models.serving import Graph, timed
from sluice_models.trees import TreeParameters, trees_to_onnx


@pytest.fixture(params=CANDIDATES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_graph_names_its_columns_in_order(order: Order, run: Run, name: str) -> None:
    candidate = run.candidate(name)
    raw = read_model(order.out, candidate)
    model = onnx.load_from_string(raw)
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told == {FEATURES_KEY: ",".join(run.features)}
    assert b"/" + b"site-packages" not in raw
    assert candidate.releasable == (name != "teacher")
    if candidate.releasable:
        assert graph_of(raw).features == run.features
        assert [one.dim_param or one.dim_value for one in _shape(model)] == ["n", len(run.features)]


def _shape(model: onnx.ModelProto) -> list[onnx.TensorShapeProto.Dimension]:
    shape = model.graph.input[0].type.tensor_type.shape.dim
    shape[0].dim_param = "n"
    return list(shape)


def test_scores_tell_fraud_and_keep_its_rate(
    order: Order, run: Run, material: Material, name: str
) -> None:
    rows = material.rows("test-1")
    score = read_scores(order.out, run, "test-1")[name].to_numpy()
    assert score.min() >= 0
    assert score.max() <= 1
    assert roc_auc_score(rows.fraud, score) > 0.9
    assert 0.1 < score.sum() / rows.fraud.sum() < 2  # half were reported in time to be trained on


def test_a_missing_view_still_gets_a_score_that_tells_fraud(
    graphs: dict[str, Graph], fits: Fits, name: str
) -> None:
    rows = fits.material.rows("test-1")
    blind = fits.missing.without(rows.features, "terminal")
    assert roc_auc_score(rows.fraud, graphs[name].predict(blind, fits.past(rows))) > 0.8


def test_scores_are_of_every_row_in_the_splits_order(
    order: Order, run: Run, graphs: dict[str, Graph], fits: Fits, name: str
) -> None:
    assert list(run.scores) == fits.material.splits
    rows = fits.material.rows("calibration")
    table = read_scores(order.out, run, "calibration")
    assert table.column_names == ["authorization_id", *CANDIDATES]
    assert table["authorization_id"].to_pylist() == rows.ids.to_pylist()
    some = np.arange(len(rows.fraud))[5:12]
    alone = graphs[name].predict(
        rows.features[some], lambda at: fits.material.timeline.past(rows.place[some[at]])
    )
    assert alone.tolist() == table[name].to_numpy()[some].tolist()


def test_no_rows_get_no_scores(graphs: dict[str, Graph], run: Run, name: str) -> None:
    nothing = np.zeros((0, len(run.features)), np.float32)
    past = np.zeros((0, PAST + 1, len(STEP)), np.float32)
    assert len(graphs[name].predict(nothing, lambda at: past)) == 0


def test_a_column_that_never_varied_does_not_move_the_score(
    graphs: dict[str, Graph], fits: Fits, name: str
) -> None:
    rows = fits.material.rows("test-1")
    features = rows.features[:50].copy()
    column = fits.material.names.index("card_declines_1h")
    assert not fits.train.features[:, column].any()
    before = graphs[name].predict(features, fits.past(rows))
    features[:, column] = 9
    assert graphs[name].predict(features, fits.past(rows)).tolist() == before.tolist()


def test_timed_at_each_batch(run: Run, name: str) -> None:
    timings = run.candidate(name).timings
    assert [one.batch for one in timings] == [1, 32, 512]
    for one in timings:
        assert one.rows_per_s == pytest.approx(one.batch / one.median_us * 1e6, rel=0.01)


def test_candidates_take_turns_when_they_are_timed(graphs: dict[str, Graph], fits: Fits) -> None:
    called: list[str] = []

    class Watched(Graph):
        def __init__(self, name: str, graph: Graph) -> None:
            self.name, self.inputs, self._session = name, graph.inputs, graph._session

        def call(self, given):
            called.append(self.name)
            return super().call(given)

    two = {name: Watched(name, graphs[name]) for name in ("lightgbm", "student")}
    rows = fits.validation
    timed(two, rows.features, fits.past(rows))
    assert called == ["lightgbm", "student"] * (len(called) // 2)


def test_the_students_graph_gives_what_the_net_gives(fits: Fits) -> None:
    made = fits.study(NetParameters(epochs=1), None)
    rows = fits.validation
    made.net.shift.fill_(1.5)
    made.net.slope.fill_(0.9)
    made.net.offset.fill_(-0.2)
    raw = to_onnx(made.net, fits.material.names)
    graph = Graph(raw)
    nodes = [node.op_type for node in onnx.load_from_string(raw).graph.node]
    assert nodes[-2:] == ["Gemm", "Sigmoid"], "what leads to the world is in the last layer"
    expected = probability(logits(made.net, Batches(rows.features)))
    assert np.abs(graph.predict(rows.features, fits.past(rows)) - expected).max() < 2e-6


@pytest.mark.parametrize("kind", ["gru", "transformer"])
def test_a_teachers_graph_gives_what_the_net_gives(fits: Fits, kind: str) -> None:
    made = fits.teach(kind, NetParameters(epochs=1), rows_max=2000)
    made.net.shift.fill_(1.5)
    rows = fits.validation
    graph = Graph(to_onnx(made.net, fits.material.names, (PAST + 1, len(STEP))))
    assert graph.inputs == ["features", "past"]
    expected = probability(logits(made.net, Batches(rows.features, fits.past(rows))))
    assert np.abs(graph.predict(rows.features, fits.past(rows)) - expected).max() < 2e-6


def splits_of(node: dict) -> list[tuple[int, float]]:
    """Column and threshold of a node and of all below it."""
    if "left_child" not in node:
        return []
    below = splits_of(node["left_child"]) + splits_of(node["right_child"])
    return [(node["split_feature"], node["threshold"]), *below]


def test_the_trees_graph_goes_the_way_that_the_trees_go(fits: Fits) -> None:
    learnt = replace(fits.grow(TreeParameters()), shift=1.5)
    found = Calibration(slope=1.1, offset=0.3, rows=0, frauds=0)
    raw = trees_to_onnx(learnt.booster, learnt.trees, fits.material.names, learnt.shift, found)
    rng = np.random.default_rng(1)
    # Values at a threshold of some tree, and the floats beside it: where rounding would show.
    splits = [
        split
        for tree in learnt.booster.dump_model(num_iteration=learnt.trees)["tree_info"]
        for split in splits_of(tree["tree_structure"])
    ][:2_000]
    rows = fits.train.features[rng.integers(0, len(fits.train.features), len(splits))].copy()
    columns = [column for column, _ in splits]
    near = np.array([threshold for _, threshold in splits]).astype(np.float32)
    beside = [near, np.nextafter(near, np.inf), np.nextafter(near, -np.inf)]
    for values in beside:
        rows[np.arange(len(rows)), columns] = values
        expected = probability(1.1 * learnt.logits(rows) + 0.3)
        given = Graph(raw).predict(rows, lambda at: np.zeros((len(at), 1, 1), np.float32))
        assert np.abs(given - expected).max() < 1e-5


def test_a_blend_is_the_mean_of_two_logits(fits: Fits) -> None:
    learnt: Learnt = replace(fits.grow(TreeParameters(num_leaves=7)), shift=1.5)
    made: Taught = fits.teach("gru", NetParameters(epochs=1), rows_max=2000)
    made.net.shift.fill_(1.5)
    names = fits.material.names
    trees = trees_to_onnx(learnt.booster, learnt.trees, names, learnt.shift, AS_IT_IS)
    net = to_onnx(made.net, names, (PAST + 1, len(STEP)))
    found = Calibration(slope=1.2, offset=-0.1, rows=0, frauds=0)
    rows = fits.validation
    both = learnt.logits(rows.features)
    both += logits(made.net, Batches(rows.features, fits.past(rows)))
    given = Graph(blended(trees, net, names, found)).predict(rows.features, fits.past(rows))
    assert np.abs(given - probability(1.2 * both / 2 - 0.1)).max() < 2e-6


def test_a_calibration_is_in_the_graph_and_keeps_the_order(run: Run, order: Order) -> None:
    student = run.candidate("student")
    assert student.calibration.rows > 1000
    assert student.calibration == run.candidate("student_int8").calibration
    assert calibrated.__doc__


def test_a_student_runs_as_eight_steps(order: Order, run: Run, tmp_path: Path) -> None:
    # At one row each costs half a microsecond or more, whatever it does.
    assert _as_run(read_model(order.out, run.candidate("student")), tmp_path) == [
        "Gather", "Sub", "Mul", "Clip", "Reshape",
        "FusedGemm", "FusedGemm", "FusedGemm",
    ]  # fmt: skip


def _as_run(raw: bytes, folder: Path) -> list[str]:
    """Steps that the runtime makes of a graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "as-run.onnx")
    ort.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "as-run.onnx").graph.node]


def test_int8_is_the_first_layer_as_one_integer_product(
    order: Order, run: Run, tmp_path: Path
) -> None:
    raw = read_model(order.out, run.candidate("student_int8"))
    model = onnx.load_from_string(raw)
    made_by = {output: node for node in model.graph.node for output in node.output}
    layers = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul")]
    sources = [made_by[node.input[0]].op_type == "DequantizeLinear" for node in layers]
    assert sources == [True, False, False]  # the second layer and the last stay as they are
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert weights["first_weight_scale"].shape == (64,)  # one a channel
    assert weights["first_weight"].dtype == np.int8
    assert run.candidate("student_int8").bytes < run.candidate("student").bytes / 2
    ran = _as_run(raw, tmp_path)
    assert "QGemm" in ran  # otherwise it is slower than in float
    assert "DequantizeLinear" not in ran


def test_int8_scores_as_its_student_does(order: Order, run: Run, material: Material) -> None:
    scores = read_scores(order.out, run, "test-1")
    eight, whole = (scores[name].to_numpy() for name in ("student_int8", "student"))
    assert len(np.unique(eight)) > 1000
    apart = np.abs(np.log(eight / (1 - eight)) - np.log(whole / (1 - whole)))
    assert np.quantile(apart, 0.99) < 0.02
    limit = np.quantile(whole, 0.98)
    assert ((eight > limit) != (whole > limit)).mean() < 0.001


def test_sizes_are_lines_between_the_edges_and_go_into_the_first_layer() -> None:
    rng = np.random.default_rng(2)
    features = np.exp(rng.normal(size=(4_000, 6))).astype(np.float32)
    features[:, 4] = 7  # never varies
    fraud = rng.random(4_000) < 0.2
    inputs = Inputs.of(features, fraud, np.array([0, 2, 4]), bins=8)
    given = torch.from_numpy(features)
    found = inputs(given).numpy()
    assert found.shape == (4_000, inputs.width) == (4_000, 3 * (2 + 8))
    assert (found[:, 6:].min(), found[:, 6:].max()) == (0, 1)
    assert np.ptp(found[:, [2, 5]]) == 0
    assert np.ptp(found[:, 6:].reshape(-1, 8, 3)[..., 2]) == 0
    raw, column = found[:, 0], features[:, 0].astype(np.float64)
    within = (column > np.quantile(column, 0.2)) & (column < np.quantile(column, 0.8))
    standardised = (column - column.mean()) / column.std()
    assert np.abs(raw - standardised)[within].max() < 1e-4  # a line is a line in every bin
    logarithm = np.log1p(column)
    apart = found[:, 3] - (logarithm - logarithm.mean()) / logarithm.std()
    assert np.abs(apart)[within].max() < 0.05
    layer = torch.nn.Linear(inputs.width + 5, 16)
    behind = torch.from_numpy(rng.normal(size=(4_000, 5)).astype(np.float32))
    whole = layer(torch.cat([inputs(given), behind], dim=1))
    bins, after = inputs.folded(layer)
    folded = after(torch.cat([bins(given), behind], dim=1))
    assert folded.shape == whole.shape
    assert (folded - whole).abs().max() < 1e-4


def test_a_served_net_has_no_bins_that_hold_one_value() -> None:
    rng = np.random.default_rng(3)
    features = rng.lognormal(size=(4_000, 5)).astype(np.float32)
    features[:, 1] = rng.integers(0, 3, 4_000)  # a count of few values
    features[:, 2] = 7  # never varies
    features[:, 3] = rng.random(4_000) < 0.3
    fraud = rng.random(4_000) < 0.2
    inputs = Inputs.of(features, fraud, np.array([0, 1, 2, 3]), bins=16)
    live = int((inputs.bins.per_width > 0).sum())
    bins, place = inputs.bins.packed()
    assert bins.per_width.shape == (TOGETHER, 2 + 1 + 1)  # 16 bins, 2 of the count, 1 of the flag
    assert bins.columns.tolist() == [0, 0, 1, 3]
    kept = bins.per_width.flatten() > 0
    assert kept.sum() == live == len(set(place[kept].tolist()))
    given = torch.from_numpy(features)
    found, whole = bins(given), inputs.bins(given)
    assert (found[:, kept] == whole[:, place[kept]]).all()
    assert not found[:, ~kept].any()
    assert torch.isclose(whole.sum(), found.sum())
    nothing = Inputs.of(features, fraud, np.array([2]), bins=16)
    after = torch.nn.Linear(nothing.width, 3)
    none, layer = nothing.folded(after)
    assert torch.allclose(layer(none(given)), after(nothing(given)))


def test_weights_are_rounded_for_the_sample() -> None:
    rng = np.random.default_rng(1)
    # Inputs that rise together, as the bins of a column do, and a layer over them.
    inputs = np.clip(rng.random((2_000, 8))[:, :, None] * 16 - np.arange(16), 0, 1)
    inputs = inputs.reshape(2_000, 128)
    weight = rng.normal(size=(128, 4))
    scale = np.abs(weight).max(axis=0) / 127
    found = rounded(weight, scale, inputs)
    assert (found.dtype, found.min() >= -127, found.max() <= 127) == (np.int8, True, True)
    nearest = np.clip(np.rint(weight / scale), -127, 127)

    def off(of: np.ndarray) -> float:
        return float(((inputs @ (weight - of * scale)) ** 2).mean())

    assert off(found) < off(nearest) / 4
    # Where no input is ever seen, it is the nearest.
    assert (rounded(weight, scale, np.zeros((10, 128))) == nearest).all()


def test_the_sample_that_weights_are_rounded_for_is_enriched_with_frauds() -> None:
    fraud = np.arange(100_000) % 50 == 0
    rows = enriched(fraud, np.random.default_rng(1))
    assert len(rows) == len(np.unique(rows)) == 4096
    assert fraud[rows].mean() == SAMPLE_FRAUDS
    few = enriched(np.arange(100_000) < 10, np.random.default_rng(1))
    assert (few < 10).sum() == 10


def test_the_same_order_gives_the_same_bits_and_another_seed_others(
    run: Run, order: Order, tmp_path: Path
) -> None:
    again = train(replace(order, out=tmp_path / "again", like=order.out, tracking=""))
    assert [one.sha256 for one in again.candidates] == [one.sha256 for one in run.candidates]
    assert again.scores == run.scores
    assert again.search.ended_by == "given"
    for one in again.candidates:
        raw = (tmp_path / "again" / one.model).read_bytes()
        assert hashlib.sha256(raw).hexdigest() == one.sha256


class KilledError(Exception):
    pass


@pytest.mark.parametrize("what", ["study", "teach"])
def test_a_fit_that_was_ended_goes_on_to_the_same_bits(
    fits: Fits, tmp_path: Path, what: str
) -> None:
    def fit(after: Callable[[Epoch, object], None], **more: object) -> Taught:
        parameters = NetParameters(epochs=3, dropout=0.2)
        if what == "study":
            return fits.study(parameters, None, rows_max=2000, after=after, **more)
        return fits.teach("gru", parameters, rows_max=2000, after=after, **more)

    def killed(epoch: Epoch, _net: object) -> None:
        if epoch.done == 2:
            raise KilledError

    seen: list[int] = []
    whole = fit(lambda epoch, _net: None)
    checkpoint = tmp_path / "net.pt"
    with pytest.raises(KilledError):
        fit(killed, checkpoint=checkpoint)
    resumed = fit(lambda epoch, _net: seen.append(epoch.done), checkpoint=checkpoint)
    assert seen == [3]
    for a, b in zip(whole.net.parameters(), resumed.net.parameters(), strict=True):
        assert a.detach().numpy().tobytes() == b.detach().numpy().tobytes()
