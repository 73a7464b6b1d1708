"""A small signed release, made on the spot: no training, no ONNX library.

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
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
"""Known to everybody: for tests only."""
TRUSTED = TrustedKeys({key_id(KEY.public_key()): KEY.public_key()})
_HIDDEN = 16
OPSET = 20
_NOTHING = "0" * 64

Floats = npt.NDArray[np.float32]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, value: bytes | str | int) -> bytes:
    """One protobuf field: a varint, or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(raw)) + raw


def _node(kind: str, inputs: Sequence[str], output: str) -> bytes:
    parts = [_field(1, name) for name in inputs] + [_field(2, output), _field(4, kind)]
    return _field(1, b"".join(parts))


def _tensor(name: str, array: npt.NDArray[Any]) -> bytes:
    kind = {"float32": 1, "int64": 7}[array.dtype.name]
    dims = b"".join(_field(1, d) for d in array.shape)
    return _field(5, dims + _field(2, kind) + _field(8, name) + _field(9, array.tobytes()))


def _value(number: int, name: str, width: int) -> bytes:
    dims = _field(1, _field(2, "n")) + _field(1, _field(1, width))
    shape = _field(1, _field(1, 1) + _field(2, dims))
    return _field(number, _field(1, name) + _field(2, shape))


def make_model(
    features: Sequence[str] = FEATURES, *, seed: int = 1, rows_fixed_to: int = 0
) -> bytes:
    """ONNX bytes of ``features`` (n, width) floats to ``probability`` (n, 1).

    rows_fixed_to: a graph that fails on any other number of rows.
    """
    width = len(features)
    first, last = _weights(seed, width)
    nodes = [
        _node("Abs", ["features"], "size"),
        _node("Add", ["size", "one"], "size1"),
        _node("Log", ["size1"], "log"),
        _node("Sign", ["features"], "sign"),
        _node("Mul", ["log", "sign"], "x"),
        _node("MatMul", ["x", "w1"], "h"),
        _node("Relu", ["h"], "r"),
        _node("MatMul", ["r", "w2"], "logit"),
        _node("Sigmoid", ["logit"], "p"),
        _node("Reshape", ["p", "shape"], "probability"),
    ]
    tensors = [
        _tensor("one", np.ones(1, np.float32)),
        _tensor("w1", first),
        _tensor("w2", last),
        _tensor("shape", np.array([rows_fixed_to or -1, 1], np.int64)),
    ]
    ports = [_value(11, "features", width), _value(12, "probability", 1)]
    graph = b"".join([*nodes, _field(2, "test"), *tensors, *ports])
    names = _field(1, FEATURES_KEY) + _field(2, ",".join(features))
    opset = _field(1, "") + _field(2, OPSET)
    return _field(1, 9) + _field(7, graph) + _field(8, opset) + _field(14, names)


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

    changes: of the manifest; also ``model`` (bytes), ``key`` (private) and ``seed`` (of the
    weights). What depends on them, digests and warm-up, follows.
    """
    key = changes.pop("key", KEY)
    seed = changes.pop("seed", 1)
    features = list(changes.pop("features", FEATURES))
    model = changes.pop("model", None) or make_model(features, seed=seed)
    card = b"# A release for tests\n"
    rows = np.random.default_rng(2).integers(0, 50, (5, len(features)))
    fields: dict[str, Any] = {
        "id": f"test-{seed}",
        "created_at": 1_780_000_000_000_000,
        "files": {MODEL: _sha(model), CARD: _sha(card)},
        "features": [used(catalogue.FEATURES[catalogue.INDEX[name]]) for name in features],
        "reference_currency": "EUR",
        "input": "features",
        "output": "probability",
        "opset": OPSET,
        "tolerates": ["device"],
        "reference_row": [0] * len(features),
        "warm_up": [
            Vector(row, ppm)
            for row, ppm in zip(rows.tolist(), expected_ppm(seed, rows), strict=True)
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
    (folder / MODEL).write_bytes(model)
    (folder / CARD).write_bytes(card)
    (folder / MANIFEST).write_bytes(manifest)
    (folder / SIGNATURE).write_bytes(sign(manifest, key))
    return folder


def _sha(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
