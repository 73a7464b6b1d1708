"""Old runs of the learning loop are deleted: training sets, trainings, reports. Releases are not.

WORK/DAG/TIME is the folder of a run, as the DAGs make it. Whatever is called otherwise was made by
somebody else, and is left alone.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sluice.errors import Misconfigured, Unavailable

STARTED = "%Y%m%dT%H%M%S"
"""How a run's folder says when it began, UTC."""
_NAME = re.compile(r"\d{8}T\d{6}")
_GONE = ".deleted"
"""Behind the name of a run that is being deleted, so that nobody reads the rest of it."""


@dataclass(frozen=True)
class OldRun:
    """One folder to delete. size_bytes: of all files in it."""

    folder: Path
    began: datetime
    size_bytes: int


def old_runs(work: Path, *, now: datetime, keep: timedelta, keep_runs: int) -> list[OldRun]:
    """Runs that began longer than ``keep`` ago, oldest first, but for a DAG's newest ``keep_runs``.

    None where no run has made the folder yet. Raises Misconfigured where nothing is even above it.
    """
    if not work.exists() and work.parent.is_dir():
        return []
    if not work.is_dir():
        raise Misconfigured("there is no such folder", where=str(work), fix="name it in --work")
    chosen = []
    for dag in sorted(path for path in work.iterdir() if _folder(path)):
        runs = sorted(_runs(dag))
        for began, folder in runs[: max(0, len(runs) - keep_runs)]:
            if now - began > keep:
                chosen.append(OldRun(folder, began, _size(folder)))
    return sorted(chosen, key=lambda run: run.began)


def delete(runs: list[OldRun], work: Path) -> None:
    """Delete them, and what an earlier deletion left half done. Raises Unavailable."""
    try:
        for run in runs:
            run.folder.rename(run.folder.with_name(run.folder.name + _GONE))
        for dag in filter(_folder, work.iterdir() if work.exists() else ()):
            for left in dag.glob(f"*{_GONE}"):
                if _folder(left) and _NAME.fullmatch(left.name.removesuffix(_GONE)):
                    shutil.rmtree(left)
    except OSError as exc:
        raise Unavailable(
            f"a run could not be deleted: {exc.strerror}",
            where=str(exc.filename or work),
            fix="see who holds it, and run it again",
        ) from exc


def _folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _runs(dag: Path) -> Iterator[tuple[datetime, Path]]:
    for folder in filter(_folder, dag.iterdir()):
        if _NAME.fullmatch(folder.name):
            try:
                began = datetime.strptime(folder.name, STARTED).replace(tzinfo=UTC)
            except ValueError:  # digits that are no time
                continue
            yield began, folder


def _size(folder: Path) -> int:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files)
