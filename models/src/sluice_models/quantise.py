"""A student in int8: its first layer, which reads the bins, where the time goes.

The rest stays as it is: a head in eight bits gives 250 different scores, on which no threshold can
be set. A weight is rounded so that those behind it make up for what that changed, over a sample
(GPTQ: Frantar, Ashkboos, Hoefler, Alistarh 2023, after optimal brain surgery).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from sluice_models.export import INPUT, finish

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

SAMPLE_ROWS = 4096
"""That weights are rounded for."""
SAMPLE_FRAUDS = 0.25
"""Share of frauds among them, where there are so many: in one row of a hundred the layer would
hardly be seen at work."""
DAMPING = 0.01
"""Of the mean square of an input, added to all: a direction that the sample lacks is not free."""
STEPS = 255
"""Of an input between 0 and 1."""
LEVELS = 127
"""Of a weight, to either side."""


def enriched(fraud: Bools, rng: np.random.Generator, rows: int = SAMPLE_ROWS) -> Ints:
    """Rows to round weights for: a quarter frauds, or all there are, the rest genuine."""
    frauds, genuine = np.flatnonzero(fraud), np.flatnonzero(~fraud)
    some = rng.permutation(frauds)[: int(rows * SAMPLE_FRAUDS)]
    rest = rng.permutation(genuine)[: rows - len(some)]
    return np.sort(np.r_[some, rest])


def rounded(weight: Doubles, scale: Doubles, inputs: Doubles) -> npt.NDArray[np.int8]:
    """Weights in steps of ``scale``, so that the layer gives nearly what it gave of the inputs.

    weight: (k, o). scale: (o,). inputs: (m, k). Each row of weights is rounded, and what that
    changes of the layer's output is spread over the rows behind it. O(k^2 (k + o + m)).
    """
    square = inputs.T @ inputs / len(inputs)
    square += np.eye(len(square)) * max(DAMPING * float(np.diag(square).mean()), 1e-12)
    towards = np.linalg.cholesky(np.linalg.inv(square)).T
    left = weight.copy()
    found = np.empty(weight.shape, np.int8)
    for i in range(len(left)):
        found[i] = np.clip(np.rint(left[i] / scale), -LEVELS, LEVELS)
        off = (left[i] - found[i] * scale) / towards[i, i]
        left[i + 1 :] -= np.outer(towards[i, i + 1 :], off)
    return found


def to_int8(graph: bytes, sample: Floats, names: Sequence[str]) -> bytes:
    """Quantise a student's first layer. sample: (m, f) rows as :func:`enriched` draws them.

    Raises AssertionError for a graph of another shape.
    """
    model = onnx.load_from_string(graph)
    nodes = list(model.graph.node)
    at = next(i for i, node in enumerate(nodes) if node.op_type == "Gemm")
    layer, relu = nodes[at : at + 2]
    if relu.op_type != "Relu" or list(relu.input) != list(layer.output):
        raise AssertionError(f"a {relu.op_type} follows the first layer, not its Relu")
    bins = layer.input[0]
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    weight, bias = (numpy_helper.to_array(tensors[name]) for name in layer.input[1:])
    weight = weight.T.astype(np.float64)  # of a linear layer it lies (o, k)
    inputs = np.rint(_value(model, bins, sample) * STEPS) / STEPS
    scale = np.abs(weight).max(axis=0) / LEVELS
    scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
    step = np.float32(1 / STEPS)
    of_bias = scale * step
    given: dict[str, npt.NDArray[Any]] = {
        "first_weight": rounded(weight, scale.astype(np.float64), inputs),
        "first_weight_scale": scale,
        "first_weight_zero": np.zeros(len(scale), np.int8),
        "bins_step": np.array(step),
        "bins_zero": np.array(0, np.uint8),
        "first_bias": np.rint(bias / of_bias).astype(np.int32),
        "first_bias_scale": of_bias,
        "first_bias_zero": np.zeros(len(scale), np.int32),
        "nothing": np.array(0, np.float32),
    }
    model.graph.initializer.remove(tensors[layer.input[1]])
    model.graph.initializer.remove(tensors[layer.input[2]])
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in given.items()
    )
    nodes[at : at + 2] = [
        _node("QuantizeLinear", [bins, "bins_step", "bins_zero"], "bins_int8"),
        _node("DequantizeLinear", ["bins_int8", "bins_step", "bins_zero"], "bins_again"),
        _node("DequantizeLinear", _scaled("first_weight"), "first_weights", axis=1),
        _node("DequantizeLinear", _scaled("first_bias"), "first_biases", axis=0),
        # The runtime makes one integer product of this, if its bias is quantised too, and if no
        # Relu follows, which it would take into a float product first.
        _node("Gemm", ["bins_again", "first_weights", "first_biases"], layer.output[0]),
        _node("Max", [layer.output[0], "nothing"], relu.output[0]),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return finish(model, names)


def _node(kind: str, given: list[str], out: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, given, [out], name=f"{out}_{kind}", **attributes)


def _scaled(name: str) -> list[str]:
    return [name, f"{name}_scale", f"{name}_zero"]


def _value(model: onnx.ModelProto, name: str, features: Floats) -> Doubles:
    """(m, k) what a value of the graph is over rows (m, f)."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    found: Doubles = session.run([name], {INPUT: features})[0].astype(np.float64)
    return found
