"""A release folder from a trained net: graph, card, manifest, signature."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sluice.adapters.feast.contract import plan_of
from sluice.adapters.onnx import OnnxScorer, load
from sluice.domain.features import catalogue
from sluice.domain.release import (
    CARD,
    MANIFEST,
    MODEL,
    SIGNATURE,
    Manifest,
    Provenance,
    TrustedKeys,
    Vector,
    key_id,
    sign,
)

from sluice_models.export import INPUT, OPSET, OUTPUT, to_onnx
from sluice_models.models import OnnxModel, TorchModel

Ints = npt.NDArray[np.int64]

WARM_UP_ROWS = 16


def code_digest() -> str:
    """SHA-256 over the sources of this package, by name."""
    total = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        total.update(path.name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def pack(
    folder: Path,
    model: TorchModel,
    *,
    release: str,
    created_at: int,
    card: str,
    provenance: Provenance,
    metrics: Mapping[str, int],
    thresholds_ppm: Mapping[str, int],
    tolerates: Sequence[str],
    reference_row: Ints,
    rows: Ints,
    key: Ed25519PrivateKey,
) -> OnnxModel:
    """Write a release over ``folder`` and load it as a decider does.

    rows: (m, f) release columns to draw the warm-up from, evenly over their scores.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    graph = to_onnx(model, folder / MODEL)
    (folder / CARD).write_text(card)
    fields = {
        "id": release,
        "created_at": created_at,
        "files": {MODEL: _sha(graph), CARD: _sha(card.encode())},
        "catalogue": catalogue.DIGEST,
        "features": list(model.names),
        "plan": plan_of(model.names).digest,
        "input": INPUT,
        "output": OUTPUT,
        "opset": OPSET,
        "tolerates": list(tolerates),
        "reference_row": reference_row.tolist(),
        "provenance": provenance,
        "metrics": dict(metrics),
        "thresholds_ppm": dict(thresholds_ppm),
    }
    draft = Manifest(**fields, warm_up=[Vector(reference_row.tolist(), 0)])
    manifest = Manifest(**fields, warm_up=_warm_up(draft, graph, rows))
    raw = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    (folder / MANIFEST).write_bytes(raw)
    (folder / SIGNATURE).write_bytes(sign(raw, key))
    trusted = TrustedKeys({key_id(key.public_key()): key.public_key()})
    return OnnxModel(model.names, load(folder, trusted, catalogue.DIGEST, catalogue.FEATURES))


def _warm_up(draft: Manifest, graph: bytes, rows: Ints) -> list[Vector]:
    """Rows from the lowest to the highest score, with what the runtime gives them."""
    columns = range(len(draft.features))
    groups = {f.name: f.group for f in catalogue.FEATURES}
    scorer = OnnxScorer(draft, graph, columns, groups)
    ppm = scorer.score(rows).ppm
    chosen = np.argsort(ppm, kind="stable")[
        np.linspace(0, len(rows) - 1, WARM_UP_ROWS).astype(np.int64)
    ]
    return [Vector(rows[i].tolist(), int(ppm[i])) for i in chosen]


def _sha(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
