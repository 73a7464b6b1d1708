import numpy as np
import pytest

from sluice.domain.policy.economics import worth


def test_what_is_stopped_and_let_through_adds_up_to_all_fraud() -> None:
    rng = np.random.default_rng(1)
    n = 1000
    got = worth(rng.integers(0, 4, n), rng.random(n) < 0.1, rng.integers(1, 10_000, n))
    assert got.stopped_minor + got.let_through_minor == got.fraud_minor > 0
    assert got.frauds + got.genuine == n
    assert got.frauds_stopped <= got.frauds


def test_false_positives_are_counted_per_ten_thousand_genuine() -> None:
    severity = np.array([1, 2, 3, 0, 3])
    fraud = np.array([False, False, False, False, True])
    got = worth(severity, fraud, np.array([10, 20, 30, 40, 50]))
    assert got.false_positives == 3
    assert got.false_positives_per_10k == pytest.approx(7500)
    assert got.genuine_stopped_minor == 60


def test_without_genuine_ones_there_is_no_rate() -> None:
    assert worth(np.array([0]), np.array([True]), np.array([1])).false_positives_per_10k is None
