"""Batch work on a local Spark: to the byte what one machine makes, whatever the partitions."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from sluice_simulator.config import Config
from sluice_simulator.history import write
from sluice_simulator.world import World as Simulated

from sluice.adapters.files.past import Past, read_past
from sluice.adapters.parquet.archive import path_of
from sluice.adapters.parquet.columns import KINDS, table
from sluice.adapters.parquet.damage import LAST
from sluice.adapters.parquet.samples import ArchiveSampleSource
from sluice.adapters.spark import backfill
from sluice.adapters.spark.session import PARTITIONS, session, sized, spread
from sluice.application.consistency import gate, one_by_one
from sluice.application.ports import Message, StateUpdate
from sluice.bootstrap import engines, verbs
from sluice.cli import main
from sluice.domain.clock import from_datetime, to_datetime
from sluice.domain.records.authorization import encode
from sluice.errors import Corrupt, Rejected
from sluice.settings import Settings
from tests.unit.application.test_featurize import Harness
from tests.unit.cli.test_backfill import stream

SECOND_US = 1_000_000
STARTED = "STARTED_BY_THE_PYTHON_CONFIGURED"
RUN_ROWS = 500
"""Less than many an entity has, so that it is cut."""


@pytest.fixture(scope="session", autouse=True)
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """Two cores; four partitions a shuffle, so that days, entities and files are spread, and
    a Python of its own for the tasks."""
    python = tmp_path_factory.mktemp("bin") / "python"
    python.write_text(f'#!/bin/sh\n{STARTED}=yes exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    os.environ.pop("PYSPARK_PYTHON", None)
    conf = {
        "spark.pyspark.python": str(python),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": "4",
        "spark.sql.adaptive.enabled": "false",
        "spark.local.dir": str(tmp_path_factory.mktemp("spark")),
        "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
    }
    said = " ".join(f"--conf {key}={value}" for key, value in conf.items())
    os.environ["PYSPARK_SUBMIT_ARGS"] = f"--master local[2] {said} pyspark-shell"
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    made = session()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three days in three files, in no order, whole minutes, so that many rows share a moment with
    each other and with labels; one file lacks a column."""
    folder = tmp_path_factory.mktemp("history")
    write(Simulated(Config(cards=300, fraud_bp=300), 5), date(2026, 1, 1), 3, folder)
    minute = 60 * SECOND_US
    rng = np.random.default_rng(7)

    def parts(name: str, times: tuple[str, ...]) -> None:
        rows = pq.read_table(folder / f"{name}.parquet")
        for time in times:
            whole = pa.array(rows[time].to_numpy() // minute * minute)
            rows = rows.set_column(rows.column_names.index(time), time, whole)
        rows = rows.take(rng.permutation(len(rows)))
        (folder / name).mkdir()
        for number, at in enumerate(np.array_split(np.arange(len(rows)), 3)):
            part = rows.slice(int(at[0]), len(at))
            if number == 2:
                part = part.drop_columns(["device_id"])
            pq.write_table(part, folder / name / f"part-{number}.parquet")

    parts("authorizations", ("event_at",))
    parts("labels", ("event_at", "known_at"))
    return folder


def files_of(history: Path) -> engines.PastFiles:
    # Labels of several files are read by Spark alone, so one machine gets them as one.
    labels = str(history / "labels")
    return engines.PastFiles(history / "authorizations", None, labels, None, None, 0.1)


def on_one_machine(history: Path) -> Past:
    together = history / "together.parquet"
    parts = [pq.read_table(path) for path in sorted((history / "labels").iterdir())]
    pq.write_table(pa.concat_tables(parts, promote_options="default"), together)
    return read_past(history / "authorizations", together)


def bytes_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def by_key(states: list[StateUpdate]) -> dict[tuple[str, str], StateUpdate]:
    return {(state.entity, state.key): state for state in states}


@pytest.mark.parametrize("cut", [True, False])
def test_a_backfill_on_spark_leaves_the_same_files_and_states(history, tmp_path, cut):
    fx = verbs.rates(Settings())
    bounds = (None, None)
    if cut:
        day = 86_400 * SECOND_US
        first = from_datetime(datetime(2026, 1, 1, tzinfo=UTC))
        bounds = (first + day // 3, first + 2 * day + day // 2)
    own = on_one_machine(history).between(*bounds, later_labels=not cut)
    want = verbs.archive_past(own, fx, tmp_path / "own", threads=2)

    past, _ = engines.engine("spark", 1).read_past(Settings(), files_of(history), print)
    past = past.between(*bounds, later_labels=not cut)
    assert past.counts == own.counts
    session().conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "300")
    place = partial(engines._history_files, tmp_path / "spark", fx.reference)
    got = backfill.archive(past, fx, engines._hour_digest, place, run_rows=RUN_ROWS)

    assert (got.rows, got.files) == (want.rows, want.files)
    assert bytes_of(tmp_path / "spark") == bytes_of(tmp_path / "own")
    states = list(got.states)
    assert len(states) == len(want.states) > 300
    assert by_key(states) == by_key(want.states)


@pytest.fixture(scope="module")
def archived(history: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archived") / "archive"
    past = on_one_machine(history)
    # Every report half an hour after its event: three days hold frauds of which that is known.
    known = pa.array(past.labels["event_at"].to_numpy() + 1_800 * SECOND_US)
    at = past.labels.column_names.index("known_at")
    labels = past.labels.set_column(at, "known_at", known).sort_by("known_at")
    past = past._replace(labels=labels).between(None, None, later_labels=True)
    verbs.archive_past(past, verbs.rates(Settings()), root, threads=2)
    return root


def test_a_training_set_made_on_spark_has_the_same_bytes(archived, tmp_path):
    order = ["dataset", "build", "--from", "2026-01-01", "--to", "2026-01-04",
             "--label-delay", "1h", "--test", "1d", "--keep-genuine", "0.5",
             "--archive", str(archived)]  # fmt: skip
    made = {}
    for engine in engines.ENGINES:
        out = tmp_path / engine
        more = ["--processes", "1"] if engine == engines.LOCAL else []
        assert main([*order, "--out", str(out), "--engine", engine, *more]) == 0
        made[engine] = bytes_of(out)
    assert made["spark"] == made["local"]
    assert len(made["spark"]) == 3  # train, test, manifest


async def test_a_consistency_check_on_spark_reports_the_same(archived, history, tmp_path):
    decided = await stream(Harness(), on_one_machine(history).between(None, None))
    rows = [
        Message(encode(one), None, "decisions.v1", 0, i, None)
        for i, one in enumerate(decided[:400])
    ]
    made = table(KINDS["decisions"], rows)
    path = path_of(tmp_path, "decisions", to_datetime(decided[0].decided_at).date(), 0, 0)
    path.parent.mkdir(parents=True)
    pq.write_table(made.replace_schema_metadata({LAST: str(len(rows) - 1)}), path)
    source = ArchiveSampleSource(tmp_path)
    own = gate(source, 1_000_000, 400, 1, spread=one_by_one)
    # Others wait for observations that this archive does not hold.
    assert own.report.compared > 100
    assert gate(source, 1_000_000, 400, 1, spread=spread) == own


def test_what_a_task_refuses_is_told_as_one_machine_tells_it(tmp_path):
    pq.write_table(pa.table({"event_at": [1]}), tmp_path / "part.parquet")
    files = engines.PastFiles(tmp_path, None, None, None, None, 0.1)
    with pytest.raises(Rejected, match="no column authorization_id"):
        engines.engine("spark", 1).read_past(Settings(), files, print)


def test_results_come_in_the_order_of_the_pieces_and_an_error_comes_as_it_was():
    assert list(spread(lambda: lambda piece: piece * 2, [3, 1, 2])) == [6, 2, 4]

    def refuse(piece: int) -> int:
        raise Corrupt("it broke", where=f"piece {piece}", fix="mend it", code="broken")

    with pytest.raises(Corrupt) as told:
        list(spread(lambda: refuse, [7]))
    assert (told.value.where, told.value.fix, told.value.code) == ("piece 7", "mend it", "broken")


@pytest.mark.parametrize("named", [None, "7"])
def test_shuffles_are_sized_by_the_past_unless_sparks_configuration_names_a_number(spark, named):
    before = spark.conf.get(PARTITIONS)
    spark.conf.unset(PARTITIONS)
    try:
        if named:
            spark.conf.set(PARTITIONS, named)
        for rows, want in ((1, "4"), (3_500_001, "8"), (10**9, "2000")):
            with sized(spark, rows):
                assert spark.conf.get(PARTITIONS) == (named or want)
            assert spark.conf.getAll.get(PARTITIONS) == named
    finally:
        spark.conf.set(PARTITIONS, before)


def test_tasks_run_the_python_that_sparks_configuration_names(spark, monkeypatch):
    seen = list(spread(lambda: os.getenv, [STARTED]))
    assert seen == ["yes"]
    # And PYSPARK_PYTHON before it.
    monkeypatch.setenv("PYSPARK_PYTHON", "/mine/python")
    monkeypatch.setattr(spark._sc, "pythonExec", "/mine/python")
    assert session()._sc.pythonExec == "/mine/python"
