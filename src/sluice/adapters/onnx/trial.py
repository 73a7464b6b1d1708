"""Graphs that are tried: scored and timed without a release around them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from sluice.adapters.onnx.scorer import MAX_ROWS, PAD, graph_of, session_of
from sluice.application.ports import Ints
from sluice.errors import Misconfigured

BATCHES = (1, 32, 512)
CALLS = {1: 400, 32: 100, 512: 30}
"""Timed calls of so many rows."""


class TriedGraph:
    """One graph, one thread, padded as a decider does it: the same bits as the release's."""

    def __init__(self, model: bytes) -> None:
        """Raises Misconfigured for a graph that a release could not hold."""
        graph = graph_of(model)
        self.columns = graph.features
        self.sha256 = hashlib.sha256(model).hexdigest()
        self._session = session_of(model)
        self._input, self._output = graph.input, graph.output
        (port,) = self._session.get_inputs()
        if port.type != "tensor(float)" or len(port.shape) != 2:
            raise Misconfigured(f"the graph takes {port.type} {port.shape}, not (n, f) floats")

    def predict(self, rows: Ints) -> npt.NDArray[np.float64]:
        """(n, f) columns of the graph to (n,) probabilities. Raises Misconfigured if it does not
        give one for each row."""
        parts = [np.zeros(0, np.float32)]
        parts += [self._run(rows[i : i + MAX_ROWS]) for i in range(0, len(rows), MAX_ROWS)]
        return np.concatenate(parts).astype(np.float64)

    def _run(self, rows: Ints) -> npt.NDArray[np.float32]:
        padded = np.zeros((-(-len(rows) // PAD) * PAD, rows.shape[1]), np.float32)
        padded[: len(rows)] = rows
        try:
            (out,) = self._session.run([self._output], {self._input: padded})
        except Exception as exc:  # the runtime's exceptions share no base
            raise Misconfigured(f"onnxruntime failed: {exc}") from exc
        p = np.asarray(out, np.float32).reshape(-1)
        if len(p) != len(padded) or not ((p >= 0) & (p <= 1)).all():
            raise Misconfigured(
                f"the graph gave {len(p)} numbers for {len(padded)} rows, or no probabilities",
                fix="export one output of n probabilities",
            )
        return p[: len(rows)]

    def seconds(self, rows: Ints) -> float:
        """Of processor time, for one call."""
        began = time.thread_time()
        self._run(rows)
        return time.thread_time() - began


def timings(
    graphs: Mapping[str, TriedGraph], rows: Mapping[str, Ints], batches: Sequence[int] = BATCHES
) -> dict[str, dict[str, float]]:
    """Median microseconds of processor time of a call, by name and rows; the graphs take turns, so
    that all have the same hour of the machine. rows: at least 512 of each graph's own columns."""
    found: dict[str, dict[str, float]] = {name: {} for name in graphs}
    for batch in batches:
        took: dict[str, list[float]] = {name: [] for name in graphs}
        for _ in range(CALLS[batch]):
            for name, graph in graphs.items():
                took[name].append(graph.seconds(rows[name][:batch]))
        for name, seconds in took.items():
            found[name][str(batch)] = round(float(np.median(seconds)) * 1e6, 1)
    return found
