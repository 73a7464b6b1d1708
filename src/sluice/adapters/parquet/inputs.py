"""What the gate holds against each other, read: rows as a run learnt them, as the training set has
them, and as the feature log has them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sluice.adapters.parquet.dataset import features_of, read_manifest
from sluice.adapters.parquet.feature_log import FeatureLog
from sluice.adapters.parquet.judging import ID, checked, read_run
from sluice.adapters.storage import AnyPath
from sluice.application.dataset_manifest import TRAIN, Manifest
from sluice.application.judging.inputs import Extract, Inputs, Pair, cut_stretches
from sluice.application.judging.rows import Rows
from sluice.application.judging.run import LEARNT
from sluice.domain.features import catalogue
from sluice.errors import Misconfigured

Ints = npt.NDArray[np.int64]

SAMPLE_ROWS = 50_000
"""Of the train split, of which the sizes of features are taken."""
STRETCHES, TEST_STRETCHES = 8, 2
"""Stretches of time of the train split and of each test, held against the feature log."""
STRETCH_ROWS = 5_000
"""Of one of them, at most: half a row group of the log."""
_EXTRACT = (ID, "event_at", "is_fraud")
_HELD_BACK = (
    "; features of reports, and rows that were decided live, are not compared: the set holds its "
    "labels back, and computed them anew"
)


class Source(NamedTuple):
    """The feature log. root: of the archive. wanted: it was named, so rows must lie in it."""

    root: AnyPath
    wanted: bool


class _Trained(NamedTuple):
    """Of the train split. sample: (m, k) features of rows evenly taken. learnt: the rows of some
    ids, and stretches of time, both in order of time."""

    sample: Ints
    learnt: Extract
    stretches: list[Extract]


def read_inputs(
    dataset: Path, run_folder: Path, tests: Sequence[Rows], log: Source
) -> tuple[Inputs, Ints]:
    """What there is to compare, and (m, k) features of a sample of the train split.

    Takes a second for 100,000 rows of train, and one for 50,000 of the log. Raises Corrupt,
    Misconfigured for a run without its rows.
    """
    manifest, run = read_manifest(dataset), read_run(run_folder)
    names = list(manifest.features)
    common = [name for name in run.features if name in manifest.features]
    path = run_folder / LEARNT
    if run.learnt is None:
        raise Misconfigured(
            "the run does not say what it learnt",
            where=str(path),
            fix="train again in a new folder; --like takes its parameters",
        )
    table = pq.read_table(io.BytesIO(checked(path, run.learnt)))
    if absent := [name for name in (ID, *run.features) if name not in table.column_names]:
        raise Misconfigured(
            f"it has no column {absent[0]}", where=str(path), fix="docs/reference/run.md"
        )
    trained = _read_trained(dataset, manifest, table[ID].combine_chunks())
    place = pc.index_in(pa.array(trained.learnt.ids, pa.string()), value_set=table[ID])
    given = table.take(place)
    learnt = Pair(
        "the run learnt",
        "the set has",
        common,
        np.array([given[name].to_numpy() for name in common], np.float64).T,
        trained.learnt.features[:, [names.index(name) for name in common]]
        .astype(np.float32)
        .astype(np.float64),
        trained.learnt.fraud,
    )
    of_tests = [one for rows in tests for one in _of_test(rows)]
    held = manifest.known_after_s is not None
    inputs = Inputs(
        learnt=learnt,
        strange=len(table) - len(trained.learnt.ids),
        logged=[
            pair
            for cut in (trained.stretches, of_tests)
            if (pair := _logged(log.root, cut, names, held)) is not None
        ],
        left_out=_HELD_BACK if held else "",
        wanted=log.wanted and not held,  # of live rows alone nothing would be left to compare
    )
    return inputs, trained.sample


def _of_test(rows: Rows) -> list[Extract]:
    every = Extract(rows.ids.tolist(), rows.window.event_us, rows.window.fraud, rows.features)
    return cut_stretches(every, TEST_STRETCHES, STRETCH_ROWS)


def _read_trained(folder: Path, manifest: Manifest, ids: pa.Array) -> _Trained:
    """One file at a time in memory."""
    split = manifest.split(TRAIN)
    step = max(1, split.rows // SAMPLE_ROWS)
    of_files = {int(at) for at in np.linspace(0, len(split.files) - 1, STRETCHES)}
    columns = list(dict.fromkeys((*_EXTRACT, *manifest.features)))
    sample, learnt = [np.empty((0, len(manifest.features)), np.int64)], []
    cut: list[Extract] = []
    for number, (path, digest) in enumerate(split.files.items()):
        raw = checked(folder / path, digest, "the manifest", "build the training set again")
        table = pq.read_table(io.BytesIO(raw), columns=columns)
        sample.append(features_of(table.take(np.arange(0, len(table), step)), manifest))
        learnt.append(table.filter(pc.is_in(table[ID], value_set=ids)))
        if number in of_files:
            cut += cut_stretches(
                _extract(table, manifest), -(-STRETCHES // len(split.files)), STRETCH_ROWS
            )
    return _Trained(np.concatenate(sample), _extract(pa.concat_tables(learnt), manifest), cut)


def _extract(table: pa.Table, manifest: Manifest) -> Extract:
    return Extract(
        table[ID].to_pylist(),
        table["event_at"].to_numpy().astype(np.int64),
        table["is_fraud"].to_numpy().astype(np.bool_),
        features_of(table, manifest),
    )


def _logged(
    root: AnyPath, cut: Sequence[Extract], names: Sequence[str], held_back: bool
) -> Pair | None:
    """The set's rows that the log has with features of our catalogue; None without any."""
    cut = [rows for rows in cut if len(rows.ids)]
    if not cut:
        return None
    first = min(int(rows.event_us[0]) for rows in cut)
    until = max(int(rows.event_us[-1]) for rows in cut) + 1
    log = FeatureLog(root, first, until)
    kept = [
        name
        for name in names
        if not held_back or catalogue.FEATURES[catalogue.INDEX[name]].group != "reports"
    ]
    given, held, fraud = [], [], []
    for rows in cut:
        found = log.rows(int(rows.event_us[0]), int(rows.event_us[-1]) + 1)
        wanted = pc.equal(found["catalogue"], catalogue.DIGEST)
        if held_back:
            wanted = pc.and_(wanted, pc.is_null(found["degradation_level"]))
        found = found.filter(wanted)
        place = pc.index_in(found[ID], value_set=pa.array(rows.ids, pa.string()))
        found = found.filter(pc.is_valid(place)).combine_chunks()
        at = place.drop_null().to_numpy().astype(np.int64)
        if not len(at):
            continue
        logged = found["features"].combine_chunks().flatten().to_numpy()
        logged = logged.reshape(len(at), catalogue.N)
        given.append(rows.features[at][:, [names.index(name) for name in kept]])
        held.append(logged[:, [catalogue.INDEX[name] for name in kept]])
        fraud.append(rows.fraud[at])
    if not given:
        return None
    whole = (np.concatenate(parts) for parts in (given, held, fraud))
    return Pair("the set has", "the feature log has", kept, *whole)
