"""Training sets for tests: a small simulated world through the serving kernel, written as
`sluice dataset build` writes them (docs/reference/dataset.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sluice.adapters.files.history import history_from, labels_from
from sluice.application.backfill import backfill
from sluice.application.dataset_manifest import MANIFEST, Inputs, Log, Manifest, SplitFigures
from sluice.domain.clock import DAY_US
from sluice.domain.features import catalogue
from sluice.domain.policy.fx import Fx
from sluice_simulator.config import Config
from sluice_simulator.history import write
from sluice_simulator.world import World

START = date(2026, 3, 1)
FEATURES = {f.name: catalogue.look_back(f) or "" for f in catalogue.FEATURES}
FEATURES = {name: bound for name, bound in FEATURES.items() if bound}


class Days(NamedTuple):
    """A split: days from the start, and the day whose knowledge labels are; None for no labels."""

    name: str
    first: int
    until: int
    as_of: int | None


SPLITS = (
    Days("train", 3, 18, 28),
    Days("validation", 18, 21, 28),
    Days("calibration", 21, 24, 28),
    Days("recent", 24, 28, None),
    Days("test-1", 28, 35, 60),
)


def moment(day: int) -> int:
    first = datetime.combine(START, datetime.min.time(), UTC)
    return int(first.timestamp()) * 1_000_000 + day * DAY_US


def iso(day: int) -> str:
    return datetime.fromtimestamp(moment(day) / 1e6, UTC).isoformat().replace("+00:00", "Z")


def make_world(folder: Path, *, cards: int = 800, days: int = 35, bp: float = 250.0) -> Path:
    write(World(Config(cards=cards, fraud_bp=bp), 1), START, days, folder)
    return folder


def rows_of(world: Path, fx: Fx) -> tuple[pa.Table, np.ndarray]:
    """Every authorization by time, and since when a fraud of it is known, -1 without."""
    table = pq.read_table(world / "authorizations.parquet")
    table = table.take(pa.array(np.argsort(table["event_at"].to_numpy(), kind="stable")))
    labels = pq.read_table(world / "labels.parquet")
    made = backfill(history_from(table), fx, labels_from(labels), threads=1)
    columns = {
        name: table[name] for name in (
            "authorization_id", "event_at", "card_token", "merchant_id", "terminal_id", "channel",
            "region", "mcc",
        )
    }  # fmt: skip
    columns["customer_id"] = pa.nulls(len(table), pa.string())
    columns["amount_minor"] = pa.array(made.features[:, catalogue.INDEX["amount_minor"]])
    for name in FEATURES:
        columns[name] = pa.array(made.features[:, catalogue.INDEX[name]])
    fraud = labels.filter(labels["is_fraud"])
    ids, since_us = fraud["authorization_id"].to_pylist(), fraud["known_at"].to_pylist()
    known = dict(zip(ids, since_us, strict=True))
    since = [known.get(one, -1) for one in table["authorization_id"].to_pylist()]
    return pa.table(columns), np.array(since, np.int64)


def write_dataset(
    folder: Path, rows: pa.Table, known: np.ndarray, splits: Sequence[Days] = SPLITS, **given: Any
) -> Path:
    """A training set of rows; what is given goes over the manifest's usual."""
    event = rows["event_at"].to_numpy()
    written = []
    for split in splits:
        at = (event >= moment(split.first)) & (event < moment(split.until))
        part = rows.filter(pa.array(at))
        since = known[at]
        told = (since >= 0) & (split.as_of is not None)
        if split.as_of is not None:
            told &= since <= moment(split.as_of)
        n = len(part)
        part = part.append_column("is_fraud", pa.array(told))
        part = part.append_column("known_at", pa.array(np.where(told, since, -1)))
        rest = "not_yet" if split.as_of is None else "never"
        part = part.append_column("maturity", pa.array(np.where(told, "known", rest)))
        part = part.append_column("weight", pa.array(np.ones(n, np.float32)))
        share = 0.0 if split.as_of is None else 1.0
        part = part.append_column("reported_share", pa.array(np.full(n, share, np.float32)))
        for name in ("label_kind", "label_source", "degradation_level"):
            part = part.append_column(name, pa.nulls(n, pa.string()))
        path = folder / split.name / "part-00000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(part, path)
        frauds = int(told.sum())
        written.append(
            SplitFigures(
                name=split.name,
                first=iso(split.first),
                until=iso(split.until),
                as_of=iso(split.first if split.as_of is None else split.as_of),
                rows=n,
                frauds=frauds,
                fraud_ppm=frauds * 1_000_000 // max(n, 1),
                labelled=frauds,
                not_yet=0,
                left_out_compromised=0,
                left_out_sampling=0,
                files={
                    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
                },
            )
        )
    usual: dict[str, Any] = {
        "service": "",
        "catalogue": catalogue.DIGEST,
        "features": FEATURES,
        "seed": 1,
        "label_delay_s": 4 * 86_400,
        "known_after_s": None,
        "mature_after_s": 4 * 86_400,
        "look_back_s": 14 * 86_400,
        "genuine_kept_ppm": 1_000_000,
        "reference_currency": "EUR",
        "splits": written,
        "leak_checks": [],
        "log": Log(
            served=0,
            backfilled=len(rows),
            degraded=0,
            holes=0,
            unused=0,
            labels_after_as_of=0,
            labels_astray=0,
            labels_until="",
        ),
        "inputs": Inputs(files={}, code="0" * 64, versions={}),
    }
    (folder / MANIFEST).write_bytes(msgspec.json.encode(Manifest(**(usual | given))))
    return folder
