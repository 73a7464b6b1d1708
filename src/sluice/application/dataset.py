"""Plan and check a training set: which rows, which labels, and what would leak.

Splits are by time: train, validation, calibration, a gap of the label delay, tests. A label counts
in a split only if it was known at the split's ``as_of``. For what a model is made from, that is the
first moment of the first test, when such a model would be trained; for a test its end plus the
label delay. Cards of which a fraud was known when a day of a test began are left out of that day
(the Fraud Detection Handbook's protocol: they would have been blocked).

Pure: columns in, plans and figures out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import numpy.typing as npt

from sluice.application.dataset_manifest import (
    CALIBRATION,
    RECENT,
    TEST,
    TRAIN,
    VALIDATION,
    LeakCheck,
    SplitFigures,
)
from sluice.domain.clock import DAY_US, SECOND_US, to_datetime
from sluice.domain.features import catalogue
from sluice.errors import Corrupt, Rejected

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]

ROWS_MAX = 32_768
"""Of one join. Feast's takes some 16 kB a row while it runs (docs/decisions/0014)."""
DAYS_MAX = 3_660
"""Of one training set: the plan takes four bytes a second, 1.3 GB then."""
TESTS_MAX = 366
"""Of one training set."""
NEVER_KNOWN = -1
"""known_at of an authorization of which nothing is known."""
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Split:
    """Rows with first <= event_at < until, labels with known_at <= as_of. Microseconds UTC.

    cards_since_us: cards with a fraud since then, known when a day of the split began, are left out
    of that day; None leaves no card out.
    """

    name: str
    first_us: int
    until_us: int
    as_of_us: int
    cards_since_us: int | None = None


@dataclass(frozen=True, slots=True)
class TimeSlice:
    """A run of whole seconds of one split, joined at once. number: from 0 in its split."""

    split: Split
    number: int
    first_us: int
    until_us: int


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for: rows with first <= event_at < until, microseconds UTC.

    service: a feature service, "" for every feature of the catalogue that something bounds.
    train_s: length of train, None for all the time that is left. tests: how many, of test_s each,
    one behind the other at the end. recent: also the rows of the gap, of which nothing is known.
    hold_labels: no label is known before its authorization is label_delay_s old, in features too.
    look_back_s: how far before a test a fraud may lie of which the card is left out.
    mature_after_s: None to take it from the labels. keep_genuine: share of train's rows without
    fraud that is kept. accepted: features to let through although nothing bounds how far back they
    look.
    """

    first_us: int
    until_us: int
    label_delay_s: int
    test_s: int = 7 * DAY_S
    tests: int = 1
    train_s: int | None = None
    validation_s: int = 0
    calibration_s: int = 0
    recent: bool = False
    service: str = ""
    hold_labels: bool = False
    look_back_s: int = 14 * DAY_S
    mature_after_s: int | None = None
    keep_genuine: float = 1.0
    seed: int = 1
    accepted: Sequence[str] = ()

    @property
    def log_first_us(self) -> int:
        """Since when the log is asked: a test's look-back may begin before its set does."""
        sinces = [split.cards_since_us for split in splits(self)]
        return min([self.first_us, *(since for since in sinces if since is not None)])


def splits(order: Order) -> list[Split]:
    """The splits of an order, in order of time. Raises Rejected if nothing is left to train on."""
    lengths = (order.label_delay_s, order.test_s, order.validation_s, order.calibration_s,
               order.look_back_s, order.train_s or 0)  # fmt: skip
    if min(lengths) < 0:
        raise Rejected("a length of time below zero", fix="--label-delay and --test take 7d or 36h")
    if not 0 <= order.tests <= TESTS_MAX:
        raise Rejected(f"{order.tests} tests, of at most {TESTS_MAX}", fix="--tests N")
    if not 0.0 < order.keep_genuine <= 1.0:
        raise Rejected("the share to keep lies above 0 and up to 1", fix="--keep-genuine 0.1")
    if order.until_us - order.first_us > DAYS_MAX * DAY_US:
        raise Rejected(f"a training set spans at most {DAYS_MAX} days", fix="raise --from")
    test_us, delay_us = order.test_s * SECOND_US, order.label_delay_s * SECOND_US
    tests = order.tests if test_us else 0
    first_test_us = order.until_us - tests * test_us
    fitted_until_us = first_test_us - delay_us if tests else order.until_us
    as_of_us = fitted_until_us + delay_us
    calibration_us = fitted_until_us - order.calibration_s * SECOND_US
    validation_us = calibration_us - order.validation_s * SECOND_US
    train_us = order.first_us
    if order.train_s is not None:
        train_us = validation_us - order.train_s * SECOND_US
    if validation_us <= train_us or train_us < order.first_us:
        raise Rejected(
            "no time is left to train on",
            where=f"{iso(order.first_us)} to {iso(order.until_us)}",
            fix="--to must lie more than --label-delay, all tests, --validation, --calibration and "
            "--train behind --from",
            code="no_train",
        )
    found = [
        Split(TRAIN, train_us, validation_us, as_of_us),
        Split(VALIDATION, validation_us, calibration_us, as_of_us),
        Split(CALIBRATION, calibration_us, fitted_until_us, as_of_us),
    ]
    if order.recent and tests:
        found.append(Split(RECENT, fitted_until_us, first_test_us, fitted_until_us))
    for number in range(tests):
        first = first_test_us + number * test_us
        until = first + test_us
        since = first - order.look_back_s * SECOND_US
        found.append(Split(f"{TEST}{number + 1}", first, until, until + delay_us, since))
    return [split for split in found if split.first_us < split.until_us]


def one_for_each_test(order: Order) -> list[Order]:
    """Orders of one test each: trained anew before every test, as the Handbook does.

    Each trains up to one label delay before its own test.
    """
    ends = [order.until_us - k * order.test_s * SECOND_US for k in reversed(range(order.tests))]
    return [replace(order, until_us=until, tests=1) for until in ends]


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


def kept_by_hash(hashes: Hashes, share: float, seed: int) -> Bools:
    """(n,) rows that a sample of this share holds: by id and seed alone, whatever lies around it.

    Stirred by SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), so that seeds are independent.
    """
    x = hashes + np.uint64((seed * 0x9E3779B97F4A7C15) & 0xFFFF_FFFF_FFFF_FFFF)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)) < np.uint64(round(share * (1 << 53)))


def weights(
    let_through_ppm: Ints, declined: Bools, known: Bools, fraud: Bools, keep_genuine: float
) -> npt.NDArray[np.float32]:
    """(n,) what a row counts for, by how likely it was to be seen.

    let_through_ppm: probability with which a would-be decline was approved, 0 for ordinary rows:
    it stands for those that were not. declined: by us; without a label nobody will ever know.
    keep_genuine: share of the rows without fraud that was kept.
    """
    ordinary = np.where(declined & ~known, 0.0, 1.0)
    seen = np.where(let_through_ppm > 0, 1e6 / np.maximum(let_through_ppm, 1), ordinary)
    return np.asarray(seen / np.where(fraud, 1.0, keep_genuine), np.float32)


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one partition gave. Counts of rows, unless said otherwise.

    path: of its file, below the training set. left_out: of compromised cards. sampled_out: without
    fraud, left out by the share to keep. labels_after: labels of these rows known after as_of,
    which do not count. labels_astray: labels of this time that belong to no row of it.
    known_until_us: the newest label used, NEVER_KNOWN without one. currency: the reference
    currency, "" without a row; two are told as one name of both.
    """

    path: str
    sha256: str
    rows: int
    frauds: int
    labelled: int
    not_yet: int
    left_out: int
    sampled_out: int
    labels_after: int
    labels_astray: int
    served: int
    degraded: int
    first_us: int
    last_us: int
    known_until_us: int
    currency: str


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


def figures(split: Split, parts: Sequence[Part]) -> SplitFigures:
    """Sum up the parts of a split. Raises Rejected if there is no row, or none of a class."""
    rows = sum(part.rows for part in parts)
    where = f"{split.name}, {iso(split.first_us)} to {iso(split.until_us)}"
    if not rows:
        raise Rejected(
            f"the feature log has no row for {split.name}",
            where=where,
            fix="sluice backfill a history, or choose another --from and --to",
            code="no_rows",
        )
    frauds = sum(part.frauds for part in parts)
    if split.name != RECENT and frauds in {0, rows}:
        raise Rejected(
            f"{split.name} has {'no fraud' if not frauds else 'nothing but fraud'} among "
            f"{rows:,} rows",
            where=where,
            fix="a longer time, or labels: sluice backfill --labels; nothing can be learned or "
            "judged by one class",
            code="empty_class",
        )
    return SplitFigures(
        name=split.name,
        first=iso(split.first_us),
        until=iso(split.until_us),
        as_of=iso(split.as_of_us),
        rows=rows,
        frauds=frauds,
        fraud_ppm=frauds * 1_000_000 // rows,
        labelled=sum(part.labelled for part in parts),
        not_yet=sum(part.not_yet for part in parts),
        left_out_compromised=sum(part.left_out for part in parts),
        left_out_sampling=sum(part.sampled_out for part in parts),
        files={part.path: part.sha256 for part in parts},
    )


def currency_of(parts: Sequence[Part]) -> str:
    """The reference currency of all rows. Raises Rejected where there are two."""
    found = sorted({part.currency for part in parts if part.rows})
    if len(found) > 1:
        raise Rejected(
            f"amounts in {' and '.join(found)}",
            where="reference_currency of the archive",
            fix="choose a time under one reference currency, or backfill it anew",
            code="two_currencies",
        )
    return found[0]


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
        newest = "none" if known == NEVER_KNOWN else iso(known)
        found += [
            LeakCheck(
                check=f"{split.name}: no row before {iso(split.first_us)} or from "
                f"{iso(split.until_us)} on",
                found=f"{iso(first)} to {iso(last)}",
            ),
            LeakCheck(
                check=f"{split.name}: no label known after {iso(split.as_of_us)}",
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


def iso(moment_us: int) -> str:
    """ISO 8601, UTC.

    >>> iso(0)
    '1970-01-01T00:00:00Z'
    """
    return to_datetime(moment_us).isoformat().replace("+00:00", "Z")
