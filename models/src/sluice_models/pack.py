"""A release folder from a graph: card, manifest, signature, and its first load."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sluice.adapters.onnx import Description, load, write_manifest
from sluice.domain.features import catalogue
from sluice.domain.records.entity import EntityKind
from sluice.domain.release import (
    CARD,
    MANIFEST,
    MODEL,
    SIGNATURE,
    Provenance,
    Step,
    TrustedKeys,
    key_id,
    sign,
)

from sluice_models.export import opset
from sluice_models.models import OnnxModel

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
    graph: bytes,
    *,
    release: str,
    created_at: int,
    card: str,
    provenance: Provenance,
    metrics: Mapping[str, int],
    thresholds_ppm: Mapping[Step, int],
    tolerates: Sequence[EntityKind],
    reference_row: Ints,
    reference_currency: str,
    rows: Ints,
    key: Ed25519PrivateKey,
) -> OnnxModel:
    """Write a release over ``folder`` and load it as a decider does.

    rows: (m, f) release columns to draw the warm-up from, evenly over their scores.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MODEL).write_bytes(graph)
    (folder / CARD).write_text(card)
    description = Description(
        id=release,
        created_at=created_at,
        opset=opset(graph),
        reference_currency=reference_currency,
        tolerates=list(tolerates),
        reference_row=reference_row.tolist(),
        warm_up=[reference_row.tolist()],
        provenance=provenance,
        metrics=dict(metrics),
        thresholds_ppm=dict(thresholds_ppm),
    )
    draft = _written(folder, description, key)
    chosen = _spread(draft.predict(draft.names, rows))
    warm_up = [rows[i].tolist() for i in chosen]
    return _written(folder, msgspec.structs.replace(description, warm_up=warm_up), key)


def _written(folder: Path, description: Description, key: Ed25519PrivateKey) -> OnnxModel:
    manifest = write_manifest(folder, description)
    (folder / SIGNATURE).write_bytes(sign((folder / MANIFEST).read_bytes(), key))
    trusted = TrustedKeys({key_id(key.public_key()): key.public_key()})
    scorer = load(folder, trusted, catalogue.FEATURES, description.reference_currency)
    return OnnxModel(manifest.names, scorer)


def _spread(score: npt.NDArray[np.float64]) -> Ints:
    """Indices of rows from the lowest to the highest score."""
    places = np.linspace(0, len(score) - 1, WARM_UP_ROWS).astype(np.int64)
    return np.argsort(score, kind="stable")[places]
