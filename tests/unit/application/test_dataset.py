from __future__ import annotations

import numpy as np
import pytest

from sluice.application.dataset import (
    NEVER_KNOWN,
    Part,
    Split,
    TimeSlice,
    check_part,
    check_unique,
    compromised,
    figures,
    leak_checks,
    refuse_unbounded,
    splits,
    time_slices,
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
        "left_out": 0,
        "labels_after": 0,
        "labels_astray": 0,
        "served": 10,
        "degraded": 0,
        "first_us": day(0),
        "last_us": day(1),
        "known_until_us": day(2),
    }
    return Part(**(usual | given))  # type: ignore[arg-type]


class TestSplits:
    def test_train_gap_and_test_follow_each_other(self):
        train, test = splits(day(0), day(21), 7 * DAY_US, 7 * DAY_US)
        assert (train.first_us, train.until_us) == (day(0), day(7))
        assert (test.first_us, test.until_us) == (day(14), day(21))

    def test_train_knows_what_was_known_when_the_test_began(self):
        train, test = splits(day(0), day(21), 7 * DAY_US, 7 * DAY_US)
        assert train.as_of_us == test.first_us
        assert test.as_of_us == day(21) + 7 * DAY_US

    def test_without_a_test_all_is_train_and_waits_for_its_labels(self):
        assert splits(day(0), day(3), DAY_US, 0) == [Split("train", day(0), day(3), day(4))]

    @pytest.mark.parametrize(
        ("until", "delay", "test"),
        [(day(0), 0, 0), (day(14), 7 * DAY_US, 7 * DAY_US), (day(-1), DAY_US, 0)],
    )
    def test_no_time_to_train_on_is_refused(self, until, delay, test):
        with pytest.raises(Rejected, match="no time is left"):
            splits(day(0), until, delay, test)

    def test_a_span_past_the_limit_is_refused(self):
        with pytest.raises(Rejected, match="3660 days"):
            splits(0, 4000 * DAY_US, 0, 0)


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
        test = Split("test", day(1), day(2), day(3))
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

    def test_parts_are_summed_up(self):
        found = figures(self.split, [part(), part(path="train/part-00001.parquet", frauds=0)])
        assert (found.rows, found.frauds, found.fraud_ppm) == (20, 1, 50_000)
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
