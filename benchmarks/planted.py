"""Bad candidates beside an honest one, on a bank's own table: what does the gate say of each?

  models/.venv/bin/python -m benchmarks.planted FILE [--mapping handbook] [--labels handbook-labels]

FILE is the Fraud Detection Handbook's table, or any that the mappings fit. Goes through the verbs
(backfill, dataset build, gate, release pack and sign) in --work, trains LightGBM and a student of a
few epochs on each set, plants what is listed below, and leaves planted.json in benchmarks/results:
the verdict and the reason of each. Exit 1 if one was judged wrongly. Ten minutes on two free cores.

  honest         accepted
  unit           a column is 100 times what it was, in train, validation and calibration
  unit, learnt   the same, while it learnt alone: its set is the honest one
  labels         of train and validation, shuffled
  leak           features that know labels at once, by a backfill without the delay
  int8           of all layers, ranged on ten genuine rows by onnxruntime's tool
  replayed       the honest one again, when it is a release already
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from sluice_models.code import code_digest
from sluice_models.export import finish, opset, to_onnx
from sluice_models.figures import AS_IT_IS, calibrate, validation_figures
from sluice_models.fits import Fits
from sluice_models.fitting import Batches, logits
from sluice_models.material import Material, read_material
from sluice_models.pipeline import VERSIONS
from sluice_models.quantise import enriched, to_int8
from sluice_models.run import Candidate, Run, Search, write_learnt, write_run
from sluice_models.search import NetParameters
from sluice_models.serving import Graph
from sluice_models.trees import TreeParameters, trees_to_onnx

from benchmarks.report import machine, result, row, save
from sluice.application.dataset_manifest import MANIFEST
from sluice.application.judging.verdict import Reason, Verdict
from sluice.domain.clock import from_datetime

ROOT = Path(__file__).parents[1]
SLUICE = ROOT / ".venv/bin/sluice"
MAPPINGS = ROOT / "src/sluice/adapters/files/mappings"
COLUMN = "card_amount_30d_minor"
"""Whose unit is changed: it tells little of the Handbook's frauds, so that no figure shows it."""
FACTOR = 100
EPOCHS = 5
TREES = TreeParameters(learning_rate=0.1)
FITTED = ("train", "validation", "calibration")
"""Splits that a training looks at."""
SEED = 1


class Planted(NamedTuple):
    """What is tried. reasons: any of them is right as the first; none where it is to be accepted.
    more: further words for the gate."""

    name: str
    dataset: Path
    run: Path
    reasons: tuple[Reason, ...]
    candidate: str = "student"
    more: tuple[str, ...] = ()


class Bank:
    """A work folder: archives, sets and runs. What is there is not made again."""

    def __init__(self, work: Path, args: argparse.Namespace) -> None:
        self.work, self.args = work, args
        work.mkdir(parents=True, exist_ok=True)
        self.archive = work / "archive"

    def backfill(self, archive: Path, labels: str) -> None:
        if not archive.exists():
            a = self.args
            _run(SLUICE, "backfill", a.file, "--mapping", a.mapping, "--labels", labels,
                 "--no-store", "--archive", archive)  # fmt: skip

    def dataset(self, name: str, archive: Path) -> Path:
        out = self.work / "sets" / name
        a = self.args
        if not (out / MANIFEST).exists():
            _run(SLUICE, "dataset", "build", "--archive", archive, "--from", a.first, "--to",
                 a.until, "--label-delay", "7d", "--validation", "7d", "--calibration", "7d",
                 "--recent", "--tests", 2, "--out", out)  # fmt: skip
        return out

    def changed(self, name: str, of: Path, change: Callable[[pa.Table, str], pa.Table]) -> Path:
        """A copy of a set with other rows in the splits of FITTED."""
        out = self.work / "sets" / name
        if (out / MANIFEST).exists():
            return out
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(of, out)
        manifest = msgspec.json.decode((out / MANIFEST).read_bytes())
        for split in manifest["splits"]:
            if split["name"] not in FITTED:
                continue
            for path in split["files"]:
                made = change(pq.read_table(out / path), split["name"])
                pq.write_table(made, out / path, compression="zstd")
                split["files"][path] = hashlib.sha256((out / path).read_bytes()).hexdigest()
        (out / MANIFEST).write_bytes(msgspec.json.encode(manifest))
        return out

    def run(self, name: str, dataset: Path, change: Callable[[Run], Run] = lambda run: run) -> Path:
        """A run on a set; change: what its run.json says that is not so."""
        out = self.work / "runs" / name
        if not (out / "run.json").exists():
            print(f"training {name}", flush=True)
            learn(dataset, out, change)
        return out


def learn(dataset: Path, out: Path, change: Callable[[Run], Run]) -> None:
    """LightGBM, a student by labels alone, and it in int8, as `sluice train` leaves a run."""
    shutil.rmtree(out, ignore_errors=True)
    for folder in ("models", "scores"):
        (out / folder).mkdir(parents=True)
    material = read_material(dataset)
    fits = Fits(material, SEED)
    grown = fits.grow(TREES)
    fits.ranking = grown.ranking
    names = material.names
    student = fits.study(NetParameters(epochs=EPOCHS), None)
    rows = material.rows("calibration")
    found = calibrate(logits(student.net, Batches(rows.features)), rows)
    student.net.slope.fill_(found.slope)
    student.net.offset.fill_(found.offset)
    of_trees = calibrate(grown.logits(rows.features), rows)
    graph = to_onnx(student.net, names)
    sample = enriched(fits.train.fraud, fits.rng(3))
    graphs = {
        "lightgbm": trees_to_onnx(grown.booster, grown.trees, names, grown.shift, of_trees),
        "student": graph,
        "student_int8": to_int8(graph, fits.train.features[sample], names),
    }
    for name, raw in graphs.items():
        (out / f"models/{name}.onnx").write_bytes(raw)
    scores = {split.name: _scores(out, material, split.name, graphs) for split in tests(material)}
    at = enriched(fits.train.fraud, fits.rng(4))
    kept = write_learnt(
        out, fits.train.ids.take(at).combine_chunks(), fits.train.features[at], names
    )
    train = material.manifest.split("train")
    run = Run(
        dataset=material.digest,
        catalogue=material.manifest.catalogue,
        features=list(names),
        code=code_digest(),
        seed=SEED,
        trained_from=_us(train.first),
        trained_until=_us(train.until),
        rows=int(fits.train.labelled.sum()),
        frauds=int((fits.train.labelled & fits.train.fraud).sum()),
        reference_row=fits.reference_row,
        candidates=[_candidate(name, raw, fits, grown.shift) for name, raw in graphs.items()],
        scores=scores,
        learnt=kept,
        search=Search(finished=0, pruned=0, seconds=0.0, ended_by="given"),
        versions=dict.fromkeys(VERSIONS, ""),
    )
    write_run(out, change(run))


def tests(material: Material) -> list[Any]:
    """Splits that judge."""
    return list(material.manifest.tests)


def _scores(out: Path, material: Material, split: str, graphs: dict[str, bytes]) -> str:
    rows = material.load(split)
    columns: dict[str, Any] = {"authorization_id": rows.ids}
    for name, raw in graphs.items():
        columns[name] = Graph(raw).predict(rows.features, lambda at: rows.features[at])
    path = out / f"scores/{split}.parquet"
    pq.write_table(pa.table(columns), path, compression="zstd")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _candidate(name: Any, raw: bytes, fits: Fits, shift: float) -> Candidate:
    rows = fits.validation
    score = Graph(raw).predict(rows.features, lambda at: rows.features[at])
    return Candidate(
        name=name,
        kind=f"{name} of the planted",
        model=f"models/{name}.onnx",
        sha256=hashlib.sha256(raw).hexdigest(),
        bytes=len(raw),
        opset=opset(raw),
        inputs=["features"],
        releasable=True,
        seed=SEED,
        parameters={},
        prior_correction_milli=round(1000 * shift),
        rows=int(fits.train.labelled.sum()),
        frauds=int((fits.train.labelled & fits.train.fraud).sum()),
        calibration=AS_IT_IS,
        validation=validation_figures(score, rows),
        missing={},
        tolerates=[],
        timings=[],
    )


class _Ten(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, rows: Any) -> None:
        self._left = iter([{"features": rows}])

    def get_next(self) -> Any:
        return next(self._left, None)


def of_ten_rows(bank: Bank, honest: Path, dataset: Path) -> Path:
    """The honest run with its student_int8 by the usual tool, over ten genuine rows."""
    out = bank.work / "runs/int8"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(honest, out)
    rows = read_material(dataset).rows("train")
    ten = rows.features[np.flatnonzero(~rows.fraud)[:10]]
    source, made = out / "models/student.onnx", out / "models/student_int8.onnx"
    whole = onnx.load(source)
    last = [node for node in whole.graph.node if node.op_type == "Gemm"][-1]
    quantize_static(
        source, made, _Ten(ten), quant_format=QuantFormat.QDQ, per_channel=True,
        op_types_to_quantize=["Gemm"], nodes_to_exclude=[last.name],
    )  # fmt: skip
    names = read_material(dataset).names
    raw = finish(onnx.load(made), names)
    made.write_bytes(raw)
    run = msgspec.json.decode((out / "run.json").read_bytes())
    for one in run["candidates"]:
        if one["name"] == "student_int8":
            one["sha256"] = hashlib.sha256(raw).hexdigest()
    (out / "run.json").write_bytes(msgspec.json.encode(run))
    return out


def main() -> int:
    """Returns 0 if each was judged as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--mapping", default="handbook")
    parser.add_argument("--labels", default="handbook-labels")
    parser.add_argument("--first", default="2018-06-04")
    parser.add_argument("--until", default="2018-08-29")
    parser.add_argument("--work", type=Path, default=Path("var/planted"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    about = machine()
    bank = Bank(args.work, args)
    rows = [_tried(bank, one) for one in planted(bank)]
    again = f"models/.venv/bin/python -m benchmarks.planted {args.file.name}"
    notes = [f"{bank.args.first} to {bank.args.until}, the last two weeks judge", *map(_told, rows)]
    found = [row(f"{one.name}: {said.split(' ')[0]}", "right", float(right))
             for one, right, said in rows]  # fmt: skip
    save(args.out, result("planted", again, about, found, notes))
    for one, right, said in rows:
        print(f"{'' if right else 'WRONG '}{one.name:<14} {said}")
    return 0 if all(right for _, right, _ in rows) else 1


def planted(bank: Bank) -> list[Planted]:
    """Make all of them."""
    bank.backfill(bank.archive, bank.args.labels)
    honest = bank.dataset("honest", bank.archive)
    good = bank.run("honest", honest)

    def scaled(table: pa.Table, _split: str) -> pa.Table:
        at = table.column_names.index(COLUMN)
        made = pa.array(table[COLUMN].to_numpy() * FACTOR)
        return table.set_column(at, COLUMN, made)

    def shuffled(table: pa.Table, split: str) -> pa.Table:
        if split == "calibration":
            return table
        order = np.random.default_rng(SEED).permutation(len(table))
        for name in ("is_fraud", "known_at", "maturity", "reported_share"):
            at = table.column_names.index(name)
            table = table.set_column(at, name, table[name].combine_chunks().take(pa.array(order)))
        return table

    unit = bank.changed("unit", honest, scaled)
    labels = bank.changed("labels", honest, shuffled)
    early = bank.work / "labels-at-once.yaml"
    source = MAPPINGS / f"{bank.args.labels}.yaml"
    given = source if source.exists() else Path(bank.args.labels)
    early.write_text(
        "\n".join(
            "delay_days: 0" if line.startswith("delay_days:") else line
            for line in given.read_text().splitlines()
        )
    )
    bank.backfill(bank.work / "early", str(early))
    leak = bank.dataset("leak", bank.work / "early")
    digest = hashlib.sha256((honest / MANIFEST).read_bytes()).hexdigest()
    runs = {name: bank.run(name, at) for name, at in
            (("unit", unit), ("labels", labels), ("leak", leak))}  # fmt: skip
    hidden = bank.work / "runs/hidden"
    shutil.rmtree(hidden, ignore_errors=True)
    shutil.copytree(runs["unit"], hidden)
    run = msgspec.json.decode((hidden / "run.json").read_bytes())
    (hidden / "run.json").write_bytes(msgspec.json.encode(run | {"dataset": digest}))
    releases = bank.work / "releases"
    return [
        Planted("honest", honest, good, ()),
        Planted("honest, trees", honest, good, (), "lightgbm"),
        Planted("unit", unit, runs["unit"], ("unit_changed",)),
        Planted("unit, learnt", honest, hidden, ("unit_changed", "scores_differ")),
        Planted("labels", labels, runs["labels"], ("no_signal",)),
        Planted("leak", leak, runs["leak"], ("leak",)),
        Planted("int8", honest, of_ten_rows(bank, good, honest), ("int8_flips",)),
        Planted("replayed", honest, good, ("replayed",), more=("--releases", str(releases))),
    ]


def _tried(bank: Bank, one: Planted) -> tuple[Planted, bool, str]:
    """Whether the verdict is right, and it in words."""
    out = bank.work / "gate" / one.name.replace(", ", "-")
    key = bank.work / "key"
    if not key.exists():
        _run(SLUICE, "release", "keygen", "--out", key)
    release = bank.work / "releases/one"
    if one.name == "replayed" and not release.exists():
        certificate = bank.work / "gate/honest/certificate.json"
        _run(SLUICE, "release", "pack", release, "--dataset", one.dataset, "--run", one.run,
             "--certificate", certificate)  # fmt: skip
        _run(SLUICE, "release", "sign", release, "--key", key)
    words = [SLUICE, "gate", "--dataset", one.dataset, "--run", one.run]
    words += ["--candidate", one.candidate, "--archive", bank.archive, "--no-champion"]
    words += ["--key", key, "--out", out, *one.more]
    told = [str(word) for word in words]
    subprocess.run(told, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)  # 1 is a verdict too
    verdict = msgspec.json.decode((out / "verdict.json").read_bytes(), type=Verdict)
    if verdict.accepted:
        eight = next((c.found for c in verdict.checks if c.reason == "int8_flips"), "")
        return one, not one.reasons, f"accepted. {eight}".strip()
    first = next(c for c in verdict.checks if not c.passed)
    others = ", ".join(r for r in verdict.reasons if r != first.reason)
    said = f"{first.reason}: {first.found}" + (f" (also {others})" if others else "")
    return one, first.reason in one.reasons, said


def _told(found: tuple[Planted, bool, str]) -> str:
    return f"{found[0].name}: {found[2]}"


def _us(text: str) -> int:
    return from_datetime(datetime.fromisoformat(text))


def _run(*words: object) -> None:
    print("$", *words, flush=True)
    subprocess.run([str(word) for word in words], check=True, cwd=ROOT)


if __name__ == "__main__":
    raise SystemExit(main())
