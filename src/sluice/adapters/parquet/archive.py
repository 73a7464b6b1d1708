"""Files of the archive: ``<root>/<kind>/date=YYYY-MM-DD/part-<partition>-<first offset>.parquet``.

date is the day (UTC) on which Kafka's producer wrote the first record. A file appears whole under a
name that was free or not at all (:mod:`sluice.adapters.storage`), so of two archivers that believe
they own a partition only one succeeds. A file that names its last offset too
(``part-<partition>-<first>-<last>.parquet``) was put together from others: those of its day,
partition and offsets count no more, and are deleted later (:mod:`sluice.adapters.parquet.compact`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sluice.adapters.parquet.columns import (
    KINDS,
    LABEL,
    RECORD,
    SCHEMAS,
    SUPERSEDED,
    fit,
    table,
)
from sluice.adapters.parquet.damage import LAST, SAYS_MAX, HeldFile
from sluice.adapters.storage import AnyPath, begins, folder
from sluice.application.ports import Message, Partition
from sluice.domain.clock import DAY_US, to_datetime
from sluice.domain.records.decision import Decision
from sluice.domain.records.label import Label
from sluice.domain.records.superseded import REACH, Superseded
from sluice.errors import Corrupt, Unavailable
from sluice.shown import shown

COMPRESSION_LEVEL = 3
"""zstd: a decision's 2 kB become about 300 bytes; level 9 saves a tenth more at four times the
time."""
ROW_GROUP = 10_000
TOPIC_ID = b"sluice.topic_id"
"""Which topic of its name a file is of. Files of 0.2 do not say."""
CLOCKS_US = DAY_US
"""A record may have been written so long before what happened in it, by the clocks of two: an
entrypoint takes an event that is some minutes ahead."""
_LATEST_US = 253_000_000_000_000_000
"""In the year 9987."""
_ID_COLUMNS = ("offset", "tenant", "authorization_id")
_DECISION = msgspec.json.Decoder(Decision)
_LABELS = pa.schema([(column.name, column.kind) for column in LABEL])


class File(NamedTuple):
    """One file: its partition and first offset, from the name. last: of a file that was put
    together from others, None of any other."""

    path: AnyPath
    partition: int
    first: int
    last: int | None = None


class Archived(NamedTuple):
    """One decision and where it lay in ``decisions.v1``.

    record: its own bytes, which may say more than this version understands.
    """

    partition: int
    offset: int
    decision: Decision
    record: bytes
    superseded: bool = False
    """An earlier record of the id counts."""


def decoded(path: AnyPath, offset: int, record: bytes) -> Decision:
    """Raises Corrupt naming the file and the offset for a record that is none."""
    try:
        return _DECISION.decode(record)
    except (msgspec.DecodeError, ValueError, RecursionError) as exc:
        raise Corrupt(
            f"a record that this release cannot read: {shown(str(exc), SAYS_MAX)}",
            where=f"{path}, offset {offset}",
            fix="run the release that wrote it, or a newer one; or restore the file from a copy",
            code="damaged_file",
        ) from exc


def counting(rows: pa.Table) -> pa.Table:
    """The rows that count: not superseded, for all that their file says. Without the column."""
    if SUPERSEDED not in rows.column_names:
        return rows
    superseded = pc.fill_null(rows[SUPERSEDED], False)
    if pc.any(superseded).as_py():
        rows = rows.filter(pc.invert(superseded))
    return rows.drop_columns([SUPERSEDED])


class ParquetFiles:
    """The archiver's side. folders: kind ("decisions", "labels", ...) of each topic name."""

    def __init__(self, root: AnyPath, folders: Mapping[str, str]) -> None:
        """Raises Misconfigured, Unavailable."""
        self._root = root
        self._folder = folder(root)
        self._folders = folders
        self._superseded: dict[Partition, Superseded] = {}
        """Of a partition of decisions, as read up to its end."""
        self._ends: dict[Partition, int] = {}
        """Behind the newest file, as we wrote or found it last."""
        self._folder.prepare()

    def end(self, partition: Partition) -> int:
        """See :class:`sluice.application.archive.Files`."""
        newest = next(self._newest_first(partition), None)
        end = _last(newest) + 1 if newest else 0
        if self._ends.get(partition) != end:
            # Another archiver wrote since, or an answer to us was lost.
            self._superseded.pop(partition, None)
        self._ends[partition] = end
        return end

    def topic_id(self, partition: Partition) -> str:
        """See :class:`sluice.application.archive.Files`."""
        newest = next(self._newest_first(partition), None)
        return _topic_id(newest) if newest else ""

    def _newest_first(self, partition: Partition) -> Iterator[File]:
        """Files of a partition by first offset, the last one first; a day's listing at a time.

        Writers' clocks differ, so that about midnight a file of the day before may hold later
        offsets: a day is listed before the one after it is given.
        """
        topic, number = partition
        kind = self._folders[topic]
        held: list[File] = []
        for day in reversed(self._folder.days(kind)):
            if mine := standing(self._folder.of_partition(kind, day, number)):
                yield from (file for file in held if file.first > mine[-1].first)
                left = [file for file in held if file.first < mine[-1].first]
                held = sorted(left + mine, key=lambda file: file.first, reverse=True)
        yield from held

    def write(self, partition: Partition, rows: Sequence[Message], topic_id: str = "") -> int:
        """See :class:`sluice.application.archive.Files`."""
        topic, number = partition
        made = table(KINDS[self._folders[topic]], rows)
        if SUPERSEDED in made.column_names:
            made = self._marked(partition, made)
        made = made.replace_schema_metadata(
            {LAST: str(rows[-1].offset), **({TOPIC_ID: topic_id} if topic_id else {})}
        )
        day = datetime.fromtimestamp(rows[0].written_ms / 1000, UTC).date()
        final = path_of(self._root, self._folders[topic], day, number, rows[0].offset)
        raw = encoded(made, compression_level=COMPRESSION_LEVEL)
        if not self._folder.create(final, raw):
            raise _occupied(final, rows[0])
        self._ends[partition] = rows[-1].offset + 1
        return len(raw)

    def _marked(self, partition: Partition, made: pa.Table) -> pa.Table:
        """Fill SUPERSEDED, from these rows and the files before them."""
        first = made["offset"][0].as_py()
        window = self._superseded.get(partition)
        if window is None:
            window = Superseded(since=first)
            for at in self._before(partition, first):
                window.read(*at)
            self._superseded[partition] = window
        else:
            window.forget_before(first)
        marks = [
            window.read(*at)
            for at in zip(*(made[name].to_pylist() for name in _ID_COLUMNS), strict=True)
        ]
        where = made.schema.get_field_index(SUPERSEDED)
        return made.set_column(where, SUPERSEDED, pa.array(marks))

    def _before(self, partition: Partition, first: int) -> Iterator[tuple[int, str, str]]:
        """Offset, tenant and id of what the files hold within reach before an offset."""
        within: list[File] = []
        for file in self._newest_first(partition):
            if file.first < first:
                within.append(file)
                if file.first <= first - REACH:
                    break
        for file in reversed(within):
            with HeldFile(file.path) as held:
                rows = held.read(_ID_COLUMNS)
            yield from zip(*(rows[name].to_pylist() for name in _ID_COLUMNS), strict=True)


class Archive:
    """The reader's side. Rows come once each, by partition and offset."""

    def __init__(self, root: AnyPath) -> None:
        self._folder = folder(root)

    def files(
        self,
        kind: str = "decisions",
        since_us: int | None = None,
        until_us: int | None = None,
        *,
        covered: bool = False,
    ) -> list[File]:
        """Files of one kind, by partition and first offset. since_us, until_us: of the days from
        one moment to another, UTC. covered: those besides that were put together to others."""
        since, until = ("" if us is None else _day(us) for us in (since_us, until_us))
        found = self._folder.listed(kind, since, until)
        return sorted(map(_named, found), key=_place) if covered else standing(found)

    def newest(self, kind: str = "decisions", days: int = 1) -> list[File]:
        """Files of the newest days that have some."""
        recent = self._folder.days(kind)[-days:]
        return standing(self._folder.listed(kind, recent[0])) if recent else []

    def ends(self, kind: str = "decisions") -> dict[int, int]:
        """Last offset held of each partition."""
        newest = {file.partition: file for file in self.files(kind)}
        return {partition: _last(file) for partition, file in newest.items()}

    def topic_ids(self, kind: str = "decisions") -> set[str]:
        """Which topics the newest file of each partition is of; "" for one that does not say."""
        newest = {file.partition: file for file in self.files(kind)}
        return {_topic_id(file) for file in newest.values()}

    def opened(
        self,
        kind: str = "decisions",
        since_us: int | None = None,
        *,
        dictionary: Sequence[str] = (),
    ) -> Iterator[HeldFile]:
        """Each file, in order, of the days from a moment on. dictionary: columns to be read as
        codes and texts.

        Raises Corrupt if two files hold the same offsets, or one is damaged.
        """
        reached: dict[int, int] = {}
        for file in self.files(kind, since_us):
            if file.first < reached.get(file.partition, 0):
                raise Corrupt(
                    "two files of the archive overlap",
                    where=str(file.path),
                    fix="they were not written by one archive; move one away",
                )
            with HeldFile(file.path, dictionary=dictionary) as held:
                reached[file.partition] = held.last + 1
                yield held

    def tables(
        self, kind: str = "decisions", columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        """One table a file, in order. columns: some of the schema; None is all."""
        schema = SCHEMAS[kind]
        names = list(columns or schema.names)
        wanted = pa.schema([schema.field(name) for name in names])
        for held in self.opened(kind):
            yield fit(held.read(names), wanted)

    def read(self, kind: str = "decisions", columns: Sequence[str] | None = None) -> pa.Table:
        """All rows in one table; empty without files."""
        schema = SCHEMAS[kind]
        wanted = pa.schema([schema.field(name) for name in columns or schema.names])
        return pa.concat_tables([wanted.empty_table(), *self.tables(kind, columns)])

    def decisions(self) -> Iterator[Archived]:
        """Every decision, decoded from its own bytes."""
        for held in self.opened():
            for row in held.read(["partition", "offset", RECORD]).to_pylist():
                yield _archived(held, row)

    def decided_since(self, moment_us: int) -> Iterator[Archived]:
        """Decisions that count, made at or after a moment; opens only the files that hold some."""
        for held in self.opened(since_us=moment_us - CLOCKS_US):
            column = held.names.index("decided_at")
            groups = [
                g
                for g in range(len(held.groups))
                if _newest(held.footer.row_group(g), column) >= moment_us
            ]
            wanted = ["partition", "offset", "decided_at", SUPERSEDED, RECORD]
            rows = counting(held.read(wanted, groups))
            rows = rows.filter(pc.greater_equal(rows["decided_at"], moment_us))
            for row in rows.to_pylist():
                yield _archived(held, row)

    def find(self, authorization_id: str) -> list[Archived]:
        """Every record of one id, the one that counts first; reads one column of each file.

        Two that count are of two tenants, of other contents, or too far apart to be known.
        """
        names = ("partition", "offset", SUPERSEDED, RECORD)
        records = [
            _archived(held, row)
            for held, mine in self._naming("decisions", authorization_id)
            for row in held.read(names).filter(mine).to_pylist()
        ]
        return sorted(records, key=lambda one: (one.superseded, one.decision.decided_at))

    def _naming(self, kind: str, authorization_id: str) -> Iterator[tuple[HeldFile, pa.Array]]:
        """Files with rows of one id, and which rows those are."""
        for file in self.files(kind):
            with HeldFile(file.path) as held:
                mine = pc.equal(
                    held.read(["authorization_id"])["authorization_id"], authorization_id
                )
                if pc.any(mine).as_py():
                    yield held, mine

    def labels(self, kind: str = "labels") -> Iterator[Label]:
        """Every label of one kind."""
        for rows in self.tables(kind, _LABELS.names):
            yield from (Label(**row) for row in rows.to_pylist())

    def labels_of(self, authorization_id: str) -> list[Label]:
        """Every report of one authorization, as they came; reads one column of each file."""
        found: list[Label] = []
        for kind in ("history_labels", "labels"):
            for held, mine in self._naming(kind, authorization_id):
                rows = fit(held.read().filter(mine), _LABELS)
                found += [Label(**row) for row in rows.to_pylist()]
        return found


def _archived(held: HeldFile, row: Mapping[str, Any]) -> Archived:
    offset, record = row["offset"], row[RECORD]
    decision = decoded(held.path, offset, record)
    return Archived(row["partition"], offset, decision, record, bool(row.get(SUPERSEDED)))


def _newest(group: Any, column: int) -> float:
    """Largest decided_at of a row group; unknown is assumed to be new."""
    reported = group.column(column).statistics
    return float(reported.max) if reported is not None and reported.has_min_max else math.inf


def standing(found: Iterable[AnyPath]) -> list[File]:
    """Files by partition and first offset, without those that were put together to others."""
    kept: list[File] = []
    behind: dict[int, int] = {}
    for file in sorted(map(_named, found), key=_place):
        if file.first > behind.get(file.partition, -1):
            kept.append(file)
            if file.last is not None:
                behind[file.partition] = file.last
    return kept


def _named(path: AnyPath) -> File:
    try:
        _, partition, first, *last = path.stem.split("-")
        return File(path, int(partition), int(first), *map(int, last))
    except (ValueError, TypeError) as exc:
        raise Corrupt(
            "a file of the archive whose name no archiver gave it",
            where=str(path),
            fix="move it away",
            code="damaged_file",
        ) from exc


def _place(file: File) -> tuple[int, int, int]:
    """Of two that begin alike the one that holds more comes first."""
    return file.partition, file.first, -(file.last or 0)


def _day(us: int) -> str:
    """Bounds outside of what a date can say are none of ours."""
    return to_datetime(min(max(us, 0), _LATEST_US)).date().isoformat()


def _last(file: File) -> int:
    if file.last is not None:
        return file.last
    with HeldFile(file.path) as held:
        return held.last


def _topic_id(file: File) -> str:
    with HeldFile(file.path) as held:
        return held.about.get(TOPIC_ID, b"").decode()


def _occupied(path: AnyPath, first: Message) -> Unavailable | Corrupt:
    """Why the name is taken: the same record means another archiver, another one another topic."""
    with HeldFile(path) as held:
        there = held.read([RECORD], [0])[RECORD][0].as_py()
    if there == first.value:
        return Unavailable(
            "another archiver wrote this file first",
            where=str(path),
            fix="nothing is lost: restart, and reading goes on behind it",
            code="overtaken",
        )
    return Corrupt(
        "the archive holds another record of this topic, partition and offset",
        where=str(path),
        fix="the topic was made anew: give the archive a new root",
    )


def path_of(root: AnyPath, kind: str, day: date, partition: int, first: int) -> AnyPath:
    """Where a file of the archive lies. first: offset of its first row."""
    return root / kind / f"date={day.isoformat()}" / f"{begins(partition)}{first:020}.parquet"


def encoded(made: pa.Table, **how: Any) -> bytes:
    """A file's bytes. how: further options of pyarrow's write_table."""
    out = pa.BufferOutputStream()
    pq.write_table(
        made,
        out,
        compression="zstd",
        row_group_size=ROW_GROUP,
        write_page_checksum=True,  # zstd alone lets many a flipped bit pass
        **how,
    )
    raw: bytes = out.getvalue().to_pybytes()
    return raw
