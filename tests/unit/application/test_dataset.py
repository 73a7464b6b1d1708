from __future__ import annotations

import numpy as np
import pytest

from sluice.application.dataset import (
    DAY_S,
    NEVER_KNOWN,
    Order,
    Part,
    Split,
    TimeSlice,
    check_part,
    check_unique,
    compromised,
    currency_of,
    figures,
    kept_by_hash,
    leak_checks,
    one_for_each_test,
    refuse_unbounded,
    splits,
    time_slices,
    weights,
)
from sluice.domain.clock import DAY_US, HOUR_US, SECOND_US
from sluice.domain.features import catalogue
from sluice.errors import Corrupt, Rejected

MONDAY = 20_000 * DAY_US
BOUNDED = [f.name for f in catalogue.FEATURES if catalogue.look_back(f)]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def day(number: int) -> int:
    return MONDAY + number * DAY_US


def part(**given: object) -> Part:
    usual: dict[str, object] = {
        "path": "train/part-00000.parquet",
        "sha256": "0" * 64,
        "rows": 10,
        "frauds": 1,
        "labelled": 4,
        "not_yet": 2,
        "left_out": 0,
        "sampled_out": 0,
        "labels_after": 0,
        "labels_astray": 0,
        "served": 10,
        "degraded": 0,
        "first_us": day(0),
        "last_us": day(1),
        "known_until_us": day(2),
        "currency": "EUR",
    }
    return Part(**(usual | given))  # type: ignore[arg-type]


def order(first: int, until: int, **given: object) -> Order:
    """In days: the Handbook's week without look-back, unless said otherwise."""
    usual: dict[str, object] = {"label_delay_s": 7 * DAY_S, "look_back_s": 0}
    return Order(first_us=day(first), until_us=day(until), **(usual | given))  # type: ignore[arg-type]


def days(found: list[Split]) -> list[tuple[str, int, int, int]]:
    """Name, first, until and as_of of splits, in days."""
    return [
        (s.name, *((us - MONDAY) // DAY_US for us in (s.first_us, s.until_us, s.as_of_us)))
        for s in found
    ]


class TestSplits:
    def test_train_gap_and_test_follow_each_other(self):
        assert days(splits(order(0, 21))) == [("train", 0, 7, 14), ("test-1", 14, 21, 28)]

    def test_all_that_a_model_is_made_from_knows_what_was_known_when_the_first_test_began(self):
        wanted = order(0, 60, validation_s=5 * DAY_S, calibration_s=3 * DAY_S, tests=3, recent=True)
        assert days(splits(wanted)) == [
            ("train", 0, 24, 39),
            ("validation", 24, 29, 39),
            ("calibration", 29, 32, 39),
            ("recent", 32, 39, 32),
            ("test-1", 39, 46, 53),
            ("test-2", 46, 53, 60),
            ("test-3", 53, 60, 67),
        ]

    def test_train_is_as_long_as_asked_for_and_ends_where_it_would(self):
        assert days(splits(order(0, 60, train_s=7 * DAY_S)))[0] == ("train", 39, 46, 53)

    def test_without_a_test_all_is_train_and_waits_for_its_labels(self):
        assert days(splits(order(0, 3, label_delay_s=DAY_S, test_s=0))) == [("train", 0, 3, 4)]

    def test_the_look_back_of_cards_begins_before_its_own_test_whatever_from_says(self):
        wanted = order(0, 28, look_back_s=14 * DAY_S, tests=2)
        train, one, two = splits(wanted)
        assert train.cards_since_us is None
        assert (one.cards_since_us, two.cards_since_us) == (day(0), day(7))
        assert wanted.log_first_us == day(0)
        assert order(0, 21, look_back_s=15 * DAY_S).log_first_us == day(-1)
        assert splits(order(-60, 21, look_back_s=14 * DAY_S))[1].cards_since_us == day(0)

    def test_a_set_for_each_test_trains_up_to_a_label_delay_before_it(self):
        found = [days(splits(one)) for one in one_for_each_test(order(0, 28, tests=2))]
        assert found == [
            [("train", 0, 7, 14), ("test-1", 14, 21, 28)],
            [("train", 0, 14, 21), ("test-1", 21, 28, 35)],
        ]

    @pytest.mark.parametrize(
        "wanted",
        [
            order(0, 0, label_delay_s=0, test_s=0),
            order(0, 14),
            order(0, -1, label_delay_s=DAY_S),
            order(0, 21, tests=2),
            order(0, 21, validation_s=7 * DAY_S),
            order(0, 21, train_s=8 * DAY_S),
            order(0, 21, train_s=0),
        ],
    )
    def test_no_time_to_train_on_is_refused(self, wanted):
        with pytest.raises(Rejected, match="no time is left"):
            splits(wanted)

    @pytest.mark.parametrize(
        ("wanted", "what"),
        [
            (order(0, 4000), "3660 days"),
            (order(0, 21, validation_s=-1), "below zero"),
            (order(0, 21, tests=367), "at most 366"),
            (order(0, 21, keep_genuine=0.0), "share to keep"),
            (order(0, 21, keep_genuine=1.1), "share to keep"),
        ],
    )
    def test_what_is_no_order_is_refused(self, wanted, what):
        with pytest.raises(Rejected, match=what):
            splits(wanted)


class TestSampling:
    hashes = np.random.default_rng(3).integers(0, 1 << 63, 100_000, np.uint64)

    def test_a_share_of_the_rows_is_kept_the_same_ones_each_time(self):
        kept = kept_by_hash(self.hashes, 0.1, seed=1)
        assert abs(kept.mean() - 0.1) < 0.005
        assert (kept_by_hash(self.hashes, 0.1, seed=1) == kept).all()
        assert (kept_by_hash(self.hashes[::-1], 0.1, seed=1)[::-1] == kept).all()
        assert kept_by_hash(self.hashes, 1.0, seed=1).all()

    def test_another_seed_keeps_others(self):
        one, two = (kept_by_hash(self.hashes, 0.1, seed=seed) for seed in (1, 2))
        assert abs((one & two).mean() - 0.01) < 0.002

    def test_a_smaller_sample_lies_in_a_larger_one(self):
        small, large = (kept_by_hash(self.hashes, share, seed=1) for share in (0.05, 0.2))
        assert not (small & ~large).any()

    def test_a_row_counts_for_those_that_were_not_seen(self):
        # An ordinary row; one let through at 1 in 50; declined and unknown; declined and told;
        # a fraud, of which none is sampled away.
        found = weights(
            ints(0, 20_000, 0, 0, 0),
            np.array([False, False, True, True, False]),
            np.array([False, False, False, True, True]),
            np.array([False, False, False, False, True]),
            keep_genuine=0.5,
        )
        assert found.dtype == np.float32
        assert found.tolist() == [2.0, 100.0, 0.0, 2.0, 1.0]


class TestPartitions:
    split = Split("train", day(0), day(1), day(2))

    def cut(self, per_second: dict[int, int], rows_max: int, split: Split = split):
        counts = np.zeros(2 * 86_400, np.uint32)
        for second, rows in per_second.items():
            counts[second] = rows
        return time_slices(split, day(0), counts, rows_max)

    def test_runs_hold_at_most_so_many_rows(self):
        found = self.cut({0: 3, 1: 3, 2: 3, 3: 3}, 6)
        seconds = [((p.first_us - MONDAY) // SECOND_US) for p in found]
        assert seconds == [0, 2]
        assert found[0].until_us == found[1].first_us

    def test_a_second_too_full_is_a_run_of_its_own(self):
        found = self.cut({5: 1, 6: 100, 7: 1}, 10)
        assert [(p.first_us - MONDAY) // SECOND_US for p in found] == [5, 6, 7]

    def test_a_run_ends_with_its_split(self):
        found = self.cut({86_399: 1, 86_400: 1}, 10)
        assert len(found) == 1
        assert found[0].until_us == self.split.until_us

    def test_another_split_begins_where_it_begins(self):
        test = Split("test-1", day(1), day(2), day(3))
        found = self.cut({0: 5, 86_400: 2}, 10, test)
        assert [(p.number, p.first_us, p.until_us) for p in found] == [(0, day(1), day(2))]

    def test_no_rows_no_runs(self):
        assert self.cut({}, 10) == []


class TestLookBack:
    def test_only_the_count_of_all_reports_ever_is_unbounded(self):
        unbounded = [f.name for f in catalogue.FEATURES if catalogue.look_back(f) is None]
        assert unbounded == ["card_frauds_reported"]

    def test_a_service_with_an_unbounded_feature_is_refused_by_its_name(self):
        with pytest.raises(Rejected, match="card_frauds_reported") as refused:
            refuse_unbounded([*BOUNDED, "card_frauds_reported"])
        assert refused.value.code == "unbounded_feature"

    def test_what_is_accepted_by_name_is_recorded(self):
        found = refuse_unbounded(["card_frauds_reported"], ["card_frauds_reported"])
        assert found == {"card_frauds_reported": "unbounded, accepted"}

    def test_what_bounds_each_feature_is_told_in_the_services_order(self):
        names = ["terminal_age_s", "card_amount_1h_minor", "card_count_7d", "hour_utc"]
        assert list(refuse_unbounded(names).items()) == [
            ("terminal_age_s", "400d"),
            ("card_amount_1h_minor", "1h, 64 authorizations"),
            ("card_count_7d", "7d"),
            ("hour_utc", "this authorization"),
        ]

    def test_a_feature_that_the_catalogue_does_not_have_is_refused(self):
        with pytest.raises(Rejected, match="card_packed"):
            refuse_unbounded(["card_packed"])


class TestLabels:
    def test_a_card_is_left_out_from_the_day_after_its_fraud_is_known(self):
        known = ints(NEVER_KNOWN, day(0), day(0) + 1, day(1), day(2))
        at = np.full(5, day(1) + HOUR_US)
        assert compromised(at, known).tolist() == [False, True, True, True, False]


class TestChecks:
    split = Split("train", day(0), day(2), day(3))
    partition = TimeSlice(split, 0, day(0), day(1))

    def test_a_clean_partition_passes(self):
        check_part(self.partition, ints(day(0), day(1) - 1), ints(NEVER_KNOWN, day(3)))

    @pytest.mark.parametrize("at", [day(0) - 1, day(1), day(2)])
    def test_a_planted_row_from_outside_is_refused(self, at):
        with pytest.raises(Corrupt, match="outside their split") as refused:
            check_part(self.partition, ints(day(0), at), ints(day(1), day(1)))
        assert refused.value.code == "leak"

    def test_a_planted_label_known_after_the_cut_is_refused(self):
        with pytest.raises(Corrupt, match=r"known later.*train 0, row 1"):
            check_part(self.partition, ints(day(0), day(0)), ints(day(3), day(3) + 1))

    def test_an_id_in_two_partitions_is_refused(self):
        one, other = np.array([1, 2], np.uint64), np.array([3, 2], np.uint64)
        with pytest.raises(Corrupt, match="1 authorization ids come twice"):
            check_unique([one, other])
        assert check_unique([one, other[:1]]) == 3

    def test_a_split_without_rows_is_refused(self):
        with pytest.raises(Rejected, match="no row for train"):
            figures(self.split, [])

    @pytest.mark.parametrize(
        ("frauds", "what"), [(0, "test-1 has no fraud among 10"), (10, "nothing but fraud")]
    )
    def test_a_split_of_one_class_is_refused(self, frauds, what):
        test = Split("test-1", day(0), day(2), day(3))
        with pytest.raises(Rejected, match=what) as refused:
            figures(test, [part(frauds=frauds)])
        assert refused.value.code == "empty_class"
        assert "2024-10-04T00:00:00Z to 2024-10-06T00:00:00Z" in refused.value.where

    def test_of_what_is_recent_no_fraud_is_known(self):
        assert figures(Split("recent", day(0), day(2), day(0)), [part(frauds=0)]).frauds == 0

    def test_amounts_in_two_currencies_are_refused(self):
        assert currency_of([part(), part(rows=0, currency="")]) == "EUR"
        with pytest.raises(Rejected, match="EUR and USD"):
            currency_of([part(), part(currency="USD")])

    def test_parts_are_summed_up(self):
        found = figures(self.split, [part(), part(path="train/part-00001.parquet", frauds=0)])
        assert (found.rows, found.frauds, found.fraud_ppm) == (20, 1, 50_000)
        assert (found.labelled, found.not_yet) == (8, 4)
        assert list(found.files) == ["train/part-00000.parquet", "train/part-00001.parquet"]

    def test_the_manifest_tells_what_the_checks_found(self):
        reported = leak_checks(
            [(self.split, [part(known_until_us=NEVER_KNOWN)])], {"x": "unbounded, accepted"}, "d", 9
        )
        assert [check.found for check in reported] == [
            "2024-10-04T00:00:00Z to 2024-10-05T00:00:00Z",
            "newest none",
            "accepted without: x",
            "d",
            "9 ids",
        ]
