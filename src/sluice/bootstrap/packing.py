"""A release folder from a graph, whatever made it: everything that can be worked out, is."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from sluice.adapters.onnx import Description, write_manifest
from sluice.adapters.onnx.scorer import graph_of
from sluice.adapters.onnx.trial import TriedGraph
from sluice.adapters.onnx.wire import named, opset_of
from sluice.adapters.parquet.dataset import dataset_digest, read_manifest
from sluice.adapters.parquet.judging import read_graph, read_rows, read_run
from sluice.application.dataset_manifest import CALIBRATION, TRAIN, VALIDATION
from sluice.application.judging.card import About, Measured, write_card
from sluice.application.judging.certificate import check_certificate, unverified
from sluice.application.judging.judge import to_ppm
from sluice.application.judging.judgement import Judgement
from sluice.application.judging.measures import Floats
from sluice.application.judging.rows import Rows
from sluice.application.judging.run import STUDENT, Candidate, Run
from sluice.application.judging.verdict import Verdict
from sluice.bootstrap.judging import read_json
from sluice.domain.clock import SystemClock, from_datetime, to_datetime
from sluice.domain.features import catalogue
from sluice.domain.records.decision import Entrypoint
from sluice.domain.records.entity import EntityKind
from sluice.domain.reference import Column, make_reference
from sluice.domain.release import (
    CARD,
    CERTIFICATE,
    MAX_BYTES,
    MODEL,
    MODEL_INT8,
    REFERENCE,
    Graph,
    Manifest,
    Provenance,
    Step,
)
from sluice.errors import Misconfigured, Rejected

WARM_UP_ROWS = 16
BATCH_OF: dict[Entrypoint, str] = {"sync": "1", "stream": "512"}
"""Rows of a call by which an entrypoint's variant is chosen."""
UNKNOWN = "0" * 64


class Given(NamedTuple):
    """What is packed: a candidate of a run, or a graph of any other make. candidate: "" for whom
    the certificate names, or the student. columns: names that the graph does not have in itself.
    kind: in words, of a graph without a run."""

    run: Path | None = None
    candidate: str = ""
    model: Path | None = None
    int8: Path | None = None
    columns: Sequence[str] = ()
    kind: str = ""


class _Graphs(NamedTuple):
    model: bytes
    int8: bytes | None
    provenance: Provenance
    tolerates: Sequence[EntityKind]
    reference_row: Sequence[int] | None


def pack_model(
    out: Path,
    dataset: Path,
    given: Given,
    *,
    release: str,
    judgement: Path | None,
    elsewhere: Sequence[Path],
    certificate: Path | None,
    about: About,
) -> Manifest:
    """Write a release into a new folder: graphs, card, reference, certificate, manifest; not signed
    yet. It appears at once, or not at all. Raises Rejected, Corrupt, Misconfigured."""
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise Misconfigured("the folder is not empty", where=str(out), fix="choose a new one")
    rows = _rows(dataset)
    certified = _read(certificate) if certificate else b""
    verdict = unverified(certified) if certified else None
    if not given.candidate:
        given = given._replace(candidate=verdict.candidate if verdict else STUDENT)
    graphs = _graphs(dataset, given, verdict)
    tried = TriedGraph(graphs.model)
    if absent := [name for name in tried.columns if name not in catalogue.INDEX]:
        raise Misconfigured(f"the catalogue has no feature {', '.join(absent)}", where=MODEL)
    if absent := [name for name in tried.columns if name not in rows.names]:
        raise Rejected(
            f"the training set has no feature {', '.join(absent)}", code="no_column",
            fix="pack it with the set that it was trained on",
        )  # fmt: skip
    features = rows.features[:, [rows.names.index(name) for name in tried.columns]]
    score = tried.predict(features)
    created = SystemClock().now_us()
    called = given.candidate if given.run else "model"
    name = release or (
        f"{called.replace('_', '-')}-{to_datetime(created):%Y%m%d}-"
        f"{hashlib.sha256(graphs.model).hexdigest()[:6]}"
    )
    measured = [
        Measured(read_json(Judgement, path), given.candidate)
        for path in [*([judgement] if judgement else [])]
    ] + [_elsewhere(path, given.candidate) for path in elsewhere]
    genuine = features[~rows.window.fraud]
    reference_row = graphs.reference_row or np.median(genuine, axis=0).astype(np.int64).tolist()
    description = Description(
        id=name,
        created_at=created,
        opset=opset_of(graphs.model),
        reference_currency=read_manifest(dataset).reference_currency,
        variants=_variants(verdict) if graphs.int8 else {},
        tolerates=list(graphs.tolerates),
        reference_row=list(reference_row),
        warm_up=features[_spread(score)].tolist(),
        provenance=graphs.provenance,
        metrics=_metrics(measured),
        thresholds_ppm=verdict.thresholds_ppm if verdict else _thresholds(measured),
    )
    reference = make_reference(
        features,
        to_ppm(score),
        data=dataset_digest(dataset),
        split=rows.name,
        since=int(rows.window.event_us.min()),
        until=int(rows.window.event_us.max()),
        weights=rows.weight,
        segments=[Column("channel", list(rows.channel)), Column("region", list(rows.region))],
        performance=_metrics(measured),
    )
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    aside.mkdir(parents=True)
    try:
        (aside / MODEL).write_bytes(graphs.model)
        if graphs.int8:
            (aside / MODEL_INT8).write_bytes(graphs.int8)
        (aside / REFERENCE).write_bytes(msgspec.json.encode(reference))
        if certified:
            (aside / CERTIFICATE).write_bytes(certified)
        card = write_card(
            name,
            graphs.provenance,
            features=len(tried.columns),
            measured=measured,
            verdict=verdict,
            about=about,
        )
        (aside / CARD).write_text(card)
        manifest = write_manifest(aside, description)
        if verdict:
            check_certificate(verdict, manifest, MODEL_INT8)
        if out.exists():
            out.rmdir()
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def read_about(use: Path | None, limits: Path | None, approvals: Sequence[str]) -> About:
    """What the maker has to say, from files. Raises Misconfigured."""
    texts = [_read(path).decode(errors="replace") if path else "" for path in (use, limits)]
    return About(texts[0], texts[1], tuple(approvals))


def _rows(dataset: Path) -> Rows:
    """Rows that the model was not fitted to: the last test, else calibration."""
    manifest = read_manifest(dataset)
    names = [split.name for split in manifest.splits]
    if manifest.tests:
        return read_rows(dataset, manifest.tests[-1].name)
    return read_rows(dataset, next((n for n in (CALIBRATION, VALIDATION) if n in names), TRAIN))


def _graphs(dataset: Path, given: Given, verdict: Verdict | None) -> _Graphs:
    if (given.run is None) == (given.model is None):
        raise Misconfigured("either a run or a model is packed", fix="--run RUN, or --model FILE")
    if given.run is not None:
        return _of_run(dataset, read_run(given.run), given, verdict)
    assert given.model is not None
    model = _with_names(_read(given.model), given.columns)
    int8 = _with_names(_read(given.int8), given.columns) if given.int8 else None
    manifest = read_manifest(dataset)
    train = manifest.split(TRAIN)
    made = Provenance(
        kind=given.kind or "A model of another make",
        data=dataset_digest(dataset),
        code=UNKNOWN,
        trained_from=from_datetime(datetime.fromisoformat(train.first)),
        trained_until=from_datetime(datetime.fromisoformat(train.until)),
        rows=train.rows,
        frauds=train.frauds,
        prior_correction_milli=0,
        seed=manifest.seed,
    )
    return _Graphs(model, int8, made, (), None)


def _of_run(dataset: Path, run: Run, given: Given, verdict: Verdict | None) -> _Graphs:
    assert given.run is not None
    if run.dataset != dataset_digest(dataset):
        raise Rejected(
            f"the run was trained on the set {run.dataset[:12]}…, this is another one",
            where=str(given.run),
            fix="pack it with its own training set",
            code="other_dataset",
        )
    candidate = run.candidate(given.candidate)
    if not candidate.releasable:
        raise Rejected(
            f"{given.candidate} reads more than the features, no decider can run it",
            fix="pack its student, or LightGBM",
            code="not_releasable",
        )
    eight = next((c for c in run.candidates if _eight_bits_of(c, candidate, verdict)), None)
    made = Provenance(
        kind=candidate.kind,
        data=run.dataset,
        code=run.code,
        trained_from=run.trained_from,
        trained_until=run.trained_until,
        rows=candidate.rows,
        frauds=candidate.frauds,
        prior_correction_milli=candidate.prior_correction_milli,
        seed=candidate.seed,
    )
    return _Graphs(
        read_graph(given.run, candidate),
        read_graph(given.run, eight) if eight else None,
        made,
        candidate.tolerates,
        run.reference_row,
    )


def _eight_bits_of(one: Candidate, whole: Candidate, verdict: Verdict | None) -> bool:
    """Only what the gate let pass goes in: without a certificate, single precision alone."""
    return verdict is not None and bool(verdict.int8) and one.sha256 == verdict.int8 and (
        one.name != whole.name
    )  # fmt: skip


def _read(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise Misconfigured(f"cannot be read: {exc.strerror}", where=str(path)) from exc
    if len(raw) > MAX_BYTES[MODEL]:
        raise Misconfigured(
            f"{len(raw):,} bytes, a release holds at most {MAX_BYTES[MODEL]:,}", where=str(path)
        )
    return raw


def _with_names(model: bytes, columns: Sequence[str]) -> bytes:
    """A graph that names its columns. Raises Misconfigured if it does so already, otherwise."""
    if not columns:
        graph_of(model)  # says what is wrong with it
        return model
    try:
        found = graph_of(model).features
    except Misconfigured:
        return named(model, columns)
    if found != list(columns):
        raise Misconfigured(
            f"the graph names its columns already, {found[0]} first", fix="leave --columns out"
        )
    return model


def _variants(verdict: Verdict | None) -> dict[Entrypoint, Graph]:
    """By entrypoint the graph that was faster at the batches it sees, as the gate measured."""
    took = verdict.timings_us if verdict else {}
    found: dict[Entrypoint, Graph] = {}
    for entrypoint, batch in BATCH_OF.items():
        whole, eight = (took.get(kind, {}).get(batch) for kind in ("fp32", "int8"))
        if whole is not None and eight is not None:
            found[entrypoint] = MODEL_INT8 if eight < whole else MODEL
    return found


def _elsewhere(path: Path, candidate: str) -> Measured:
    """A judgement by other rows: of the candidate, or of the one model that it has."""
    judgement = read_json(Judgement, path)
    names = [model.name for model in judgement.models]
    if candidate not in names and len(names) != 1:
        raise Rejected(
            f"the judgement has {', '.join(names)}: which one is {candidate}?",
            where=str(path),
            fix=f"judge with --release {candidate}=DIR",
        )
    return Measured(judgement, candidate if candidate in names else names[0])


def _metrics(measured: Sequence[Measured]) -> dict[str, int]:
    """Of its own set, means over tests; a share in parts per million."""
    if not measured:
        return {}
    return {
        f"{name}_ppm": round(1e6 * figure.mean)
        for name, figure in measured[0].found.naive.items()
        if figure.mean is not None
    }


def _thresholds(measured: Sequence[Measured]) -> dict[Step, int]:
    costed = measured[0].found.costed if measured else None
    return dict(costed.thresholds_ppm) if costed else {}


def _spread(score: Floats) -> list[int]:
    """Indices of rows from the lowest to the highest score."""
    places = np.linspace(0, len(score) - 1, min(WARM_UP_ROWS, len(score))).astype(np.int64)
    return [int(i) for i in np.argsort(score, kind="stable")[places]]
