"""The feature log: what the archive's decisions and backfilled history say of a stretch of time.

Reads only row groups whose statistics meet the time asked for, so that a partition of a training
set costs what it holds, whatever lies around it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sluice.adapters.arrow import code_texts, ints
from sluice.adapters.parquet.archive import CLOCKS_US, Archive, File, counting
from sluice.adapters.parquet.columns import SCHEMAS, SUPERSEDED, UNCOUNTED, fit
from sluice.adapters.parquet.damage import HeldFile, reading
from sluice.adapters.storage import AnyPath
from sluice.application.dataset import NEVER_KNOWN
from sluice.application.maturity import ReportTimes
from sluice.domain.clock import SECOND_US
from sluice.domain.features import catalogue
from sluice.domain.records.standing import RANKS, changes
from sluice.errors import Corrupt

Ints = npt.NDArray[np.int64]

ROWS = ("history", "decisions")
LABELS = ("history_labels", "labels")
"""Of two labels that an authorization got at the same microsecond the live one counts."""
_ROW_COLUMNS = ("authorization_id", "event_at", "card_token", "customer_id", "merchant_id",
                "terminal_id", "channel", "region", "mcc", "reference_amount_minor",
                "reference_currency", "catalogue", "features", "degradation_level", "outcome",
                "let_through_ppm")  # fmt: skip
_LABEL_COLUMNS = ("authorization_id", "event_at", "known_at", "is_fraud", "kind", "source",
                  "partition", "offset", UNCOUNTED)  # fmt: skip
_REPORT_COLUMNS = ("event_at", "known_at", "is_fraud", "card_token", UNCOUNTED)


class Group(NamedTuple):
    """A row group that may hold rows of a time: its file, number, and bounds of event_at."""

    path: AnyPath
    number: int
    first_us: int
    last_us: int


class Named(NamedTuple):
    """When the first fraud of each card became known. cards sorted; known_us beside them."""

    cards: pa.StringArray
    known_us: Ints


def known_frauds(labels: pa.Table) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """Ids of which :meth:`FeatureLog.labels` tells something, and whether the label in force says
    fraud."""
    coded = code_texts(labels["authorization_id"])
    ranks = pc.index_in(labels["kind"], pa.array(list(RANKS))).to_numpy()
    kept, last = changes(
        coded.codes,
        np.array([*RANKS.values()], np.int64)[ranks],
        labels["is_fraud"].to_numpy(),
        ints(labels, "known_at"),
        ints(labels, "place"),
    )
    at = kept[last]
    return (
        labels["authorization_id"].combine_chunks().take(pa.array(at)),
        labels["is_fraud"].to_numpy()[at].astype(np.bool_),
    )


class FeatureLog:
    """Rows and labels with first <= event_at < until, under the archive's root."""

    def __init__(self, root: AnyPath, first_us: int, until_us: int) -> None:
        self._root = root
        self._archive = Archive(root)
        self._first_us = first_us
        self._until_us = until_us
        self._groups = {kind: list(self._groups_of(kind)) for kind in (*ROWS, *LABELS)}

    def files(self) -> dict[str, str]:
        """SHA-256 of every file that is read, by path below the root."""
        paths = {group.path for groups in self._groups.values() for group in groups}
        return {str(path).removeprefix(f"{self._root}/"): _sha256(path) for path in sorted(paths)}

    def per_second(self, first_us: int, until_us: int) -> npt.NDArray[np.uint32]:
        """(n,) rows of each second of a part of the time. Reads one column."""
        seconds = -(-(until_us - first_us) // SECOND_US)
        counts = np.zeros(seconds, np.uint32)
        for kind in ROWS:
            for rows in self._read(kind, ("event_at",), first_us, until_us):
                at = (rows["event_at"].to_numpy() - first_us) // SECOND_US
                found, times = np.unique(at, return_counts=True)
                counts[found] += times.astype(np.uint32)
        return counts

    def rows(self, first_us: int, until_us: int) -> pa.Table:
        """Authorizations of a part of the time, by (event_at, authorization_id).

        Columns: fields of the authorization, reference_amount_minor, reference_currency,
        catalogue, features, and of a decision degradation_level, outcome and let_through_ppm (null
        for backfilled history). Raises Corrupt for features that are not their catalogue's, if it
        is ours.
        """
        tables = [
            table for kind in ROWS for table in self._read(kind, _ROW_COLUMNS, first_us, until_us)
        ]
        if not tables:
            return pa.schema([_field("decisions", name) for name in _ROW_COLUMNS]).empty_table()
        rows = pa.concat_tables(tables)
        rows = rows.take(
            pc.sort_indices(rows, [("event_at", "ascending"), ("authorization_id", "ascending")])
        )
        lengths = pc.list_value_length(rows["features"])
        wrong = pc.and_(
            pc.equal(rows["catalogue"], catalogue.DIGEST),
            pc.fill_null(pc.not_equal(lengths, catalogue.N), True),
        )
        at = pc.index(wrong, True).as_py()
        if at >= 0:
            raise Corrupt(
                f"a row has {lengths[at]} features, its catalogue {catalogue.N}",
                where=f"authorization {rows['authorization_id'][at]}",
                fix="the archive is damaged: restore the file",
            )
        return rows

    def labels(self, first_us: int, until_us: int) -> pa.Table:
        """Labels of authorizations of a part of the time.

        Columns: authorization_id, known_at, is_fraud, kind, source, and place, which orders two
        labels of one authorization as they came.
        """
        tables = []
        for live, kind in enumerate(LABELS):
            for every in self._read(kind, _LABEL_COLUMNS, first_us, until_us):
                found = every.filter(pc.is_null(every[UNCOUNTED]))
                # An authorization's labels share a partition, so offsets tell their order.
                place = found["offset"].to_numpy() + (live << 62)
                tables.append(
                    found.select(
                        ["authorization_id", "known_at", "is_fraud", "kind", "source"]
                    ).append_column("place", pa.array(place))
                )
        if not tables:
            schema = SCHEMAS["labels"]
            empty = [
                schema.field(n)
                for n in ("authorization_id", "known_at", "is_fraud", "kind", "source")
            ]
            return pa.schema([*empty, pa.field("place", pa.int64())]).empty_table()
        return pa.concat_tables(tables)

    def named(self, since_us: int) -> Named:
        """Cards with a reported fraud at or after a moment of the time, and since when one is
        known.

        A report that is taken back later still counts: the card was blocked.
        """
        reports = self._reports()
        mine = reports.filter(pc.greater_equal(reports["event_at"], since_us))
        first = mine.group_by("card_token").aggregate([("known_at", "min")]).sort_by("card_token")
        return Named(
            first["card_token"].cast(pa.string()).combine_chunks(),
            first["known_at_min"].to_numpy(),
        )

    def reports(self) -> ReportTimes:
        """When the frauds of the time were reported, and where the archive's labels end."""
        reports = self._reports()
        known = [
            found["known_at"].to_numpy()
            for kind in LABELS
            for found in self._archive.tables(kind, ["known_at"])
        ]
        moments = np.sort(np.concatenate([np.empty(0, np.int64), *known]))
        return ReportTimes(
            reports["event_at"].to_numpy(),
            reports["known_at"].to_numpy(),
            int(moments[-1]) if len(moments) else NEVER_KNOWN,
            int(np.diff(moments).max(initial=0)),
        )

    def _reports(self) -> pa.Table:
        """Reported frauds of the time."""
        found = [
            table.filter(pc.and_(table["is_fraud"], pc.is_null(table[UNCOUNTED])))
            for kind in LABELS
            for table in self._read(kind, _REPORT_COLUMNS, self._first_us, self._until_us)
        ]
        if not found:
            return pa.schema([_field("labels", name) for name in _REPORT_COLUMNS]).empty_table()
        return pa.concat_tables(found)

    def each(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Those columns of all authorizations of the time, a table a file."""
        for kind in ROWS:
            yield from self._read(kind, columns, self._first_us, self._until_us)

    def holes(self) -> int:
        """Decisions missing between the first and last of each emitter, in the whole archive."""
        spans: dict[str, tuple[int, int, int]] = {}
        for table in self._archive.tables("decisions", ["emitter", "sequence"]):
            summed = table.group_by("emitter").aggregate(
                [("sequence", "min"), ("sequence", "max"), ("sequence", "count")]
            )
            for row in summed.to_pylist():
                first, last, count = row["sequence_min"], row["sequence_max"], row["sequence_count"]
                seen = spans.get(row["emitter"], (first, last, 0))
                spans[row["emitter"]] = (
                    min(first, seen[0]), max(last, seen[1]), count + seen[2]
                )  # fmt: skip
        return sum(last - first + 1 - count for first, last, count in spans.values())

    def _files_of(self, kind: str) -> list[File]:
        """Files that may hold rows of the time. A history's day is that of its events; a record was
        written on the day of its event or later, however much."""
        if kind == "history":
            return self._archive.files(kind, self._first_us, self._until_us)
        return self._archive.files(kind, self._first_us - CLOCKS_US)

    def _groups_of(self, kind: str) -> Iterator[Group]:
        for file in self._files_of(kind):
            with HeldFile(file.path) as opened, reading(file.path):
                held = opened.footer
                leaf = _leaf(held, "event_at")
            for number in range(held.num_row_groups):
                bounds = held.row_group(number).column(leaf).statistics
                known = bounds is not None and bounds.has_min_max
                first = bounds.min if known else self._first_us
                last = bounds.max if known else self._first_us
                if first < self._until_us and last >= self._first_us:
                    yield Group(file.path, number, first, last if known else self._until_us)

    def _read(
        self, kind: str, columns: Sequence[str], first_us: int, until_us: int
    ) -> Iterator[pa.Table]:
        """Rows of a time that count, one table a file."""
        wanted = pa.schema([_field(kind, name) for name in columns])
        met: dict[AnyPath, list[int]] = {}
        for group in self._groups[kind]:
            if group.first_us < until_us and group.last_us >= first_us:
                met.setdefault(group.path, []).append(group.number)
        for path, numbers in met.items():
            with HeldFile(path) as held:
                rows = counting(held.read((*columns, SUPERSEDED), numbers, use_threads=False))
            event = rows["event_at"]
            inside = pc.and_(pc.greater_equal(event, first_us), pc.less(event, until_us))
            rows = rows.filter(inside)
            yield fit(rows, wanted)


def _field(kind: str, name: str) -> pa.Field:
    """A column of a folder's files; where they have none, of nulls."""
    schema = SCHEMAS[kind]
    if name in schema.names:
        return schema.field(name)
    held = {one.name: one for one in SCHEMAS["decisions"]}
    return held.get(name, pa.field(name, pa.string()))


def _leaf(held: pq.FileMetaData, name: str) -> int:
    """Number of a column among the leaves of the schema: a list before it counts as its element."""
    return [held.schema.column(i).path for i in range(len(held.schema.names))].index(name)


def _sha256(path: AnyPath) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
