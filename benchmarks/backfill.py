"""The backfill: rows of history through the kernel, on one core."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.processes import MEASURED, on
from benchmarks.report import Row, row
from benchmarks.testbed import Testbed
from sluice.adapters.files.history import history_from
from sluice.application.backfill import History, backfill

TARGET = ">= 150,000"


def measure(
    testbed: Testbed, results: Path, handbook: Path | None = None
) -> tuple[list[Row], list[str]]:
    """Features only; features and states; reading; the same for the Handbook's table."""
    rows = _history("simulated", testbed.history, testbed)
    table = testbed.history_table
    rows.append(
        row(
            "simulated: Arrow table to columns",
            "rows/s",
            _rate(lambda: history_from(table), len(table), testbed.scale.replays),
        )
    )
    notes = [
        f"simulated: {len(table):,} rows of {testbed.scale.cards:,} cards; one thread, one core"
    ]
    if handbook:
        table = _handbook(pq.read_table(handbook))
        rows += _history("Handbook", history_from(table), testbed)
        notes.append(f"Handbook: {len(table):,} rows")
    return rows, notes


def _history(name: str, history: History, testbed: Testbed) -> list[Row]:
    n = len(history.event_at)
    times = testbed.scale.replays
    return [
        row(f"{name}: features", "rows/s", _rate(lambda: backfill(history, testbed.fx), n, times),
            target=TARGET),
        row(f"{name}: features and states", "rows/s",
            _rate(lambda: backfill(history, testbed.fx, keep_states=True), n, 1)),
    ]  # fmt: skip


def _rate(work: Callable[[], object], rows: int, replays: int) -> float:
    """Rows per second of processor time, median; the first call, which may compile, not timed."""
    with on(MEASURED):
        work()
        found = []
        for _ in range(replays):
            began = time.process_time()
            work()
            found.append(rows / (time.process_time() - began))
    return statistics.median(found)


def _handbook(table: pa.Table) -> pa.Table:
    """The Fraud Detection Handbook's columns as an authorization's; what it lacks is constant."""
    n = len(table)

    def constant(value: str) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([value]))

    terminal = table.column("terminal_id").cast(pa.string())
    return pa.table(
        {
            "authorization_id": table.column("transaction_id").cast(pa.string()),
            "event_at": table.column("timestamp").cast(pa.timestamp("us")).cast(pa.int64()),
            "amount_minor": table.column("amount_cents").cast(pa.int64()),
            "currency": constant("EUR"),
            "mcc": constant("5999"),
            "channel": constant("pos"),
            "merchant_country": constant("BE"),
            "card_country": constant("BE"),
            "card_token": table.column("customer_id").cast(pa.string()),
            "terminal_id": terminal,
            "merchant_id": terminal,
        }
    )
