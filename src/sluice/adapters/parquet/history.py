"""The backfill's part of the archive: ``history`` and ``history_labels``, a file a day and piece.

``<root>/history/date=YYYY-MM-DD/part-00000-<first offset>.parquet``, date being that of the events
(UTC); of labels, that of known_at. Every file carries the fingerprint of the whole history, so an
archive holds one history, and the same backfill finds its own files.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sluice.adapters.arrow import tag_texts
from sluice.adapters.parquet.archive import Archive, encoded, path_of
from sluice.adapters.parquet.columns import SCHEMAS, fit
from sluice.adapters.parquet.damage import LAST, HeldFile
from sluice.adapters.storage import AnyPath, folder
from sluice.domain.clock import DAY_US, HOUR_US, to_datetime
from sluice.domain.features import catalogue
from sluice.errors import Misconfigured

Ints = npt.NDArray[np.int64]

FINGERPRINT = b"sluice.history"
HISTORY, LABELS = "history", "history_labels"
_PARTITIONS = {HISTORY: 0, LABELS: 1}
_TIMES = {HISTORY: "event_at", LABELS: "known_at"}
_ENCODING = {
    # The k-th bytes of all numbers together: half the time of dictionaries, and a sixth smaller.
    HISTORY: {"column_encoding": {"features.list.element": "BYTE_STREAM_SPLIT"}},
    LABELS: {},
}
_COMPRESSION_LEVEL = 1


def fingerprint(authorizations: pa.Table, labels: pa.Table, amounts: Ints, reference: str) -> str:
    """What the files are made from, whole tables: see :func:`whole_fingerprint`."""
    return whole_fingerprint(
        reference,
        [digest for _, digest in hour_digests(HISTORY, authorizations, amounts)],
        [digest for _, digest in hour_digests(LABELS, labels)],
    )


def whole_fingerprint(reference: str, rows: Iterable[bytes], labels: Iterable[bytes]) -> str:
    """SHA-256 of catalogue, currency, and the digests of the hours of rows and labels in order."""
    made = hashlib.sha256(f"{catalogue.DIGEST} {reference}".encode())
    for kind, digests in ((HISTORY, rows), (LABELS, labels)):
        made.update(kind.encode())
        for digest in digests:
            made.update(digest)
    return made.hexdigest()


def hour_digests(
    kind: str, rows: pa.Table, amounts: Ints | None = None
) -> Iterator[tuple[int, bytes]]:
    """Each hour (UTC) of sorted rows, in hours since 1970, and a SHA-256 of all that they say.

    By the hour, so that an engine may make them on several machines. Texts by their tags; a column
    of which the hour has nothing is as good as none. amounts: (n,) in the reference currency.
    """
    columns = {} if amounts is None else {"reference_amount_minor": amounts}
    absent = {}
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        absent[name] = column.is_null().to_numpy()
        if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
            columns[name] = column.cast(pa.int64()).fill_null(-1).to_numpy()
        else:
            columns[name] = tag_texts(column)
            columns[name][absent[name]] = -1
    hours = rows[_TIMES[kind]].to_numpy() // HOUR_US
    starts = np.flatnonzero(np.r_[True, hours[1:] != hours[:-1]]) if len(hours) else hours
    for a, b in itertools.pairwise([*starts.tolist(), len(hours)]):
        made = hashlib.sha256()
        for name in sorted(columns):
            if name not in absent or not absent[name][a:b].all():
                made.update(name.encode())
                made.update(np.ascontiguousarray(columns[name][a:b]).tobytes())
        yield int(hours[a]), made.digest()


class HistoryFiles:
    """Writes one history into the archive; what is there already is left as it is."""

    def __init__(self, root: AnyPath, fingerprint: str, *, threads: int = 1) -> None:
        """Raises Misconfigured if the archive holds another history."""
        self._root, self._fingerprint, self._threads = root, fingerprint, threads
        self._folder = folder(root)
        self._there: set[AnyPath] = set()
        for kind in (HISTORY, LABELS):
            for file in Archive(root).files(kind):
                self._there.add(file.path)
                with HeldFile(file.path) as held:
                    theirs = held.about.get(FINGERPRINT)
                if theirs != self._mark():
                    raise Misconfigured(
                        "the archive holds the backfill of another history",
                        where=str(file.path),
                        fix=f"give archiver.root a new folder; or, to replace it, move {HISTORY}/ "
                        f"and {LABELS}/ away and empty the store",
                        code="other_history",
                    )

    def _mark(self) -> bytes:
        return self._fingerprint.encode()

    def write_history(
        self, first: int, rows: pa.Table, amounts: Ints, reference: str, features: Ints
    ) -> int:
        """One piece. rows: (k,) authorizations with ``declined``, from offset first on; amounts:
        (k,) in the reference currency; features: (k, catalogue.N). Returns the files made.
        """
        k, width = features.shape
        made = {
            "reference_amount_minor": pa.array(amounts),
            "reference_currency": _constant(reference, k),
            "catalogue": _constant(catalogue.DIGEST, k),
            "features": pa.ListArray.from_arrays(
                pa.array(np.arange(0, k * width + 1, width, dtype=np.int32)),
                pa.array(features.reshape(-1)),
            ),
        }
        for name, column in made.items():
            rows = rows.append_column(name, column)
        if "declined" not in rows.column_names:
            rows = rows.append_column("declined", pa.array(np.zeros(k, np.bool_)))
        return self._write(HISTORY, first, rows)

    def write_labels(self, rows: pa.Table, first: int = 0) -> int:
        """Labels by known_at, from place first on: all, or whole days. Returns the files made."""
        return self._write(LABELS, first, rows)

    def _write(self, kind: str, first: int, rows: pa.Table) -> int:
        days = rows[_TIMES[kind]].to_numpy() // DAY_US
        starts = np.flatnonzero(np.r_[True, days[1:] != days[:-1]]) if len(days) else days
        bounds = [*starts.tolist(), len(days)]

        def write(a: int, b: int) -> bool:
            return self._file(kind, first + a, int(days[a]), rows.slice(a, b - a))

        with ThreadPoolExecutor(self._threads) as pool:  # the first that fails ends it
            return sum(pool.map(write, bounds[:-1], bounds[1:]))

    def _file(self, kind: str, first: int, day: int, rows: pa.Table) -> bool:
        partition = _PARTITIONS[kind]
        final = path_of(self._root, kind, to_datetime(day * DAY_US).date(), partition, first)
        if final in self._there:
            return False
        n = len(rows)
        whole = {
            "partition": pa.array(np.full(n, partition, np.int32)),
            "offset": pa.array(np.arange(first, first + n)),
            **dict(zip(rows.column_names, rows.columns, strict=True)),
        }
        schema = SCHEMAS[kind]
        about = {LAST: str(first + n - 1), FINGERPRINT: self._mark()}
        texts = [field.name for field in schema if pa.types.is_string(field.type)]
        raw = encoded(
            fit(pa.table(whole), schema.with_metadata(about)),
            compression_level=_COMPRESSION_LEVEL,
            use_dictionary=texts,
            **_ENCODING[kind],
        )
        return self._folder.create(final, raw)


def _constant(text: str, n: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([text]))
