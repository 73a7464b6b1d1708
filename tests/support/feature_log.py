"""Files of the archive from columns, for tests of what reads it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sluice.adapters.parquet.archive import path_of
from sluice.adapters.parquet.columns import SCHEMAS
from sluice.adapters.parquet.damage import LAST
from sluice.domain.clock import DAY_US, to_datetime


def write_log(
    root: Path, kind: str, columns: Mapping[str, Sequence[Any] | pa.Array], *, partition: int = 0
) -> None:
    """One file a run of days of event_at, in the order given. kind: a folder of the archive.

    columns: (n,) each; what is not given is null, offsets count from 0.
    """
    n = len(columns["event_at"])
    given = {"partition": np.full(n, partition, np.int32), "offset": np.arange(n)} | dict(columns)
    schema = SCHEMAS[kind]
    table = pa.table(
        [
            pa.array(given[field.name], field.type)
            if field.name in given
            else pa.nulls(n, field.type)
            for field in schema
        ],
        schema=schema,
    )
    days = table["event_at"].to_numpy() // DAY_US
    bounds = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), n]
    for first, until in itertools.pairwise(bounds):
        if first == until:
            continue
        part = table.slice(first, until - first)
        day = to_datetime(int(days[first]) * DAY_US).date()
        path = path_of(root, kind, day, partition, first)
        assert isinstance(path, Path)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(part.replace_schema_metadata({LAST: str(until - 1)}), path)
