"""The archive as it would be had every label become known later: for a training set of that delay.

Rows and labels of the archive run through the kernel again, each label known no earlier than its
authorization is so old. What comes out lies in a folder of its own, as a backfill leaves it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sluice.adapters.arrow import unsorted_history, unsorted_labels
from sluice.adapters.parquet.archive import Archive, counting
from sluice.adapters.parquet.columns import AUTHORIZATION, SCHEMAS, SUPERSEDED, UNCOUNTED, fit
from sluice.adapters.parquet.history import HistoryFiles
from sluice.adapters.storage import AnyPath
from sluice.application.backfill import Backfill
from sluice.domain.records.outcome import Outcome
from sluice.errors import Rejected

_ROWS = pa.schema(
    [
        SCHEMAS["history"].field(name)
        for name in (*AUTHORIZATION, "reference_amount_minor", "reference_currency", "declined")
    ]
)
_LABELS = pa.schema(
    [field for field in SCHEMAS["history_labels"] if field.name not in {"partition", "offset"}]
)


def write_held_back(
    root: AnyPath, folder: Path, until_us: int, delay_us: int, *, threads: int = 1
) -> None:
    """Write rows with event_at < until and their labels into an empty folder, as of that delay.

    A label that is known later than that keeps its own time. Decisions become history: what they
    were served with is not what they would have been. A fraud that was taken back later stays
    counted in features. 0.4 kB of memory a row. Raises Rejected for
    an archive of two reference currencies.
    """
    rows = _sorted(pa.concat_tables([_ROWS.empty_table(), *_rows(root, until_us)]), "event_at")
    references = rows["reference_currency"].unique().to_pylist()
    if len(references) > 1:
        raise Rejected(
            f"amounts in {' and '.join(map(str, references))}",
            where="reference_currency of the archive",
            fix="labels can be held back in an archive of one reference currency",
            code="two_currencies",
        )
    labels = pa.concat_tables([_LABELS.empty_table(), *_labels(root, until_us)])
    known = pc.max_element_wise(labels["known_at"], pc.add(labels["event_at"], delay_us))
    place = labels.column_names.index("known_at")
    labels = _sorted(labels.set_column(place, "known_at", known), "known_at")
    amounts = rows["reference_amount_minor"].to_numpy()
    plain = rows.drop_columns(["reference_amount_minor", "reference_currency"])
    run = Backfill(unsorted_history(plain), amounts, unsorted_labels(labels), threads=threads)
    files = HistoryFiles(folder, "held back", threads=threads)
    for first, features in run.pieces():
        some = slice(first, first + len(features))
        reference = references[0] if references else ""
        files.write_history(
            first, plain.slice(first, len(features)), amounts[some], reference, features
        )
    files.write_labels(labels)


def _rows(root: AnyPath, until_us: int) -> Iterator[pa.Table]:
    """History as it lies there, then decisions that count."""
    archive = Archive(root)
    for table in archive.tables("history", _ROWS.names):
        yield table.filter(pc.less(table["event_at"], until_us))
    names = [name for name in _ROWS.names if name != "declined"] + ["outcome"]
    for held in archive.opened("decisions"):
        table = counting(held.read([*names, SUPERSEDED]))
        table = table.filter(pc.less(table["event_at"], until_us))
        declined = pc.equal(table["outcome"], Outcome.DECLINE.value)
        yield fit(table.append_column("declined", declined), _ROWS)


def _labels(root: AnyPath, until_us: int) -> Iterator[pa.Table]:
    archive = Archive(root)
    for kind in ("history_labels", "labels"):
        for table in archive.tables(kind, _LABELS.names):
            some = table.filter(pc.less(table["event_at"], until_us))
            if UNCOUNTED in some.column_names:
                some = some.filter(pc.is_null(some[UNCOUNTED]))
            yield some


def _sorted(table: pa.Table, by: str) -> pa.Table:
    """Ties as they lie: of a backfill, as they lay in its file."""
    return table.take(pa.array(np.argsort(table[by].to_numpy(), kind="stable"))).combine_chunks()
