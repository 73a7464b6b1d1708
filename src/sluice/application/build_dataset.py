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
from sluice.domain.clock import SECOND_US
from sluice.errors import Misconfigured, Rejected

MANIFEST = "manifest.json"

Made = tuple[Part, npt.NDArray[np.uint64]]
"""Figures of one partition, and a hash of each of its ids."""


@dataclass(frozen=True, slots=True)
class Served:
    """A feature service: the features that it serves, in order, and their catalogue's digest."""

    features: tuple[str, ...]
    catalogue: str


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for: rows with first <= event_at < until, microseconds UTC.

    accepted: features to let through although nothing bounds how far back they look.
    """

    service: str
    first_us: int
    until_us: int
    label_delay_s: int
    test_s: int
    accepted: Sequence[str] = ()


class TrainingLog(Protocol):
    """The feature log and the join, for one order."""

    def served(self) -> Served:
        """The order's feature service. Raises Rejected for one that is not there."""
        ...

    def per_second(self) -> npt.NDArray[np.uint32]:
        """(n,) rows of each second of the time."""
        ...

    def join(self, plan: Sequence[TimeSlice], folder: Path) -> Iterator[Made]:
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
    wanted = splits(
        order.first_us,
        order.until_us,
        order.label_delay_s * SECOND_US,
        order.test_s * SECOND_US,
    )
    if out.exists():
        raise Rejected("there is something already", where=str(out), fix="name a new folder")
    served = log.served()
    look_back = refuse_unbounded(served.features, order.accepted)
    per_second = log.per_second()
    plan = [part for split in wanted for part in time_slices(split, order.first_us, per_second)]
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        made: list[Made] = []
        rows = 0
        for one in log.join(plan, aside):
            made.append(one)
            rows += one[0].rows
            progress(Progress(len(made), len(plan), rows))
        manifest = _manifest(
            log, order, served, wanted, plan, made, look_back, int(per_second.sum())
        )
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
        (aside / MANIFEST).write_bytes(text)
        aside.rename(out)
    except OSError as exc:
        raise Misconfigured(f"cannot be written: {exc}", where=str(out)) from exc
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def _manifest(
    log: TrainingLog,
    order: Order,
    served: Served,
    wanted: Sequence[Split],
    plan: Sequence[TimeSlice],
    made: Sequence[Made],
    look_back: dict[str, str],
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
        service=order.service,
        catalogue=served.catalogue,
        label_delay_s=order.label_delay_s,
        splits=summed,
        features=look_back,
        leak_checks=leak_checks(by_split, look_back, served.catalogue, ids),
        log=Log(
            served=sum(part.served for part in parts),
            backfilled=sum(part.rows - part.served for part in parts),
            degraded=sum(part.degraded for part in parts),
            holes=log.holes(),
            gap=in_log - ids,
            labels_after_as_of=sum(part.labels_after for part in parts),
            labels_astray=sum(part.labels_astray for part in parts),
        ),
        inputs=log.inputs(),
    )
