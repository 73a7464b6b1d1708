"""Build a training set: features as they were served or backfilled, labels as they were known.

sluice dataset build --service S --from DATE --to DATE --label-delay 7d --out DIR

Splits by time: train, a gap of the label delay, and the last --test of the time; no test with
--test 0d. A label counts only if it was known by the end of its split plus the label delay
(as_of): for train that is the first moment of the test, for the last split --to plus the delay.
Cards of which a fraud was known when a day of the test began are left out of that day. What would
leak is refused. The features come from the archive: live decisions, and what sluice backfill wrote.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

import sluice
from sluice.application.dataset import (
    Inputs,
    Log,
    Manifest,
    Part,
    Split,
    TimeSlice,
    check_unique,
    figures,
    leak_checks,
    refuse_unbounded,
    splits,
    time_slices,
)
from sluice.cli.progress import Progress
from sluice.domain.clock import SECOND_US, from_datetime
from sluice.errors import Misconfigured, Rejected
from sluice.settings import load

if TYPE_CHECKING:
    from sluice.adapters.feast.historical import Job

PACKAGES = ("feast", "numpy", "pandas", "pyarrow")
MANIFEST = "manifest.json"
_SPAN = re.compile(r"(\d{1,5})([dh])")
_UNITS_S = {"d": 86_400, "h": 3_600}

Made = tuple[Part, npt.NDArray[np.uint64]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("what", choices=["build"], metavar="build")
    parser.add_argument("--service", required=True, help="feature service: a release's id")
    parser.add_argument(
        "--from", dest="first", type=_day, required=True, metavar="DATE", help="first day, UTC"
    )
    parser.add_argument(
        "--to", dest="until", type=_day, required=True, metavar="DATE", help="day after the last"
    )
    parser.add_argument(
        "--label-delay",
        type=_span,
        required=True,
        metavar="D",
        help="how long labels are waited for: 7d, 36h",
    )
    parser.add_argument(
        "--test", type=_span, default=7 * 86_400, metavar="D", help="the last of it; default 7d"
    )
    parser.add_argument(
        "--accept-unbounded",
        action="append",
        default=[],
        metavar="FEATURE",
        help="let a feature through whose look-back nothing bounds",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--repo", type=Path, default=Path("feature_repo"), help="default: %(default)s"
    )
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="default: one a core"
    )


def run(args: argparse.Namespace) -> int:
    """Build, print what was built. Raises what would leak; then nothing is left behind."""
    settings, _ = load()
    began = time.monotonic()
    manifest = build(
        Path(settings.archiver.root),
        args.repo,
        service=args.service,
        first_us=args.first,
        until_us=args.until,
        label_delay_s=args.label_delay,
        test_s=args.test,
        accepted=args.accept_unbounded,
        out=args.out,
        processes=args.processes,
    )
    for split in manifest.splits:
        print(
            f"{split.name:<5} {split.rows:>10,} rows, {split.frauds:,} frauds "
            f"({split.fraud_ppm / 10_000:.3f} %), labels as known at {split.as_of}"
            + (f", {split.left_out_compromised:,} left out" if split.left_out_compromised else "")
        )
    log = manifest.log
    print(
        f"{len(manifest.features)} features; {log.gap:,} rows in the gap; "
        f"{log.labels_after_as_of:,} labels came too late, {log.labels_astray:,} found no row; "
        f"{log.degraded:,} rows served degraded, {log.holes:,} holes in the log"
    )
    print(f"{args.out / MANIFEST} in {time.monotonic() - began:.1f} s")
    return 0


def build(
    archive: Path,
    repo: Path,
    *,
    service: str,
    first_us: int,
    until_us: int,
    label_delay_s: int,
    test_s: int,
    accepted: Sequence[str],
    out: Path,
    processes: int,
) -> Manifest:
    """Write a training set to a new folder and return its manifest.

    Appears whole or not at all. Raises Rejected for what would leak or is not there.
    """
    try:
        from sluice.adapters.feast.historical import (  # noqa: PLC0415 - Feast takes seconds
            Job,
            feature_service,
        )
        from sluice.adapters.parquet.feature_log import FeatureLog  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise Misconfigured(
            f"{exc.name} is not installed",
            fix="install sluice[archive,feast]; in a checkout: make setup",
        ) from exc

    wanted = splits(first_us, until_us, label_delay_s * SECOND_US, test_s * SECOND_US)
    if out.exists():
        raise Rejected("there is something already", where=str(out), fix="name a new folder")
    served = feature_service(repo, service)
    look_back = refuse_unbounded(served.features, accepted)
    log = FeatureLog(archive, first_us, until_us)
    per_second = log.per_second()
    plan = [part for split in wanted for part in time_slices(split, first_us, per_second)]
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        job = Job(log, repo, served, log.named(), aside)
        made = list(_made(job, plan, processes))
        manifest = _manifest(
            service, label_delay_s, wanted, plan, made, look_back, job, int(per_second.sum())
        )
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
        (aside / MANIFEST).write_bytes(text)
        aside.rename(out)
    except OSError as exc:
        raise Misconfigured(f"cannot be written: {exc}", where=str(out)) from exc
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def _made(job: Job, plan: Sequence[TimeSlice], processes: int) -> Iterator[Made]:
    """Every partition in order, made in processes of their own so that memory goes back."""
    from sluice.adapters.feast.historical import make, start  # noqa: PLC0415

    progress = Progress()
    rows = 0
    with ProcessPoolExecutor(
        max(1, min(processes, len(plan))),
        multiprocessing.get_context("spawn"),  # Feast and Arrow have threads: no fork
        initializer=start,
        initargs=(job,),
    ) as pool:
        for number, one in enumerate(pool.map(make, plan), 1):
            rows += one[0].rows
            progress.show(f"{number} of {len(plan)} partitions, {rows:,} rows")
            yield one
    progress.show(f"{len(plan)} partitions, {rows:,} rows", last=True)


def _manifest(
    service: str,
    label_delay_s: int,
    wanted: Sequence[Split],
    plan: Sequence[TimeSlice],
    made: Sequence[Made],
    look_back: dict[str, str],
    job: Job,
    in_log: int,
) -> Manifest:
    parts = [part for part, _ in made]
    by_split = [
        (
            split,
            [part for partition, part in zip(plan, parts, strict=True) if partition.split == split],
        )
        for split in wanted
    ]
    summed = [figures(split, mine) for split, mine in by_split]
    ids = check_unique(hashes for _, hashes in made)
    return Manifest(
        service=service,
        catalogue=job.served.catalogue,
        label_delay_s=label_delay_s,
        splits=summed,
        features=look_back,
        leak_checks=leak_checks(by_split, look_back, job.served.catalogue, ids),
        log=Log(
            served=sum(part.served for part in parts),
            backfilled=sum(part.rows - part.served for part in parts),
            degraded=sum(part.degraded for part in parts),
            holes=job.log.holes(),
            gap=in_log - ids,
            labels_after_as_of=sum(part.labels_after for part in parts),
            labels_astray=sum(part.labels_astray for part in parts),
        ),
        inputs=Inputs(
            files=job.log.files(),
            code=code_digest(),
            versions={name: importlib.metadata.version(name) for name in PACKAGES},
        ),
    )


def code_digest() -> str:
    """SHA-256 of this library's sources."""
    root = Path(sluice.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _day(text: str) -> int:
    return from_datetime(datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC))


def _span(text: str) -> int:
    found = _SPAN.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time: 7d, 36h")
    return int(found[1]) * _UNITS_S[found[2]]
