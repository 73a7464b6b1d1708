"""How well scores tell fraud from the rest: figures of one window of n authorizations.

Pure numpy. ``weight`` is each row's: 1, the inverse of the probability with which a would-be
decline was let through, or what a label that is not known yet leaves to be made up for. One window
is never enough: :func:`interval` is over several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sluice.domain.clock import DAY_US

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

ALERT_BUDGET = 0.005
"""Share of authorizations that analysts could look at: the Handbook's figure."""
TOP = 0.001
"""Where calibration is judged besides overall: the highest scores, on which decisions turn."""
CARDS_A_DAY = 100
FPRS = {"0_1": 0.001, "0_5": 0.005, "1": 0.01}
"""False positive rates (of the genuine) at which recall is told, by the name in a figure."""
ECE_BINS = 20
SMALLEST = 1e-7
"""A probability is kept this far from 0 and 1 where its logarithm is taken: a score in whole parts
per million is 0 for what is not."""


@dataclass(frozen=True, slots=True)
class Window:
    """n authorizations and what became known of them; columns of length n.

    amount_minor: in one currency. card: codes. weight: see above.
    """

    fraud: Bools
    amount_minor: Ints
    card: Ints
    event_us: Ints
    weight: Floats

    def rows(self, chosen: Bools | Ints) -> Window:
        """Some of the rows, copied."""
        return replace(
            self,
            fraud=self.fraud[chosen],
            amount_minor=self.amount_minor[chosen],
            card=self.card[chosen],
            event_us=self.event_us[chosen],
            weight=self.weight[chosen],
        )

    @classmethod
    def joined(cls, windows: Sequence[Window]) -> Window:
        """Several as one."""
        columns = ("fraud", "amount_minor", "card", "event_us", "weight")
        return cls(*(np.concatenate([getattr(w, name) for w in windows]) for name in columns))

    def labelled(self, fraud: Bools, weight: Floats | None = None) -> Window:
        """The same rows with what another moment, or another weighting, makes of them."""
        return replace(self, fraud=fraud, weight=self.weight if weight is None else weight)


def enriched(fraud: Bools, most: int) -> tuple[Ints, Floats]:
    """All frauds and about ``most`` genuine rows, evenly taken, and the weights that make up for
    it."""
    genuine = np.flatnonzero(~fraud)
    kept = genuine[:: max(1, len(genuine) // most)]
    frauds = np.flatnonzero(fraud)
    stands = len(genuine) / max(1, len(kept))
    return np.r_[frauds, kept], np.r_[np.ones(len(frauds)), np.full(len(kept), stands)]


def measure(score: Floats, window: Window) -> dict[str, float]:
    """Every figure of one window. Shares, not percent; NaN where the window holds one class alone.

    recall_at_fpr_X: weight of frauds above the score that X of the genuine exceed.
    expected_to_actual: frauds that the scores promise over those there are; _top: among the
    highest 0.1 % of scores. ece: see :func:`calibration_error`. euros_at_budget: share of fraud's
    amount among the highest 0.5 %. card_precision_100: mean over days of the share of cards with
    fraud among the 100 cards with the highest scores; _handbook: as the Fraud Detection Handbook
    counts, where a card that was found stays away on later days; _ceiling: what perfect foresight
    would reach of each.
    """
    fraud, weight = window.fraud, window.weight
    order = np.argsort(-score, kind="stable")
    top = order[: _highest(order, weight, TOP)]
    figures = {
        "auc": auc(score, fraud, weight),
        "average_precision": average_precision(score, fraud, weight),
        "log_loss": log_loss(score, fraud, weight),
        "ece": calibration_error(score, fraud, weight),
        "expected_to_actual": _ratio(score, fraud, weight, order),
        "expected_to_actual_top": _ratio(score, fraud, weight, top),
    }
    figures |= {
        f"recall_at_fpr_{name}": recall_at_fpr(score, fraud, weight, rate)
        for name, rate in FPRS.items()
    }
    budget = order[: _highest(order, weight, ALERT_BUDGET)]
    euros = window.amount_minor * weight * fraud
    figures["euros_at_budget"] = _over(euros[budget].sum(), euros.sum())
    days = window.event_us // DAY_US
    ours = card_precision(score, fraud, window.card, days)
    book = card_precision(score, fraud, window.card, days, found_stay_away=True)
    figures["card_precision_100"], figures["card_precision_100_ceiling"] = ours
    figures["card_precision_100_handbook"], figures["card_precision_100_handbook_ceiling"] = book
    return figures


def _highest(order: Ints, weight: Floats, share: float) -> int:
    """How many rows from the front hold that share of the weight, at least one: a row that stands
    for ten takes ten places of a budget."""
    reached = np.cumsum(weight[order])
    if not len(reached):
        return 0
    return max(1, int(np.searchsorted(reached, share * reached[-1], side="right")))


def auc(score: Floats, fraud: Bools, weight: Floats) -> float:
    """Area under the ROC curve: the chance that a fraud scores above a genuine one, ties half."""
    points = _cumulated(score, fraud, weight)
    hits, false = np.r_[0.0, points.hits], np.r_[0.0, points.false]
    area = (np.diff(false) * (hits[1:] + hits[:-1]) / 2).sum()
    return _over(area, hits[-1] * false[-1])


def average_precision(score: Floats, fraud: Bools, weight: Floats) -> float:
    """Precision at each distinct score, weighted by the recall it adds (no interpolation)."""
    points = _cumulated(score, fraud, weight)
    if not len(points.hits) or not points.hits[-1]:
        return float("nan")
    gained = np.diff(np.r_[0.0, points.hits])
    seen = points.hits + points.false
    precision = np.divide(points.hits, seen, out=np.zeros_like(seen), where=seen > 0)
    return float((gained * precision).sum() / points.hits[-1])


def log_loss(score: Floats, fraud: Bools, weight: Floats) -> float:
    """Mean of minus the log of the probability given to what happened, in nats."""
    p = np.clip(score, SMALLEST, 1 - SMALLEST)
    return _over(-(weight * np.log(np.where(fraud, p, 1 - p))).sum(), weight.sum())


class Bin(NamedTuple):
    """A slice of the scores. promised, found: mean score and share of frauds; both weighted."""

    promised: float
    found: float
    rows: int
    frauds: int


def reliability(score: Floats, fraud: Bools, weight: Floats, bins: int = ECE_BINS) -> list[Bin]:
    """Slices of as many rows each (or one more), from the lowest scores to the highest."""
    found = []
    for part in np.array_split(np.argsort(score, kind="stable"), min(bins, len(score))):
        w = weight[part]
        if not w.sum():
            continue
        found.append(
            Bin(
                float((score[part] * w).sum() / w.sum()),
                float((fraud[part] * w).sum() / w.sum()),
                len(part),
                int(fraud[part].sum()),
            )
        )
    return found


def calibration_error(score: Floats, fraud: Bools, weight: Floats, bins: int = ECE_BINS) -> float:
    """Expected calibration error: mean of |promised - found| over slices of as many rows each.

    Fraud is so rare that slices of as much width would hold nearly all rows in one (Nixon et al.
    2019, adaptive calibration error).
    """
    total, apart = 0.0, 0.0
    for part in np.array_split(np.argsort(score, kind="stable"), max(1, min(bins, len(score)))):
        w = weight[part]
        total += w.sum()
        apart += abs((w * (score[part] - fraud[part])).sum())
    return _over(apart, total)


def recall_at_fpr(score: Floats, fraud: Bools, weight: Floats, rate: float) -> float:
    """Weight of frauds above the score that at most ``rate`` of the genuine weight exceeds."""
    genuine = ~fraud
    if not genuine.any() or not fraud.any():
        return float("nan")
    order = np.argsort(-score[genuine], kind="stable")
    above = np.cumsum(weight[genuine][order])
    at = int(np.searchsorted(above, rate * above[-1] * (1 + 1e-12), side="right"))
    limit = score[genuine][order[min(at, len(order) - 1)]]
    return _over(weight[fraud & (score > limit)].sum(), weight[fraud].sum())


def card_precision(
    score: Floats, fraud: Bools, card: Ints, day: Ints, *, found_stay_away: bool = False
) -> tuple[float, float]:
    """Mean over days of the share of compromised cards among the CARDS_A_DAY with the highest
    scores, and the same of perfect foresight.

    found_stay_away: the Handbook's own (chapter 4, performance metrics): a card found compromised
    on one day is taken out of all later ones, and the share is of CARDS_A_DAY even on a day with
    fewer cards.
    """
    ours = _daily(score, fraud, card, day, found_stay_away)
    best = _daily(fraud.astype(np.float64), fraud, card, day, found_stay_away)
    return ours, best


def _daily(score: Floats, fraud: Bools, card: Ints, day: Ints, stay_away: bool) -> float:
    shares: list[float] = []
    found = np.empty(0, np.int64)
    by_day = np.argsort(day, kind="stable")
    for at in np.split(by_day, np.flatnonzero(np.diff(day[by_day])) + 1):
        left = at[~np.isin(card[at], found)] if stay_away else at
        cards, inverse = np.unique(card[left], return_inverse=True)
        highest = np.full(len(cards), -np.inf)
        np.maximum.at(highest, inverse, score[left])
        bad = np.zeros(len(cards), bool)
        bad[inverse[fraud[left]]] = True
        chosen = np.argsort(-highest, kind="stable")[:CARDS_A_DAY]
        caught = cards[chosen[bad[chosen]]]
        shares.append(len(caught) / (CARDS_A_DAY if stay_away else max(1, len(chosen))))
        if stay_away:
            found = np.r_[found, caught]
    return float(np.mean(shares)) if shares else float("nan")


class Curve(NamedTuple):
    """Points from the highest score down. threshold: scores. Shares of weight otherwise."""

    threshold: Floats
    recall: Floats
    precision: Floats
    fpr: Floats


def curve(score: Floats, fraud: Bools, weight: Floats, points: int = 200) -> Curve:
    """Precision, recall and false positive rate, thinned evenly over recall and over the log of
    the alerts, so that both ends can be drawn."""
    all_points = _cumulated(score, fraud, weight)
    hits, false = all_points.hits, all_points.false
    if not len(hits) or not hits[-1]:
        empty = np.empty(0)
        return Curve(empty, empty, empty, empty)
    by_recall = np.searchsorted(hits, np.linspace(0, hits[-1], points), side="left")
    by_count = np.geomspace(1, len(hits), points).astype(np.int64) - 1
    at = np.unique(np.clip(np.r_[by_recall, by_count], 0, len(hits) - 1))
    h, f = hits[at], false[at]
    return Curve(
        all_points.threshold[at], h / hits[-1], h / np.maximum(h + f, 1e-300),
        f / max(false[-1], 1e-300),
    )  # fmt: skip


class _Cumulated(NamedTuple):
    """Weight of frauds and of genuine at or above each distinct score, from the highest down."""

    threshold: Floats
    hits: Floats
    false: Floats


def _cumulated(score: Floats, fraud: Bools, weight: Floats) -> _Cumulated:
    order = np.argsort(-score, kind="stable")
    falling = score[order]
    last = np.flatnonzero(np.r_[falling[1:] != falling[:-1], np.ones(min(len(order), 1), bool)])
    w = weight[order]
    hit = np.where(fraud[order], w, 0.0)
    return _Cumulated(falling[last], np.cumsum(hit)[last], np.cumsum(w - hit)[last])


def _ratio(score: Floats, fraud: Bools, weight: Floats, at: Ints) -> float:
    promised, there = (score[at] * weight[at]).sum(), (fraud[at] * weight[at]).sum()
    return float(promised / max(1.0, there))


def _over(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


class Interval(NamedTuple):
    """Mean over windows and seeds, standard deviation, and the mean's 95 % interval."""

    mean: float
    deviation: float
    low: float
    high: float
    windows: int


_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)
"""Student's t, 97.5 %, by degrees of freedom from 1; beyond the table 1.96 + 2.4 / d.o.f."""


def interval(values: Sequence[Sequence[float]]) -> Interval:
    """Of one figure: values[w] holds window w's, one a seed. NaN are left out.

    The interval is over windows alone (Student's t of the windows' means): seeds of one window
    share its frauds and say nothing about another week. With one window low and high are NaN.
    """
    every = np.array([v for window in values for v in window if np.isfinite(v)])
    means = np.array([np.mean(kept) for w in values if (kept := [v for v in w if np.isfinite(v)])])
    if not len(means):
        return Interval(float("nan"), float("nan"), float("nan"), float("nan"), 0)
    mean = float(means.mean())
    deviation = float(every.std(ddof=1)) if len(every) > 1 else 0.0
    if len(means) < 2:
        return Interval(mean, deviation, float("nan"), float("nan"), len(means))
    freedom = len(means) - 1
    t = _T_95[freedom - 1] if freedom <= len(_T_95) else 1.96 + 2.4 / freedom
    half = t * float(means.std(ddof=1)) / len(means) ** 0.5
    return Interval(mean, deviation, mean - half, mean + half, len(means))


def paired_interval(
    ours: Floats, theirs: Floats, window: Window, *, seed: int = 1, draws: int = 200
) -> Interval:
    """Average precision of ``ours`` over that of ``theirs`` on the same rows: the difference, and
    its 95 % interval by a bootstrap over cards.

    Rows of one card stand and fall together, so cards are drawn: each draw gives a card a Poisson
    weight of mean 1 (Chamandy et al. 2012). Sorts once; O(draws * n).
    """
    rng = np.random.default_rng(seed)
    _, card = np.unique(window.card, return_inverse=True)
    cards = int(card.max()) + 1 if len(card) else 0
    runs = [_Ordered.of(score, window.fraud, window.weight, card) for score in (ours, theirs)]
    found = []
    for _ in range(draws):
        times = rng.poisson(1.0, cards).astype(np.float64)
        found.append(runs[0].average_precision(times) - runs[1].average_precision(times))
    kept = np.array([v for v in found if np.isfinite(v)])
    once = np.ones(cards)
    middle = runs[0].average_precision(once) - runs[1].average_precision(once)
    if not len(kept):
        return Interval(middle, float("nan"), float("nan"), float("nan"), 1)
    low, high = np.quantile(kept, [0.025, 0.975])
    return Interval(middle, float(kept.std()), float(low), float(high), 1)


@dataclass(frozen=True, slots=True)
class _Ordered:
    """Rows by falling score, to take the average precision of many weightings."""

    card: Ints
    hit: Floats
    weight: Floats
    last: Ints

    @classmethod
    def of(cls, score: Floats, fraud: Bools, weight: Floats, card: Ints) -> _Ordered:
        order = np.argsort(-score, kind="stable")
        falling = score[order]
        last = np.flatnonzero(np.r_[falling[1:] != falling[:-1], np.ones(min(len(order), 1), bool)])
        w = weight[order]
        return cls(card[order], np.where(fraud[order], w, 0.0), w, last)

    def average_precision(self, times: Floats) -> float:
        each = times[self.card]
        hits = np.cumsum(self.hit * each)[self.last]
        seen = np.cumsum(self.weight * each)[self.last]
        if not len(hits) or not hits[-1]:
            return float("nan")
        gained = np.diff(np.r_[0.0, hits])
        precision = np.divide(hits, seen, out=np.zeros_like(seen), where=seen > 0)
        return float((gained * precision).sum() / hits[-1])
