"""A model as ONNX: one graph, all preprocessing inside, its columns named in the metadata."""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, compose, helper, numpy_helper
from sluice.domain.release import FEATURES_KEY

from sluice_models.nets import Served, Student, Teacher
from sluice_models.run import Calibration

OPSET = 20
TREES_OPSET = 3
"""Of the domain ai.onnx.ml: the last before its tree operators were replaced."""
INPUT, PAST, OUTPUT = "features", "past", "probability"


def to_onnx(
    net: Student | Teacher, names: Sequence[str], past: tuple[int, int] | None = None
) -> bytes:
    """Export a net with any number of rows, and finish the graph.

    past: steps and columns of the second input, for a net that reads what the card did before.
    """
    n = torch.export.Dim("n", min=1)
    example = [torch.zeros(2, len(names))]
    inputs, shapes = [INPUT], [{0: n}]
    if past is not None:
        example.append(torch.zeros(2, *past))
        inputs.append(PAST)
        shapes.append({0: n})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), _quiet():
            warnings.simplefilter("ignore")  # the exporter warns of its own deprecations
            torch.onnx.export(
                Served(net).eval(),
                tuple(example),
                path,
                dynamo=True,
                opset_version=OPSET,
                input_names=inputs,
                output_names=[OUTPUT],
                dynamic_shapes=(tuple(shapes),),  # one tuple for all of `*given`
                external_data=False,
                verbose=False,
            )
        made = onnx.load(path)
    _gather_at_once(made.graph)
    return finish(made, names)


def _gather_at_once(graph: onnx.GraphProto) -> None:
    """Take the Unsqueeze behind the columns' Gather into it: an index of two dimensions makes the
    third itself. A step less of the ten that a row's time is made of."""
    unsqueeze = next(node for node in graph.node if node.op_type == "Unsqueeze")
    gather = next(node for node in graph.node if unsqueeze.input[0] in node.output)
    axes, index = (
        next(tensor for tensor in graph.initializer if tensor.name == name)
        for name in (unsqueeze.input[1], gather.input[1])
    )
    if gather.op_type != "Gather" or numpy_helper.to_array(axes).tolist() != [1]:
        raise AssertionError(f"the columns come by {gather.op_type}")
    index.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(index)[None], index.name))
    for value in [one for one in graph.value_info if one.name in gather.input]:
        graph.value_info.remove(value)
    graph.node.remove(unsqueeze)
    if not any(axes.name in node.input for node in graph.node):
        graph.initializer.remove(axes)
    gather.output[0] = unsqueeze.output[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's log, which tells of packages that we do without."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def finish(graph: onnx.ModelProto, names: Sequence[str]) -> bytes:
    """Name the columns, strip what an exporter said of its machine, check; the file's bytes."""
    for node in graph.graph.node:  # the exporter leaves source lines of this machine in there
        del node.metadata_props[:]
        node.doc_string = ""
    del graph.graph.metadata_props[:]
    del graph.metadata_props[:]
    for value in (*graph.graph.value_info, *graph.graph.input, *graph.graph.output):
        del value.metadata_props[:]
    for tensor in graph.graph.initializer:
        del tensor.metadata_props[:]
    entry = graph.metadata_props.add()
    entry.key, entry.value = FEATURES_KEY, ",".join(names)
    onnx.checker.check_model(graph, full_check=True)
    raw: bytes = graph.SerializeToString(deterministic=True)
    return raw


def opset(graph: bytes) -> int:
    """Of the default domain."""
    imports = onnx.load_from_string(graph).opset_import
    return next(int(one.version) for one in imports if one.domain in {"", "ai.onnx"})


def calibrated(
    margin: onnx.ModelProto, output: str, names: Sequence[str], shift: float, found: Calibration
) -> bytes:
    """A graph of logits in a sample, made one of probabilities in the world; finished.

    margin: its last value is ``output``, (n, 1). The model is changed.
    """
    graph = margin.graph
    slope = np.float32(found.slope)
    offset = np.float32(found.offset - found.slope * shift)
    graph.initializer.extend(
        [numpy_helper.from_array(np.array(slope), "calibration_slope"),
         numpy_helper.from_array(np.array(offset), "calibration_offset")]
    )  # fmt: skip
    graph.node.extend(
        [
            helper.make_node("Mul", [output, "calibration_slope"], ["scaled"]),
            helper.make_node("Add", ["scaled", "calibration_offset"], ["world"]),
            helper.make_node("Sigmoid", ["world"], [OUTPUT]),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", 1]))
    return finish(margin, names)


def blended(first: bytes, second: bytes, names: Sequence[str], found: Calibration) -> bytes:
    """One graph of two: the mean of their logits, calibrated, as a probability.

    Each gives a probability of the same features; the second may read the card's past too.
    """
    parts = []
    for number, raw in enumerate((first, second)):
        part = compose.add_prefix(onnx.load_from_string(raw), f"m{number}_", rename_inputs=False)
        last = part.graph.node[-1]
        if last.op_type != "Sigmoid":
            raise AssertionError(f"a graph ends in {last.op_type}, not in its probability")
        parts.append((part, last.input[0]))
        part.graph.node.pop()
    (one, first_logit), (two, second_logit) = parts
    inputs = {value.name: value for part, _ in parts for value in part.graph.input}
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    graph = helper.make_graph(
        [
            *one.graph.node,
            *two.graph.node,
            helper.make_node("Add", [first_logit, second_logit], ["sum"]),
            helper.make_node("Mul", ["sum", "half"], ["mean"]),
        ],
        "blend",
        list(inputs.values()),
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["n", 1])],
        [*one.graph.initializer, *two.graph.initializer, half],
    )
    opsets = {entry.domain: entry for part, _ in parts for entry in part.opset_import}
    made = helper.make_model(
        graph,
        opset_imports=list(opsets.values()),
        ir_version=max(one.ir_version, two.ir_version),
    )
    return calibrated(made, "mean", names, 0.0, found)
