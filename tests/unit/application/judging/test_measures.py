"""Every figure against a reference that counts pair by pair, or row by row, as its sentence says.
models/tests/test_measures.py holds the same figures against scikit-learn."""

import numpy as np
import pandas as pd
import pytest

from sluice.application.judging import measures
from sluice.application.judging.judge import budget_limit
from sluice.application.judging.measures import Window, measure

DAY = 86_400_000_000


def world(seed: int, n: int = 400, *, ties: bool = False) -> tuple[np.ndarray, Window]:
    rng = np.random.default_rng(seed)
    fraud = rng.random(n) < 0.15
    score = np.clip(rng.normal(0.3 + 0.3 * fraud, 0.2), 0, 1)
    if ties:
        score = np.round(score, 1)
    return score, Window(
        fraud=fraud,
        amount_minor=rng.integers(1, 10_000, n),
        card=rng.integers(0, 150, n),
        event_us=np.sort(rng.integers(0, 5 * DAY, n)),
        weight=rng.choice([1.0, 1.0, 20.0, 0.5], n),
    )


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_auc_is_the_share_of_pairs_in_the_right_order(seed: int, ties: bool) -> None:
    score, w = world(seed, 150, ties=ties)
    won = total = 0.0
    for i in np.flatnonzero(w.fraud):
        for j in np.flatnonzero(~w.fraud):
            pair = w.weight[i] * w.weight[j]
            total += pair
            won += pair * ((score[i] > score[j]) + (score[i] == score[j]) / 2)
    assert measures.auc(score, w.fraud, w.weight) == pytest.approx(won / total, rel=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_adds_precision_where_recall_grows(ties: bool) -> None:
    score, w = world(4, 150, ties=ties)
    total, before = 0.0, 0.0
    frauds = w.weight[w.fraud].sum()
    for limit in sorted(set(score), reverse=True):
        above = score >= limit
        hits = w.weight[above & w.fraud].sum()
        total += hits / w.weight[above].sum() * (hits - before) / frauds
        before = hits
    got = measures.average_precision(score, w.fraud, w.weight)
    assert got == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.1, 1.0])
def test_recall_at_a_false_positive_rate_lets_no_more_genuine_above(rate: float) -> None:
    score, w = world(5, ties=True)
    genuine = w.weight[~w.fraud].sum()
    best = 0.0
    for limit in set(score):
        above = score > limit
        if w.weight[above & ~w.fraud].sum() <= rate * genuine + 1e-9:
            best = max(best, w.weight[above & w.fraud].sum() / w.weight[w.fraud].sum())
    got = measures.recall_at_fpr(score, w.fraud, w.weight, rate)
    assert got == pytest.approx(best, rel=1e-12)


def test_calibration_compares_what_is_promised_with_what_is_found() -> None:
    score = np.r_[np.full(50, 0.1), np.full(50, 0.9)]
    fraud = np.r_[np.arange(50) < 5, np.arange(50) < 25]
    one = np.ones(100)
    assert measures.calibration_error(score, fraud, one, bins=2) == pytest.approx(0.2)
    low, high = measures.reliability(score, fraud, one, bins=2)
    assert (low.promised, low.found, low.frauds) == (pytest.approx(0.1), 0.1, 5)
    assert (high.promised, high.found, high.rows) == (pytest.approx(0.9), 0.5, 50)


def test_a_weight_is_so_many_rows() -> None:
    score, w = world(6)
    times = np.where(np.arange(len(score)) % 3 == 0, 3, 1)
    heavy = w.labelled(w.fraud, times.astype(float))
    again = np.repeat(np.arange(len(score)), times)
    copied = w.rows(again).labelled(w.fraud[again], np.ones(len(again)))
    whole, many = measure(score, heavy), measure(score[again], copied)
    for name in ("auc", "average_precision", "log_loss", "expected_to_actual", "recall_at_fpr_1"):
        assert whole[name] == pytest.approx(many[name], rel=1e-9), name


def book_card_precision(frame: pd.DataFrame, k: int, *, remove: bool) -> float:
    """The Handbook's definition (chapter 4, card precision top-k), day by day with pandas."""
    found: set[int] = set()
    shares = []
    for _, day in frame.groupby("day", sort=True):
        left = day[~day.card.isin(found)].groupby("card")[["score", "fraud"]].max()
        top = left.sort_values("score", ascending=False, kind="stable").head(k)
        caught = set(top[top.fraud].index)
        shares.append(len(caught) / k)
        if remove:
            found |= caught
    return float(np.mean(shares))


def test_card_precision_is_the_handbooks() -> None:
    rng = np.random.default_rng(7)
    n = 6_000
    card, fraud = rng.integers(0, 900, n), rng.random(n) < 0.05
    score = rng.random(n) * 0.5 + 0.4 * fraud
    day = rng.integers(0, 6, n)
    frame = pd.DataFrame({"card": card, "fraud": fraud, "score": score, "day": day})
    for remove in (True, False):
        got, best = measures.card_precision(score, fraud, card, day, found_stay_away=remove)
        assert got == pytest.approx(book_card_precision(frame, 100, remove=remove))
        foresight = frame.assign(score=fraud.astype(float))
        assert best == pytest.approx(book_card_precision(foresight, 100, remove=remove))


def test_a_card_counts_once_a_day_by_its_highest_score() -> None:
    card = np.array([1, 1, 2, 3])
    fraud = np.array([True, True, False, False])
    score = np.array([0.1, 0.9, 0.5, 0.2])
    day = np.zeros(4, np.int64)
    assert measures.card_precision(score, fraud, card, day) == (pytest.approx(1 / 3),) * 2
    book = measures.card_precision(score, fraud, card, day, found_stay_away=True)
    assert book == (0.01, 0.01)  # of a hundred, however few cards there are


def test_perfect_foresight_is_perfect_and_a_constant_finds_nothing() -> None:
    n = 10_000
    fraud = np.arange(n) % 500 == 499
    w = Window(fraud, np.full(n, 100), np.arange(n), np.zeros(n, np.int64), np.ones(n))
    best = measure(fraud.astype(float), w)
    assert best["auc"] == best["average_precision"] == best["recall_at_fpr_0_1"] == 1
    assert best["euros_at_budget"] == 1
    assert best["card_precision_100"] == best["card_precision_100_ceiling"] == 0.2
    none = measure(np.full(n, 0.5), w)
    assert (none["auc"], none["recall_at_fpr_1"]) == (0.5, 0)
    assert none["average_precision"] == pytest.approx(20 / n)


def test_a_window_without_fraud_has_no_recall_instead_of_a_wrong_one() -> None:
    score, w = world(8)
    got = measure(score, w.labelled(np.zeros(len(score), bool)))
    for name in ("auc", "average_precision", "recall_at_fpr_1", "euros_at_budget"):
        assert np.isnan(got[name]), name
    assert np.isfinite(got["log_loss"])


def test_a_curve_passes_through_what_the_figures_say() -> None:
    score, w = world(9, 3_000)
    c = measures.curve(score, w.fraud, w.weight, points=5_000)
    every = np.diff(np.r_[0.0, c.recall]) * c.precision
    expected = measures.average_precision(score, w.fraud, w.weight)
    assert every.sum() == pytest.approx(expected, abs=1e-3)
    assert c.recall[-1] == pytest.approx(1)
    assert c.fpr[-1] == pytest.approx(1)


def test_an_interval_is_over_weeks_and_not_over_seeds() -> None:
    once = measures.interval([[0.70], [0.74]])
    seeds = measures.interval([[0.69, 0.71], [0.73, 0.75]])
    assert once.mean == seeds.mean == pytest.approx(0.72)
    assert (once.low, once.high) == pytest.approx((seeds.low, seeds.high))
    # Two weeks, one degree of freedom: 12.7 standard errors.
    assert once.high - once.mean == pytest.approx(12.706 * 0.02)
    assert seeds.deviation > 0
    assert np.isnan(measures.interval([[0.7]]).low)
    assert measures.interval([[float("nan")], [0.5]]).mean == 0.5


def test_the_paired_interval_holds_nothing_for_the_same_scores_and_all_for_better_ones() -> None:
    score, w = world(10, 4_000)
    same = measures.paired_interval(score, score, w)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    noise = np.random.default_rng(1).random(len(score))
    better = measures.paired_interval(score, noise, w)
    assert 0 < better.low < better.mean < better.high


def test_the_paired_interval_draws_cards_and_not_rows() -> None:
    # One card holds half of the frauds: whether it is drawn decides, so the interval is wide.
    rng = np.random.default_rng(11)
    n = 4_000
    fraud = rng.random(n) < 0.05
    alone = Window(fraud, np.ones(n, np.int64), np.arange(n), np.zeros(n, np.int64), np.ones(n))
    card = np.where(fraud & (rng.random(n) < 0.5), 0, np.arange(n))
    lumped = Window(fraud, alone.amount_minor, card, alone.event_us, alone.weight)
    score, other = rng.random(n) + (card == 0) * 0.5, rng.random(n)
    width = [
        i.high - i.low for i in (measures.paired_interval(score, other, w) for w in (alone, lumped))
    ]
    assert width[1] > 2 * width[0]


def test_a_let_through_takes_the_places_that_it_stands_for_in_a_budget_and_a_decline_none() -> None:
    score = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05])
    once = np.ones(10)
    assert (score > budget_limit(score, once, 0.3)).sum() == 3
    declined = np.where(np.arange(10) < 4, 0.0, 1.0)  # the highest, of which nothing is known
    assert (score > budget_limit(score, declined, 0.5)).sum() == 7
    stands = np.where(np.arange(10) == 0, 9.0, 1.0)  # of 18 in all
    assert (score > budget_limit(score, stands, 0.5)).sum() == 1
    assert (score > budget_limit(score, stands, 0.4)).sum() == 0
    assert (score > budget_limit(score, once, 1.0)).sum() == 9, "a limit is a score that there is"
