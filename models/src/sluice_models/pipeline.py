"""One training, whole: search, fits, graphs, scores, timings, run.json.

An order that is given again goes on: trials and epochs that are done are not done again, and a run
that is whole is only read. What it learns from and writes is said in docs/reference/run.md.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from sluice.application.dataset_manifest import TRAIN
from sluice.application.judging.run import RUN
from sluice.cli.progress import Progress
from sluice.domain.clock import from_datetime
from sluice.domain.records.entity import EntityKind
from sluice.errors import Misconfigured

from sluice_models import search, together
from sluice_models.code import code_digest
from sluice_models.export import blended, opset, to_onnx
from sluice_models.figures import (
    AS_IT_IS,
    average_precision,
    calibrate,
    validation_figures,
)
from sluice_models.fits import Fits, Learnt, Taught
from sluice_models.fitting import Batches, Epoch, logits, parameters_of
from sluice_models.material import MAY_MISS, PAST, STEP, Material, Rows, read_material
from sluice_models.nets import TEACHERS, Student, Teacher
from sluice_models.quantise import enriched, to_int8
from sluice_models.run import (
    ID,
    MODELS,
    SCORES,
    Calibration,
    Candidate,
    CandidateName,
    Run,
    Search,
    Timing,
    read_run,
    write_learnt,
    write_run,
)
from sluice_models.search import Box, Chosen, NetParameters, ask_student, ask_teacher, ask_trees
from sluice_models.serving import Graph, timed
from sluice_models.trees import TreeParameters, trees_to_onnx

Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

SEARCH_ROWS = 100_000
"""Of a net's trial, at most: rates and widths are told apart on fewer rows than are learnt from."""
TOLERATED_LOSS = 0.05
"""A view is tolerated if missing it costs at most this share of the average precision."""
TIMED_ROWS = 512
VERSIONS = ("lightgbm", "numpy", "onnx", "onnxruntime", "optuna", "torch")


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for. seed: None for the dataset's. like: a run whose parameters are taken.
    tracking: MLflow's URL, or ""."""

    dataset: Path
    out: Path
    time_box_s: int
    trials: int
    seed: int | None = None
    like: Path | None = None
    tracking: str = ""


class _Identity(msgspec.Struct, frozen=True):
    """By which a folder is known to be of the same order."""

    dataset: str
    code: str
    seed: int
    time_box_s: int
    trials: int
    like: str


@dataclass
class _Made:
    """A candidate before it is timed."""

    name: CandidateName
    kind: str
    graph: bytes
    parameters: dict[str, Any]
    shift: float
    rows: int
    frauds: int
    calibration: Calibration


@dataclass
class _Work:
    """What all steps need."""

    order: Order
    material: Material
    fits: Fits
    line: Progress
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    @property
    def checkpoints(self) -> Path:
        return self.order.out / "checkpoints"

    def epoch(self, name: str) -> Callable[[Epoch, Any], None]:
        """Shows an epoch, and how long the rest will take."""

        def show(epoch: Epoch, _net: object) -> None:
            self.curves.setdefault(f"{name}_loss", []).append((epoch.done, epoch.loss))
            left = epoch.seconds / epoch.done * (epoch.of - epoch.done)
            self.line.show(
                f"{name}: epoch {epoch.done} of {epoch.of}, loss {epoch.loss:.4f}, "
                f"about {left:.0f} s left",
                epoch.done,
                epoch.of,
            )

        return show


def train(order: Order) -> Run:
    """Train, and leave RUN whole; or read it, if the same order is done already.

    Raises Rejected for a dataset that cannot be learnt from, Misconfigured for a folder that holds
    another order's run, Unavailable if MLflow does not answer; then there is no run.json.
    """
    material = read_material(order.dataset)
    seed = material.manifest.seed if order.seed is None else order.seed
    done = together.by_first(lambda: _begin(order, material, seed))
    if done is not None:
        return done
    tracking = together.by_first(lambda: _reach(order.tracking))
    with Progress() as line:
        work = _Work(order, material, Fits(material, seed), line)
        chosen, told = together.by_first(lambda: _choose(work))
        learnt = together.by_first(lambda: _grown(work, chosen))
        work.fits.ranking = learnt[0].ranking
        teacher, speak, blend = _teach(work, chosen, learnt)
        student = work.fits.study(
            chosen.student,
            speak,
            checkpoint=work.checkpoints / "student.pt",
            after=work.epoch("student"),
        )
        run = together.by_first(
            lambda: _finish(work, chosen, told, learnt, teacher, blend, student)
        )
    if tracking and together.number() == 0:
        from sluice_models.tracking import Tracking  # noqa: PLC0415 - a second, where it is wanted

        Tracking(order.tracking).track(run, order.out, work.curves, order.out.name)
    return run


def _begin(order: Order, material: Material, seed: int) -> Run | None:
    """Take the folder, or find the run of this order in it."""
    like = ""
    if order.like is not None:
        like = hashlib.sha256(msgspec.json.encode(read_run(order.like))).hexdigest()
    mine = _Identity(material.digest, code_digest(), seed, order.time_box_s, order.trials, like)
    path = order.out / "checkpoints" / "order.json"
    if order.out.exists() and any(order.out.iterdir()):
        found = _identity(path)
        if found != mine:
            differ = [
                name
                for name in mine.__struct_fields__
                if found is None or getattr(found, name) != getattr(mine, name)
            ]
            raise Misconfigured(
                "the folder holds something else"
                if found is None
                else f"the folder holds a run of another order: {', '.join(differ)} differ",
                where=str(order.out),
                fix="name a new folder",
            )
        return read_run(order.out) if (order.out / RUN).exists() else None
    try:
        for folder in (MODELS, SCORES, "checkpoints"):
            (order.out / folder).mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.encode(mine))
    except OSError as exc:
        raise Misconfigured(f"cannot be written: {exc.strerror}", where=str(order.out)) from exc
    return None


def _identity(path: Path) -> _Identity | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Identity)
    except (OSError, msgspec.DecodeError):
        return None


def _reach(url: str) -> bool:
    """Whether to track; raises Unavailable before anything is trained."""
    if not url:
        return False
    from sluice_models.tracking import Tracking  # noqa: PLC0415

    Tracking(url)
    return True


# Parameters


def _choose(work: _Work) -> tuple[Chosen, Search]:
    if work.order.like is not None:
        return _like(work.order.like), Search(finished=0, pruned=0, seconds=0.0, ended_by="given")
    fits = work.fits
    box = Box(
        work.checkpoints / "search.db",
        work.fits.seed,
        work.order.trials,
        work.order.time_box_s,
        lambda kind, n, of, left: work.line.show(
            f"search: {kind}, trial {n + 1} of at most {of}, about {left:.0f} s left", n, of
        ),
    )

    def trees(given: dict[str, Any], report: search.Report) -> float:
        figures: list[float] = []

        def after(done: int, figure: float) -> None:
            figures.append(figure)
            report(done, max(figures))

        fits.grow(TreeParameters(**given), after)
        return max(figures)

    def net(fit: Callable[..., Taught]) -> Callable[[Any, Any, search.Report], float]:
        def worth(_given: Any, parameters: Any, report: search.Report) -> float:
            figures: list[float] = []

            def after(epoch: Epoch, made: Student | Teacher) -> None:
                figures.append(fits.worth(made))
                report(epoch.done, figures[-1])

            fit(
                parameters=replace(parameters, epochs=search.EPOCHS),
                rows_max=SEARCH_ROWS,
                alone=True,
                after=after,
            )
            return figures[-1]

        return worth

    default = Chosen()
    best = box.best("lightgbm", [asdict(default.trees)], ask_trees, trees, safe_steps=100)
    chosen_trees = TreeParameters(**best)
    fits.ranking = fits.grow(chosen_trees).ranking
    of_teacher = {
        "rate": default.teacher.rate,
        "decay": default.teacher.decay,
        "dropout": default.teacher.dropout,
        "width": default.teacher.width,
    }
    best = box.best(
        "teacher",
        [{"kind": kind, **of_teacher} for kind in TEACHERS],
        ask_teacher,
        lambda given, report: net(
            lambda parameters, **more: fits.teach(given["kind"], parameters, **more)
        )(given, _net(default.teacher, given), report),
    )
    kind, chosen_teacher = best["kind"], _net(default.teacher, best)
    best = box.best(
        "student",
        [
            {
                "hidden": "-".join(map(str, default.student.hidden)),
                "keep": default.student.keep,
                **{key: of_teacher[key] for key in ("rate", "decay", "dropout")},
            }
        ],
        ask_student,
        lambda given, report: net(lambda parameters, **more: fits.study(parameters, None, **more))(
            given, _net(default.student, given), report
        ),
    )
    tally = box.tally
    return (
        Chosen(chosen_trees, kind, chosen_teacher, _net(default.student, best)),
        Search(
            finished=tally.finished,
            pruned=tally.pruned,
            seconds=round(tally.seconds, 1),
            ended_by=tally.ended_by,
        ),
    )


def _net(usual: NetParameters, given: dict[str, Any]) -> NetParameters:
    """Parameters with those that were given; what is not of a net is passed over."""
    known = {key: value for key, value in given.items() if key in NetParameters.__slots__}
    if "hidden" in known:
        known["hidden"] = tuple(known["hidden"])
    return replace(usual, **known)


def _like(folder: Path) -> Chosen:
    """The parameters of another run."""
    run = read_run(folder)
    usual = Chosen()
    trees = run.candidate("lightgbm").parameters
    teacher = run.candidate("teacher").parameters
    return Chosen(
        TreeParameters(**{k: v for k, v in trees.items() if k in TreeParameters.__slots__}),
        teacher["kind"],
        _net(usual.teacher, teacher),
        _net(usual.student, run.candidate("student").parameters),
    )


# Fits


def _grown(work: _Work, chosen: Chosen) -> tuple[Learnt, Doubles]:
    """Trees, and what trees that did not learn from its card say of each row of train."""

    def after(done: int, figure: float) -> None:
        work.curves.setdefault("lightgbm_average_precision", []).append((done, figure))
        work.line.show(f"lightgbm: {done} trees, AP {figure:.4f} on validation")

    learnt = work.fits.grow(chosen.trees, after)
    return learnt, work.fits.out_of_fold(chosen.trees, learnt.trees)


def _teach(
    work: _Work, chosen: Chosen, grown: tuple[Learnt, Doubles]
) -> tuple[Taught, Callable[[Rows, Ints], Doubles], bool]:
    """A teacher, its word on rows of a split (world logits), and whether trees are blended in."""
    fits, (learnt, out_of_fold) = work.fits, grown
    teacher = fits.teach(
        chosen.kind,
        chosen.teacher,
        checkpoint=work.checkpoints / "teacher.pt",
        after=work.epoch(f"teacher {chosen.kind}"),
    )

    def alone(rows: Rows, at: Ints) -> Doubles:
        return logits(teacher.net, Batches(rows.features[at], fits.past(rows, at)))

    def both(rows: Rows, at: Ints) -> Doubles:
        trees = out_of_fold[at] if rows.name == TRAIN else learnt.logits(rows.features[at])
        return (alone(rows, at) + trees) / 2

    every = np.arange(len(fits.validation.fraud))
    worth = [
        average_precision(speak(fits.validation, every), fits.validation) for speak in (alone, both)
    ]
    blend = worth[1] > worth[0]
    return teacher, both if blend else alone, blend


# Graphs, scores, run.json


def _finish(
    work: _Work,
    chosen: Chosen,
    told: Search,
    grown: tuple[Learnt, Doubles],
    teacher: Taught,
    blend: bool,
    student: Taught,
) -> Run:
    work.line.show("export")
    out = work.order.out
    made = _candidates(work, chosen, grown[0], teacher, blend, student)
    for one in made:
        (out / MODELS / f"{one.name}.onnx").write_bytes(one.graph)
    graphs = {one.name: Graph(one.graph) for one in made}
    scores = _score(work, graphs)
    work.line.show("timing")
    validation = work.fits.validation
    some = np.linspace(0, len(validation.fraud) - 1, TIMED_ROWS).astype(np.int64)
    timings = timed(graphs, validation.features[some], work.fits.past(validation, some))
    described = [_described(work, one, graphs[one.name], timings[one.name]) for one in made]
    manifest = work.material.manifest
    train_split = manifest.split(TRAIN)
    labelled = work.fits.train.labelled
    run = Run(
        dataset=work.material.digest,
        catalogue=manifest.catalogue,
        features=list(work.material.names),
        code=code_digest(),
        seed=work.fits.seed,
        trained_from=_us(train_split.first),
        trained_until=_us(train_split.until),
        rows=int(labelled.sum()),
        frauds=int((labelled & work.fits.train.fraud).sum()),
        reference_row=work.fits.reference_row,
        candidates=described,
        scores=scores,
        learnt=_keep_learnt(work),
        search=told,
        versions={name: importlib.metadata.version(name) for name in VERSIONS},
    )
    write_run(out, run)
    return read_run(out)  # as every later reader has it: JSON knows no tuples


def _keep_learnt(work: _Work) -> str:
    """Frauds and others of train, as the fits had them: the gate holds them against the set."""
    rows = work.fits.train
    at = enriched(rows.fraud, work.fits.rng(4))
    return write_learnt(
        work.order.out, rows.ids.take(at).combine_chunks(), rows.features[at], work.material.names
    )


def _us(text: str) -> int:
    return from_datetime(datetime.fromisoformat(text))


def _candidates(
    work: _Work, chosen: Chosen, learnt: Learnt, teacher: Taught, blend: bool, student: Taught
) -> list[_Made]:
    fits, names = work.fits, work.material.names
    rows = fits.calibration
    of_trees = AS_IT_IS
    of_teacher = AS_IT_IS
    of_student = AS_IT_IS
    if rows is not None:
        trees = learnt.logits(rows.features)
        word = logits(teacher.net, Batches(rows.features, fits.past(rows)))
        of_trees = calibrate(trees, rows)
        of_teacher = calibrate((word + trees) / 2 if blend else word, rows)
        of_student = calibrate(logits(student.net, Batches(rows.features)), rows)
    past = (PAST + 1, len(STEP))
    plain = to_onnx(teacher.net, names, past)
    if blend:
        trees_plain = trees_to_onnx(learnt.booster, learnt.trees, names, learnt.shift, AS_IT_IS)
        teacher_graph = blended(trees_plain, plain, names, of_teacher)
    else:
        _set(teacher.net, of_teacher)
        teacher_graph = to_onnx(teacher.net, names, past)
    _set(student.net, of_student)
    student_graph = to_onnx(student.net, names)
    shape = "-".join(map(str, chosen.student.hidden))
    what = f"MLP {shape} (PyTorch) over binned inputs, distilled from the teacher"
    encoder = {"gru": "GRU", "transformer": "Transformer"}[chosen.kind]
    sample = enriched(fits.train.fraud, fits.rng(3))
    shift = float(student.net.shift)
    of_net = asdict(chosen.student) | {"numbers": parameters_of(student.net)}
    del of_net["width"]
    return [
        _Made(
            "lightgbm",
            f"LightGBM, {learnt.trees} trees of {chosen.trees.num_leaves} leaves",
            trees_to_onnx(learnt.booster, learnt.trees, names, learnt.shift, of_trees),
            asdict(chosen.trees) | {"trees": learnt.trees},
            learnt.shift,
            learnt.rows,
            learnt.frauds,
            of_trees,
        ),
        _Made(
            "teacher",
            f"{encoder} {chosen.teacher.width} over the card's last {PAST} authorizations, and "
            "the features" + (", averaged with LightGBM" if blend else ""),
            teacher_graph,
            asdict(chosen.teacher)
            | {"kind": chosen.kind, "blended": blend, "numbers": parameters_of(teacher.net)},
            float(teacher.net.shift),
            teacher.rows,
            teacher.frauds,
            of_teacher,
        ),
        _Made(
            "student", what, student_graph, of_net, shift, student.rows, student.frauds, of_student
        ),
        _Made(
            "student_int8",
            f"{what}; its first layer in int8",
            to_int8(student_graph, fits.train.features[sample], names),
            of_net | {"calibrated_on": len(sample)},
            shift,
            student.rows,
            student.frauds,
            of_student,
        ),
    ]


def _set(net: Student | Teacher, found: Calibration) -> None:
    net.slope.fill_(found.slope)
    net.offset.fill_(found.offset)


def _score(work: _Work, graphs: dict[CandidateName, Graph]) -> dict[str, str]:
    """Every split by every graph, to scores/SPLIT.parquet; digests by split."""
    found = {}
    for number, split in enumerate(work.material.splits):
        work.line.show(f"scoring {split}", number, len(work.material.splits))
        rows = work.material.load(split)
        past = work.fits.past(rows)
        columns: dict[str, Any] = {ID: rows.ids}
        for name, graph in graphs.items():
            columns[name] = pa.array(graph.predict(rows.features, past))
        path = work.order.out / SCORES / f"{split}.parquet"
        pq.write_table(pa.table(columns), path, compression="zstd")
        found[split] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _described(work: _Work, one: _Made, graph: Graph, timings: list[Timing]) -> Candidate:
    rows = work.fits.validation
    past = work.fits.past(rows)
    score = graph.predict(rows.features, past)
    whole = average_precision(score, rows)
    missing: dict[EntityKind, float] = {}
    for view in MAY_MISS:
        blind = graph.predict(work.fits.missing.without(rows.features, view), past)
        missing[view] = round(average_precision(blind, rows) / whole, 4)
    return Candidate(
        name=one.name,
        kind=one.kind,
        model=f"{MODELS}/{one.name}.onnx",
        sha256=hashlib.sha256(one.graph).hexdigest(),
        bytes=len(one.graph),
        opset=opset(one.graph),
        inputs=graph.inputs,
        releasable=len(graph.inputs) == 1,
        seed=work.fits.seed,
        parameters=one.parameters,
        prior_correction_milli=round(1000 * one.shift),
        rows=one.rows,
        frauds=one.frauds,
        calibration=one.calibration,
        validation=validation_figures(score, rows),
        missing=missing,
        tolerates=[view for view, share in missing.items() if share >= 1 - TOLERATED_LOSS],
        timings=timings,
    )
