"""What batch work runs on: the cores of this machine, or Apache Spark.

An engine says where a part of the work is done, and nothing else: what is done with it is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sluice.bootstrap import verbs
from sluice.bootstrap.verbs import PastFiles
from sluice.errors import Misconfigured
from sluice.settings import Settings

if TYPE_CHECKING:
    from sluice.adapters.spark.backfill import Files, Read
    from sluice.adapters.storage import AnyPath
    from sluice.application.backfill import Ints
    from sluice.application.load_history import Archived
    from sluice.application.publish import BadRow
    from sluice.application.spread import Spread
    from sluice.domain.policy.fx import Fx

LOCAL, SPARK = "local", "spark"
ENGINES = (LOCAL, SPARK)


class Past(Protocol):
    """A past that was read. See :class:`sluice.adapters.files.past.Past`."""

    @property
    def bad(self) -> int:
        """Rows that could not be read."""
        ...

    @property
    def left_out(self) -> int:
        """Rows that the mapping says are no authorizations."""
        ...

    @property
    def counts(self) -> tuple[int, int]:
        """Authorizations and labels."""
        ...

    def between(
        self, from_us: int | None, until_us: int | None, *, later_labels: bool = False
    ) -> Past:
        """A part of it."""
        ...


class Engine(Protocol):
    """What batch work runs on."""

    @property
    def spread(self) -> Spread:
        """Of pieces that know nothing of each other."""
        ...

    def read_past(
        self, settings: Settings, files: PastFiles, bad_row: Callable[[BadRow], None]
    ) -> tuple[Past, int]:
        """A past, and how many labels of a file of their own belong to no authorization of it.
        bad_row: told of each row that cannot be read. Raises Misconfigured, Rejected."""
        ...

    def archive_past(
        self,
        past: Any,
        fx: Fx,
        root: AnyPath,
        *,
        keep_states: bool,
        progress: Callable[[int, int], None],
    ) -> Archived:
        """Write the feature log of a past. progress: rows done, of all. Raises Misconfigured,
        Rejected, Unavailable."""
        ...


def engine(name: str, at_once: int) -> Engine:
    """By its name. at_once: threads or processes of this machine; Spark has its own figures.

    Raises Misconfigured where Spark is not installed.
    """
    if name == SPARK:
        from sluice.adapters.spark.session import spread  # noqa: PLC0415 - an extra

        return OnSpark(spread)
    from sluice.adapters.processes import Processes  # noqa: PLC0415 - a verb loads what it needs

    return OneMachine(at_once, Processes(at_once))


@dataclass(frozen=True)
class OneMachine:
    """See Engine. The past lies in memory, threads share it."""

    threads: int
    spread: Spread

    def read_past(
        self, settings: Settings, files: PastFiles, bad_row: Callable[[BadRow], None]
    ) -> tuple[Past, int]:
        """See Engine."""
        return verbs.read_past(settings, files, bad_row)

    def archive_past(
        self,
        past: Any,
        fx: Fx,
        root: AnyPath,
        *,
        keep_states: bool,
        progress: Callable[[int, int], None],
    ) -> Archived:
        """See Engine."""
        return verbs.archive_past(
            past, fx, root, threads=self.threads, keep_states=keep_states, progress=progress
        )


class _Part(NamedTuple):
    """A file of a past: authorizations, or labels in a file of their own, of our own names."""

    path: Path
    only_labels: bool


@dataclass(frozen=True)
class OnSpark:
    """See Engine. A part file of the past is read by one task; see
    :mod:`sluice.adapters.spark.backfill`."""

    spread: Spread

    def read_past(
        self, settings: Settings, files: PastFiles, bad_row: Callable[[BadRow], None]
    ) -> tuple[Past, int]:
        """See Engine."""
        from sluice.adapters.files.past import column_types  # noqa: PLC0415
        from sluice.adapters.files.tables import part_files  # noqa: PLC0415
        from sluice.adapters.spark import backfill  # noqa: PLC0415

        if files.label_file is not None:
            raise Misconfigured(
                "labels of a file of their own are joined on one machine",
                where="--label-file",
                fix="join them to the history's files first, or leave --engine spark out",
                code="spark_label_file",
            )

        def parts(path: Path) -> list[Path]:
            return part_files(path) if path.is_dir() else [path.absolute()]

        found = [_Part(path, False) for path in parts(files.history)]
        if files.labels and not files.mapping:
            found += [_Part(path, True) for path in parts(Path(files.labels))]
        rows, labels = column_types()
        past = backfill.read(
            found,
            partial(_read_part, settings, files),
            {backfill.ROWS: rows, backfill.LABELS: labels},
        )
        for one in past.bad_rows:
            bad_row(one)
        return past, 0

    def archive_past(
        self,
        past: Any,
        fx: Fx,
        root: AnyPath,
        *,
        keep_states: bool,
        progress: Callable[[int, int], None],
    ) -> Archived:
        """See Engine. Of its progress Spark's own pages tell."""
        from sluice.adapters.spark import backfill  # noqa: PLC0415

        whole = (
            root.absolute() if isinstance(root, Path) else root
        )  # tasks have folders of their own
        place = partial(_history_files, whole, fx.reference)
        return backfill.archive(past, fx, _hour_digest, place, keep_states=keep_states)


def _read_part(settings: Settings, files: PastFiles, part: _Part) -> Read:
    """One file, as one machine reads it."""
    from sluice.adapters.files import past  # noqa: PLC0415
    from sluice.adapters.spark.backfill import Read  # noqa: PLC0415

    bad: list[BadRow] = []
    if part.only_labels:
        labels = past.read_labels_alone(part.path)
        return Read(labels.slice(0, 0).select([]), labels, bad, 0)
    beside = files.labels if files.mapping else None
    alone = replace(files, history=part.path, labels=beside)
    found, _ = verbs.read_past(settings, alone, bad.append)
    return Read(found.authorizations, found.labels, bad, found.left_out)


def _hour_digest(kind: int, rows: Any, amounts: Ints | None) -> bytes:
    from sluice.adapters.parquet.history import HISTORY, LABELS, hour_digests  # noqa: PLC0415

    ((_, digest),) = hour_digests((HISTORY, LABELS)[kind], rows, amounts)
    return digest


def _history_files(root: AnyPath, reference: str, rows: list[bytes], labels: list[bytes]) -> Files:
    from sluice.adapters.parquet.history import HistoryFiles, whole_fingerprint  # noqa: PLC0415

    return HistoryFiles(root, whole_fingerprint(reference, rows, labels))
