"""What differs between rows as they were learnt, as the set has them and as the log has them, is
named by column and by the way in which it differs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sluice.application.judging.inputs import (
    Extract,
    Inputs,
    Pair,
    check_inputs,
    cut_stretches,
    unit_factor,
)
from tests.support.judged import FEATURES, Part, make_world, with_columns

PART = make_world(rows=3_000)["train"]
MONTH = np.asarray(PART.columns["card_amount_30d_minor"])


def pair(given: Part, **named: Any) -> Pair:
    by = {"given_by": "the set has", "held_by": "the feature log has"} | named
    return Pair(names=FEATURES, given=given.x, held=PART.x, fraud=PART.fraud, **by)


def found(given: Part) -> tuple[str, str]:
    """The one reason, and what it says, where the set is not what the log has."""
    (check,) = check_inputs(Inputs(pair(PART), logged=[pair(given)]))
    assert not check.passed
    return check.reason, check.found


def test_what_is_the_same_bit_for_bit_is_accepted_and_told() -> None:
    (check,) = check_inputs(Inputs(pair(PART), logged=[pair(PART), pair(PART)], wanted=True))
    assert check.passed
    assert check.found == (
        "3,000 rows as the run learnt them are the set's; 6,000 rows of the set are the feature "
        "log's"
    )


@pytest.mark.parametrize(("factor", "said"), [(100, "100 times"), (1 / 100, "0.01 times")])
def test_a_column_in_another_unit_is_named_with_both_sizes(factor: float, said: str) -> None:
    scaled = (MONTH * factor).astype(np.int64)
    reason, text = found(with_columns(PART, card_amount_30d_minor=scaled))
    assert reason == "unit_changed"
    assert text.startswith(f"card_amount_30d_minor has another unit, {said}: the set has ")
    middle = np.quantile(MONTH, 0.5, method="nearest")
    assert f"{middle:.6g}" in text
    assert f"{np.quantile(scaled[scaled != 0], 0.5, method='nearest'):.6g}" in text


def test_a_unit_that_was_changed_while_it_learnt_is_found_without_a_log() -> None:
    given = with_columns(PART, card_amount_30d_minor=MONTH * 100)
    learnt = pair(given, given_by="the run learnt", held_by="the set has")
    (check,) = check_inputs(Inputs(learnt))
    assert (check.reason, check.passed) == ("unit_changed", False)
    assert "the run learnt" in check.found


def test_a_column_that_knows_labels_too_early_is_a_leak() -> None:
    reports = np.asarray(PART.columns["terminal_frauds_7d"])
    some = PART.fraud & (np.arange(len(PART.fraud)) % 3 > 0)
    reason, text = found(with_columns(PART, terminal_frauds_7d=reports + some))
    assert reason == "leak"
    assert "terminal_frauds_7d knows more of fraud than it did then" in text


def test_a_column_of_another_kernel_is_named() -> None:
    hour = np.asarray(PART.columns["card_count_1h"])
    reason, text = found(with_columns(PART, card_count_1h=hour + (np.arange(len(hour)) % 2)))
    assert reason == "other_features"
    assert text.startswith("card_count_1h is another in 50.0% of 3,000 rows: ")


def test_one_row_that_differs_by_one_is_enough() -> None:
    span = np.asarray(PART.columns["card_history_span_s"]).copy()
    span[1234] += 1
    assert found(with_columns(PART, card_history_span_s=span))[0] == "other_features"


def test_each_reason_is_told_once_by_its_worst_column() -> None:
    given = with_columns(
        PART,
        card_amount_30d_minor=MONTH * 100,
        card_history_span_s=np.asarray(PART.columns["card_history_span_s"]) * 1_000,
        terminal_frauds_7d=PART.fraud.astype(np.int64) * 9,
    )
    checks = check_inputs(Inputs(pair(PART), logged=[pair(given)]))
    assert [check.reason for check in checks] == ["unit_changed", "leak"]
    assert checks[0].found.startswith("card_history_span_s has another unit, 1e+03 times")
    assert checks[0].found.endswith("; 1 more like it")


def test_rows_that_nobody_has_and_a_log_of_somebody_else_are_refused() -> None:
    (check,) = check_inputs(Inputs(pair(PART), strange=7))
    assert (check.reason, check.passed) == ("other_features", False)
    assert check.found.startswith("7 rows that the run says it learnt are not in the set's train")
    (check,) = check_inputs(Inputs(pair(PART), wanted=True))
    assert not check.passed
    assert "no row of the set lies in the feature log" in check.found
    (check,) = check_inputs(Inputs(pair(PART)))
    assert check.passed
    assert "no feature log was at hand" in check.found


def test_a_factor_is_only_one_if_nearly_all_rows_have_it() -> None:
    held = np.arange(1.0, 500.0)
    given = held * 100
    given[::5] = held[::5]
    assert unit_factor(given, held) is None
    assert unit_factor(held * 1.02, held) is None
    assert unit_factor(np.floor(held * 60), held) == 60.0


def test_stretches_are_spread_over_the_rows_and_no_longer_than_asked() -> None:
    n = 1_000
    rows = Extract([str(i) for i in range(n)], np.arange(n), np.zeros(n, bool), np.zeros((n, 1)))
    cut = cut_stretches(rows, 3, 100)
    assert [(one.event_us[0], len(one.ids)) for one in cut] == [(0, 100), (450, 100), (900, 100)]
    few = Extract(rows.ids[:2], rows.event_us[:2], rows.fraud[:2], rows.features[:2])
    assert sum(len(one.ids) for one in cut_stretches(few, 3, 100)) == 2
    nothing = Extract([], rows.event_us[:0], rows.fraud[:0], rows.features[:0])
    assert cut_stretches(nothing, 3, 100) == []
