"""A training set and a run for tests of what comes after training: small models, truly fitted.

The world has six features of the catalogue. Frauds are more likely where a terminal has reports, a
card is fast, an amount is far above what is usual. The models are a logistic regression, and a
layer of random units with a fitted output on top, so that eight bits have ranges to get wrong.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sluice.application.dataset_manifest import MANIFEST
from sluice.application.judging.measures import Window
from sluice.application.judging.rows import Rows
from sluice.application.judging.run import LEARNT
from sluice.domain.clock import DAY_US, from_datetime, to_datetime
from sluice.domain.features import catalogue
from sluice.domain.release import FEATURES_KEY
from tests.support.datasets import manifest_of, split_of

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FEATURES = ("amount_minor", "card_count_1h", "card_amount_30d_minor", "terminal_frauds_7d",
            "card_history_span_s", "is_ecom")  # fmt: skip
START_US = from_datetime(to_datetime(0).replace(year=2026, month=3, day=2))
WEEK_US = 7 * DAY_US
SPLITS = ("train", "calibration", "test-1", "test-2")
HIDDEN = 24


@dataclass(frozen=True)
class Part:
    """Rows of one split, as they are written."""

    first_us: int
    columns: Mapping[str, Any]
    x: Ints
    fraud: npt.NDArray[np.bool_]


def make_world(seed: int = 1, rows: int = 6_000) -> dict[str, Part]:
    """Four splits of a week each, ``rows`` rows in each, some 2 % frauds."""
    rng = np.random.default_rng(seed)
    return {name: _part(rng, name, i, rows) for i, name in enumerate(SPLITS)}


def _part(rng: np.random.Generator, name: str, number: int, rows: int) -> Part:
    first = START_US + number * WEEK_US
    usual = rng.lognormal(8.5, 0.5, rows)
    amount = (usual * rng.lognormal(0, 0.4, rows)).astype(np.int64) + 1
    count = rng.poisson(0.5, rows)
    frauds = rng.poisson(0.05, rows)
    ecom = rng.random(rows) < 0.5
    span = rng.integers(0, 60 * 86_400, rows)
    month = (usual * 30).astype(np.int64)
    logit = -8.5 + 1.8 * count + 5.0 * frauds + 3.5 * np.log(amount / usual) + 0.8 * ecom
    fraud = rng.random(rows) < 1 / (1 + np.exp(-logit))
    event = np.sort(rng.integers(first, first + WEEK_US, rows))
    known = np.where(fraud, event + rng.integers(0, 20 * DAY_US, rows), -1)
    x = np.stack([amount, count, month, frauds, span, ecom.astype(np.int64)], axis=1)
    x = x.astype(np.int64)
    columns = {
        "authorization_id": [f"{name}-{i}" for i in range(rows)],
        "event_at": event,
        "card_token": [f"card-{c}" for c in rng.integers(0, rows // 3, rows)],
        "customer_id": pa.nulls(rows, pa.string()),
        "merchant_id": ["m"] * rows,
        "terminal_id": ["t"] * rows,
        "channel": np.where(ecom, "ecom", "pos"),
        "region": rng.choice(["eea", "uk"], rows),
        "mcc": ["5411"] * rows,
        **{feature: x[:, i] for i, feature in enumerate(FEATURES)},
        "is_fraud": fraud,
        "known_at": known,
        "maturity": np.where(fraud, "known", "never"),
        "weight": np.ones(rows, np.float32),
        "reported_share": np.ones(rows, np.float32),
        "label_kind": pa.nulls(rows, pa.string()),
        "label_source": pa.nulls(rows, pa.string()),
        "degradation_level": pa.nulls(rows, pa.string()),
    }
    return Part(first, columns, x, fraud)


def with_columns(part: Part, **columns: Any) -> Part:
    """The same rows with other columns; features follow."""
    fresh = {**part.columns, **columns}
    x = np.stack([np.asarray(fresh[name]) for name in FEATURES], axis=1).astype(np.int64)
    return replace(part, columns=fresh, x=x, fraud=np.asarray(fresh["is_fraud"], bool))


def write_dataset(folder: Path, world: Mapping[str, Part]) -> Path:
    """The set as ``sluice dataset build`` leaves it."""
    folder.mkdir(parents=True)
    splits = []
    newest = max(part.first_us for part in world.values())
    for name, part in world.items():
        path = f"{name}/part-00000.parquet"
        manifest = manifest_of(features=dict.fromkeys(FEATURES, "this authorization"))
        table = pa.table({column: part.columns[column] for column in manifest.columns()})
        (folder / name).mkdir()
        pq.write_table(table, folder / path)
        as_of = newest + WEEK_US + 30 * DAY_US
        splits.append(
            split_of(
                name,
                first=_iso(part.first_us),
                until=_iso(part.first_us + WEEK_US),
                as_of=_iso(as_of),
                rows=len(part.fraud),
                frauds=int(part.fraud.sum()),
                files={path: hashlib.sha256((folder / path).read_bytes()).hexdigest()},
            )
        )
    manifest = manifest_of(
        features=dict.fromkeys(FEATURES, "this authorization"),
        splits=splits,
        label_delay_s=30 * 86_400,
    )
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return folder


def _iso(moment_us: int) -> str:
    return to_datetime(moment_us).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True)
class Net:
    """Signed log1p, standardised, a layer of fixed random units, a fitted output."""

    mean: Floats
    scale: Floats
    first: Floats
    last: Floats
    bias: float

    def hidden(self, x: Ints) -> Floats:
        size = np.sign(x) * np.log1p(np.abs(x))
        return np.maximum(((size - self.mean) * self.scale) @ self.first, 0)

    def predict(self, x: Ints) -> Floats:
        return 1 / (1 + np.exp(-(self.hidden(x) @ self.last + self.bias)))


def fit(x: Ints, fraud: npt.NDArray[np.bool_], seed: int = 1) -> Net:
    """By a few Newton steps of a ridge logistic regression on the hidden units."""
    rng = np.random.default_rng(seed)
    size = np.sign(x) * np.log1p(np.abs(x))
    mean, scale = size.mean(0), 1 / (size.std(0) + 1e-6)
    net = Net(mean, scale, rng.normal(0, 0.7, (x.shape[1], HIDDEN)), np.zeros(HIDDEN), 0.0)
    h = np.c_[net.hidden(x), np.ones(len(x))]
    w = np.zeros(HIDDEN + 1)
    w[-1] = np.log(fraud.mean() / (1 - fraud.mean()))
    ridge = np.r_[np.ones(HIDDEN), 1e-6]

    def loss(w: Floats) -> float:
        logit = h @ w
        return float((np.logaddexp(0, logit) - fraud * logit).sum() + (ridge * w * w).sum() / 2)

    for _ in range(25):
        p = 1 / (1 + np.exp(-np.clip(h @ w, -30, 30)))
        hessian = (h * (p * (1 - p))[:, None]).T @ h + np.diag(ridge)
        step = np.linalg.solve(hessian, h.T @ (p - fraud) + ridge * w)
        while loss(w - step) > loss(w) and np.abs(step).max() > 1e-9:
            step = step / 2
        w = w - step
    return replace(net, last=w[:-1], bias=float(w[-1]))


def to_onnx(net: Net, features: Sequence[str] = FEATURES) -> bytes:
    """One graph, float32."""
    import onnx
    from onnx import helper, numpy_helper

    f32 = np.float32
    tensors: dict[str, npt.NDArray[Any]] = {
        "one": np.ones(1, f32),
        "mean": net.mean.astype(f32),
        "scale": net.scale.astype(f32),
        "w1": net.first.astype(f32),
        "w2": net.last[:, None].astype(f32),
        "bias": np.array([net.bias], f32),
    }
    steps = (
        ("Abs", ["features"], "size"), ("Add", ["size", "one"], "size1"),
        ("Log", ["size1"], "log"), ("Sign", ["features"], "sign"), ("Mul", ["log", "sign"], "x"),
        ("Sub", ["x", "mean"], "centred"), ("Mul", ["centred", "scale"], "z"),
        ("MatMul", ["z", "w1"], "h"), ("Relu", ["h"], "r"), ("MatMul", ["r", "w2"], "raw"),
        ("Add", ["raw", "bias"], "logit"), ("Sigmoid", ["logit"], "probability"),
    )  # fmt: skip
    nodes = [helper.make_node(kind, given, [out], name=out) for kind, given, out in steps]
    width = len(features)
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("probability", onnx.TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return named(model.SerializeToString(deterministic=True), features)


def named(raw: bytes, features: Sequence[str] = FEATURES) -> bytes:
    """With the columns in the metadata."""
    import onnx
    from onnx import helper

    model = onnx.load_from_string(raw)
    helper.set_model_props(model, {FEATURES_KEY: ",".join(features)})
    out: bytes = model.SerializeToString(deterministic=True)
    return out


def to_int8(graph: bytes, x: Ints, folder: Path) -> bytes:
    """Static QDQ per channel, the output layer in fp32, calibrated on the given rows."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter([{"features": x.astype(np.float32)}])

        def get_next(self) -> Any:
            return next(self._left, None)

    source, target = folder / "fp32.onnx", folder / "int8.onnx"
    source.write_bytes(graph)
    quantize_static(
        source,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        weight_type=QuantType.QInt8,
        nodes_to_quantize=["h"],
    )
    return named(target.read_bytes())


def run_graph(graph: bytes, x: Ints) -> Floats:
    """Scores of the graph itself."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    out = session.run(None, {session.get_inputs()[0].name: x.astype(np.float32)})[0]
    return np.asarray(out, np.float64).reshape(-1)


def write_run(
    folder: Path,
    dataset: Path,
    world: Mapping[str, Part],
    graphs: Mapping[str, bytes],
    *,
    scores: Mapping[str, Mapping[str, Floats]] | None = None,
    learnt: Ints | None = None,
    **changes: Any,
) -> Path:
    """A run as ``sluice train`` leaves it. scores: by split and candidate, where they are not what
    the graph gives. learnt: features of train, where they were not the set's. changes: of
    run.json."""
    (folder / "models").mkdir(parents=True)
    (folder / "scores").mkdir()
    digests = {}
    for split, part in world.items():
        columns = {name: run_graph(graph, part.x) for name, graph in graphs.items()}
        columns |= dict((scores or {}).get(split, {}))
        raw = _parquet({"authorization_id": part.columns["authorization_id"], **columns})
        (folder / "scores" / f"{split}.parquet").write_bytes(raw)
        digests[split] = hashlib.sha256(raw).hexdigest()
    for name, graph in graphs.items():
        (folder / "models" / f"{name}.onnx").write_bytes(graph)
    train = world["train"]
    x = train.x if learnt is None else learnt
    (folder / LEARNT).write_bytes(
        _parquet(
            {"authorization_id": train.columns["authorization_id"][::5]}
            | {name: x[::5, i].astype(np.float32) for i, name in enumerate(FEATURES)}
        )
    )
    about = {
        "v": 1,
        "dataset": hashlib.sha256((dataset / MANIFEST).read_bytes()).hexdigest(),
        "catalogue": catalogue.DIGEST,
        "features": list(FEATURES),
        "code": "0" * 64,
        "seed": 1,
        "trained_from": train.first_us,
        "trained_until": train.first_us + WEEK_US,
        "rows": len(train.fraud),
        "frauds": int(train.fraud.sum()),
        "reference_row": np.median(train.x[~train.fraud], axis=0).astype(int).tolist(),
        "scores": digests,
        "learnt": hashlib.sha256((folder / LEARNT).read_bytes()).hexdigest(),
        "candidates": [
            {
                "name": name,
                "kind": f"a small net of tests ({name})",
                "model": f"models/{name}.onnx",
                "sha256": hashlib.sha256(graph).hexdigest(),
                "releasable": True,
                "seed": 1,
                "parameters": {},
                "prior_correction_milli": 0,
                "rows": len(train.fraud),
                "frauds": int(train.fraud.sum()),
                "tolerates": ["device"],
                "timings": [],
            }
            for name, graph in graphs.items()
        ],
    }
    (folder / "run.json").write_bytes(msgspec.json.encode(about | changes))
    return folder


def _parquet(columns: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), buffer)
    return buffer.getvalue()


def rows_in(part: Part, name: str, days_after: int = 30) -> Rows:
    """A part as it is read from a set, judged by what was known so long after its week."""
    columns = part.columns
    n = len(part.fraud)
    as_of = part.first_us + WEEK_US + days_after * DAY_US
    known = np.asarray(columns["known_at"])
    fraud = part.fraud & (known >= 0) & (known <= as_of)
    _, card = np.unique(columns["card_token"], return_inverse=True)
    return Rows(
        name=name,
        first_us=part.first_us,
        until_us=part.first_us + WEEK_US,
        as_of_us=as_of,
        window=Window(
            fraud, part.x[:, 0], card.astype(np.int64), np.asarray(columns["event_at"]), np.ones(n)
        ),
        ids=np.array(columns["authorization_id"], object),
        known_us=np.where(fraud, known, -1),
        young=np.zeros(n, bool),
        weight=np.asarray(columns["weight"], np.float64),
        reported_share=np.asarray(columns["reported_share"], np.float64),
        channel=np.array(columns["channel"], object),
        region=np.array(columns["region"], object),
        names=FEATURES,
        features=part.x,
    )
