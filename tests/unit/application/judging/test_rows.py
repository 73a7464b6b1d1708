"""What was not seen, made up for: against the truth of worlds in which everything is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sluice.application.judging import measures
from sluice.application.judging.rows import Rows, corrected
from tests.support.judged import WEEK_US, fit, make_world, rows_in

DAY = 86_400_000_000
WORLD = make_world(seed=3, rows=40_000)
NET = fit(WORLD["train"].x[:6_000], WORLD["train"].fraud[:6_000])


def everything() -> Rows:
    return rows_in(WORLD["test-1"], "test-1")


def test_late_reports_are_made_up_for() -> None:
    # Reports take up to twenty days, each as likely, so three days after the week the share that is
    # known of an age is that age over twenty. One draw of them is noisy; their mean is the truth.
    whole = everything()
    score, fraud = NET.predict(whole.features), whole.window.fraud
    truth = measures.measure(score, whole.window)
    age = whole.until_us + 3 * DAY - whole.window.event_us
    share = np.clip(age / (20 * DAY), 0, 1)
    draws: list[tuple[dict[str, float], dict[str, float]]] = []
    for seed in range(24):
        known = fraud & (np.random.default_rng(seed).random(len(score)) < share)
        seen = replace(whole, window=whole.window.labelled(known), reported_share=share)
        draws.append((measures.measure(score, seen.window), corrected(score, seen)))
        assert known.sum() < 0.5 * fraud.sum()

    def mean(which: int, name: str) -> float:
        return float(np.mean([draw[which][name] for draw in draws]))

    assert mean(1, "frauds") == pytest.approx(fraud.sum(), rel=0.03)
    for name in ("average_precision", "expected_to_actual"):
        assert mean(1, name) == pytest.approx(truth[name], rel=0.08), name
        assert abs(mean(0, name) - truth[name]) > 0.25, name
    for name in ("recall_at_fpr_0_5", "euros_at_budget"):
        assert mean(1, name) == pytest.approx(truth[name], abs=0.03), name


def test_with_everything_known_nothing_is_made_up() -> None:
    whole = everything()
    score = NET.predict(whole.features)
    truth, got = measures.measure(score, whole.window), corrected(score, whole)
    assert got["frauds"] == whole.window.fraud.sum()
    for name in ("average_precision", "expected_to_actual", "recall_at_fpr_0_5", "euros_at_budget"):
        assert got[name] == pytest.approx(truth[name], rel=1e-9), name


def test_let_throughs_stand_for_the_declines_that_nobody_saw_the_end_of() -> None:
    # The champion declines its highest scores. One in five of them is let through; of the others
    # nothing is known, so by the naive figure every decline is a false alarm.
    whole = everything()
    score = NET.predict(whole.features)
    declined = score > np.quantile(score, 0.99)
    through = np.random.default_rng(4).random(len(score)) < 0.2
    lost = declined & ~through
    seen = replace(
        whole,
        window=whole.window.labelled(whole.window.fraud & ~lost),
        weight=np.where(lost, 0.0, np.where(declined, 5.0, 1.0)),
    )
    truth = measures.measure(score, whole.window)
    naive = measures.measure(score, seen.window)
    got = measures.measure(score, seen.let_through())
    for name in ("average_precision", "recall_at_fpr_0_5", "expected_to_actual"):
        assert abs(got[name] - truth[name]) < abs(naive[name] - truth[name]) / 3, name
    assert naive["average_precision"] < 0.5 * truth["average_precision"]


def test_a_fraud_counts_from_when_it_was_known() -> None:
    whole = everything()
    early = whole.known_by(whole.until_us)
    later = whole.known_by(whole.until_us + 30 * DAY)
    assert 0 < early.fraud.sum() < later.fraud.sum() == whole.window.fraud.sum()
    assert not (early.fraud & ~later.fraud).any()
    assert whole.until_us - whole.first_us == WEEK_US
