"""What judges, read: the rows of a training set's splits, the scores of a run, the truth."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sluice.adapters.parquet.dataset import features_of, read_manifest, read_split
from sluice.application.dataset_manifest import Manifest
from sluice.application.judging.measures import Floats, Window
from sluice.application.judging.rows import Rows
from sluice.application.judging.run import RUN, Candidate, Run, decode_run
from sluice.domain.clock import from_datetime
from sluice.errors import Corrupt, Misconfigured, Rejected

ID = "authorization_id"
SCORES = "scores"
_FIX = "sluice train --dataset DIR --out RUN: docs/reference/run.md"
_COLUMNS = (ID, "event_at", "card_token", "channel", "region", "amount_minor", "is_fraud",
            "known_at", "maturity", "weight", "reported_share")  # fmt: skip


def read_rows(folder: Path, name: str) -> Rows:
    """A split as arrays. Raises as :func:`sluice.adapters.parquet.dataset.read_split` does."""
    manifest = read_manifest(folder)
    columns = list(dict.fromkeys((*_COLUMNS, *manifest.features)))
    return rows_of(manifest, name, read_split(folder, name, columns))


def rows_of(manifest: Manifest, name: str, table: pa.Table) -> Rows:
    """The same of a table that was read."""
    split = manifest.split(name)
    n = len(table)
    card = table["card_token"].combine_chunks().dictionary_encode()
    return Rows(
        name=name,
        first_us=_moment(split.first),
        until_us=_moment(split.until),
        as_of_us=_moment(split.as_of),
        window=Window(
            fraud=_numbers(table, "is_fraud").astype(np.bool_),
            amount_minor=_numbers(table, "amount_minor").astype(np.int64),
            card=_codes(card),
            event_us=_numbers(table, "event_at").astype(np.int64),
            weight=np.ones(n),
        ),
        ids=_texts(table, ID),
        known_us=_numbers(table, "known_at").astype(np.int64),
        young=_texts(table, "maturity") == "not_yet",
        weight=_numbers(table, "weight").astype(np.float64),
        reported_share=_numbers(table, "reported_share").astype(np.float64),
        channel=_texts(table, "channel"),
        region=_texts(table, "region"),
        names=tuple(manifest.features),
        features=features_of(table, manifest),
    )


def _moment(iso: str) -> int:
    return from_datetime(datetime.fromisoformat(iso))


def _numbers(table: pa.Table, name: str) -> npt.NDArray[Any]:
    return table[name].to_numpy()


def _codes(card: Any) -> npt.NDArray[np.int64]:
    chunk = card.combine_chunks() if isinstance(card, pa.ChunkedArray) else card
    return chunk.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _texts(table: pa.Table, name: str) -> npt.NDArray[np.object_]:
    coded = table[name].combine_chunks().dictionary_encode()
    chunk = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
    values = np.array([*chunk.dictionary.to_pylist(), ""], object)
    indices = chunk.indices.fill_null(len(values) - 1).to_numpy(zero_copy_only=False)
    return values[indices]


def read_run(folder: Path) -> Run:
    """The run of a folder. Raises Misconfigured where there is none that is whole."""
    path = folder / RUN
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise Misconfigured(
            f"there is no finished run: {exc.strerror}", where=str(path), fix=_FIX
        ) from exc
    return decode_run(raw, str(path))


def run_digest(folder: Path) -> str:
    """SHA-256 of run.json, which names the digests of the rest."""
    return hashlib.sha256((folder / RUN).read_bytes()).hexdigest()


def read_graph(folder: Path, candidate: Candidate) -> bytes:
    """A candidate's ONNX file. Raises Corrupt if it is not the one that the run names."""
    return checked(folder / candidate.model, candidate.sha256)


def read_scores(folder: Path, run: Run, rows: Rows, names: Sequence[str]) -> dict[str, Floats]:
    """(n,) scores of a split by candidate, for its rows in their order.

    Raises Rejected for a split that the run did not score, Corrupt for another file than the run's
    or the scores of other rows.
    """
    if rows.name not in run.scores:
        raise Rejected(
            f"the run has no scores of {rows.name}",
            where=str(folder / RUN),
            fix=f"it has {', '.join(run.scores)}; {_FIX}",
            code="no_scores",
        )
    path = folder / SCORES / f"{rows.name}.parquet"
    table = pq.read_table(io.BytesIO(checked(path, run.scores[rows.name])))
    if len(table) != len(rows) or (_texts(table, ID) != rows.ids).any():
        raise Corrupt(
            "the scores are of other rows than the training set's",
            where=str(path),
            fix="train again on this training set",
            code="other_rows",
        )
    return {name: table[name].to_numpy().astype(np.float64) for name in names}


def checked(
    path: Path,
    expected: str,
    who: str = "the run",
    fix: str = "train again: somebody wrote over it",
) -> bytes:
    """A file's bytes. Raises Corrupt if they are not those that ``who`` names."""
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise Corrupt(f"cannot be read: {exc.strerror}", where=str(path), fix=fix) from exc
    found = hashlib.sha256(raw).hexdigest()
    if found != expected:
        raise Corrupt(
            f"it has the digest {found[:12]}…, {who} says {expected[:12]}…",
            where=str(path),
            fix=fix,
            code="other_bytes",
        )
    return raw


def read_campaigns(path: Path) -> dict[str, str]:
    """authorization_id to the kind of fraud, from a simulator's truth: a parquet file with both
    columns, ``kind`` in ours, ``scenario`` in the Handbook's. Raises Misconfigured."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as exc:
        raise Misconfigured(f"no truth: {exc}", where=str(path)) from exc
    names = [name for name in ("kind", "scenario") if name in table.column_names]
    if ID not in table.column_names or not names:
        raise Misconfigured(
            f"the columns are {', '.join(table.column_names)}",
            where=str(path),
            fix=f"{ID} and kind, as sluice simulate writes truth.parquet",
        )
    scenario = (str(v) if v is not None else "" for v in table[names[0]].to_pylist())
    return dict(zip(table[ID].to_pylist(), scenario, strict=True))
