"""Reads a training set, whatever built it: its manifest, and the rows of a split, every byte
checked against the digest that the manifest has of it.

  manifest = read_manifest(folder)
  train = read_split(folder, "train")
  x = features_of(train, manifest)
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sluice.application.dataset_manifest import FIX, MANIFEST, Manifest, decode_manifest
from sluice.domain.features import catalogue
from sluice.errors import Corrupt, Rejected
from sluice.shown import shown

NAMED = 5
"""Features that a refusal names."""


def read_manifest(folder: Path, *, any_catalogue: bool = False) -> Manifest:
    """The manifest of a training set. Raises Rejected for a folder that is none (no_dataset), and
    for one whose features are another catalogue's (other_catalogue) unless any will do."""
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise Rejected(
            f"no training set: {exc.strerror}", where=str(path), fix=FIX, code="no_dataset"
        ) from exc
    manifest = decode_manifest(raw, str(path))
    if manifest.catalogue != catalogue.DIGEST and not any_catalogue:
        others = ", ".join(shown(name) for name in _others(manifest))
        raise Rejected(
            f"a training set of catalogue {manifest.catalogue}, this library computes "
            f"{catalogue.DIGEST}: "
            + (f"these are others: {others}" if others else "its columns mean other things"),
            where=str(path),
            fix="build it again with this library, or use the library that built it",
            code="other_catalogue",
        )
    return manifest


def _others(manifest: Manifest) -> list[str]:
    """Features that this library does not compute so, the first few."""
    ours = {feature.name: catalogue.digest(feature) for feature in catalogue.FEATURES}
    others = [name for name, found in manifest.meanings.items() if ours.get(name) != found]
    return [*others[:NAMED], *([f"{len(others) - NAMED} more"] if len(others) > NAMED else [])]


def dataset_digest(folder: Path) -> str:
    """SHA-256 of the manifest, which names the digest of every file: one name for the whole set.
    Raises Rejected (no_dataset)."""
    read_manifest(folder, any_catalogue=True)
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def read_split(folder: Path, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Rows of one split, by (event_at, authorization_id); all columns, or those named.

    Raises Rejected as :func:`read_manifest` does, for a split that the set does not have and for
    columns that are not there; Corrupt for a file that is missing or has other bytes.
    """
    manifest = read_manifest(folder)
    split = manifest.split(name)
    wanted = list(manifest.columns() if columns is None else columns)
    if missing := [one for one in wanted if one not in manifest.columns()]:
        raise Rejected(
            f"the training set has no column {', '.join(missing)}",
            where=str(folder),
            fix="docs/reference/dataset.md lists them; " + FIX,
            code="no_column",
        )
    return pa.concat_tables(
        [_part(folder / path, digest, wanted) for path, digest in split.files.items()]
    )


def _part(path: Path, digest: str, columns: list[str]) -> pa.Table:
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise Corrupt(
            f"a file of the training set cannot be read: {exc.strerror}",
            where=str(path),
            fix="copy the whole folder again, or build it again",
            code="damaged_dataset",
        ) from exc
    if hashlib.sha256(raw).hexdigest() != digest:
        raise Corrupt(
            "this is not the file that the manifest names",
            where=str(path),
            fix="copy the whole folder again, or build it again",
            code="damaged_dataset",
        )
    return pq.read_table(io.BytesIO(raw), columns=columns)


def features_of(table: pa.Table, manifest: Manifest) -> npt.NDArray[np.int64]:
    """(n, k) the features of n rows, in the manifest's order."""
    out = np.empty((len(table), len(manifest.features)), np.int64)
    for i, name in enumerate(manifest.features):
        out[:, i] = table[name].to_numpy()
    return out
