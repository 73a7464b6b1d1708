"""sluice.application.judging.measures, with scikit-learn as the oracle."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, log_loss, precision_recall_curve, roc_auc_score
from sluice.application.judging import measures


@pytest.mark.parametrize("decimals", [1, 3, 17])
@pytest.mark.parametrize("seed", range(3))
def test_figures_are_scikit_learns_ties_and_weights_too(seed: int, decimals: int) -> None:
    rng = np.random.default_rng(seed)
    n = 5_000
    fraud = rng.random(n) < 0.02
    score = np.round(np.clip(rng.normal(0.2 + 0.3 * fraud, 0.15), 1e-6, 1 - 1e-6), decimals)
    weight = rng.choice([1.0, 0.0, 12.5], n)
    got = (
        measures.auc(score, fraud, weight),
        measures.average_precision(score, fraud, weight),
        measures.log_loss(score, fraud, weight),
    )
    clipped = np.clip(score, measures.SMALLEST, 1 - measures.SMALLEST)
    assert got == pytest.approx(
        (
            roc_auc_score(fraud, score, sample_weight=weight),
            average_precision_score(fraud, score, sample_weight=weight),
            log_loss(fraud, clipped, sample_weight=weight),
        ),
        rel=1e-9,
    )


def test_a_curve_lies_on_scikit_learns() -> None:
    rng = np.random.default_rng(5)
    fraud = rng.random(2_000) < 0.05
    score = rng.random(2_000) + 0.4 * fraud
    ours = measures.curve(score, fraud, np.ones(2_000))
    precision, recall, threshold = precision_recall_curve(fraud, score)
    at = {t: (p, r) for t, p, r in zip(threshold, precision, recall, strict=False)}
    for t, r, p in zip(ours.threshold, ours.recall, ours.precision, strict=True):
        assert at[t] == pytest.approx((p, r))
