"""A model as ONNX: one graph, all preprocessing inside, its columns named in the metadata."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import onnx
import torch
from sluice.domain.release import FEATURES_KEY

from sluice_models.models import TorchModel

OPSET = 20
INPUT, OUTPUT = "features", "probability"


def to_onnx(model: TorchModel) -> bytes:
    """Export a net with any number of rows, and finish the graph."""
    example = torch.zeros(2, len(model.names))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # the exporter warns of its own deprecations
            torch.onnx.export(
                model.net,
                (example,),
                path,
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
                external_data=False,
                verbose=False,
            )
        return finish(onnx.load(path), model.names)


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
