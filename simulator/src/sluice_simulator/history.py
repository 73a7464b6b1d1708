"""Write a stretch of a world's traffic to files: what was asked, what was true, what was told."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from sluice.errors import Misconfigured
from sluice_simulator.batch import Batch
from sluice_simulator.world import World

ROWS_A_GROUP = 131_072
"""Days are gathered until a parquet row group has at least these."""


class Tables:
    """The three tables of one folder, written together."""

    NAMES = ("authorizations", "truth")

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._waiting: dict[str, list[pa.Table]] = {name: [] for name in self.NAMES}
        self._labels: list[pa.Table] = []

    def add(self, batch: Batch) -> None:
        """Rows later than all rows added before."""
        for name in self.NAMES:
            waiting = self._waiting[name]
            waiting.append(getattr(batch, name)())
            if sum(len(t) for t in waiting) >= ROWS_A_GROUP:
                self._write(name)
        self._labels.append(batch.labels())

    def close(self) -> dict[str, str]:
        """Write the rest. Returns the SHA-256 of each file."""
        for name in self.NAMES:
            self._write(name)
            self._writers[name].close()
        labels = pa.concat_tables(self._labels)
        labels = labels.sort_by([("known_at", "ascending"), ("authorization_id", "ascending")])
        pq.write_table(labels, self.folder / "labels.parquet", compression="zstd")
        return {
            path.name: _sha256(path)
            for path in (self.folder / f"{name}.parquet" for name in (*self.NAMES, "labels"))
        }

    def _write(self, name: str) -> None:
        table = pa.concat_tables(self._waiting[name])
        self._waiting[name] = [table.slice(0, 0)]
        writer = self._writers.get(name)
        if writer is None:
            # A dictionary of unique values only costs time.
            repeated = [c for c in table.column_names if c not in {"authorization_id", "event_at"}]
            writer = self._writers[name] = pq.ParquetWriter(
                self.folder / f"{name}.parquet",
                table.schema,
                compression="zstd",
                use_dictionary=repeated,
            )
        if len(table):
            writer.write_table(table, row_group_size=len(table))


def write(
    world: World,
    start: date,
    days: int,
    folder: Path,
    progress: Callable[[int, int, float], None] = lambda day, rows, seconds: None,
) -> dict[str, object]:
    """Write authorizations, truth and labels of some days, and world.json that describes them.

    progress: called after each day with days done, rows so far, seconds so far.
    Returns what world.json says, with ``seconds`` added. Raises OSError; Misconfigured for a folder
    with such a file and no world.json: it may be somebody's own history. A world goes over a world.
    """
    _check(folder)
    began = time.perf_counter()
    tables = Tables(folder)
    rows = fraud = labels = 0
    for done, batch in enumerate(world.days(start, days), start=1):
        tables.add(batch)
        rows += len(batch)
        fraud += int(batch.fraud.sum())
        labels += int((batch.rows["way"] > 0).sum())
        progress(done, rows, time.perf_counter() - began)
    digests = tables.close()
    about = {
        "config": msgspec.to_builtins(world.config),
        "config_digest": world.config.digest(),
        "seed": world.seed,
        "start": start.isoformat(),
        "days": days,
        "cards": world.cards.count,
        "merchants": world.merchants.count,
        "authorizations": rows,
        "frauds": fraud,
        "fraud_bp": round(10_000 * fraud / rows, 3) if rows else 0.0,
        "labels": labels,
        "sha256": digests,
    }
    text = msgspec.json.format(msgspec.json.encode(about), indent=2)
    (folder / "world.json").write_bytes(text + b"\n")
    return {**about, "seconds": time.perf_counter() - began}


def _check(folder: Path) -> None:
    names = [f"{name}.parquet" for name in (*Tables.NAMES, "labels")]
    theirs = [name for name in names if (folder / name).exists()]
    if theirs and not (folder / "world.json").exists():
        raise Misconfigured(
            f"there is a {theirs[0]} that no simulation wrote",
            where=str(folder),
            fix="name another folder: a world would be written over it",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
