"""What training itself looks at: figures on validation, and the calibration of a logit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from sluice_models.material import Rows
from sluice_models.run import Calibration

Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]

OFFSET_FRAUDS_MIN = 10
"""Of a calibration split: with fewer, even how many frauds there are is chance."""
SLOPE_FRAUDS_MIN = 50
"""With fewer, a slope says more of chance than of the model, and only the offset is fitted."""
OFFSET_MAX = 20.0
AS_IT_IS = Calibration(slope=1.0, offset=0.0, rows=0, frauds=0)


def probability(logit: Doubles) -> Doubles:
    """Of a logit, away from 0 and 1, where a logarithm would end."""
    return np.clip(1 / (1 + np.exp(-np.clip(logit, -40, 40))), 1e-12, 1 - 1e-12)


def average_precision(score: Doubles, rows: Rows) -> float:
    """Over rows with a label, by weight. score: (n,) anything that orders."""
    at = rows.labelled
    return float(average_precision_score(rows.fraud[at], score[at], sample_weight=rows.weight[at]))


def validation_figures(score: Doubles, rows: Rows) -> dict[str, float]:
    """average_precision, auc and log_loss of probabilities (n,), by weight."""
    at = rows.labelled
    fraud, given, weight = rows.fraud[at], np.clip(score[at], 1e-12, 1 - 1e-12), rows.weight[at]
    return {
        "average_precision": average_precision(score, rows),
        "auc": float(roc_auc_score(fraud, given, sample_weight=weight)),
        "log_loss": float(log_loss(fraud, given, sample_weight=weight)),
    }


def calibrate(logit: Doubles, rows: Rows | None) -> Calibration:
    """Platt's slope and offset, by weighted log-loss. logit: (n,) in the world, of the calibration
    split; rows None if the dataset has none. A slope that would turn the order is not taken. With
    few frauds the offset alone, by which as many are expected as there are: models that learnt
    from few expect about half of them (docs/decisions/0074-few-and-late-frauds-calibrate-too.md).
    """
    if rows is None:
        return AS_IT_IS
    at = rows.labelled
    fraud = rows.fraud[at]
    frauds = int(fraud.sum())
    if frauds < OFFSET_FRAUDS_MIN or frauds == len(fraud):
        return Calibration(slope=1.0, offset=0.0, rows=len(fraud), frauds=frauds)
    given, fraud, weight = _made_up_for(logit[at], fraud, rows.weight[at], rows.share[at])
    slope = 0.0
    if frauds >= SLOPE_FRAUDS_MIN:
        line = LogisticRegression(C=1e6, max_iter=200, tol=1e-8)
        line.fit(given[:, None], fraud, sample_weight=weight)
        slope, offset = float(line.coef_[0, 0]), float(line.intercept_[0])
    if slope <= 0:
        slope, offset = 1.0, _offset(given, fraud, weight)
    return Calibration(slope=slope, offset=offset, rows=int(at.sum()), frauds=frauds)


def _made_up_for(
    logit: Doubles, fraud: Bools, weight: Doubles, share: Doubles
) -> tuple[Doubles, Bools, Doubles]:
    """The rows, and with each fraud those of its age that are not known yet taken from the genuine.

    A fraud of which a third of its like is unknown stands for one and a half; the half lies among
    the genuine, with as high a logit, and would say that high ones promise too much. So as much is
    taken off there: a genuine row of negative weight (du Plessis, Niu, Sugiyama 2015).
    """
    late = fraud & (share < 1)
    taken = weight[late] * (share[late] - 1)
    return (
        np.r_[logit, logit[late]],
        np.r_[fraud, np.zeros(int(late.sum()), np.bool_)],
        np.r_[weight, taken],
    )


def _offset(logit: Doubles, fraud: Bools, weight: Doubles) -> float:
    """By which the probabilities promise as many frauds as there are: the likeliest one, halved
    down to the last bit."""
    actual = float(weight[fraud].sum())
    low, high = -OFFSET_MAX, OFFSET_MAX
    for _ in range(60):
        middle = (low + high) / 2
        if float(weight @ probability(logit + middle)) < actual:
            low = middle
        else:
            high = middle
    return (low + high) / 2
