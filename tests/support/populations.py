"""Two populations in archives, and a training set of one: for tests of what tells them apart."""

from __future__ import annotations

import hashlib
from datetime import date, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sluice.adapters.files import past
from sluice.adapters.parquet.feature_log import FeatureLog
from sluice.application.dataset_manifest import MANIFEST
from sluice.bootstrap import verbs
from sluice.cli import main
from sluice.domain.clock import DAY_US, from_datetime, to_datetime
from sluice.domain.features import catalogue
from sluice.domain.policy.fx import Fx
from tests.support.datasets import manifest_of, split_of

START = date(2026, 3, 1)
START_US = from_datetime(to_datetime(0).replace(year=2026, month=3, day=1))


def simulated(root: Path, fx: Fx, *, cards: int, days: int) -> Path:
    """An archive of a simulated world that begins at START."""
    history = root / "history"
    size = ["--cards", str(cards), "--days", str(days), "--start", str(START), "--seed", "21"]
    assert main(["simulate", "history", "--out", str(history), *size]) == 0
    found = past.read_past(history / "authorizations.parquet", history / "labels.parquet")
    verbs.archive_past(found, fx, root / "archive")
    return root / "archive"


def elsewhere(root: Path, fx: Fx, *, rows: int, days: int) -> Path:
    """An archive of a world of another shape, in the Fraud Detection Handbook's columns: few cards
    at many terminals of their own, one country, no device, no online shop, one in fifty a fraud."""
    rng = np.random.default_rng(5)
    seconds = np.sort(rng.integers(0, days * 86_400, rows))
    card = rng.integers(0, 300, rows)
    table = pa.table(
        {
            "transaction_id": np.arange(rows),
            "timestamp": (START_US // 1000 + seconds * 1000).astype("datetime64[ms]"),
            "customer_id": card,
            "terminal_id": (card * 7 + rng.integers(0, 60, rows)) % 2_000,
            "amount_cents": rng.gamma(2, 2_500, rows).astype(np.int64) + 1,
            "is_fraud": rng.random(rows) < 0.02,
        }
    )
    root.mkdir()
    pq.write_table(table, root / "table.parquet")
    found = past.map_past(root / "table.parquet", "handbook", "handbook-labels", lambda bad: None)
    verbs.archive_past(found, fx, root / "archive")
    return root / "archive"


def rows_of(archive: Path, first_day: int, until_day: int) -> pa.Table:
    """Rows of some days by time, with a column for each feature."""
    names = ("authorization_id", "event_at", "card_token", "merchant_id", "terminal_id", "channel",
             "region", "mcc", "reference_amount_minor", "features")  # fmt: skip
    log = FeatureLog(archive, START_US + first_day * DAY_US, START_US + until_day * DAY_US)
    table = pa.concat_tables(log.each(names)).sort_by("event_at").combine_chunks()
    features = table["features"].combine_chunks().flatten().to_numpy().reshape(-1, catalogue.N)
    table = table.drop(["features"])
    for i, name in enumerate(catalogue.NAMES):
        table = table.append_column(name, pa.array(features[:, i]))
    return table


def write_split(folder: Path, archive: Path, first_day: int, until_day: int) -> Path:
    """A training set with one split, ``validation``, as ``sluice dataset build`` leaves it."""
    rows = rows_of(archive, first_day, until_day)
    first, until = START_US + first_day * DAY_US, START_US + until_day * DAY_US
    labels = FeatureLog(archive, first, until).labels(first, until)
    frauds = set(labels.filter(labels["is_fraud"])["authorization_id"].to_pylist())
    n = len(rows)
    fraud = [each in frauds for each in rows["authorization_id"].to_pylist()]
    features = dict.fromkeys(catalogue.NAMES, "this authorization")
    columns = {name: rows[name] for name in rows.column_names} | {
        "customer_id": pa.nulls(n, pa.string()),
        "is_fraud": pa.array(fraud),
        "known_at": pa.array(np.full(n, -1)),
        "maturity": pa.array(["never"] * n),
        "weight": pa.array(np.ones(n, np.float32)),
        "reported_share": pa.array(np.ones(n, np.float32)),
        **{name: pa.nulls(n, pa.string()) for name in
           ("label_kind", "label_source", "degradation_level")},
    }  # fmt: skip
    path = "validation/part-00000.parquet"
    (folder / path).parent.mkdir(parents=True)
    wanted = manifest_of(features=features).columns()
    pq.write_table(pa.table({name: columns[name] for name in wanted}), folder / path)
    split = split_of(
        "validation",
        first=f"{START + timedelta(first_day)}T00:00:00Z",
        until=f"{START + timedelta(until_day)}T00:00:00Z",
        rows=n,
        frauds=sum(fraud),
        files={path: hashlib.sha256((folder / path).read_bytes()).hexdigest()},
    )
    (folder / MANIFEST).write_bytes(
        msgspec.json.encode(manifest_of(features=features, splits=[split]))
    )
    return folder
