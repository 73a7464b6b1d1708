"""An authorization becomes one row of integers, and so does a pending entry."""

from __future__ import annotations

import numpy as np

from sluice.adapters import arrow
from sluice.adapters.feast.finalise import _Asked
from sluice.adapters.parquet import event_history
from sluice.domain.features.events import (
    COLUMNS,
    WIDTH,
    event_row,
    event_rows,
    pending_rows,
    to_pending,
)
from sluice.domain.records.authorization import Authorization, Channel, ThreeDs
from sluice.domain.records.countries import COUNTRY_INDEX
from sluice.domain.records.currencies import CURRENCY_INDEX
from sluice.domain.records.identifiers import tag32
from sluice.testing.factories import make_authorization
from tests.unit.domain.test_authorization import AUTH


def test_a_row_names_every_column_of_the_authorization() -> None:
    row = dict(zip(COLUMNS, event_row(AUTH, 1500), strict=True))
    assert row == {
        "event_us": AUTH.event_at,
        "id_tag": tag32("a-1"),
        "amount_minor": 1500,
        "card_tag": tag32("card-1"),
        "terminal_tag": tag32("t-1"),
        "merchant_tag": tag32("m-1"),
        "device_tag": 0,
        "country": COUNTRY_INDEX["PT"],
        "card_country": COUNTRY_INDEX["DE"],
        "currency": CURRENCY_INDEX["EUR"],
        "mcc": 5411,
        "channel": 1,
        "three_ds": 0,
        "declined": 0,
    }


def test_device_three_ds_and_outcome_are_numbers_above_zero() -> None:
    values = {
        **{f: getattr(AUTH, f) for f in AUTH.__struct_fields__},
        "device_id": "d-1",
        "channel": Channel.ECOM,
        "three_ds": ThreeDs.FAILED,
    }
    row = dict(zip(COLUMNS, event_row(Authorization(**values), 1, declined=True), strict=True))
    assert row["device_tag"] == tag32("d-1")
    assert (row["channel"], row["three_ds"], row["declined"]) == (3, 4, 1)


def test_rows_make_a_matrix_even_when_there_are_none() -> None:
    assert event_rows([]).shape == (0, WIDTH)
    assert event_rows([event_row(AUTH, 1)] * 2).dtype == np.int64


def test_a_pending_entry_keeps_what_a_card_state_keeps() -> None:
    row = event_row(AUTH, 1500)
    (again,) = pending_rows([to_pending(AUTH, row, left_at=9)])
    of_card = {"event_us", "id_tag", "amount_minor", "merchant_tag", "device_tag"} | {
        "country", "currency", "mcc", "channel",
    }  # fmt: skip
    for column, kept, original in zip(COLUMNS, again, row, strict=True):
        assert kept == (original if column in of_card else 0)


class Watched:
    """Notes which fields of an authorization are read."""

    def __init__(self, auth: Authorization) -> None:
        self.auth, self.read = auth, set[str]()

    def __getattr__(self, name: str) -> object:
        self.read.add(name)
        return getattr(self.auth, name)


def test_every_way_to_a_row_asks_for_the_fields_that_a_row_is_made_from() -> None:
    """A field that a row comes to use and a way leaves out would be null there, in silence."""
    watched = Watched(make_authorization(device_id="d-1", three_ds="challenged"))
    event_row(watched, 1)
    asked = set(_Asked.__struct_fields__) - {"reference_amount_minor"}
    assert watched.read == asked
    past = {*arrow.COLUMNS, *arrow.OPTIONAL} - {"amount_minor", "declined"}
    assert watched.read == past
    archived = {*event_history._EVENT_COLUMNS}
    assert watched.read <= archived
