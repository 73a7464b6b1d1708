"""Parts of the verbs that judge and gate: files in, files out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np

from sluice.adapters.onnx import read_trust, verify
from sluice.adapters.onnx.trial import BATCHES, TriedGraph, timings
from sluice.adapters.parquet.dataset import dataset_digest, read_manifest
from sluice.adapters.parquet.inputs import Source, read_inputs
from sluice.adapters.parquet.judging import (
    read_campaigns,
    read_graph,
    read_rows,
    read_run,
    read_scores,
    run_digest,
)
from sluice.adapters.policyfiles import read_policy
from sluice.adapters.report import page
from sluice.adapters.storage import AnyPath
from sluice.application.dataset_manifest import CALIBRATION, VALIDATION
from sluice.application.dataset_manifest import Manifest as Dataset
from sluice.application.judging.certificate import certify
from sluice.application.judging.gate import (
    Champion,
    Contender,
    Trial,
    try_candidate,
    typical_of_row,
)
from sluice.application.judging.judge import Material, Scored, judge
from sluice.application.judging.judgement import Judgement
from sluice.application.judging.measures import Floats, Window, average_precision
from sluice.application.judging.rows import Rows
from sluice.application.judging.run import BETTER, INT8, STUDENT, Candidate, Run, better_of
from sluice.application.judging.thresholds import Costs
from sluice.application.judging.verdict import Limits, Verdict
from sluice.application.sign_release import read_manifest as read_release
from sluice.application.sign_release import read_private_key
from sluice.domain.features import catalogue
from sluice.domain.release import CERTIFICATE, MODEL, Manifest
from sluice.errors import Misconfigured, Rejected, SluiceError
from sluice.yaml_files import decode_as

JUDGEMENT, REPORT, VERDICT = "judgement.json", "report.html", "verdict.json"
RELEASES_MAX = 1_000
"""Folders that are looked at for a release that is replayed."""
Say = Callable[[str], None]
T = TypeVar("T")


class Sources(NamedTuple):
    """What is judged. runs: folders; the first names the models, others add seeds of them.
    releases: by the name that they are to have."""

    runs: Sequence[Path]
    releases: Mapping[str, Path]


def judge_models(
    dataset: Path,
    sources: Sources,
    out: Path,
    *,
    title: str,
    leader: str | None,
    truth: Path | None,
    policy: Path | None,
    costs: Path | None,
    trust: Path,
    verdict: Path | None,
    say: Say,
) -> Judgement:
    """Judge runs and releases on a training set's tests, the leader's segments and examples told
    in full (None: whom the verdict is of, else the student's); write judgement.json and report.html
    into a new folder, or over those of an earlier judgement. Raises Rejected, Corrupt,
    Misconfigured."""

    manifest = read_manifest(dataset)
    _refuse_others(manifest, sources.runs, dataset_digest(dataset))
    tests = [read_rows(dataset, split.name) for split in manifest.tests]
    names = {split.name for split in manifest.splits}
    tuned_on = next((name for name in (CALIBRATION, VALIDATION) if name in names), None)
    tuning = read_rows(dataset, tuned_on) if tuned_on else None
    say(f"{sum(map(len, tests)):,} rows in {len(tests)} tests")
    models = _scored_runs(sources.runs, [*tests, *([tuning] if tuning else [])])
    for name, folder in sources.releases.items():
        models.append(_scored_release(name, folder, trust, tests, tuning))
        say(f"scored {name}")
    shown = read_json(Verdict, verdict) if verdict else None
    leader = leader or (shown.candidate if shown else STUDENT)
    models.sort(key=lambda model: model.name != leader)
    found = judge(
        Material(
            title=title or f"Judgement of {dataset.name}",
            dataset=dataset_digest(dataset),
            runs=[run_digest(run) for run in sources.runs],
            currency=manifest.reference_currency,
            label_delay_s=manifest.label_delay_s,
            tests=tests,
            tuning=tuning,
            campaigns=read_campaigns(truth) if truth else None,
            policy=read_policy(policy, catalogue.FEATURES) if policy else None,
            costs=_read_yaml(Costs, costs) if costs else Costs(),
        ),
        models,
    )
    out.mkdir(parents=True, exist_ok=True)
    _write(out / JUDGEMENT, msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    _write(out / REPORT, page(found, shown).encode())
    return found


def _refuse_others(manifest: Dataset, runs: Sequence[Path], digest: str) -> None:

    for folder in runs:
        run = read_run(folder)
        if run.dataset != digest:
            raise Rejected(
                f"the run was trained on the set {run.dataset[:12]}…, this one is {digest[:12]}…",
                where=str(folder),
                fix="judge it by the set that it was trained on; a release can be judged by any",
                code="other_dataset",
            )
        if list(manifest.features) != run.features:
            raise Rejected("the run has other features than the set", where=str(folder))


def _scored_runs(runs: Sequence[Path], every: Sequence[Rows]) -> list[Scored]:

    kinds: dict[str, str] = {}
    scores: dict[str, dict[str, list[Floats]]] = {}
    for folder in runs:
        run = read_run(folder)
        names = [candidate.name for candidate in run.candidates]
        kinds = {candidate.name: candidate.kind for candidate in run.candidates} | kinds
        for rows in every:
            if rows.name not in run.scores and not rows.name.startswith("test"):
                continue
            for name, score in read_scores(folder, run, rows, names).items():
                scores.setdefault(name, {}).setdefault(rows.name, []).append(score)
    return [Scored(name, kinds[name], "run", by_split) for name, by_split in scores.items()]


def _scored_release(
    name: str, folder: Path, trust: Path, tests: Sequence[Rows], tuning: Rows | None
) -> Scored:

    manifest, graph = _release_graph(folder, trust)
    every = [*tests, *([tuning] if tuning else [])]
    scores = {rows.name: [_predict(graph, rows, manifest.id)] for rows in every}
    return Scored(name, manifest.provenance.kind, "release", scores)


def _release_graph(folder: Path, trust: Path) -> tuple[Manifest, TriedGraph]:
    """A release's model, its signature and digests checked."""

    manifest, files, _ = verify(folder, read_trust(trust))
    return manifest, TriedGraph(files[MODEL])


def _predict(graph: TriedGraph, rows: Rows, name: str) -> Floats:
    absent = [column for column in graph.columns if column not in rows.names]
    if absent:
        raise Rejected(
            f"{name} takes features that the training set does not have: {', '.join(absent[:5])}",
            fix="build the set with all features of the catalogue",
            code="no_column",
        )
    return graph.predict(rows.features[:, [rows.names.index(column) for column in graph.columns]])


class Gated(NamedTuple):
    """A verdict, and where it lies. certificate: None for a candidate that was refused. beside:
    of the BETTER one, what those that could be released are worth on the tests, and who was tried;
    else empty."""

    verdict: Verdict
    path: Path
    certificate: Path | None
    beside: str


def gate_candidate(
    dataset: Path,
    run_folder: Path,
    out: Path,
    *,
    name: str,
    int8: str | None,
    with_int8: bool,
    champion: Path | None,
    releases: Path | None,
    archive: AnyPath,
    archive_wanted: bool,
    limits: Path | None,
    costs: Path | None,
    trust: Path,
    key: Path | None,
) -> Gated:
    """Try a run's candidate, or its BETTER one, with its eight-bit variant: int8, or where the run
    has one and it is wanted, the one of its name; write verdict.json, and certificate.json where it
    is accepted and there is a key. archive: of the feature log; wanted: rows must lie in it. Raises
    Rejected, Corrupt, Misconfigured; a refusal is a verdict, no error."""

    private = read_private_key(key) if key else None
    manifest, run = read_manifest(dataset), read_run(run_folder)
    if name != BETTER:
        _refuse_unreleasable(run.candidate(name))
    names = {split.name for split in manifest.splits}
    tuned_on = next((s for s in (CALIBRATION, VALIDATION) if s in names), None)
    if tuned_on is None or not manifest.tests:
        raise Rejected(
            "the training set has no calibration split, or no test",
            fix="sluice dataset build --calibration 7d --tests 1",
            code="no_split",
        )
    tests = [read_rows(dataset, split.name) for split in manifest.tests]
    asked = _read_yaml(Limits, limits) if limits else Limits()
    digest, beside = dataset_digest(dataset), ""
    same = run.dataset == digest
    if name == BETTER:
        name, beside = (
            _better(run_folder, run, tests, asked.average_precision_loss) if same else (STUDENT, "")
        )
    candidate = run.candidate(name)
    int8_named = int8 is not None
    if with_int8 and int8 is None:
        int8 = next((c.name for c in run.candidates if c.name == name + INT8), None)
    graphs = {"fp32": TriedGraph(read_graph(run_folder, candidate))}
    if int8:
        graphs["int8"] = TriedGraph(read_graph(run_folder, run.candidate(int8)))
    in_force = _release_graph(champion, trust) if champion else None
    if in_force:
        graphs["champion"] = in_force[1]
    took = _timed(graphs, tests[0])

    def contender(kind: str, called: str) -> Contender:
        graph = graphs[kind]
        return Contender(called, graph.sha256, graph.columns, graph.predict, took.get(kind, {}))

    inputs, sample = read_inputs(dataset, run_folder, tests, Source(archive, archive_wanted))
    verdict = try_candidate(
        Trial(
            dataset=digest,
            trained_on=run.dataset,
            run=run_digest(run_folder),
            currency=manifest.reference_currency,
            tests=tests,
            tuning=read_rows(dataset, tuned_on),
            candidate=contender("fp32", name),
            run_scores={r.name: read_scores(run_folder, run, r, [name])[name] for r in tests}
            if same
            else {},
            trained=sample,
            trained_until=run.trained_until,
            inputs=inputs,
            int8=contender("int8", int8) if int8 else None,
            int8_named=int8_named,
            champion=_as_champion(in_force[0], contender("champion", in_force[0].id))
            if in_force
            else None,
            known=known_releases(releases) if releases else {},
            limits=asked,
            costs=_read_yaml(Costs, costs) if costs else Costs(),
        )
    )
    out.mkdir(parents=True, exist_ok=True)
    raw = msgspec.json.format(msgspec.json.encode(verdict), indent=1) + b"\n"
    _write(out / VERDICT, raw)
    certificate = out / CERTIFICATE
    if not verdict.accepted or private is None:
        certificate.unlink(missing_ok=True)  # of an earlier verdict
        return Gated(verdict, out / VERDICT, None, beside)
    _write(certificate, certify(verdict, private))
    return Gated(verdict, out / VERDICT, certificate, beside)


def _refuse_unreleasable(candidate: Candidate) -> None:
    if not candidate.releasable:
        raise Rejected(
            f"{candidate.name} reads more than the features, no decider can run it",
            fix="gate its student, or LightGBM",
            code="not_releasable",
        )


def _better(folder: Path, run: Run, tests: Sequence[Rows], margin: float) -> tuple[str, str]:
    """Whom to try, and in words what each candidate is worth that could be released by itself:
    average precision over the tests' rows."""
    names = [c.name for c in run.candidates if c.releasable and not c.name.endswith(INT8)]
    if not names:
        return STUDENT, ""
    found = [read_scores(folder, run, rows, names) for rows in tests]
    whole = Window.joined([rows.window for rows in tests])
    worth = {
        name: average_precision(
            np.concatenate([scores[name] for scores in found]), whole.fraud, whole.weight
        )
        for name in names
    }
    better = better_of(worth, margin)
    told = ", ".join(f"{name} {figure:.3f}" for name, figure in worth.items())
    return better, f"average precision on the tests: {told}; {better} is tried"


def _timed(graphs: Mapping[str, TriedGraph], rows: Rows) -> dict[str, dict[str, float]]:
    """Of the graphs whose columns the set has."""
    most = max(BATCHES)
    features = rows.features[np.arange(most) % len(rows)]
    able = {
        kind: graph for kind, graph in graphs.items() if not set(graph.columns) - set(rows.names)
    }
    given = {
        kind: features[:, [rows.names.index(column) for column in graph.columns]]
        for kind, graph in able.items()
    }
    return timings(able, given)


def _as_champion(manifest: Manifest, contender: Contender) -> Champion:

    return Champion(
        contender=contender,
        release=manifest.id,
        trained_until=manifest.provenance.trained_until,
        typical=typical_of_row(manifest.names, manifest.reference_row),
    )


def known_releases(folder: Path) -> dict[str, tuple[str, int]]:
    """Releases below a folder, by the SHA-256 of each of their graphs: id, and when it was made.
    What is no release is passed over. Raises Misconfigured for more than RELEASES_MAX."""

    found: dict[str, tuple[str, int]] = {}
    folders = [path for path in sorted(folder.glob("*")) if path.is_dir()]
    if len(folders) > RELEASES_MAX:
        raise Misconfigured(
            f"{len(folders)} folders, at most {RELEASES_MAX} are looked at", where=str(folder)
        )
    for path in folders:
        try:
            manifest = read_release(path)
        except SluiceError:
            continue
        for name, digest in manifest.files.items():
            if name.endswith(".onnx"):
                found[digest] = (manifest.id, manifest.created_at)
    return found


def _read_yaml(kind: type[T], path: Path) -> T:

    try:
        return decode_as(kind, path.read_bytes(), str(path), fix="docs/reference/gate.md")
    except OSError as exc:
        raise Misconfigured(f"cannot be read: {exc.strerror}", where=str(path)) from exc


def read_json(kind: type[T], path: Path) -> T:
    """A file that a verb wrote. Raises Misconfigured."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as exc:
        raise Misconfigured(f"cannot be read: {exc.strerror}", where=str(path)) from exc
    except msgspec.DecodeError as exc:
        raise Misconfigured(str(exc), where=str(path)) from exc


def _write(path: Path, raw: bytes) -> None:
    """At once, so that nothing half-written is read."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(raw)
    aside.replace(path)
