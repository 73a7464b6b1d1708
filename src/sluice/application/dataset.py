"""Plan and check a training set: which rows, which labels, and what would leak.

Splits are by time: train, a gap of the label delay, test. A label counts in a split only if it was
known when the split had ended and the label delay had passed: that moment is the split's ``as_of``.
For train it is the first moment of the test, when such a model would be trained. Cards of which a
fraud was known when a day of the test began are left out of that day (the Fraud Detection
Handbook's protocol: they would have been blocked).

Pure: columns in, plans and figures out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from sluice.domain.clock import DAY_US, SECOND_US, to_datetime
from sluice.domain.features import catalogue
from sluice.errors import Corrupt, Rejected

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
SplitName = Literal["train", "test"]

ROWS_MAX = 32_768
"""Of one join. Feast's takes some 16 kB a row while it runs (docs/decisions/0014)."""
DAYS_MAX = 3_660
"""Of one training set: the plan takes four bytes a second, 1.3 GB then."""
NEVER_KNOWN = -1
"""known_at of an authorization of which nothing is known."""


@dataclass(frozen=True, slots=True)
class Split:
    """Rows with first <= event_at < until, labels with known_at <= as_of. Microseconds UTC."""

    name: SplitName
    first_us: int
    until_us: int
    as_of_us: int


@dataclass(frozen=True, slots=True)
class TimeSlice:
    """A run of whole seconds of one split, joined at once. number: from 0 in its split."""

    split: Split
    number: int
    first_us: int
    until_us: int


def splits(first_us: int, until_us: int, label_delay_us: int, test_us: int) -> list[Split]:
    """Train and test of the rows from first to until; train alone if test_us is 0.

    Raises Rejected if nothing is left to train on.
    """
    if test_us < 0 or label_delay_us < 0:
        raise Rejected("a length of time below zero", fix="--label-delay and --test take 7d or 36h")
    train_until = until_us - test_us - label_delay_us if test_us else until_us
    if train_until <= first_us:
        raise Rejected(
            "no time is left to train on",
            where=f"{to_datetime(first_us):%Y-%m-%d} to {to_datetime(until_us):%Y-%m-%d}",
            fix="--to must lie more than --label-delay and --test behind --from",
            code="no_train",
        )
    if until_us - first_us > DAYS_MAX * DAY_US:
        raise Rejected(f"a training set spans at most {DAYS_MAX} days", fix="raise --from")
    train = Split("train", first_us, train_until, train_until + label_delay_us)
    if not test_us:
        return [train]
    return [train, Split("test", until_us - test_us, until_us, until_us + label_delay_us)]


def time_slices(
    split: Split, first_us: int, per_second: npt.NDArray[np.uint32], rows_max: int = ROWS_MAX
) -> list[TimeSlice]:
    """Cut a split into runs of at most rows_max rows; a fuller second is a run of its own.

    per_second: (n,) rows of each second after first_us. Depends on the log alone, not on machine
    or load, so that a rebuild cuts alike. Runs without rows are left out.
    """
    begin = -(-(split.first_us - first_us) // SECOND_US)
    counts = per_second[begin : -(-(split.until_us - first_us) // SECOND_US)]
    before = np.r_[0, np.cumsum(counts, dtype=np.int64)]
    found: list[TimeSlice] = []
    at, end = 0, len(counts)
    while before[at] < before[end]:
        # From the first second with a row, as many more as fit.
        at = int(np.searchsorted(before, before[at], side="right")) - 1
        fits = int(np.searchsorted(before, before[at] + rows_max, side="right")) - 1
        to = max(fits, at + 1)
        found.append(
            TimeSlice(
                split,
                len(found),
                split.first_us + at * SECOND_US,
                min(split.first_us + to * SECOND_US, split.until_us),
            )
        )
        at = to
    return found


def refuse_unbounded(names: Sequence[str], accepted: Collection[str] = ()) -> dict[str, str]:
    """What bounds the look-back of each feature. Raises Rejected naming those that nothing bounds.

    Such a feature counts since the log began: it tells the model what date it is, and a history
    of another length gives other values. accepted: names to let through, recorded as unbounded.
    """
    strange = [name for name in names if name not in catalogue.INDEX]
    if strange:
        raise Rejected(
            f"features that the catalogue does not have: {', '.join(strange)}",
            fix="name a service of catalogue features; docs/how-to/feast.md lists them",
            code="unknown_feature",
        )
    found = {name: catalogue.look_back(catalogue.FEATURES[catalogue.INDEX[name]]) for name in names}
    refused = [name for name, bound in found.items() if bound is None and name not in accepted]
    if refused:
        raise Rejected(
            f"nothing bounds how far back these features look: {', '.join(refused)}",
            fix="use a service without them, or accept them: "
            + " ".join(f"--accept-unbounded {name}" for name in refused),
            code="unbounded_feature",
        )
    return {name: bound or "unbounded, accepted" for name, bound in found.items()}


def compromised(event_us: Ints, card_known_us: Ints) -> Bools:
    """(n,) rows of a card of which a fraud was known when the row's day (UTC) began.

    card_known_us: (n,) when the first fraud of the row's card became known, NEVER_KNOWN without.
    """
    return (card_known_us != NEVER_KNOWN) & (card_known_us <= event_us // DAY_US * DAY_US)


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one partition gave. Counts of rows, unless said otherwise.

    path: of its file, below the training set. left_out: of compromised cards. labels_after: labels
    of these rows known after as_of, which do not count. labels_astray: labels of this time that
    belong to no row of it. known_until_us: the newest label used, NEVER_KNOWN without one.
    """

    path: str
    sha256: str
    rows: int
    frauds: int
    labelled: int
    left_out: int
    labels_after: int
    labels_astray: int
    served: int
    degraded: int
    first_us: int
    last_us: int
    known_until_us: int


def check_part(partition: TimeSlice, event_us: Ints, known_us: Ints) -> None:
    """Refuse a joined partition that would leak.

    event_us, known_us: (n,) of the rows as they came out of the join. Raises Corrupt (leak).
    """
    split = partition.split
    outside = (event_us < partition.first_us) | (event_us >= partition.until_us)
    outside |= (event_us < split.first_us) | (event_us >= split.until_us)
    late = known_us > split.as_of_us
    for bad, what in ((outside, "rows from outside their split"), (late, "labels known later")):
        if bad.any():
            raise Corrupt(
                f"{int(bad.sum())} {what} came out of the join",
                where=f"{split.name} {partition.number}, row {int(np.argmax(bad))}",
                fix="report this: nothing was written",
                code="leak",
            )


def check_unique(hashes: Iterable[npt.NDArray[np.uint64]]) -> int:
    """Number of ids. Raises Corrupt if one comes twice, in whatever partitions.

    hashes: 64 bits of each id. Eight bytes a row, the one thing here that grows with the set.
    """
    every = np.concatenate([np.empty(0, np.uint64), *hashes])
    every.sort()
    twice = int((every[1:] == every[:-1]).sum())
    if twice:
        raise Corrupt(
            f"{twice} authorization ids come twice",
            where="the feature log",
            fix="decisions and history may overlap: keep one of them for this time",
            code="duplicate_id",
        )
    return len(every)


class SplitFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One split in the manifest."""

    name: SplitName
    first: str
    until: str
    as_of: str
    rows: int
    frauds: int
    fraud_ppm: int
    labelled: int
    left_out_compromised: int
    files: dict[str, str]


class LeakCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One question, and what was found; the set is not written if an answer is wrong."""

    check: str
    found: str


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """What the feature log was like for the time of the set.

    served: rows that were decided live; backfilled: the rest. degraded: rows served with features
    missing (degradation levels D1 to D3). holes: decisions missing from their emitters' sequences,
    in the whole archive. gap: rows between train and test, not used.
    """

    served: int
    backfilled: int
    degraded: int
    holes: int
    gap: int
    labels_after_as_of: int
    labels_astray: int


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """What it was made from.

    files: SHA-256 of each file of the archive that holds a row or label of the time. code: of the
    library's sources. versions: of what writes the bytes.
    """

    files: dict[str, str]
    code: str
    versions: dict[str, str]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """``manifest.json`` of a training set. Says not when, so that a rebuild has the same bytes."""

    v: Literal[1] = 1
    service: str
    catalogue: str
    label_delay_s: int
    splits: list[SplitFigures]
    features: dict[str, str]
    """In the service's order; what bounds the look-back of each."""
    leak_checks: list[LeakCheck]
    log: Log
    inputs: Inputs


def figures(split: Split, parts: Sequence[Part]) -> SplitFigures:
    """Sum up the parts of a split. Raises Rejected if there is no row."""
    rows = sum(part.rows for part in parts)
    if not rows:
        raise Rejected(
            f"the feature log has no row for {split.name}",
            where=f"{_iso(split.first_us)} to {_iso(split.until_us)}",
            fix="sluice backfill a history, or choose another --from and --to",
            code="no_rows",
        )
    frauds = sum(part.frauds for part in parts)
    return SplitFigures(
        name=split.name,
        first=_iso(split.first_us),
        until=_iso(split.until_us),
        as_of=_iso(split.as_of_us),
        rows=rows,
        frauds=frauds,
        fraud_ppm=frauds * 1_000_000 // rows,
        labelled=sum(part.labelled for part in parts),
        left_out_compromised=sum(part.left_out for part in parts),
        files={part.path: part.sha256 for part in parts},
    )


def leak_checks(
    by_split: Sequence[tuple[Split, Sequence[Part]]],
    look_back: dict[str, str],
    digest: str,
    ids: int,
) -> list[LeakCheck]:
    """What was checked, with the figures that were found."""
    found = []
    for split, parts in by_split:
        first, last = min(p.first_us for p in parts), max(p.last_us for p in parts)
        known = max(p.known_until_us for p in parts)
        newest = "none" if known == NEVER_KNOWN else _iso(known)
        found += [
            LeakCheck(
                check=f"{split.name}: no row before {_iso(split.first_us)} or from "
                f"{_iso(split.until_us)} on",
                found=f"{_iso(first)} to {_iso(last)}",
            ),
            LeakCheck(
                check=f"{split.name}: no label known after {_iso(split.as_of_us)}",
                found=f"newest {newest}",
            ),
        ]
    unbounded = [name for name, bound in look_back.items() if bound.startswith("unbounded")]
    return [
        *found,
        LeakCheck(
            check="the look-back of every feature is bounded",
            found=f"accepted without: {', '.join(unbounded)}" if unbounded else "all",
        ),
        LeakCheck(check="one catalogue made all features, the service's", found=digest),
        LeakCheck(check="no authorization id comes twice", found=f"{ids} ids"),
    ]


def _iso(moment_us: int) -> str:
    return to_datetime(moment_us).isoformat().replace("+00:00", "Z")
