"""LightGBM: the yardstick, and a candidate like any other, as a graph that splits alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from sluice_models.export import INPUT, OPSET, TREES_OPSET, calibrated
from sluice_models.run import Calibration

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

ROUNDS_MAX = 600
PATIENCE = 60
"""Trees without a better figure on the validation split, after which the rest is not grown."""


@dataclass(frozen=True, slots=True)
class TreeParameters:
    """What a search may set. negatives: genuine rows learnt from, for each fraud, see
    :mod:`sluice_models.sampling`."""

    learning_rate: float = 0.05
    num_leaves: int = 31
    min_data_in_leaf: int = 40
    feature_fraction: float = 0.5
    lambda_l2: float = 1.0
    negatives: int = 10


def fit_trees(
    names: Sequence[str],
    features: Floats,
    label: Floats,
    weight: Doubles,
    parameters: TreeParameters,
    *,
    seed: int,
    rounds: int,
    check: tuple[Floats, Callable[[Doubles], float]] | None = None,
    after: Callable[[int, float], None] = lambda done, figure: None,
) -> tuple[lgb.Booster, int]:
    """Grow at most ``rounds`` trees on a sample; the booster, and how many of them to use.

    check: rows, and what their margins are worth: the best number of trees is used, after PATIENCE
    without a better one. after: called with every figure. Same arguments, same trees.
    """
    settings: dict[str, Any] = asdict(parameters) | {
        "objective": "binary",
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbose": -1,
    }
    del settings["negatives"]
    table = lgb.Dataset(features, label, weight=weight, feature_name=list(names))
    booster = lgb.Booster(settings, table)
    if check is None:
        for _ in range(rounds):
            booster.update()
        return booster, rounds
    rows, worth = check
    step = 20
    margin = np.zeros(len(rows))
    best, best_at = -np.inf, 0
    for done in range(step, rounds + 1, step):
        for _ in range(step):
            booster.update()
        margin += booster.predict(
            rows, raw_score=True, start_iteration=done - step, num_iteration=step, num_threads=1
        )
        figure = worth(margin)
        after(done, figure)
        if figure > best:
            best, best_at = figure, done
        if done - best_at >= PATIENCE:
            break
    return booster, best_at


def margins(booster: lgb.Booster, trees: int, features: Floats) -> Doubles:
    """(n,) logits in the sample that the trees were grown on."""
    found = booster.predict(features, raw_score=True, num_iteration=trees, num_threads=1)
    return np.asarray(found, np.float64)


def trees_to_onnx(
    booster: lgb.Booster, trees: int, names: Sequence[str], shift: float, found: Calibration
) -> bytes:
    """The trees as one TreeEnsembleRegressor, calibrated.

    Written here because the converters round a threshold to the nearest float: a threshold between
    two neighbouring floats then moves onto one of them, and rows go the other way. Rounded down, a
    float is at most the threshold exactly when it was before.
    """
    nodes: dict[str, list[Any]] = {key: [] for key in _NODE_KEYS}
    leaves: dict[str, list[Any]] = {key: [] for key in _LEAF_KEYS}
    for number, tree in enumerate(booster.dump_model(num_iteration=trees)["tree_info"]):
        _Tree(number, nodes, leaves).add(tree["tree_structure"])
    node = helper.make_node(
        "TreeEnsembleRegressor",
        [INPUT],
        ["margin"],
        domain="ai.onnx.ml",
        n_targets=1,
        post_transform="NONE",
        **cast(Any, nodes | leaves),
    )
    graph = helper.make_graph(
        [node],
        "trees",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", len(names)])],
        [helper.make_tensor_value_info("margin", TensorProto.FLOAT, ["n", 1])],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", TREES_OPSET)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return calibrated(model, "margin", names, shift, found)


_NODE_KEYS = ("nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_values", "nodes_modes",
              "nodes_truenodeids", "nodes_falsenodeids",
              "nodes_missing_value_tracks_true")  # fmt: skip
_LEAF_KEYS = ("target_treeids", "target_nodeids", "target_ids", "target_weights")


class _Tree:
    """Appends one tree's nodes, the root first."""

    def __init__(
        self, number: int, nodes: dict[str, list[Any]], leaves: dict[str, list[Any]]
    ) -> None:
        self._number = number
        self._nodes = nodes
        self._leaves = leaves
        self._next = 0

    def add(self, node: dict[str, Any]) -> int:
        """Append a node and all below it; its number."""
        mine = self._next
        self._next += 1
        if "leaf_value" in node and "left_child" not in node:
            self._append(mine, 0, 0.0, "LEAF")
            for key, value in zip(
                _LEAF_KEYS, (self._number, mine, 0, node["leaf_value"]), strict=True
            ):
                self._leaves[key].append(value)
            return mine
        if node["decision_type"] != "<=":
            raise AssertionError(f"a split by {node['decision_type']}: features are numbers")
        at = self._append(mine, node["split_feature"], _down(node["threshold"]), "BRANCH_LEQ")
        self._nodes["nodes_truenodeids"][at] = self.add(node["left_child"])
        self._nodes["nodes_falsenodeids"][at] = self.add(node["right_child"])
        return mine

    def _append(self, mine: int, feature: int, value: float, mode: str) -> int:
        for key, given in zip(
            _NODE_KEYS, (self._number, mine, feature, value, mode, 0, 0, 0), strict=True
        ):
            self._nodes[key].append(given)
        return len(self._nodes["nodes_nodeids"]) - 1


def _down(threshold: float) -> float:
    """The largest float of 32 bits that is at most the threshold."""
    near = np.float32(threshold)
    if float(near) > threshold:
        near = np.nextafter(near, np.float32(-np.inf))
    return float(near)
