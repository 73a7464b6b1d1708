import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.domain.policy.fx import MAX_RATE_PPM, REFERENCE_MAX_MINOR, Dated, Fx
from sluice.domain.records.authorization import MAX_AMOUNT_MINOR
from sluice.domain.records.currencies import EXPONENTS
from sluice.errors import Misconfigured, Rejected
from sluice.testing.policy import EUROS


def fx(**rates_ppm: int) -> Fx:
    return Fx(
        reference="EUR",
        as_of=datetime.date(2026, 1, 1),
        rates_ppm={"EUR": 1_000_000, **rates_ppm},
    )


def test_an_amount_in_the_reference_currency_stays_as_it_is() -> None:
    assert EUROS.to_reference(1999, "EUR") == 1999


def test_exponents_of_iso_4217_are_honoured() -> None:
    assert EUROS.to_reference(116_00, "USD") == 100_00
    assert EUROS.to_reference(18_000, "JPY") == 100_00
    assert EUROS.to_reference(35_600, "KWD") == 100_00


def test_half_a_unit_goes_to_the_even_neighbour() -> None:
    half = fx(USD=2_000_000)
    assert [half.to_reference(n, "USD") for n in (1, 3, 5)] == [0, 2, 2]


@given(rate=st.integers(1, MAX_RATE_PPM), currency=st.sampled_from(["EUR", "USD", "JPY", "KWD"]))
def test_what_is_worth_more_than_the_most_is_refused(rate: int, currency: str) -> None:
    table = fx(**({} if currency == "EUR" else {currency: rate}))
    most = table.most(currency)
    assert table.to_reference(most, currency) in (REFERENCE_MAX_MINOR, REFERENCE_MAX_MINOR - 1)
    if currency != "EUR":
        times, over = table._parts(currency)
        with pytest.raises(Rejected, match="more than"):
            table.to_reference(most + over // times + 2, currency)


@given(
    amount=st.integers(0, MAX_AMOUNT_MINOR),
    rate=st.integers(1, MAX_RATE_PPM),
    currency=st.sampled_from(["USD", "JPY", "KWD"]),
)
def test_a_column_converts_to_the_same_integers_as_one_amount(
    amount: int, rate: int, currency: str
) -> None:
    table = fx(**{currency: rate})
    try:
        one = table.to_reference(amount, currency)
    except Rejected:
        with pytest.raises(Rejected, match="more than") as caught:
            table.column_to_reference(np.array([1, amount]), currency)
        assert caught.value.code == "out_of_range"
    else:
        column = table.column_to_reference(np.array([amount, 0, amount]), currency)
        assert column.tolist() == [one, 0, one]


def test_a_currency_without_a_rate_is_rejected_by_name() -> None:
    with pytest.raises(Rejected, match="no rate for SEK") as caught:
        EUROS.to_reference(1, "SEK")
    assert caught.value.code == "no_rate"


def dated(code: str, day: datetime.date) -> Fx:
    historic = {code: Dated(as_of=day, rate_ppm=1_955_830)}
    return Fx(
        reference="EUR",
        as_of=datetime.date(2026, 1, 1),
        rates_ppm={"EUR": 1_000_000},
        historic=historic,
    )


def test_a_currency_that_ended_has_the_rate_of_its_own_day() -> None:
    table = dated("BGN", datetime.date(2025, 12, 31))
    table.check("fx.yaml")
    assert table.to_reference(195_583, "BGN") == 100_000
    assert table.column_to_reference(np.array([195_583]), "BGN").tolist() == [100_000]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (fx(BGN=1_955_830), "BGN ended on 2025-12-31 and has no rate of 2026-01-01"),
        (dated("BGN", datetime.date(2026, 1, 1)), "BGN of 2026-01-01, on which it had ended"),
        (dated("USD", datetime.date(2025, 1, 1)), "USD of 2025-01-01, on which it had not ended"),
        (fx(XYZ=1), "XYZ is not an ISO 4217"),
        (fx(EUR=999_999), "must have the rate 1000000"),
        (
            Fx(reference="KWD", as_of=datetime.date(2026, 1, 1), rates_ppm={"KWD": 1_000_000}),
            "three",
        ),
    ],
)
def test_a_wrong_table_is_refused(table: Fx, says: str) -> None:
    with pytest.raises(Misconfigured, match=says):
        table.check("fx.yaml")


def test_every_exponent_is_known() -> None:
    assert set(EXPONENTS.values()) == {0, 2, 3}
