"""A student in int8: static, per channel, its last layer left as it is.

A head in eight bits gives 250 different scores, on which no threshold can be set; the other layers
are where the time goes.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from sluice_models.export import INPUT, finish

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

SAMPLE_ROWS = 4096
"""That activations are ranged on."""
SAMPLE_FRAUDS = 0.25
"""Share of frauds among them, where there are so many: in one row of a hundred the layers would
hardly be seen at work."""
BATCH = 512
_LAYERS = ("Gemm", "MatMul")


class _Reader(CalibrationDataReader):
    """Batches of the sample."""

    def __init__(self, features: Floats) -> None:
        self._batches: Iterator[Floats] = iter(
            [features[i : i + BATCH] for i in range(0, len(features), BATCH)]
        )

    def get_next(self) -> dict[str, Floats] | None:
        """The next batch, None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def enriched(fraud: Bools, rng: np.random.Generator, rows: int = SAMPLE_ROWS) -> Ints:
    """Rows to range activations on: a quarter frauds, or all there are, the rest genuine."""
    frauds, genuine = np.flatnonzero(fraud), np.flatnonzero(~fraud)
    some = rng.permutation(frauds)[: int(rows * SAMPLE_FRAUDS)]
    rest = rng.permutation(genuine)[: rows - len(some)]
    return np.sort(np.r_[some, rest])


def to_int8(graph: bytes, sample: Floats, names: Sequence[str]) -> bytes:
    """Quantise all layers but the last. sample: (m, f) rows as :func:`enriched` draws them."""
    layers = [node for node in onnx.load_from_string(graph).graph.node if node.op_type in _LAYERS]
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        before.write_bytes(graph)
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # it asks for a preparation that changes nothing here
        try:
            quantize_static(
                before,
                after,
                _Reader(sample),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(_LAYERS),
                nodes_to_exclude=[layers[-1].name],
                calibrate_method=CalibrationMethod.MinMax,
            )
        finally:
            logging.root.setLevel(level)
        return finish(onnx.load(after), names)
