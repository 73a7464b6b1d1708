"""Releases that pass every check at load, and go wrong once they answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sluice.domain.release import FEATURES_KEY, Vector
from sluice.testing.release import FEATURES, expected_ppm, make_model, make_release

SEED = 34
"""Of the champion: it approves ordinary amounts, with scores of 600 to 10,000 ppm."""
CONSTANT = 7.0
"""Minus the logit of the constant one: 911 ppm, in the middle of the champion's."""
TIMES, WIDTH = 12, 1500
"""Products of two matrices in the slow one: some milliseconds a run, where 10 are allowed."""
FAILS_ABOVE_MINOR = 1_000.0
"""Amount from which the failing one fails; warm-up rows are below."""

Kind = Literal["inverted", "constant", "slow", "failing", "good"]
KINDS: tuple[Kind, ...] = ("inverted", "constant", "slow", "failing", "good")


def make_canary(folder: Path, kind: Kind, created_at: int) -> Path:
    """Write a signed release of a kind into a new folder, named by it."""
    rows = np.random.default_rng(2).integers(0, 50, (5, len(FEATURES)))
    right = expected_ppm(SEED, rows)
    said = {
        "inverted": [1_000_000 - ppm for ppm in right],
        "constant": [round(1e6 / (1 + float(np.exp(CONSTANT))))] * len(rows),
    }.get(kind, right)
    warm_up = [Vector(row, ppm) for row, ppm in zip(rows.tolist(), said, strict=True)]
    return make_release(
        folder / kind, id=kind, seed=SEED, model=_model(kind), warm_up=warm_up,
        created_at=created_at,
    )  # fmt: skip


def _model(kind: Kind) -> bytes:
    model = onnx.load_from_string(make_model(FEATURES, seed=SEED))
    at = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Sigmoid")
    logit = model.graph.node[at].input[0]
    nodes: list[tuple[str, list[str], str]] = []
    tensors: dict[str, Any] = {}
    if kind == "inverted":
        nodes = [("Neg", [logit], "changed")]
    elif kind == "constant":
        tensors = {"nothing": np.zeros(1, np.float32), "minus": np.array([-CONSTANT], np.float32)}
        nodes = [("Mul", [logit, "nothing"], "zero"), ("Add", ["zero", "minus"], "changed")]
    elif kind == "slow":
        tensors = {
            "nothing": np.zeros(1, np.float32),
            "wide": np.zeros((1, WIDTH), np.float32),
            "square": np.zeros((WIDTH, WIDTH), np.float32),
            "narrow": np.zeros((WIDTH, 1), np.float32),
        }
        nodes = [("MatMul", [logit, "wide"], "s0")]
        nodes += [("MatMul", [f"s{i}", "square"], f"s{i + 1}") for i in range(TIMES)]
        nodes += [("MatMul", [f"s{TIMES}", "narrow"], "zero"), ("Add", [logit, "zero"], "changed")]
    elif kind == "failing":
        tensors = {
            "column": np.zeros(1, np.int64),
            "large": np.array([FAILS_ABOVE_MINOR], np.float32),
            "table": np.zeros(1, np.float32),
        }
        nodes = [
            ("Gather", ["features", "column"], "amount"),
            ("Greater", ["amount", "large"], "is"),
        ]
    if kind == "good":
        nodes = [("Identity", [logit], "changed")]
    made = [helper.make_node(op, inputs, [output]) for op, inputs, output in nodes]
    if kind == "failing":  # an index of 1 into a table of one
        made[0].attribute.append(helper.make_attribute("axis", 1))
        made += [
            helper.make_node("Cast", ["is"], ["index"], to=onnx.TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["zero"]),
            helper.make_node("Add", [logit, "zero"], ["changed"]),
        ]
    model.graph.node[at].input[0] = "changed"
    kept = [*model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*kept[:at], *made, *kept[at:]])
    model.graph.initializer.extend(
        [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    )
    assert any(entry.key == FEATURES_KEY for entry in model.metadata_props)
    raw: bytes = model.SerializeToString(deterministic=True)
    return raw
