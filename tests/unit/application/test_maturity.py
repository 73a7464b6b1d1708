from __future__ import annotations

import numpy as np
import pytest

from sluice.application.dataset import DAY_S, NEVER_KNOWN, Order, splits
from sluice.application.maturity import (
    SHARE_MIN,
    ReportedShare,
    ReportTimes,
    mature_after_us,
    refuse_labels,
    reported_share,
)
from sluice.domain.clock import DAY_US, SECOND_US
from sluice.errors import Rejected

MONDAY = 20_000 * DAY_US


def day(number: float) -> int:
    return MONDAY + round(number * DAY_US)


def times(*reports: tuple[float, float], until: float = 60, silence: float = 1) -> ReportTimes:
    """reports: (event, known) in days."""
    return ReportTimes(
        np.array([day(event) for event, _ in reports], np.int64),
        np.array([day(known) for _, known in reports], np.int64),
        day(until),
        round(silence * DAY_US),
    )


def order(**given: object) -> Order:
    usual: dict[str, object] = {"label_delay_s": 7 * DAY_S}
    return Order(first_us=day(0), until_us=day(21), **(usual | given))  # type: ignore[arg-type]


def refuse(wanted: Order, found: ReportTimes) -> None:
    refuse_labels(wanted, splits(wanted), found)


class TestReportedShare:
    def test_one_delay_is_one_step(self):
        found = reported_share(times((0, 7), (1, 8), (2, 9)), day(30))
        ages = np.array([7 * DAY_US - 1, 7 * DAY_US, 400 * DAY_US])
        assert found.at(ages).tolist() == [np.float32(SHARE_MIN), 1.0, 1.0]
        assert found.age_of(0.95) == 7 * DAY_US

    def test_reports_after_the_moment_are_not_known_yet(self):
        late = times((0, 7), (1, 25))
        assert reported_share(late, day(20)).age_of(1.0) == 7 * DAY_US
        assert reported_share(late, day(25)).age_of(1.0) == 24 * DAY_US

    def test_those_that_could_not_have_been_seen_yet_are_made_up_for(self):
        """Delays of 2 and 10 days in equal shares; of the newest rows only the short are seen."""
        rng = np.random.default_rng(7)
        event = rng.uniform(0, 30, 20_000)
        delay = rng.choice([2.0, 10.0], 20_000)
        seen = [(e, e + d) for e, d in zip(event, delay, strict=True)]
        found = reported_share(times(*seen), day(30))
        naive = np.mean([d <= 2 for e, d in zip(event, delay, strict=True) if e + d <= 30])
        assert naive > 0.57
        assert found.at(np.array([5 * DAY_US]))[0] == pytest.approx(0.5, abs=0.02)
        assert found.at(np.array([10 * DAY_US + 1]))[0] == 1.0

    def test_a_smooth_distribution_is_found_again(self):
        rng = np.random.default_rng(8)
        event, delay = rng.uniform(0, 60, 20_000), rng.lognormal(2.0, 0.6, 20_000)
        seen = [(e, e + d) for e, d in zip(event, delay, strict=True)]
        found = reported_share(times(*seen), day(60))
        ages = np.array([4, 7, 14, 30])
        truth = [(delay <= age).mean() for age in ages]
        assert found.at(ages * DAY_US) == pytest.approx(truth, abs=0.02)

    def test_a_share_is_never_less_at_a_greater_age(self):
        rng = np.random.default_rng(9)
        for _ in range(50):
            n = int(rng.integers(1, 12))
            reports = [(e, e + d) for e, d in rng.integers(0, 12, (n, 2))]
            found = reported_share(times(*reports), day(15))
            assert (np.diff(found.share) >= 0).all()
            assert not len(found.share) or found.share[-1] == 1.0

    def test_without_reports_nothing_is_corrected(self):
        nothing = reported_share(times(), day(30))
        assert nothing.at(np.array([0, DAY_US])).tolist() == [1.0, 1.0]
        assert nothing.age_of(0.95) == 0

    def test_the_age_of_maturity_is_as_given_or_as_found(self):
        share = ReportedShare(np.array([1, 2, 3]) * DAY_US, np.array([0.5, 0.95, 1.0]))
        assert mature_after_us(order(), share) == 2 * DAY_US
        assert mature_after_us(order(mature_after_s=5), share) == 5 * SECOND_US


WEEK = [(event, event + 7) for event in range(20)]


class TestRefusals:
    def test_a_history_that_waits_as_long_as_the_set_is_taken(self):
        refuse(order(), times(*WEEK))

    def test_a_delay_shorter_than_the_historys_own_is_refused(self):
        with pytest.raises(Rejected, match=r"is 6 d, shorter.* after 7 d, 0.0% within") as refused:
            refuse(order(label_delay_s=6 * DAY_S), times(*WEEK))
        assert refused.value.code == "short_delay"

    def test_mixed_delays_need_not_all_lie_within(self):
        refuse(order(), times((0, 0.1), *[(event, event + 30) for event in range(10)]))

    def test_a_test_past_the_end_of_the_labels_is_refused(self):
        with pytest.raises(
            Rejected, match=r"judge test-1: 2024-10-30T23.*until 2024-11-01"
        ) as refused:
            refuse(order(), times(*WEEK, until=27 - 0.01))
        assert refused.value.code == "labels_end"
        refuse(order(), times(*WEEK, until=27))

    def test_labels_that_come_once_a_week_may_have_ended_a_week_ago(self):
        refuse(order(), times(*WEEK, until=21.5, silence=7))

    def test_a_log_without_labels_is_refused(self):
        none = ReportTimes(np.empty(0, np.int64), np.empty(0, np.int64), NEVER_KNOWN, 0)
        with pytest.raises(Rejected, match="there are none"):
            refuse(order(), none)

    def test_a_set_without_a_test_may_be_as_new_as_it_gets(self):
        refuse(order(test_s=0), times(*WEEK, until=21))

    def test_labels_known_when_their_authorization_was_judged_are_refused_unless_held_back(self):
        at_once = times(*WEEK, (5, 5))
        with pytest.raises(Rejected, match="1 frauds were known before") as refused:
            refuse(order(), at_once)
        assert refused.value.code == "labels_at_once"
        refuse(order(hold_labels=True), at_once)
