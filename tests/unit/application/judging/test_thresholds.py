import itertools

import numpy as np
import pytest

from sluice.application.judging.thresholds import Costs, by_cost, cost_of, severity
from sluice.errors import Rejected

DAY = 86_400_000_000


def world(seed: int, n: int = 300):
    rng = np.random.default_rng(seed)
    fraud = rng.random(n) < 0.3
    ppm = np.where(fraud, rng.choice([20, 400, 7_000, 90_000], n), rng.choice([10, 400, 7_000], n))
    return ppm, fraud, rng.integers(1, 20_000, n), rng.integers(0, 3 * DAY, n)


COSTS = (
    Costs(),
    Costs(challenge_minor=0, challenge_stops_ppm=500_000, review_minor=100),
    Costs(challenge_minor=5_000, review_minor=5_000, false_decline_minor=100),
    Costs(review_minor=10, reviews_a_day=7),
)


@pytest.mark.parametrize("costs", COSTS)
@pytest.mark.parametrize("seed", range(4))
def test_no_other_three_thresholds_cost_less(seed: int, costs: Costs) -> None:
    ppm, fraud, amount, event = world(seed)
    found = by_cost(ppm, fraud, amount, event, costs)
    places = [None, 11, 21, 410, 7_100, 91_000, 10, 20, 400, 7_000, 90_000]
    best = min(
        cost_of(steps, ppm, fraud, amount, costs)
        for levels in itertools.product(places, repeat=3)
        for steps in [
            {s: v for s, v in zip(("challenge", "review", "decline"), levels, strict=True) if v}
        ]
        if costs.reviews_a_day is None
        or (severity(steps, ppm) == 2).sum() <= costs.reviews_a_day * 3
    )
    assert found.cost_minor == best <= found.nothing_minor
    assert cost_of(found.steps, ppm, fraud, amount, costs) == found.cost_minor


def test_the_analysts_are_not_given_more_than_they_can_look_at() -> None:
    ppm, fraud, amount, event = world(9)
    free = by_cost(ppm, fraud, amount, event, Costs(review_minor=10))
    kept = by_cost(ppm, fraud, amount, event, Costs(review_minor=10, reviews_a_day=5))
    assert free.reviews_a_day > 5 >= kept.reviews_a_day
    assert kept.cost_minor >= free.cost_minor


def test_thresholds_have_two_digits_and_rise() -> None:
    steps = by_cost(*world(3), Costs(review_minor=300)).steps
    assert all(len(str(value).rstrip("0")) <= 2 for value in steps.values())
    assert list(steps.values()) == sorted(steps.values())


def test_what_nobody_can_choose_by_is_refused() -> None:
    ppm, _, amount, event = world(1)
    with pytest.raises(Rejected) as refused:
        by_cost(ppm, np.zeros(len(ppm), bool), amount, event)
    assert refused.value.code == "empty_class"


def half_reported(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Columns of many rows with calibrated scores, which of the frauds are known, and the share of
    their age that is: from nine tenths down to two."""
    rng = np.random.default_rng(seed)
    n = 400_000
    chance = rng.beta(0.02, 1.0, n)
    rows = {
        "ppm": np.rint(chance * 1e6).astype(np.int64),
        "fraud": rng.random(n) < chance,
        "amount_minor": rng.integers(1, 20_000, n),
        "event_us": rng.integers(0, 3 * DAY, n),
    }
    share = rng.choice([0.2, 0.5, 0.9], n)
    return rows, rows["fraud"] & (rng.random(n) < share), share


@pytest.mark.parametrize("seed", range(3))
def test_frauds_that_are_not_reported_yet_do_not_count_as_genuine(seed: int) -> None:
    rows, known, share = half_reported(seed)
    best = by_cost(**rows)
    made_up = by_cost(**rows | {"fraud": known}, reported_share=share)
    naive = by_cost(**rows | {"fraud": known})
    assert made_up.nothing_minor == pytest.approx(best.nothing_minor, rel=0.05)

    def costs(steps: dict[str, int]) -> int:
        """In truth."""
        return cost_of(steps, rows["ppm"], rows["fraud"], rows["amount_minor"], Costs())

    assert costs(made_up.steps) <= 1.02 * best.cost_minor < 1.05 * best.cost_minor
    assert costs(naive.steps) > 1.05 * best.cost_minor
    assert "decline" in made_up.steps
    assert naive.steps.get("decline", 10**6) > made_up.steps["decline"]


def test_where_every_fraud_is_known_the_share_changes_nothing() -> None:
    ppm, fraud, amount, event = world(5)
    told = by_cost(ppm, fraud, amount, event, reported_share=np.ones(len(ppm)))
    assert told == by_cost(ppm, fraud, amount, event)
    assert told.nothing_minor == cost_of({}, ppm, fraud, amount, Costs()) == amount[fraud].sum()
