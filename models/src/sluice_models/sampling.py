"""Which rows are learnt from, and what that adds to the logit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]

GENUINE_MIN = 50_000
"""Genuine rows that are learnt from whatever the ratio: with few frauds ten or thirty of each say
too little of what is genuine, and so many cost seconds (docs/decisions/0069-few-frauds.md)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """m rows of a split: all frauds and some genuine rows.

    rows: (m,) indices, rising. weight: (m,) of each in the loss. shift: what the odds in the sample
    are above those in the world, as a logarithm.
    """

    rows: Ints
    weight: Doubles
    shift: float


def undersample(
    fraud: Bools,
    weight: Doubles,
    usable: Bools,
    negatives: float,
    rng: np.random.Generator,
    genuine_min: int = GENUINE_MIN,
) -> Sample:
    """All usable frauds, and ``negatives`` genuine rows for each, ``genuine_min`` at least.

    A genuine row is drawn with a chance that grows with its weight, so that those drawn weigh the
    same; the weight of all is in the shift. Where all of them are taken, each keeps its weight.
    """
    positive = np.flatnonzero(fraud & usable)
    negative = np.flatnonzero(~fraud & usable)
    wanted = max(round(negatives * len(positive)), genuine_min)
    if wanted >= len(negative):
        rows = np.sort(np.r_[positive, negative])
        return Sample(rows, weight[rows], 0.0)
    # The largest of u^(1/w) are a draw without replacement by weight (Efraimidis, Spirakis 2006).
    keys = np.log(rng.random(len(negative))) / weight[negative]
    drawn = negative[np.argpartition(-keys, wanted)[:wanted]]
    rows = np.sort(np.r_[positive, drawn])
    shift = float(np.log(weight[negative].sum() / wanted))
    return Sample(rows, np.where(fraud[rows], weight[rows], 1.0), shift)
