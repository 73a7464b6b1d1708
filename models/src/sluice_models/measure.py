"""How well a model tells fraud from the rest. One window is never enough: means over many."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score
from sluice.domain.clock import DAY_US

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

ALERT_BUDGET = 0.005
"""Share of authorizations that analysts could look at: the Handbook's and our notes' figure."""
TOP = 0.001
"""Where calibration is judged: the highest scores, on which decisions turn."""
CARDS_A_DAY = 100


def measure(
    score: Floats, fraud: Bools, amount_minor: Ints, card: Ints, event_us: Ints
) -> dict[str, float]:
    """Figures of one window of n authorizations; shares, not percent.

    recall_at_fpr_X: share of frauds above the score that X of the genuine exceed. expected_to_
    actual_top: frauds that the highest 0.1 % of scores promise, over those they hold. euros_at_
    budget: share of fraud's amount among the highest 0.5 %. card_precision_100: mean over days of
    the share of cards with fraud among the 100 cards with the highest scores;
    card_precision_100_ceiling: what perfect foresight would reach.
    """
    order = np.argsort(-score, kind="stable")
    genuine = np.sort(score[~fraud])[::-1]
    figures = {
        "auc": float(roc_auc_score(fraud, score)),
        "average_precision": float(average_precision_score(fraud, score)),
    }
    for name, rate in (("0_1", 0.001), ("0_5", 0.005), ("1", 0.01)):
        limit = genuine[int(rate * len(genuine))]
        figures[f"recall_at_fpr_{name}"] = float((score[fraud] > limit).mean())
    top = order[: max(1, int(TOP * len(score)))]
    figures["expected_to_actual_top"] = float(score[top].sum() / max(1, fraud[top].sum()))
    budget = order[: int(ALERT_BUDGET * len(score))]
    caught = amount_minor[budget][fraud[budget]].sum()
    figures["euros_at_budget"] = float(caught / max(1, amount_minor[fraud].sum()))
    precision, ceiling = _card_precision(score, fraud, card, event_us // DAY_US)
    figures["card_precision_100"] = precision
    figures["card_precision_100_ceiling"] = ceiling
    return figures


def _card_precision(score: Floats, fraud: Bools, card: Ints, day: Ints) -> tuple[float, float]:
    found, best = [], []
    for today in np.unique(day):
        at = np.flatnonzero(day == today)
        cards, inverse = np.unique(card[at], return_inverse=True)
        highest = np.zeros(len(cards))
        np.maximum.at(highest, inverse, score[at])
        bad = np.zeros(len(cards), bool)
        bad[inverse[fraud[at]]] = True
        chosen = np.argsort(-highest, kind="stable")[:CARDS_A_DAY]
        found.append(bad[chosen].mean())
        best.append(min(CARDS_A_DAY, bad.sum()) / len(chosen))
    return float(np.mean(found)), float(np.mean(best))


def summary(windows: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each figure over windows."""
    return {
        name: (
            float(np.mean([w[name] for w in windows])),
            float(np.std([w[name] for w in windows], ddof=1)) if len(windows) > 1 else 0.0,
        )
        for name in windows[0]
    }
