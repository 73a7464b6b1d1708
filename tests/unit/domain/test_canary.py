"""Which cards a canary answers, and what takes it out again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sluice.domain.canary import (
    BAD_FLIPS_PPM,
    FLIPS_PPM,
    ODDS,
    ROWS_MIN,
    Back,
    Cusum,
    Paired,
    in_share,
    spearman,
)
from sluice.domain.records.identifiers import tag32

ONE, OTHER = "ab" * 32, "cd" * 32
CARDS = np.array([tag32(f"card-{i}") for i in range(100_000)])
RNG = np.random.default_rng(7)


def drawn(n: int, **given: Any) -> dict[str, Any]:
    """Rows of a champion with the long tail of scores that fraud has, and a canary much like it."""
    champion = np.minimum(999_999, np.exp(RNG.normal(5, 2.5, n))).astype(np.int64)
    canary = np.minimum(999_999, champion * np.exp(RNG.normal(0, 0.5, n))).astype(np.int64)
    ppm = given.pop("ppm", lambda _: canary)(champion)
    rows: dict[str, Any] = {
        "champion_ppm": champion,
        "ppm": ppm,
        "before": severity(champion),
        "after": severity(ppm),
        "amounts": np.full(n, 5_000),
    }
    return rows | given


def severity(ppm: Any) -> Any:
    return np.select([ppm >= 400_000, ppm >= 100_000], [3, 1], 0).astype(np.int8)


def rows_until_back(ppm: Any, most: int = 20_000) -> tuple[int, Back]:
    paired = Paired()
    while paired.rows < most:
        if (back := paired.add_rows(**drawn(1, ppm=ppm))) is not None:
            return paired.rows, back
    raise AssertionError(f"it is still there after {most} decisions")


@pytest.mark.parametrize("share_ppm", [10_000, 50_000, 500_000])
def test_a_share_is_that_share_of_the_cards(share_ppm: int) -> None:
    share = float(in_share(CARDS, ONE, share_ppm).mean())
    assert share == pytest.approx(share_ppm / 1e6, rel=0.1)


def test_a_larger_share_holds_all_of_a_smaller_one() -> None:
    small, large = (in_share(CARDS, ONE, share) for share in (10_000, 50_000))
    assert (large >= small).all()


def test_another_canary_has_other_cards() -> None:
    both = in_share(CARDS, ONE, 100_000) & in_share(CARDS, OTHER, 100_000)
    assert float(both.mean()) == pytest.approx(0.01, rel=0.2)


def test_a_card_is_in_a_share_whatever_batch_it_comes_in() -> None:
    whole = in_share(CARDS[:1000], ONE, 50_000)
    assert [bool(in_share(CARDS[i : i + 1], ONE, 50_000)[0]) for i in range(1000)] == whole.tolist()


def test_neither_nobody_nor_everybody_is_off_by_one() -> None:
    assert not in_share(CARDS, ONE, 0).any()
    assert in_share(CARDS, ONE, 1_000_000).all()


def test_an_inverted_canary_goes_back_within_twenty_decisions() -> None:
    rows, back = rows_until_back(lambda champion: 1_000_000 - champion)
    assert rows <= ROWS_MIN
    assert back.reason in ("declines", "agreement")


def test_a_constant_canary_goes_back_whatever_the_constant() -> None:
    for constant in (0, 20, 150_000):
        rows, _ = rows_until_back(
            lambda champion, constant=constant: np.full_like(champion, constant)
        )
        assert rows <= 200


def test_a_canary_of_shuffled_labels_goes_back() -> None:
    rows, back = rows_until_back(
        lambda champion: np.exp(RNG.normal(5, 2.5, len(champion))).astype(int)
    )
    assert rows <= 200
    assert back.reason in ("agreement", "declines", "approvals")


def test_a_canary_that_lets_the_dear_ones_pass_goes_back_by_what_they_would_cost() -> None:
    """It moves one decision in 200, which is no share; but those are what the champion is for."""
    paired = Paired()
    back = None
    while back is None:
        rows = drawn(200)
        rows["before"][:] = 0
        rows["before"][:2] = 3
        rows["after"] = rows["before"].copy()
        rows["after"][0] = 0
        rows["champion_ppm"][:2] = 700_000
        rows["amounts"][0] = 500_000
        back = paired.add_rows(**rows)
    assert back.reason == "expected_loss"
    assert paired.rows <= 2_000


def test_two_good_models_of_one_thing_are_no_reason() -> None:
    """Scores of a LightGBM and of a student agree by .75 in rank, and part in bursts: on up to 6 of
    100 decisions (a small run of training on the Handbook). Here as far apart."""
    paired = Paired()
    for at in range(200):
        rows = drawn(100)
        rows["ppm"] = np.exp(np.log(rows["champion_ppm"] + 1) + RNG.normal(0, 1.8, 100)).astype(int)
        rows["before"] = (RNG.random(100) < 0.03).astype(np.int8) * 3
        flips = RNG.random(100) < np.where(rows["before"] > 0, 0.3, 0.06 if at % 10 == 0 else 0.01)
        rows["after"] = np.where(flips, 3 - rows["before"], rows["before"])
        rows["champion_ppm"] = np.where(rows["before"] > 0, 600_000, rows["champion_ppm"])
        assert paired.add_rows(**rows) is None


def test_a_canary_that_overstates_each_risk_alike_goes_back_though_it_orders_right() -> None:
    rows, back = rows_until_back(lambda champion: np.minimum(champion * 2_000, 390_000))
    assert rows <= 100
    assert back.reason == "declines"
    assert "fewer" in back.detail


def test_a_good_canary_stays_for_a_hundred_thousand_decisions() -> None:
    paired = Paired()
    for _ in range(1000):
        rows = drawn(100)
        # The gate lets pass what flips one in five hundred, in either direction.
        rows["after"] = rows["before"].copy()
        flips = RNG.random(100) < 0.002
        rows["after"][flips] = 3 - rows["after"][flips]
        assert paired.add_rows(**rows) is None


def test_two_runs_in_a_row_without_a_score_are_enough_and_one_is_not() -> None:
    paired = Paired()
    assert paired.add_failure() is None
    for _ in range(200):
        assert paired.add_run(0.0001, 0.0001) is None
    assert paired.add_failure() is None
    back = paired.add_failure()
    assert back is not None
    assert back.reason == "errors"


def test_three_slow_runs_in_a_row_are_enough_and_what_is_fast_enough_is_never_slow() -> None:
    paired = Paired()
    assert all(paired.add_run(0.004, 0.001) is None for _ in range(1000))
    assert all(paired.add_run(0.0009, 0.00001) is None for _ in range(1000))
    found = [paired.add_run(0.006, 0.001) for _ in range(3)]
    assert [each and each.reason for each in found] == [None, None, "latency"]


def test_one_run_that_hangs_is_enough() -> None:
    back = Paired().add_run(0.2, 0.15)
    assert back is not None
    assert back.reason == "latency"


def test_an_expected_share_trips_less_often_than_once_in_odds() -> None:
    count, trips = Cusum(FLIPS_PPM, BAD_FLIPS_PPM), 0
    hits = RNG.random(500_000) < FLIPS_PPM / 1e6
    for hit in hits.tolist():
        if count.add(hit, not hit):
            trips, count = trips + 1, Cusum(FLIPS_PPM, BAD_FLIPS_PPM)
    assert trips <= 500_000 / ODDS


def test_equal_numbers_share_their_mean_rank() -> None:
    # Ranks 1 2.5 2.5 4 6 5 and 2 1 4 4 4 6: 11 / sqrt(17 x 15.5), by hand.
    one, other = np.array([1, 2, 2, 3, 9, 4]), np.array([2, 1, 3, 3, 3, 8])
    assert spearman(one, other) == pytest.approx(0.67765, abs=1e-5)
    assert spearman(one, -one) == pytest.approx(-1)


def test_two_constants_agree_and_one_constant_agrees_with_nothing() -> None:
    same = np.zeros(5, np.int64)
    assert spearman(same, same + 3) == 1.0
    assert spearman(same, np.arange(5)) == 0.0


def test_a_large_batch_is_counted_as_its_rows_are() -> None:
    assert not Cusum(FLIPS_PPM, BAD_FLIPS_PPM).add(8, 92)
    assert Cusum(FLIPS_PPM, BAD_FLIPS_PPM).add(25, 75)
