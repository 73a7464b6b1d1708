"""The rows that judge: a split of a training set as arrays, and what becomes of its labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sluice.application.judging.measures import Bools, Floats, Ints, Window
from sluice.application.maturity import SHARE_MIN

NEVER_KNOWN = -1


@dataclass(frozen=True, slots=True)
class Rows:
    """n rows of one split, columns of length n.

    window: labels as known at the split's as_of, every row of weight 1. ids: authorization ids.
    known_us: since when the label is known, NEVER_KNOWN without one. young: rows without a label
    that are too young to tell. weight: one over the probability of a let-through, 0 of a row that
    was declined and of which nothing is known. reported_share: of the frauds of the row's age, the
    share that is known by as_of. channel, region: texts. features: (n, k), in the order of names.
    """

    name: str
    first_us: int
    until_us: int
    as_of_us: int
    window: Window
    ids: npt.NDArray[np.object_]
    known_us: Ints
    young: Bools
    weight: Floats
    reported_share: Floats
    channel: npt.NDArray[np.object_]
    region: npt.NDArray[np.object_]
    names: tuple[str, ...]
    features: Ints

    def __len__(self) -> int:
        return len(self.ids)

    def feature(self, name: str) -> Ints | None:
        """(n,) a feature by name, None if the set does not have it."""
        return self.features[:, self.names.index(name)] if name in self.names else None

    def known_by(self, moment_us: int) -> Window:
        """The rows as they would be judged at a moment: a fraud counts if it was known by then."""
        known = (self.known_us != NEVER_KNOWN) & (self.known_us <= moment_us)
        return self.window.labelled(self.window.fraud & known)

    def let_through(self) -> Window:
        """Weighted by the inverse of each row's probability to be seen (Horvitz and Thompson)."""
        return self.window.labelled(self.window.fraud, self.weight)

    def rows(self, chosen: Bools | Ints) -> Rows:
        """Some of the rows, copied."""
        return replace(
            self,
            window=self.window.rows(chosen),
            ids=self.ids[chosen],
            known_us=self.known_us[chosen],
            young=self.young[chosen],
            weight=self.weight[chosen],
            reported_share=self.reported_share[chosen],
            channel=self.channel[chosen],
            region=self.region[chosen],
            features=self.features[chosen],
        )


def corrected(
    score: Floats, rows: Rows, fpr: float = 0.005, budget: float = 0.005
) -> dict[str, float]:
    """Figures with the frauds made up for that are not known yet.

    A known fraud stands for 1 / reported_share frauds of its age: those that were reported as late
    as the known ones' age would not be known. So the frauds are counted by that weight, and as many
    genuine rows fewer. Right where how late a fraud is reported does not hang on its score within
    an age (Kaplan-Meier's assumption of independent censoring; Lagakos et al. 1988 for reports).

    frauds: those made up for included. recall_at_fpr_0_5, euros_at_budget, average_precision,
    expected_to_actual: as of :func:`sluice.application.judging.measures.measure`.
    """
    fraud, amount = rows.window.fraud, rows.window.amount_minor
    share = np.clip(rows.reported_share, SHARE_MIN, 1.0)
    stands = np.where(fraud, 1 / share, 0.0)
    total = float(stands.sum())
    if not total:
        return {"frauds": 0.0}
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(stands[order])
    seen = np.arange(1, len(order) + 1, dtype=np.float64)
    falling = score[order]
    ends = np.r_[falling[1:] != falling[:-1], True]
    last = np.flatnonzero(ends)[np.r_[0, np.cumsum(ends)[:-1]]]  # of each row's equals
    # A fraud is one row where its own precision is asked, and stands for more where others' is:
    # then each product's expectation is that of the truth.
    own = stands[order]
    precision = (hits[last] - own + (own > 0)) / seen[last]
    false = np.maximum(seen - hits, 0.0)
    within = int(np.searchsorted(false, fpr * max(1.0, len(order) - total), side="right"))
    limit = falling[min(within, len(order) - 1)]
    euros = stands * amount
    top = order[: int(budget * len(order))]
    return {
        "frauds": total,
        "average_precision": float((own * precision).sum() / total),
        "recall_at_fpr_0_5": float(stands[fraud & (score > limit)].sum() / total),
        "euros_at_budget": float(euros[top].sum() / euros.sum()) if euros.sum() else float("nan"),
        "expected_to_actual": float(score.sum() / max(1.0, total)),
    }
