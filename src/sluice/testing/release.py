"""A small signed release, made on the spot: no training. The model needs ``sluice[testing]``.

The graph is what a real release has in miniature: signed log1p, a layer, a sigmoid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sluice.domain.features import catalogue
from sluice.domain.release import (
    CARD,
    FEATURES_KEY,
    MANIFEST,
    MODEL,
    MODEL_INT8,
    SIGNATURE,
    Manifest,
    Provenance,
    TrustedKeys,
    Vector,
    key_id,
    sign,
    used,
)

FEATURES = ("amount_minor", "card_count_1h", "card_first_country", "is_ecom", "terminal_frauds_7d")
KEY = Ed25519PrivateKey.generate()
"""Of this process alone: a private key in the wheel would be everybody's."""
TRUSTED = TrustedKeys({key_id(KEY.public_key()): KEY.public_key()})
_HIDDEN = 16
OPSET = 20
_IR_VERSION = 9
_NOTHING = "0" * 64

Floats = npt.NDArray[np.float32]


def make_model(
    features: Sequence[str] = FEATURES, *, seed: int = 1, rows_fixed_to: int = 0
) -> bytes:
    """ONNX bytes of ``features`` (n, width) floats to ``probability`` (n, 1).

    rows_fixed_to: a graph that fails on any other number of rows. Needs ``sluice[testing]``.
    """
    import onnx  # noqa: PLC0415 - an extra
    from onnx import helper, numpy_helper  # noqa: PLC0415

    width = len(features)
    first, last = _weights(seed, width)
    nodes = [
        helper.make_node(kind, inputs, [output])
        for kind, inputs, output in (
            ("Abs", ["features"], "size"),
            ("Add", ["size", "one"], "size1"),
            ("Log", ["size1"], "log"),
            ("Sign", ["features"], "sign"),
            ("Mul", ["log", "sign"], "x"),
            ("MatMul", ["x", "w1"], "h"),
            ("Relu", ["h"], "r"),
            ("MatMul", ["r", "w2"], "logit"),
            ("Sigmoid", ["logit"], "p"),
            ("Reshape", ["p", "shape"], "probability"),
        )
    ]
    tensors: dict[str, npt.NDArray[Any]] = {
        "one": np.ones(1, np.float32),
        "w1": first,
        "w2": last,
        "shape": np.array([rows_fixed_to or -1, 1], np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("probability", onnx.TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    helper.set_model_props(model, {FEATURES_KEY: ",".join(features)})
    raw: bytes = model.SerializeToString(deterministic=True)
    return raw


def _weights(seed: int, width: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    first = rng.normal(0, 0.5, (width, _HIDDEN)).astype(np.float32)
    return first, rng.normal(0, 0.5, (_HIDDEN, 1)).astype(np.float32)


def expected_ppm(seed: int, rows: npt.NDArray[np.int64]) -> list[int]:
    """What :func:`make_model` gives, by numpy."""
    first, last = _weights(seed, rows.shape[1])
    x = rows.astype(np.float32)
    hidden = np.maximum((np.sign(x) * np.log1p(np.abs(x))) @ first, 0)
    logit = (hidden @ last)[:, 0].astype(np.float64)
    return [round(1e6 / (1 + float(np.exp(-v)))) for v in logit]


def make_release(folder: Path, **changes: Any) -> Path:
    """Write a signed release into a new folder, and return it.

    changes: of the manifest; also ``model`` (bytes), ``key`` (private), ``seed`` (of the weights)
    and ``others``, optional files by name. What depends on them, digests and warm-up, follows; a
    ``model.int8.onnx`` must score as make_model of seed + 1.
    """
    others: dict[str, bytes] = changes.pop("others", {})
    key = changes.pop("key", KEY)
    seed = changes.pop("seed", 1)
    features = list(changes.pop("features", FEATURES))
    model = changes.pop("model", None) or make_model(features, seed=seed)
    card = b"# A release for tests\n"
    files = {MODEL: model, CARD: card, **others}
    rows = np.random.default_rng(2).integers(0, 50, (5, len(features)))
    int8_ppm = expected_ppm(seed + 1, rows) if MODEL_INT8 in others else [None] * len(rows)
    fields: dict[str, Any] = {
        "id": f"test-{seed}",
        "created_at": 1_780_000_000_000_000,
        "files": {name: _sha(raw) for name, raw in files.items()},
        "features": [used(catalogue.FEATURES[catalogue.INDEX[name]]) for name in features],
        "reference_currency": "EUR",
        "input": "features",
        "output": "probability",
        "opset": OPSET,
        "tolerates": ["device"],
        "reference_row": [0] * len(features),
        "warm_up": [
            Vector(*each)
            for each in zip(rows.tolist(), expected_ppm(seed, rows), int8_ppm, strict=True)
        ],
        "provenance": Provenance(
            kind="random weights",
            data=_NOTHING,
            code=_NOTHING,
            trained_from=0,
            trained_until=0,
            rows=0,
            frauds=0,
            prior_correction_milli=0,
            seed=seed,
        ),
        "metrics": {},
        "thresholds_ppm": {},
    }
    manifest = msgspec.json.encode(Manifest(**(fields | changes)))
    folder.mkdir(parents=True)
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    (folder / MANIFEST).write_bytes(manifest)
    (folder / SIGNATURE).write_bytes(sign(manifest, key))
    return folder


def _sha(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
