"""Build a training set in a new folder: planned, joined partition by partition, checked, summed.

Appears whole or not at all, with its manifest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from sluice.application.dataset import (
    NEVER_KNOWN,
    Hashes,
    Order,
    Part,
    Split,
    TimeSlice,
    check_unique,
    currency_of,
    figures,
    iso,
    leak_checks,
    refuse_unbounded,
    splits,
    time_slices,
)
from sluice.application.dataset_manifest import MANIFEST, Inputs, Log, Manifest
from sluice.application.maturity import (
    ReportedShare,
    ReportTimes,
    mature_after_us,
    refuse_labels,
    reported_share,
)
from sluice.domain.clock import SECOND_US
from sluice.domain.features import catalogue
from sluice.errors import Misconfigured, Rejected

Made = tuple[Part, Hashes]
"""Figures of one partition, and a hash of each of its ids."""


@dataclass(frozen=True, slots=True)
class Served:
    """A feature service: the features that it serves, in order, and their catalogue's digest."""

    features: tuple[str, ...]
    catalogue: str


@dataclass(frozen=True, slots=True)
class Rules:
    """What all rows of a set are told by.

    reported: share of frauds known by age. keep_genuine: share of train's rows without fraud.
    """

    reported: ReportedShare
    mature_after_us: int
    keep_genuine: float
    seed: int


class TrainingLog(Protocol):
    """The feature log and the join, for one order."""

    def served(self) -> Served:
        """The order's feature service. Raises Rejected for one that is not there."""
        ...

    def reports(self) -> ReportTimes:
        """When the frauds of the time were reported."""
        ...

    def per_second(self) -> npt.NDArray[np.uint32]:
        """(n,) rows of each second of the time."""
        ...

    def join(self, plan: Sequence[TimeSlice], rules: Rules, folder: Path) -> Iterator[Made]:
        """Write each partition into the folder, in order. Raises what would leak."""
        ...

    def holes(self) -> int:
        """Decisions missing from their emitters' sequences."""
        ...

    def inputs(self) -> Inputs:
        """What the set was made from."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """Partitions done, of how many, and rows so far."""

    done: int
    of: int
    rows: int


def build(
    log: TrainingLog,
    order: Order,
    out: Path,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Manifest:
    """Write a training set to a new folder and return its manifest.

    Raises Rejected for what would leak or is not there, Misconfigured for a folder that cannot be
    written; then nothing is left behind.
    """
    wanted = splits(order)
    if out.exists():
        raise Rejected("there is something already", where=str(out), fix="name a new folder")
    served = log.served()
    look_back = refuse_unbounded(served.features, order.accepted)
    per_second = log.per_second()
    if not per_second.any():
        raise Rejected(
            f"the archive has no authorization from {iso(order.first_us)} to {iso(order.until_us)}",
            where="history and decisions of the archive",
            fix="sluice backfill a history, or choose another --archive, --from and --to",
            code="no_rows",
        )
    times = log.reports()
    refuse_labels(order, wanted, times)
    share = reported_share(times, wanted[0].as_of_us)
    mature_us = mature_after_us(order, share)
    rules = Rules(share, mature_us, order.keep_genuine, order.seed)
    plan = [part for split in wanted for part in time_slices(split, order.first_us, per_second)]
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        made: list[Made] = []
        rows = 0
        for one in log.join(plan, rules, aside):
            made.append(one)
            rows += one[0].rows
            progress(Progress(len(made), len(plan), rows))
        manifest = _manifest(
            log, order, served, _grouped(wanted, plan, made), look_back, rules, times,
            check_unique(hashes for _, hashes in made), int(per_second.sum()),
        )  # fmt: skip
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
        (aside / MANIFEST).write_bytes(text)
        aside.rename(out)
    except OSError as exc:
        raise Misconfigured(f"cannot be written: {exc}", where=str(out)) from exc
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def _grouped(
    wanted: Sequence[Split], plan: Sequence[TimeSlice], made: Sequence[Made]
) -> list[tuple[Split, list[Part]]]:
    parts = [part for part, _ in made]
    return [
        (split, [part for slice_, part in zip(plan, parts, strict=True) if slice_.split == split])
        for split in wanted
    ]


def _manifest(
    log: TrainingLog,
    order: Order,
    served: Served,
    by_split: Sequence[tuple[Split, Sequence[Part]]],
    look_back: dict[str, str],
    rules: Rules,
    times: ReportTimes,
    ids: int,
    in_log: int,
) -> Manifest:
    parts = [part for _, mine in by_split for part in mine]
    summed = [figures(split, mine) for split, mine in by_split]
    return Manifest(
        service=order.service,
        catalogue=served.catalogue,
        features=look_back,
        meanings={n: catalogue.digest(catalogue.FEATURES[catalogue.INDEX[n]]) for n in look_back},
        seed=order.seed,
        label_delay_s=order.label_delay_s,
        known_after_s=order.label_delay_s if order.hold_labels else None,
        mature_after_s=-(-rules.mature_after_us // SECOND_US),
        look_back_s=order.look_back_s,
        genuine_kept_ppm=round(order.keep_genuine * 1_000_000),
        reference_currency=currency_of(parts),
        splits=summed,
        leak_checks=leak_checks(by_split, look_back, served.catalogue, ids),
        log=Log(
            served=sum(part.served for part in parts),
            backfilled=sum(part.rows - part.served for part in parts),
            degraded=sum(part.degraded for part in parts),
            holes=log.holes(),
            unused=in_log - ids,
            labels_after_as_of=sum(part.labels_after for part in parts),
            labels_astray=sum(part.labels_astray for part in parts),
            labels_until="" if times.until_us == NEVER_KNOWN else iso(times.until_us),
        ),
        inputs=log.inputs(),
    )
