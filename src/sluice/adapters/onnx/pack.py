"""A manifest for a model: what the graph says of itself, and what its maker says of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from sluice.adapters.onnx.release import read_file
from sluice.adapters.onnx.scorer import OnnxScorer, graph_of
from sluice.domain.features import catalogue
from sluice.domain.records.authorization import Currency, MicrosUtc
from sluice.domain.records.decision import Entrypoint
from sluice.domain.records.entity import EntityKind
from sluice.domain.reference import decode_reference
from sluice.domain.release import (
    CARD,
    MANIFEST,
    MODEL,
    MODEL_INT8,
    OPTIONAL,
    REFERENCE,
    SIGNATURE,
    Graph,
    Manifest,
    Ppm,
    Provenance,
    Step,
    Vector,
    decode_manifest,
    used,
)
from sluice.errors import Misconfigured


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What only the maker of a model knows. Fields as in the manifest; docs/reference/release.md.

    warm_up: rows alone, 1 to 64 in the order of the graph's columns: packing scores them, with
    every graph. variants: by entrypoint, the graph that was measured to serve it best.
    """

    id: str
    created_at: MicrosUtc
    opset: int
    reference_currency: Currency
    variants: dict[Entrypoint, Graph] = {}
    tolerates: list[EntityKind]
    reference_row: list[int]
    warm_up: Annotated[list[list[int]], Meta(min_length=1, max_length=64)]
    int8_tolerance_ppm: Annotated[int, Meta(ge=0, le=10_000)] = 1_000
    provenance: Provenance
    metrics: dict[str, int] = {}
    thresholds_ppm: dict[Step, Ppm] = {}


def write_manifest(folder: Path, description: Description) -> Manifest:
    """Write ``manifest.json`` beside ``model.onnx``, ``card.md`` and what else of a release lies
    there, for this build's features.

    It is not signed yet. Raises Misconfigured: a file that cannot be read, a graph that does not
    name its columns or names one that the catalogue lacks, graphs with different columns, rows of
    another width, a reference of other inputs.
    """
    there = [name for name in OPTIONAL if (folder / name).exists()]
    files = {name: read_file(folder / name) for name in (MODEL, CARD, *there)}
    graph = graph_of(files[MODEL])
    if MODEL_INT8 in files and graph_of(files[MODEL_INT8]) != graph:
        raise Misconfigured(
            f"its input, output or columns are not those of {MODEL}", where=str(folder / MODEL_INT8)
        )
    if REFERENCE in files:
        decode_reference(files[REFERENCE], len(graph.features), str(folder / REFERENCE))
    rows = [description.reference_row, *description.warm_up]
    if any(len(row) != len(graph.features) for row in rows):
        raise Misconfigured(
            f"a row does not have the graph's {len(graph.features)} columns",
            where="reference_row, warm_up",
        )
    if absent := [name for name in graph.features if name not in catalogue.INDEX]:
        raise Misconfigured(f"the catalogue has no feature {', '.join(absent)}", where=MODEL)
    fields = {name: getattr(description, name) for name in Description.__struct_fields__}
    draft = Manifest(
        **fields | {"warm_up": [Vector(row, 0) for row in description.warm_up]},
        files={name: hashlib.sha256(raw).hexdigest() for name, raw in files.items()},
        features=[used(catalogue.FEATURES[catalogue.INDEX[name]]) for name in graph.features],
        input=graph.input,
        output=graph.output,
    )
    scored = _scored(draft, files)
    raw = msgspec.json.format(msgspec.json.encode(scored), indent=1)
    manifest = decode_manifest(raw, str(folder / MANIFEST))
    (folder / MANIFEST).write_bytes(raw)
    return manifest


def add_file(folder: Path, name: str, raw: bytes) -> Manifest:
    """Write an optional file into a packed release and name it in its manifest. A signature is
    taken away: it was over another manifest. Raises Misconfigured."""
    before = decode_manifest(read_file(folder / MANIFEST), str(folder / MANIFEST))
    files = before.files | {name: hashlib.sha256(raw).hexdigest()}
    changed = msgspec.structs.replace(before, v=3, files=files)
    manifest = msgspec.json.format(msgspec.json.encode(changed), indent=1)
    decode_manifest(manifest, str(folder / MANIFEST))
    (folder / SIGNATURE).unlink(missing_ok=True)
    (folder / name).write_bytes(raw)
    (folder / MANIFEST).write_bytes(manifest)
    return changed


def scorer_of_columns(folder: Path) -> OnnxScorer:
    """A release's ``model.onnx`` over its own columns, as nobody signed it yet. Raises
    Misconfigured, Corrupt."""
    manifest = decode_manifest(read_file(folder / MANIFEST), str(folder / MANIFEST))
    groups = {f.name: f.group for f in catalogue.FEATURES}
    return OnnxScorer(manifest, read_file(folder / MODEL), range(len(manifest.names)), groups)


def _scored(draft: Manifest, files: Mapping[str, bytes]) -> Manifest:
    rows = np.array([vector.features for vector in draft.warm_up], np.int64)
    groups = {f.name: f.group for f in catalogue.FEATURES}

    def ppm(graph: Graph) -> list[int]:
        # As the decider does it, but over the release's own columns.
        scores = OnnxScorer(draft, files[graph], range(rows.shape[1]), groups).score(rows)
        return [int(each) for each in scores.ppm]

    int8 = ppm(MODEL_INT8) if MODEL_INT8 in files else [None] * len(rows)
    vectors = [Vector(*each) for each in zip(rows.tolist(), ppm(MODEL), int8, strict=True)]
    return msgspec.structs.replace(draft, warm_up=vectors)
