"""The session, pieces of work as its tasks, and our errors across its borders."""

from __future__ import annotations

import base64
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from sluice.application.spread import Piece, Result, Work
from sluice.errors import Misconfigured, SluiceError, Unavailable
from sluice.shown import shown

try:
    from pyspark.errors import PySparkException
    from pyspark.sql import DataFrame, SparkSession
except ImportError as exc:  # an extra
    raise Misconfigured(
        f"Spark's Python library is not installed: {exc}",
        where="--engine spark",
        fix="pip install 'sluice[spark]', on the executors too: docs/how-to/run-on-spark.md",
        code="no_spark",
    ) from exc

SAYS_MAX = 600
"""Characters of what Spark says."""
BATCH_ROWS = 65_536
"""Rows that pass between Spark and Python at once: some 10 MB."""
PARTITION_ROWS = 500_000
"""Of a past, a partition of a shuffle: 0.4 GB of arrivals, and at most 2,000 for 10^9 rows."""
PARTITIONS_MIN = 4
HOW_TO = "docs/how-to/run-on-spark.md"
PARTITIONS = "spark.sql.shuffle.partitions"
_MARK = re.compile(r"sluice-error:([A-Za-z0-9+/=]+):")
_KEYS = {
    "spark.sql.execution.arrow.maxRecordsPerBatch": str(BATCH_ROWS),
    # Every column that we send says itself whether it is null, and none is longer than 2 GB.
    "spark.sql.execution.arrow.useLargeVarTypes": "false",
}


def session() -> SparkSession:
    """The session that Spark's own configuration names; local where it names none.

    Raises Misconfigured: no Java, no such cluster.
    """
    # Spark would take whichever python3 comes first on PATH, without our packages.
    ours = "PYSPARK_PYTHON" not in os.environ
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    try:
        found = SparkSession.builder.appName("sluice").getOrCreate()
        if ours:
            _configured_python(found)
        for key, value in _KEYS.items():
            found.conf.set(key, value)
    except Exception as exc:  # Py4J, gRPC, Java: each raises its own
        raise Misconfigured(
            f"no Spark session: {shown(str(exc), SAYS_MAX)}",
            where="--engine spark",
            fix=f"Java 17 or newer (JAVA_HOME); SPARK_REMOTE or spark.master: {HOW_TO}",
            code="no_spark",
        ) from exc
    return found


def _configured_python(spark: SparkSession) -> None:
    """The executors' Python is that of spark.pyspark.python, which only spark-submit turns into
    PYSPARK_PYTHON. A Connect server has its own."""
    named = spark.conf.getAll.get("spark.pyspark.python")
    context = getattr(spark, "_sc", None)
    if named and context is not None:
        context.pythonExec = named


@contextmanager
def sized(spark: SparkSession, rows: int) -> Iterator[None]:
    """Shuffles that are planned meanwhile have partitions by the rows of the past, where Spark's
    configuration names no number: its own 200 is 200 starts for a small past."""
    if PARTITIONS in spark.conf.getAll:
        yield
        return
    spark.conf.set(PARTITIONS, str(max(PARTITIONS_MIN, -(-rows // PARTITION_ROWS))))
    try:
        yield
    finally:
        spark.conf.unset(PARTITIONS)


@contextmanager
def carrying() -> Iterator[None]:
    """In a task: errors of ours, which Spark brings to the driver as text, are read there again."""
    try:
        yield
    except SluiceError as error:
        raise RuntimeError(_marked(error)) from error


def _marked(error: SluiceError) -> str:
    told = pickle.dumps((type(error), error.what, error.where, error.fix, error.code))
    return f"sluice-error:{base64.b64encode(told).decode()}: {error}"


@contextmanager
def told() -> Iterator[None]:
    """Raises what a task of ours raised; Unavailable for what went wrong in Spark itself."""
    try:
        yield
    except PySparkException as exc:
        said = str(exc)
        if found := _MARK.search(said):
            kind, what, where, fix, code = pickle.loads(base64.b64decode(found[1]))
            raise kind(what, where=where, fix=fix, code=code) from exc
        raise Unavailable(
            f"Spark gave up: {shown(said, SAYS_MAX)}",
            where="--engine spark",
            fix=f"the executors' logs say more; memory and packages: {HOW_TO}",
            code="spark",
        ) from exc


def spread(prepare: Callable[[], Work[Piece, Result]], pieces: Sequence[Piece]) -> Iterator[Result]:
    """See :class:`sluice.application.spread.Spread`: a task a piece. All results are held by the
    driver at once."""
    frame = tasks(session(), lambda: _pickled(prepare()), pieces, "result binary")
    with told():
        found = frame.toArrow().sort_by("piece")
    for one in found["result"]:
        yield pickle.loads(one.as_buffer())


def _pickled(work: Work[Any, Any]) -> Callable[[Any], Iterator[pa.RecordBatch]]:
    def batches(piece: Any) -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"result": pa.array([pickle.dumps(work(piece))], pa.binary())})

    return batches


def tasks(
    spark: SparkSession,
    prepare: Callable[[], Callable[[Piece], Iterator[pa.RecordBatch]]],
    pieces: Sequence[Piece],
    columns: str,
) -> DataFrame:
    """A task a piece, which gives rows: column ``piece``, its number, and ``columns`` (DDL)."""
    held = list(pieces)

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with carrying():
            work = prepare()
            for batch in batches:
                for number in batch.column("id").to_pylist():
                    for made in work(held[number]):
                        numbers = pa.array([number] * len(made), pa.int64())
                        yield pa.record_batch(
                            [numbers, *made.columns], names=["piece", *made.schema.names]
                        )

    n = len(held)
    return spark.range(0, n, 1, max(1, n)).mapInArrow(run, f"piece bigint, {columns}")
