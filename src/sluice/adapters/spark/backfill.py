"""A past through the kernel on Spark: the same rows, features and states as on one machine.

Three shuffles. By the hour: a row's number in the whole past is that of the rows before its hour
and its place in it, ties as they lay in the files. By entity: its arrivals in order of time, a
label before an authorization of the same microsecond, through the kernel, so many at once; the
state of an entity that is cut goes on in the next run, encoded, as from piece to piece on one
machine. By file of the archive: rows and their features meet and are written.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - as everyone calls it
from pyspark.storagelevel import StorageLevel

from sluice.adapters.arrow import ints, unsorted_history, unsorted_labels
from sluice.adapters.spark.session import carrying, session, sized, tasks, told
from sluice.application.backfill import (
    PIECE_ROWS,
    authorization_changes,
    kernel_rows,
    label_changes,
    reference_amounts,
)
from sluice.application.load_history import Archived
from sluice.application.ports import StateUpdate
from sluice.domain.clock import DAY_US, HOUR_US
from sluice.domain.features import catalogue
from sluice.domain.features.events import WIDTH
from sluice.domain.features.kernel import (
    UPDATE_WIDTH,
    backfill_cold_starts,
    backfill_entity,
    context_features,
    scratch,
)
from sluice.domain.policy.fx import Fx
from sluice.domain.records.entity import ENTITY_KINDS, KEY_FIELDS
from sluice.errors import Corrupt

Ints = npt.NDArray[np.int64]

RUN_ROWS = 65_536
"""Arrivals through the kernel at once: with their features 80 MB."""
ROWS, LABELS, ABOUT = 0, 1, 2
TIMES = {ROWS: "event_at", LABELS: "known_at"}
_OWN = {"_kind": "int", "_pos": "bigint"}
_DDL = {pa.int64(): "bigint", pa.bool_(): "boolean", pa.string(): "string", pa.int32(): "int"}
_VIEWS = range(len(catalogue.VIEWS))
_ENTITY = tuple(KEY_FIELDS[kind] for kind in ENTITY_KINDS)
_COLUMNS = tuple(
    np.flatnonzero([feature.entity == kind for feature in catalogue.FEATURES])
    for kind in ENTITY_KINDS
)
"""Of each view, in a row of features."""


class Read(NamedTuple):
    """One part of a past. rows: by event_at, labels: by known_at; ties as they lay there."""

    rows: pa.Table
    labels: pa.Table
    bad: list[Any]
    """Rows that could not be read, for the caller."""
    left_out: int


class Files(Protocol):
    """Where rows and labels are written; made by bootstrap, pickled for each task."""

    def write_history(
        self, first: int, rows: pa.Table, amounts: Ints, reference: str, features: Ints
    ) -> int:
        """Rows from number first on, of one day and piece. Returns the files made."""
        ...

    def write_labels(self, rows: pa.Table, first: int = 0) -> int:
        """Labels from number first on, of one day. Returns the files made."""
        ...


Digests = Callable[[int, pa.Table, Ints | None], bytes]
"""kind, rows of one hour, their amounts: what they say."""


class Times(NamedTuple):
    """What a past is cut to, as :meth:`sluice.adapters.files.past.Past.between` cuts it."""

    from_us: int | None = None
    until_us: int | None = None
    later_labels: bool = False


ALL_TIMES = Times()


@dataclass(frozen=True)
class SparkPast:
    """A past on the executors' disks. bad: rows that could not be read. left_out: no authorizations
    by their mapping."""

    frame: DataFrame
    names: Mapping[int, tuple[str, ...]]
    """Columns of rows and of labels."""
    bad_rows: list[Any]
    left_out: int
    times: Times = ALL_TIMES

    @property
    def bad(self) -> int:
        """How many rows could not be read."""
        return len(self.bad_rows)

    def between(
        self, from_us: int | None, until_us: int | None, *, later_labels: bool = False
    ) -> SparkPast:
        """See :meth:`sluice.adapters.files.past.Past.between`."""
        times = Times(from_us, until_us, later_labels)
        return SparkPast(self.frame, self.names, self.bad_rows, self.left_out, times)

    def of(self, kind: int) -> DataFrame:
        """Rows or labels of its time."""
        rows = self.frame.filter(F.col("_kind") == ROWS)
        since, until, later = self.times
        at = F.col("event_at")
        if since is not None:
            rows = rows.filter(at >= since)
        if until is not None:
            rows = rows.filter(at < until)
        if kind == ROWS:
            return rows
        labels = self.frame.filter(F.col("_kind") == LABELS)
        if since is not None:
            labels = labels.filter(at >= since)
        if until is not None and not later:
            return labels.filter(F.col("known_at") < until)
        return labels.filter((at if later else F.col("known_at")) <= self._last_us)

    @cached_property
    def _last_us(self) -> int:
        with told():
            found = self.of(ROWS).agg(F.max("event_at")).collect()[0][0]
        return -1 if found is None else int(found)

    @cached_property
    def hours(self) -> dict[int, dict[int, int]]:
        """Rows of each hour (UTC, since 1970) of rows and of labels, in order of time."""
        found = {}
        for kind in (ROWS, LABELS):
            hour = F.expr(f"{TIMES[kind]} div {HOUR_US}").alias("hour")
            with told():
                counted = self.of(kind).groupBy(hour).count().collect()
            found[kind] = {int(h): int(n) for h, n in sorted(map(tuple, counted))}
        return found

    @property
    def counts(self) -> tuple[int, int]:
        """Rows and labels of its time."""
        return sum(self.hours[ROWS].values()), sum(self.hours[LABELS].values())


def read(
    parts: Sequence[Any], part: Callable[[Any], Read], schemas: Mapping[int, Mapping[str, Any]]
) -> SparkPast:
    """Read parts of a past, each in a task, and keep them on the executors' disks. schemas: Arrow
    types of rows and labels by column. Raises what reading a part raises."""
    every = {**schemas[ROWS], **schemas[LABELS]}
    ddl = ", ".join(
        f"{name} {kind}"
        for name, kind in (
            *_OWN.items(),
            ("_about", "binary"),
            *((name, _DDL[kind]) for name, kind in every.items()),
        )
    )

    def prepared() -> Callable[[Any], Iterator[pa.RecordBatch]]:
        return partial(_part, part, every)

    frame = tasks(session(), prepared, parts, ddl).persist(StorageLevel.DISK_ONLY)
    with told():
        about = frame.filter(F.col("_kind") == ABOUT).select("piece", "_about").toArrow()
    names: dict[int, dict[str, None]] = {ROWS: {}, LABELS: {}}
    bad, left_out = [], 0
    for one in about.sort_by("piece")["_about"]:
        rows, labels, some, out = pickle.loads(one.as_buffer())
        names[ROWS] |= dict.fromkeys(rows)
        names[LABELS] |= dict.fromkeys(labels)
        bad += some
        left_out += out
    kept = {kind: tuple(n for n in schemas[kind] if n in names[kind]) for kind in names}
    return SparkPast(frame, kept, bad, left_out)


def _part(
    part: Callable[[Any], Read], every: Mapping[str, Any], piece: Any
) -> Iterator[pa.RecordBatch]:
    found = part(piece)
    about = (found.rows.column_names, found.labels.column_names, found.bad, found.left_out)
    yield from _batches(pa.table({"_about": [pickle.dumps(about)]}), ABOUT, every)
    yield from _batches(found.rows, ROWS, every)
    yield from _batches(found.labels, LABELS, every)


def _batches(table: pa.Table, kind: int, every: Mapping[str, Any]) -> Iterator[pa.RecordBatch]:
    n = len(table)
    columns: dict[str, Any] = {
        "_kind": pa.array(np.full(n, kind, np.int32)),
        "_pos": pa.array(np.arange(n)),
        "_about": table["_about"].cast(pa.binary())
        if "_about" in table.column_names
        else pa.nulls(n, pa.binary()),
    }
    for name, of_type in every.items():
        columns[name] = (
            table[name].cast(of_type) if name in table.column_names else pa.nulls(n, of_type)
        )
    yield from pa.table(columns).to_batches(max_chunksize=RUN_ROWS)


def archive(
    past: SparkPast,
    fx: Fx,
    digest: Digests,
    files: Callable[[list[bytes], list[bytes]], Files],
    *,
    keep_states: bool = True,
    run_rows: int = RUN_ROWS,
) -> Archived:
    """Write the feature log of a past, and return the states that it leaves, if they are kept.

    files: of the hours' digests of rows and of labels. run_rows: arrivals through the kernel at
    once, at least. Raises Rejected for a currency without a
    rate, Misconfigured if the archive holds another history, Unavailable.
    """
    with sized(session(), sum(past.counts)):
        numbered = {kind: _numbered(past, kind, fx, digest) for kind in (ROWS, LABELS)}
        to = files(*(_digests(numbered[kind]) for kind in (ROWS, LABELS)))
        arrivals = numbered[ROWS].mapInArrow(_arrivals_of_rows, _ARRIVAL)
        arrivals = arrivals.union(numbered[LABELS].mapInArrow(_arrivals_of_labels, _ARRIVAL))
        made = (
            arrivals.repartition("view", "entity")
            .sortWithinPartitions("view", "entity", "at_us", "after", "number")
            .mapInArrow(_running(keep_states, run_rows), _MADE)
        )
        if keep_states:
            made = made.persist(StorageLevel.DISK_ONLY)
        names = past.names
        features = made.filter(F.col("file").isNotNull()).select(
            "file", "view", "number", "features"
        )
        written = (
            numbered[ROWS]
            .groupBy("_file")
            .cogroup(features.withColumnRenamed("file", "_file").groupBy("_file"))
            .applyInArrow(_writing(to, names[ROWS], fx.reference), "rows bigint, files bigint")
        )
        labels = (
            numbered[LABELS]
            .groupBy("_file")
            .applyInArrow(_writing_labels(to, names[LABELS]), "rows bigint, files bigint")
        )
        with told():
            done = written.agg(F.sum("rows"), F.sum("files")).collect()[0]
            count = labels.agg(F.sum("rows"), F.sum("files")).collect()[0]
    whole = int(done[0] or 0), int(count[0] or 0)
    if whole != past.counts:
        raise Corrupt(
            f"(rows, labels) written are {whole}, of {past.counts}",
            fix="report this; the archive is not whole, give the next run a new folder",
        )
    return Archived(
        whole[0],
        int(done[1] or 0) + int(count[1] or 0),
        _states(made) if keep_states else iter(()),
    )


# By the hour.


def _numbered(past: SparkPast, kind: int, fx: Fx, digest: Digests) -> DataFrame:
    """Rows or labels with their number, in order of time, and the file that they go to: the number
    of its first row. In an hour's first row the digest of the hour."""
    names, time, hours = past.names[kind], TIMES[kind], past.hours[kind]
    firsts = dict(zip(hours, itertools.accumulate(hours.values(), initial=0), strict=False))
    days: dict[int, int] = {}
    for hour, first in firsts.items():
        days.setdefault(hour * HOUR_US // DAY_US, first)

    def number(hour: int, rows: pa.Table) -> pa.Table:
        n, first = len(rows), firsts[hour]
        if n != hours[hour]:
            raise Corrupt(
                f"an hour had {hours[hour]:,} rows, and now {n:,}",
                where=f"{time} {hour * HOUR_US}",
                fix="do not change the files of a past while it is read",
            )
        rows = rows.select(list(names))
        numbers = np.arange(first, first + n)
        day = days[hour * HOUR_US // DAY_US]
        amounts = None
        if kind == ROWS:
            amounts = reference_amounts(unsorted_history(rows), fx)
            file = np.maximum(day, numbers // PIECE_ROWS * PIECE_ROWS)
        else:
            file = np.full(n, day, np.int64)
        said = [digest(kind, rows, amounts), *[None] * (n - 1)]
        return pa.table(
            {
                **{name: rows[name] for name in names},
                "_number": pa.array(numbers),
                "_file": pa.array(file),
                "_hour": pa.array(np.full(n, hour)),
                "_amount": pa.array(np.zeros(n, np.int64) if amounts is None else amounts),
                "_digest": pa.array(said, pa.binary()),
            }
        )

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with carrying():
            held: list[pa.RecordBatch] = []
            current = None
            for batch in batches:
                at = batch.column(time).to_numpy() // HOUR_US
                starts = np.flatnonzero(np.r_[True, at[1:] != at[:-1]]) if len(at) else at
                for a, b in itertools.pairwise([*starts.tolist(), len(at)]):
                    if current is not None and at[a] != current:
                        yield from number(current, pa.Table.from_batches(held)).to_batches()
                        held = []
                    current = int(at[a])
                    held.append(batch.slice(a, b - a))
            if current is not None:
                yield from number(current, pa.Table.from_batches(held)).to_batches()

    types = dict(past.frame.dtypes)
    ddl = ", ".join(f"{name} {types[name]}" for name in names)
    own = "_number bigint, _file bigint, _hour bigint, _amount bigint, _digest binary"
    return (
        past.of(kind)
        .select(*names, "piece", "_pos")
        .repartition(F.expr(f"{time} div {HOUR_US}"))
        .sortWithinPartitions(time, "piece", "_pos")
        .mapInArrow(run, f"{ddl}, {own}")
        .persist(StorageLevel.DISK_ONLY)
    )


def _digests(numbered: DataFrame) -> list[bytes]:
    """Of the hours, in order of time."""
    with told():
        found = numbered.filter(F.col("_digest").isNotNull()).select("_hour", "_digest").toArrow()
    digests: list[bytes] = found.sort_by("_hour")["_digest"].to_pylist()
    return digests


# By the entity.

_ARRIVAL = (
    "view int, entity string, at_us bigint, after int, number bigint, file bigint, "
    "fraud boolean, event binary"
)
"""after: 0 of a label, 1 of an authorization. event: its kernel row."""
_MADE = (
    "file bigint, view int, number bigint, features binary, entity string, state binary, "
    "newest_us bigint"
)
"""Features of an authorization, or, where file is null, an entity's state."""


def packed(numbers: Ints) -> pa.BinaryArray:
    """(n, k) int64 to n values of 8 k bytes."""
    n, k = numbers.shape
    ends = np.arange(0, (n + 1) * k * 8, k * 8, dtype=np.int32) if k else np.zeros(n + 1, np.int32)
    data = pa.py_buffer(np.ascontiguousarray(numbers))
    return pa.Array.from_buffers(pa.binary(), n, [None, pa.py_buffer(ends), data])


def unpacked(column: pa.Array | pa.ChunkedArray, k: int) -> Ints:
    """(n, k) int64 back."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], pa.binary())
    if not len(whole):
        return np.zeros((0, k), np.int64)
    _, ends, data = whole.buffers()
    first = np.frombuffer(ends, np.int32)[whole.offset]
    return np.frombuffer(data, np.int64, len(whole) * k, offset=int(first)).reshape(-1, k)


def _arrivals_of_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    with carrying():
        for batch in batches:
            rows = pa.Table.from_batches([batch])
            events = packed(kernel_rows(unsorted_history(rows), ints(rows, "_amount")))
            never = pa.nulls(len(rows), pa.bool_())
            for view in _VIEWS:
                yield from _arrivals(rows, view, "event_at", 1, rows["_file"], never, events)


def _arrivals_of_labels(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    with carrying():
        for batch in batches:
            rows = pa.Table.from_batches([batch])
            n = len(rows)
            fraud = pa.array(unsorted_labels(rows).is_fraud != 0)
            nowhere, nothing = pa.nulls(n, pa.int64()), pa.nulls(n, pa.binary())
            for view in _VIEWS:
                yield from _arrivals(rows, view, "known_at", 0, nowhere, fraud, nothing)


def _arrivals(
    rows: pa.Table, view: int, time: str, after: int, file: Any, fraud: Any, event: Any
) -> Iterator[pa.RecordBatch]:
    """Of one view; rows without such an entity do not arrive."""
    n, name = len(rows), _ENTITY[view]
    if name not in rows.column_names:
        return
    made = pa.table(
        {
            "view": pa.array(np.full(n, view, np.int32)),
            "entity": rows[name],
            "at_us": rows[time],
            "after": pa.array(np.full(n, after, np.int32)),
            "number": rows["_number"],
            "file": file,
            "fraud": fraud,
            "event": event,
        }
    )
    yield from made.filter(pc.is_valid(made["entity"])).to_batches()


def _running(
    keep: bool, run_rows: int
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Arrivals by view and entity, in order of time, to features and, if they are kept, states."""

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with carrying():
            held: list[pa.RecordBatch] = []
            carry = _Carry(-1, "", b"")
            for batch in batches:
                held.append(batch)
                if sum(map(len, held)) >= run_rows:
                    carry = yield from _run(pa.Table.from_batches(held), carry, keep)
                    held = []
            if held:
                carry = yield from _run(pa.Table.from_batches(held), carry, keep)
            if keep and carry.view >= 0:
                yield _states_batch(carry.view, [carry.entity], [carry.state], [carry.newest_us])

    return run


class _Carry(NamedTuple):
    """The entity that may go on in the next run, and its state so far."""

    view: int
    entity: str
    state: bytes
    newest_us: int = 0


def _run(table: pa.Table, carry: _Carry, keep: bool) -> Generator[pa.RecordBatch, None, _Carry]:
    """Returns the entity that may go on."""
    views = table["view"].to_numpy()
    cuts = np.flatnonzero(np.r_[True, views[1:] != views[:-1]]).tolist()
    for a, b in itertools.pairwise([*cuts, len(views)]):
        carry = yield from _run_view(int(views[a]), table.slice(a, b - a), carry, keep)
    return carry


def _run_view(
    view: int, rows: pa.Table, carry: _Carry, keep: bool
) -> Generator[pa.RecordBatch, None, _Carry]:
    n = len(rows)
    names = pc.run_end_encode(rows["entity"].combine_chunks())
    entities = names.values.to_pylist()
    bounds = np.r_[0, names.run_ends.to_numpy()].astype(np.int64)
    mine = rows["after"].to_numpy() == 1
    number = rows["number"].to_numpy()
    events = np.zeros((n, WIDTH), np.int64)
    events[mine] = unpacked(rows["event"].filter(pa.array(mine)), WIDTH)
    changes = np.empty((n, UPDATE_WIDTH), np.int64)
    changes[mine] = authorization_changes(number[mine])
    fraud = pc.fill_null(rows["fraud"], False).to_numpy()
    changes[~mine] = label_changes(number[~mine], rows["at_us"].to_numpy()[~mine], fraud[~mine])
    goes_on = carry.view == view and carry.entity == entities[0]
    if keep and carry.view >= 0 and not goes_on:
        yield _states_batch(carry.view, [carry.entity], [carry.state], [carry.newest_us])
    before = [carry.state if goes_on else b"", *[b""] * (len(entities) - 1)]
    out = np.empty((n, catalogue.N), np.int64)
    done = backfill_entity(
        view,
        np.arange(n),
        bounds,
        events,
        changes,
        out,
        scratch(),
        before=before,
        keep_states=True,
    )
    at = pa.array(mine)
    k = int(mine.sum())
    yield pa.record_batch(
        {
            "file": rows["file"].filter(at).combine_chunks(),
            "view": pa.array(np.full(k, view, np.int32)),
            "number": pa.array(number[mine]),
            "features": packed(out[np.ix_(mine, _COLUMNS[view])]),
            "entity": pa.nulls(k, pa.string()),
            "state": pa.nulls(k, pa.binary()),
            "newest_us": pa.nulls(k, pa.int64()),
        }
    )
    if keep and len(entities) > 1:
        yield _states_batch(view, entities[:-1], done.states[:-1], done.newest_us[:-1])
    return _Carry(view, entities[-1], done.states[-1], done.newest_us[-1])


def _states_batch(
    view: int, entities: Sequence[str], states: Sequence[bytes], newest: Sequence[int]
) -> pa.RecordBatch:
    k = len(entities)
    return pa.record_batch(
        {
            "file": pa.nulls(k, pa.int64()),
            "view": pa.array(np.full(k, view, np.int32)),
            "number": pa.nulls(k, pa.int64()),
            "features": pa.nulls(k, pa.binary()),
            "entity": pa.array(entities, pa.string()),
            "state": pa.array(states, pa.binary()),
            "newest_us": pa.array(newest, pa.int64()),
        }
    )


def _states(made: DataFrame) -> Iterator[StateUpdate]:
    kept = made.filter(F.col("file").isNull()).select("view", "entity", "state", "newest_us")
    with told():
        for view, entity, state, newest in kept.toLocalIterator(prefetchPartitions=True):
            if state:
                kind = ENTITY_KINDS[view]
                yield StateUpdate(kind, entity, b"", bytes(state), max(newest, 0))
    made.unpersist()


# By the file.


def _writing(
    to: Files, names: tuple[str, ...], reference: str
) -> Callable[[pa.Table, pa.Table], pa.Table]:
    def write(rows: pa.Table, made: pa.Table) -> pa.Table:
        with carrying():
            rows = rows.sort_by("_number").combine_chunks()
            numbers = rows["_number"].to_numpy()
            n, first = len(rows), int(numbers[0])
            amounts = ints(rows, "_amount")
            rows = rows.select(list(names))
            events = kernel_rows(unsorted_history(rows), amounts)
            out = np.empty((n, catalogue.N), np.int64)
            context_features(events, np.arange(n), out)
            views = made["view"].to_numpy()
            for view in _VIEWS:
                some = made.filter(pa.array(views == view))
                at = some["number"].to_numpy() - first
                out[np.ix_(at, _COLUMNS[view])] = unpacked(some["features"], len(_COLUMNS[view]))
                name = _ENTITY[view]
                absent = (
                    rows[name].is_null().to_numpy()
                    if name in rows.column_names
                    else np.ones(n, np.bool_)
                )
                if (np.bincount(at, minlength=n) != ~absent).any() or numbers[-1] != first + n - 1:
                    raise Corrupt(
                        f"rows and features of the {catalogue.VIEWS[view]} do not meet",
                        where=f"the file that begins with row {first}",
                        fix="report this: the file was not written",
                    )
                backfill_cold_starts(view, np.flatnonzero(absent), events, out)
            files = to.write_history(first, rows, amounts, reference, out)
            return pa.table({"rows": pa.array([n]), "files": pa.array([files])})

    return write


def _writing_labels(to: Files, names: tuple[str, ...]) -> Callable[[pa.Table], pa.Table]:
    def write(rows: pa.Table) -> pa.Table:
        with carrying():
            rows = rows.sort_by("_number").combine_chunks()
            first = rows["_number"][0].as_py()
            files = to.write_labels(rows.select(list(names)), first)
            return pa.table({"rows": pa.array([len(rows)]), "files": pa.array([files])})

    return write
