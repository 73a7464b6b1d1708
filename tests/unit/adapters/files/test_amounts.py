"""Marks, signs and negatives of amounts, as a mapping says."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from sluice.adapters.files.amounts import Amount
from tests.unit.adapters.files.test_mapping import changed, mapped, mapping, only, refused


def read(folder: Path, text: str, **how: Any) -> Any:
    using = mapping(amount={"column": "amount", "unit": "major", **how})
    return mapped(folder, changed(amount=f'"{text}"'), using=using)


EXCEL = {"decimal_mark": ",", "thousands_marks": [".", " "]}
DOLLARS = {"currency_sign": "$", "thousands_marks": [","]}


@pytest.mark.parametrize(
    ("text", "how", "minor"),
    [
        ("12,34", EXCEL, 1234),
        ("1.234,56", EXCEL, 123_456),
        ("1 234,56", EXCEL, 123_456),
        ("1\u00a0234,56", EXCEL, 123_456),
        ("1\u202f234,56", EXCEL, 123_456),
        ("1.234.567,8", EXCEL, 123_456_780),
        ("1.234", EXCEL, 123_400),
        ("12", EXCEL, 1200),
        ("1,234.56", {"thousands_marks": [","]}, 123_456),
        ("12,34,567.80", {"thousands_marks": [","]}, 123_456_780),
        ("1'234.50", {"thousands_marks": ["'"]}, 123_450),
        ("1\u2019234.50", {"thousands_marks": ["'"]}, 123_450),
        ("$1,234.56", DOLLARS, 123_456),
        ("$ 12.34", DOLLARS, 1234),
        ("12.34 $", DOLLARS, 1234),
        ("12.34", DOLLARS, 1234),
        ("$.50", DOLLARS, 50),
        ("€12,34", {"currency_sign": "€", "decimal_mark": ","}, 1234),
        ("EUR\u00a012.34", {"currency_sign": "EUR"}, 1234),
        ("R$ 12.34", {"currency_sign": "R$"}, 1234),
    ],
)
def test_an_amount_is_read_by_its_marks(
    tmp_path: Path, text: str, how: dict[str, Any], minor: int
) -> None:
    assert only(read(tmp_path, text, **how)).amount_minor == minor


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("12.34", {"decimal_mark": ",", "thousands_marks": ["."]}),
        ("1.2.456,00", {"decimal_mark": ",", "thousands_marks": ["."]}),
        ("1234.567,00", {"decimal_mark": ",", "thousands_marks": ["."]}),
        ("1,2345", {"thousands_marks": [","]}),
        ("1,234", {}),
        ("12,34", {}),
        ("1 234", {}),
        ("$12", {}),
        ("€12", DOLLARS),
        ("$$12", DOLLARS),
        ("$", DOLLARS),
        ("$12$", {"currency_sign": "€"}),
        ("１2", EXCEL),
        ("1.23E+05", {}),
        ("1,23E+05", EXCEL),
        ("12,34,56", EXCEL),
        ("--12", {"negative": "left_out"}),
        ("(12", {"negative": "left_out"}),
        ("-(12)", {"negative": "left_out"}),
    ],
)
def test_other_marks_are_refused_and_never_guessed(
    tmp_path: Path, text: str, how: dict[str, Any]
) -> None:
    assert "column amount: " in refused(read(tmp_path, text, **how))


def test_an_error_names_the_keys_that_say_how_an_amount_is_written(tmp_path: Path) -> None:
    assert "see decimal_mark, thousands_marks, currency_sign" in refused(read(tmp_path, "1,234"))
    assert "see thousands_marks" in refused(read(tmp_path, "1.234,56", decimal_mark=","))


@pytest.mark.parametrize("text", ["-12.34", "12.34-", "(12.34)", "$-12.34", "-$12.34", "($12.34)"])
def test_what_is_paid_back_is_refused_or_left_out(tmp_path: Path, text: str) -> None:
    how: dict[str, Any] = {"currency_sign": "$"}
    assert "amount" in refused(read(tmp_path, text, **how))
    result = read(tmp_path, text, **how, negative="left_out")
    assert (result.left_out, result.values, result.bad) == (1, [], [])
    assert only(read(tmp_path, "$12.34", **how, negative="left_out")).amount_minor == 1234


def test_minor_units_may_have_marks_too(tmp_path: Path) -> None:
    how: dict[str, Any] = {"unit": "minor", "thousands_marks": [","]}
    assert only(read(tmp_path, "1,234", **how)).amount_minor == 1234
    assert "whole number of minor units" in refused(read(tmp_path, "1,234.5", **how))


@pytest.mark.parametrize(
    ("text", "minor"), [("12.345", 1234), ("12.355", 1236), ("12.3451", 1235), ("0.004", 0)]
)
def test_decimals_that_a_currency_has_not_are_rounded_where_that_is_asked_for(
    tmp_path: Path, text: str, minor: int
) -> None:
    assert "more decimals than EUR has: 2; see finer" in refused(read(tmp_path, text))
    assert only(read(tmp_path, text, finer="rounded")).amount_minor == minor
    assert "not an amount" in refused(read(tmp_path, "1e999999999", finer="rounded"))


def test_minor_units_are_not_rounded() -> None:
    with pytest.raises(msgspec.ValidationError, match="goes with unit: major"):
        msgspec.convert({"column": "a", "unit": "minor", "finer": "rounded"}, Amount)


def test_one_mark_means_one_thing() -> None:
    given = {"column": "a", "unit": "major", "decimal_mark": ",", "thousands_marks": [","]}
    with pytest.raises(msgspec.ValidationError, match="thousands mark too"):
        msgspec.convert(given, Amount)
