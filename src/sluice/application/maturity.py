"""How late frauds are reported, and what that says of a row of which nothing is known yet.

The delay from an authorization to the report of its fraud is seen only where it is shorter than the
time that has passed: an observation truncated on the right. Its distribution is the product limit
in reverse time (Lagakos, Barraj and De Gruttola, Nonparametric analysis of truncated survival data,
Biometrika 75, 1988). It is a share of the frauds reported within the longest delay seen, never of
those that nobody reports.

Pure: times in, shares and refusals out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sluice.application.dataset import DAY_S, NEVER_KNOWN, Order, Split, iso
from sluice.application.dataset_manifest import TEST
from sluice.domain.clock import SECOND_US
from sluice.errors import Rejected

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

MATURE_SHARE = 0.95
"""Of the frauds reported: past the age at which so many are known, silence means genuine."""
SHARE_MIN = 0.001
"""Least share told of an age, so that dividing by it stays a number."""
KNOWN_MIN = 0.05
"""Least share of the reported frauds that the label delay must reach. Below it the newest rows of
every split are without labels, whatever became of them."""
SILENCE_MIN_US = DAY_S * SECOND_US
"""A label log that ended within a day of as_of is taken as complete."""


@dataclass(frozen=True, slots=True)
class ReportTimes:
    """event_us, known_us: (m,) of the reported frauds of the time of a set, a report each.

    until_us: the newest known_at of any label of the archive, NEVER_KNOWN without one. silence_us:
    the longest time between two of them in a row.
    """

    event_us: Ints
    known_us: Ints
    until_us: int
    silence_us: int


@dataclass(frozen=True, slots=True)
class ReportedShare:
    """share: (k,) of the frauds that are reported within (k,) ascending delays; the last is 1."""

    delay_us: Ints
    share: npt.NDArray[np.float64]

    def at(self, age_us: Ints) -> Floats:
        """(n,) ages to the share of frauds that is known by then, at least SHARE_MIN."""
        if not len(self.delay_us):
            return np.ones(len(age_us), np.float32)
        place = np.searchsorted(self.delay_us, age_us, side="right")
        found = np.r_[0.0, self.share][place]
        return np.maximum(found, SHARE_MIN).astype(np.float32)

    def age_of(self, share: float) -> int:
        """Least delay by which so many are known, in microseconds; 0 if there were none."""
        if not len(self.delay_us):
            return 0
        return int(self.delay_us[int(np.searchsorted(self.share, share, side="left"))])


def reported_share(times: ReportTimes, as_of_us: int) -> ReportedShare:
    """The distribution of delays among the reports known at a moment. O(m log m).

    A delay that is the only one that could have been seen at its length says nothing of shorter
    ones, and is passed over: the product would be 0.
    """
    early = times.known_us <= as_of_us
    delay = np.sort((times.known_us - times.event_us)[early])
    reach = np.sort((as_of_us - times.event_us)[early])
    delays, counts = np.unique(delay, return_counts=True)
    # At risk at a delay: reports no later than it, of authorizations old enough to have shown it.
    at_risk = np.cumsum(counts) - np.searchsorted(reach, delays, side="left")
    kept = np.where(at_risk > counts, 1 - counts / np.maximum(at_risk, 1), 1.0)
    # The share known by a delay: none of the longer ones.
    share = np.r_[np.cumprod(kept[1:][::-1])[::-1], 1.0][: len(delays)]
    return ReportedShare(delays, share)


def mature_after_us(order: Order, share: ReportedShare) -> int:
    """The age from which a row without a label counts as one that never gets any."""
    if order.mature_after_s is not None:
        return order.mature_after_s * SECOND_US
    return share.age_of(MATURE_SHARE)


def refuse_labels(order: Order, wanted: list[Split], times: ReportTimes) -> None:
    """Refuse labels that cannot say what a set of this order would have them say.

    Raises Rejected: labels_at_once, short_delay, labels_end.
    """
    delay = times.known_us - times.event_us
    if (at_once := int((delay <= 0).sum())) and not order.hold_labels:
        raise Rejected(
            f"{at_once:,} frauds were known before their authorization was judged, or with it: its "
            "own features would tell",
            where="known_at of the archive's labels",
            fix="--hold-labels holds every label back for the --label-delay; or backfill labels "
            "with the time at which they were known",
            code="labels_at_once",
        )
    delay_us = order.label_delay_s * SECOND_US
    if len(delay) and (delay <= delay_us).mean() < KNOWN_MIN:
        raise Rejected(
            f"--label-delay is {_days(delay_us)}, shorter than the history's own: half of its "
            f"frauds are known after {_days(int(np.median(delay)))}, "
            f"{(delay <= delay_us).mean():.1%} within it",
            where="known_at of the archive's labels",
            fix="wait longer, or backfill labels that are known earlier",
            code="short_delay",
        )
    for split in wanted:
        if not split.name.startswith(TEST):
            continue
        silent = split.as_of_us - times.until_us
        if times.until_us == NEVER_KNOWN or silent > max(times.silence_us, SILENCE_MIN_US):
            ends = "there are none" if times.until_us == NEVER_KNOWN else iso(times.until_us)
            raise Rejected(
                f"the labels end too early to judge {split.name}: {ends}; it waits for them until "
                f"{iso(split.as_of_us)}",
                where="history_labels and labels of the archive",
                fix="let --to end a --label-delay before the labels do, or bring later labels",
                code="labels_end",
            )


def _days(span_us: int) -> str:
    return f"{span_us / (DAY_S * SECOND_US):.3g} d"
