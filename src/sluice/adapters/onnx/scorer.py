"""ONNX Runtime as a scorer whose answer does not depend on the company a row is in.

Runtimes work on several numbers at once and finish what is left over one by one, with another
implementation of log and exp: in onnxruntime 1.32 on x86-64 the last up to three elements of a
tensor differ in the last bit, so a row's score depended on its place. Here every batch is padded to
a multiple of PAD rows: no tensor has a remainder, a single row takes the same path as
many (not the matrix-vector one), and a row's bits are its own. Costs 2 to 3 us for a single row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from sluice.application.ports import Count, Ints, Scores, uncounted
from sluice.domain.policy.reasons import MODEL_CODES
from sluice.domain.reference import Reference
from sluice.domain.release import FEATURES_KEY, MODEL, Graph, Manifest
from sluice.errors import Corrupt, Misconfigured, Unavailable

PAD = 8
"""Twice the widest step of the elementwise kernels, and the rows of one matrix kernel."""
MAX_ROWS = 8192
"""Of one run: bounds memory when history is scored. A multiple of PAD."""
MIN_DROP_MILLI = 250
"""A group is a reason if leaving it out lowers the logit by a quarter: the odds by a fifth."""

Floats = npt.NDArray[np.float32]


class Ports(NamedTuple):
    """What a graph says of itself: names of input and output, and of its columns."""

    input: str
    output: str
    features: list[str]


def graph_of(model: bytes) -> Ports:
    """Look into an ONNX file.

    Raises Misconfigured if it cannot be loaded, has more than one input or output, or does not
    name its columns.
    """
    session = session_of(model)
    inputs = [port.name for port in session.get_inputs()]
    outputs = [port.name for port in session.get_outputs()]
    if len(inputs) != 1 or len(outputs) != 1:
        raise Misconfigured(
            f"the graph has inputs {inputs} and outputs {outputs}",
            fix="export one input, (n, f) floats, and one output, n probabilities",
        )
    features = _columns(session)
    if not all(features):
        raise Misconfigured(
            "the graph does not name its columns",
            fix=f"put them into the model's metadata as {FEATURES_KEY}, joined by commas",
        )
    return Ports(inputs[0], outputs[0], features)


def session_of(model: bytes) -> ort.InferenceSession:
    """A session of one thread. Raises Misconfigured for what onnxruntime does not load."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # more would burn cores: scale by replicas
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # the runtime's exceptions share no base
        raise Misconfigured(f"onnxruntime cannot load the model: {exc}") from exc


def _columns(session: ort.InferenceSession) -> list[str]:
    named: str = session.get_modelmeta().custom_metadata_map.get(FEATURES_KEY, "")
    return named.split(",")


class OnnxScorer:
    """One model in this process, one thread."""

    def __init__(
        self,
        manifest: Manifest,
        model: bytes,
        columns: Sequence[int],
        groups: Mapping[str, str],
        count: Count = uncounted,
    ) -> None:
        """columns: of the manifest's features in catalogue rows. groups: feature to group. count:
        of what goes wrong. digest, signer and reference are its loader's to set.

        Raises Misconfigured if the graph does not have the manifest's input, width and output.
        """
        self._count = count
        self.release = manifest.id
        self.digest = ""
        self.signer = ""
        self.reference: Reference | None = None
        self.tolerates: frozenset[str] = frozenset(manifest.tolerates)
        self.columns = np.array(columns, np.int64)
        self._session = session_of(model)
        self._input, self._output = manifest.input, manifest.output
        self._check_contract(manifest)
        names = list(dict.fromkeys(groups[name] for name in manifest.names))
        self._codes = [MODEL_CODES[name] for name in names]
        member = np.array([[groups[f] == name for f in manifest.names] for name in names])
        self._left_out = np.vstack([np.zeros((1, len(columns)), bool), member])
        self._reference = np.array(manifest.reference_row, np.int64)

    def _check_contract(self, manifest: Manifest) -> None:
        width = len(manifest.names)
        inputs = {i.name: (i.type, i.shape) for i in self._session.get_inputs()}
        outputs = {o.name for o in self._session.get_outputs()}
        if set(inputs) != {self._input} or self._output not in outputs:
            raise Misconfigured(
                f"the graph has inputs {sorted(inputs)} and outputs {sorted(outputs)}, "
                f"the manifest says {self._input} and {self._output}"
            )
        kind, shape = inputs[self._input]
        if kind != "tensor(float)" or len(shape) != 2 or shape[1] != width:
            raise Misconfigured(f"the graph takes {kind} {shape}, not (n, {width}) floats")
        named = _columns(self._session)
        if named != manifest.names:
            pairs = enumerate(zip_longest(named, manifest.names, fillvalue=""))
            at, (ours, theirs) = next(pair for pair in pairs if len({*pair[1]}) > 1)
            raise Misconfigured(
                f"column {at} of the graph is {ours or 'not named'}, the manifest says {theirs}",
                fix="the columns are in another order, or the model belongs to another manifest",
            )

    def score(self, features: Ints) -> Scores:
        """(n, N) catalogue features to n scores. Raises Unavailable if the runtime fails."""
        rows = features[:, self.columns]
        if len(rows) <= MAX_ROWS:
            p = self.probability(rows)
        else:
            starts = range(0, len(rows), MAX_ROWS)
            p = np.concatenate([self.probability(rows[i : i + MAX_ROWS]) for i in starts])
        ppm = np.rint(p.astype(np.float64) * 1e6).astype(np.int64)
        if (ppm.view(np.uint64) > 1_000_000).any():  # below 0 and not a number come out huge
            self._count("sluice_decider_scorer_failures_total", "no_probability")
            raise Unavailable(f"{self.release} gave what is not a probability")
        return Scores(ppm, self.release)

    def reasons(self, row: Ints) -> list[str]:
        """(N,) one row to reason codes, strongest first.

        By occlusion: each group of features in turn is set to the release's reference row, and
        the groups are ordered by how far the logit drops. One run of as many rows as groups.
        """
        rows = np.where(self._left_out, self._reference, row[self.columns])
        p = np.clip(self.probability(rows).astype(np.float64), 1e-7, 1 - 1e-7)
        logit = np.log(p / (1 - p))
        drop = np.rint((logit[0] - logit[1:]) * 1000).astype(np.int64)
        order = np.argsort(-drop, kind="stable")
        return [self._codes[g] for g in order if drop[g] >= MIN_DROP_MILLI]

    def warm_up(self, manifest: Manifest, graph: Graph = MODEL) -> None:
        """Score the manifest's rows. Raises Corrupt if one is off by more than it allows that
        graph."""
        rows = np.array([v.features for v in manifest.warm_up], np.int64)
        p = self.probability(rows).astype(np.float64)
        exact = graph == MODEL
        tolerance_ppm = manifest.tolerance_ppm if exact else manifest.int8_tolerance_ppm
        for i, vector in enumerate(manifest.warm_up):
            found = round(float(p[i]) * 1e6) if np.isfinite(p[i]) else -1
            said = vector.score_ppm if exact else vector.int8_ppm
            if said is None or abs(found - said) > tolerance_ppm:
                raise Corrupt(
                    f"warm-up row {i} scores {found} ppm, the manifest says {said}",
                    where=f"release {self.release}",
                    fix="the model, the order of its features or the runtime is another one",
                )

    def probability(self, rows: Ints) -> Floats:
        """(n, f) release columns to (n,) probabilities, n at most MAX_ROWS. Raises Unavailable."""
        n = len(rows)
        padded = np.zeros((-(-n // PAD) * PAD, rows.shape[1]), np.float32)
        padded[:n] = rows
        try:
            (out,) = self._session.run([self._output], {self._input: padded})
            p = np.asarray(out, np.float32).reshape(-1)
        except Exception as exc:
            self._count("sluice_decider_scorer_failures_total", "runtime")
            raise Unavailable(f"onnxruntime failed on {self.release}: {exc}") from exc
        if len(p) != len(padded):
            self._count("sluice_decider_scorer_failures_total", "no_probability")
            raise Unavailable(f"{self.release} gave {len(p)} numbers for {len(padded)} rows")
        return p[:n]
