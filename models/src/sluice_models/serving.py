"""A candidate's graph as a decider runs it, over arrays: scores, and how long calls take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from sluice_models.export import INPUT, OUTPUT, PAST
from sluice_models.run import BATCHES, Timing

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Past = Callable[[Ints], Floats]
"""What the card did before some rows."""
Name = TypeVar("Name", bound=str)

PAD = 8
"""Rows of a call are a multiple of it, as a decider's are: a row's score does not depend on its
place then (sluice.adapters.onnx.scorer)."""
ROWS = 4096
"""Of one call, when a split is scored."""
CALLS = {1: 400, PAD: 300, 32: 200, 512: 60}
"""That are timed, by rows of a call."""
WARM_UP_CALLS = 10


class Graph:
    """One graph on one thread."""

    def __init__(self, raw: bytes) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
        self.inputs = [port.name for port in self._session.get_inputs()]

    def call(self, given: Mapping[str, Floats]) -> Floats:
        """(m, 1) probabilities."""
        found: Floats = self._session.run([OUTPUT], given)[0]
        return found

    def given(self, features: Floats, past: Past, at: Ints) -> dict[str, Floats]:
        """The inputs of some rows."""
        rows = {INPUT: features[at]}
        return rows | {PAST: past(at)} if PAST in self.inputs else rows

    def predict(self, features: Floats, past: Past) -> Doubles:
        """(n,) probabilities of n rows. past: what the card did before some of them."""
        n = len(features)
        out = np.empty(n, np.float64)
        for i in range(0, n, ROWS):
            at = np.arange(i, min(i + ROWS, n))
            padded = np.r_[at, np.repeat(at[-1:], -len(at) % PAD)]
            out[at] = self.call(self.given(features, past, padded))[: len(at), 0]
        return out


def timed(
    graphs: Mapping[Name, Graph], features: Floats, past: Past, batches: Sequence[int] = BATCHES
) -> dict[Name, list[Timing]]:
    """Calls of every graph, of so many rows. They take turns, so that an hour of a busy machine
    falls on all of them alike. Rows of a call are not padded: the runtime alone is timed.
    """
    found: dict[Name, list[Timing]] = {name: [] for name in graphs}
    for batch in batches:
        at = np.resize(np.arange(len(features)), batch)
        given = {name: graph.given(features, past, at) for name, graph in graphs.items()}
        seconds: dict[Name, list[float]] = {name: [] for name in graphs}
        for call in range(WARM_UP_CALLS + CALLS[batch]):
            for name, graph in graphs.items():
                began = time.perf_counter()
                graph.call(given[name])
                took = time.perf_counter() - began
                if call >= WARM_UP_CALLS:
                    seconds[name].append(took)
        for name, mine in seconds.items():
            median, p99 = np.percentile(mine, [50, 99])
            found[name].append(
                Timing(
                    batch=batch,
                    calls=len(mine),
                    median_us=round(1e6 * float(median), 2),
                    p99_us=round(1e6 * float(p99), 2),
                    rows_per_s=round(batch / float(median), 1),
                )
            )
    return found
