import numpy as np
import pytest

from sluice_models.measure import measure, summary

DAY = 86_400_000_000


def figures(score: np.ndarray, fraud: np.ndarray) -> dict[str, float]:
    n = len(score)
    return measure(score, fraud, np.full(n, 100), np.arange(n), np.zeros(n, np.int64))


def test_perfect_foresight_is_perfect() -> None:
    fraud = np.arange(10_000) < 20
    got = figures(fraud.astype(float), fraud)
    assert got["auc"] == got["average_precision"] == got["recall_at_fpr_0_1"] == 1
    assert got["euros_at_budget"] == 1
    assert got["card_precision_100"] == got["card_precision_100_ceiling"] == 0.2


def test_a_constant_score_finds_nothing() -> None:
    fraud = np.arange(10_000) % 500 == 499
    got = figures(np.full(10_000, 0.5), fraud)
    assert got["auc"] == 0.5
    assert got["recall_at_fpr_1"] == 0


def test_calibration_compares_what_the_top_promises_with_what_it_holds() -> None:
    score = np.where(np.arange(10_000) < 10, 0.8, 0.0)
    fraud = np.arange(10_000) < 4
    assert figures(score, fraud)["expected_to_actual_top"] == pytest.approx(8 / 4)


def test_a_card_counts_once_a_day_by_its_highest_score() -> None:
    card = np.array([1, 1, 2, 3])
    fraud = np.array([True, True, False, False])
    score = np.array([0.1, 0.9, 0.5, 0.2])
    got = measure(score, fraud, np.ones(4, np.int64), card, np.array([0, 1, 2, 3]))
    assert got["card_precision_100"] == pytest.approx(1 / 3)


def test_a_summary_is_mean_and_deviation_over_windows() -> None:
    assert summary([{"a": 1.0}, {"a": 3.0}])["a"] == (2.0, pytest.approx(2**0.5))
