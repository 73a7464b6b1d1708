"""What training itself looks at: figures on validation, and the calibration of a logit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from sluice_models.material import Rows
from sluice_models.run import Calibration

Doubles = npt.NDArray[np.float64]

CALIBRATION_FRAUDS_MIN = 50
"""Of a calibration split: with fewer, a slope says more of chance than of the model."""
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
    split; rows None if the dataset has none. A slope that would turn the order is not taken."""
    if rows is None:
        return AS_IT_IS
    at = rows.labelled
    fraud = rows.fraud[at]
    frauds = int(fraud.sum())
    if frauds < CALIBRATION_FRAUDS_MIN or frauds == len(fraud):
        return Calibration(slope=1.0, offset=0.0, rows=len(fraud), frauds=frauds)
    line = LogisticRegression(C=1e6, max_iter=200)
    line.fit(logit[at][:, None], fraud, sample_weight=rows.weight[at])
    slope, offset = float(line.coef_[0, 0]), float(line.intercept_[0])
    if slope <= 0:
        slope, offset = 1.0, 0.0
    return Calibration(slope=slope, offset=offset, rows=len(fraud), frauds=frauds)
