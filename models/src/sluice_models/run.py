"""RUN, what one training left: run.json, a graph for each candidate, and their scores.

  RUN/run.json                  Run, below
  RUN/models/NAME.onnx          of each candidate, columns named in its metadata
  RUN/scores/SPLIT.parquet      authorization_id, and one float64 column a candidate, by name
  RUN/learnt.parquet            some rows of train as they were learnt: authorization_id, features

It is whole when run.json is there: that file is written last. Whoever reads a run needs neither
PyTorch nor LightGBM. docs/reference/run.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Meta
from sluice.application.judging.run import LEARNT, RUN, candidate_of
from sluice.domain.records.entity import EntityKind
from sluice.domain.release import Sha256
from sluice.errors import Corrupt, Misconfigured

Floats = npt.NDArray[np.float32]

SCORES = "scores"
MODELS = "models"
ID = "authorization_id"

CandidateName = Literal["lightgbm", "teacher", "student", "student_int8"]
CANDIDATES: tuple[CandidateName, ...] = get_args(CandidateName)
"""In the order of the scores' columns."""
BATCHES = (1, 32, 512)
"""Rows of a call that every candidate is timed at."""


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Calls of one graph on one thread, those of all candidates taken in turn.

    batch: rows of a call. median_us, p99_us: of ``calls`` calls. rows_per_s: by the median.
    """

    batch: int
    calls: int
    median_us: float
    p99_us: float
    rows_per_s: float


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was done to the logit after training; it is inside the graph.

    logit = slope * raw + offset, fitted by weighted log-loss to rows of the calibration split whose
    label was known. rows, frauds: how many those were; with too few of them slope is 1, offset 0.
    """

    slope: float
    offset: float
    rows: int
    frauds: int


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model.

    kind: in words, for a manifest and a card. model: path of its graph below the run.
    inputs: of the graph. releasable: it reads nothing but the features, so that a decider can run
    it (a teacher also reads the card's last authorizations). seed: of all that is random in it.
    parameters: what it was made with. prior_correction_milli: what was taken off the logit for the
    negatives left out, in thousandths; inside the graph. rows, frauds: that it learnt from.
    validation: figures on the validation split, by name: average_precision, auc, log_loss.
    missing: share of the average precision on the validation split that is left while a view is
    missing. tolerates: views whose lack costs little enough for a manifest's ``tolerates``.
    """

    name: CandidateName
    kind: str
    model: str
    sha256: Sha256
    bytes: int
    opset: int
    inputs: list[str]
    releasable: bool
    seed: int
    parameters: dict[str, Any]
    prior_correction_milli: int
    rows: int
    frauds: int
    calibration: Calibration
    validation: dict[str, float]
    missing: dict[EntityKind, float]
    tolerates: list[EntityKind]
    timings: list[Timing]


class Search(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the search for parameters did, on the validation split alone.

    finished, pruned: trials. ended_by: ``trials`` where all were done, so that the same seed finds
    the same again; ``time_box`` where time ended it; ``given`` where nothing was searched.
    """

    finished: int
    pruned: int
    seconds: float
    ended_by: Literal["trials", "time_box", "given"]


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``run.json``.

    dataset: SHA-256 of the dataset's manifest.json. catalogue: its digest of the catalogue.
    features: the columns of every graph, in order. code: SHA-256 of the training package's sources.
    trained_from, trained_until: first and end of the train split, microseconds UTC. reference_row:
    medians of its genuine rows. scores: SHA-256 of scores/SPLIT.parquet, by split. learnt: of
    learnt.parquet, None in runs of before. versions: of the libraries that decide a bit of it.
    """

    v: Literal[1] = 1
    dataset: Sha256
    catalogue: str
    features: Annotated[list[str], Meta(min_length=1)]
    code: Sha256
    seed: int
    trained_from: int
    trained_until: int
    rows: int
    frauds: int
    reference_row: list[int]
    candidates: list[Candidate]
    scores: dict[str, Sha256]
    learnt: Sha256 | None = None
    search: Search
    versions: dict[str, str]

    def candidate(self, name: str) -> Candidate:
        """By name. Raises Misconfigured naming those that there are."""
        return candidate_of(self.candidates, name)


def read_run(folder: Path) -> Run:
    """The run of a folder. Raises Misconfigured where there is none that is whole."""
    path = folder / RUN
    try:
        return msgspec.json.decode(path.read_bytes(), type=Run)
    except OSError as exc:
        raise Misconfigured(
            f"there is no finished run: {exc.strerror}",
            where=str(path),
            fix="sluice train --dataset DIR --out RUN; one that was ended goes on",
        ) from exc
    except msgspec.DecodeError as exc:
        raise Misconfigured(str(exc), where=str(path), fix="docs/reference/run.md") from exc


def read_model(folder: Path, candidate: Candidate) -> bytes:
    """A candidate's graph. Raises Corrupt if it is not the one that the run names."""
    raw = _read(folder / candidate.model)
    _check(raw, candidate.sha256, folder / candidate.model)
    return raw


def read_scores(folder: Path, run: Run, split: str) -> pa.Table:
    """authorization_id and a float64 column for each candidate, in the order of the split's rows.

    Raises Misconfigured for a split without scores, Corrupt for another file than the run's.
    """
    if split not in run.scores:
        known = ", ".join(run.scores)
        raise Misconfigured(f"the run has no scores of {split}", where=RUN, fix=f"one of {known}")
    path = folder / SCORES / f"{split}.parquet"
    raw = _read(path)
    _check(raw, run.scores[split], path)
    return pq.read_table(pa.BufferReader(raw))


def write_learnt(folder: Path, ids: pa.Array, features: Floats, names: Sequence[str]) -> str:
    """Keep some rows of train as they were learnt, (m, f); SHA-256 of the file."""
    path = folder / LEARNT
    columns = {name: features[:, i] for i, name in enumerate(names)}
    pq.write_table(pa.table({ID: ids, **columns}), path, compression="zstd")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_run(folder: Path, run: Run) -> None:
    """Write run.json at once, which says that all else is there."""
    aside = folder / f".{RUN}"
    aside.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
    aside.replace(folder / RUN)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise Corrupt(f"cannot be read: {exc.strerror}", where=str(path)) from exc


def _check(raw: bytes, expected: str, path: Path) -> None:
    found = hashlib.sha256(raw).hexdigest()
    if found != expected:
        raise Corrupt(
            f"it has the digest {found[:12]}…, the run says {expected[:12]}…",
            where=str(path),
            fix="train again: somebody wrote over it",
        )
