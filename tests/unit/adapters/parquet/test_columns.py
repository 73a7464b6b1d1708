"""Each field of a record has its column, or is named as one that only the record holds."""

from __future__ import annotations

import msgspec
import pyarrow as pa
import pytest

from sluice.adapters.arrow import arrow_types
from sluice.adapters.parquet.columns import (
    AUTHORIZATION,
    DECISION,
    LABEL,
    ONLY_IN_THE_RECORD,
    SHADOW_SCORES,
)
from sluice.domain.records.authorization import Authorization
from sluice.domain.records.decision import Decision, Origin
from sluice.domain.records.label import Label
from sluice.domain.records.rollout import ShadowScores


def test_each_field_of_a_decision_is_a_column_or_said_to_be_in_the_record_alone() -> None:
    columns = {column.name for column in DECISION}
    nested = {f"origin_{name}" for name in Origin.__struct_fields__}
    fields = set(Decision.__struct_fields__) - {"authorization", "origin"}
    assert fields - ONLY_IN_THE_RECORD == columns - nested - set(AUTHORIZATION)
    assert nested < columns
    assert fields > ONLY_IN_THE_RECORD


def test_each_field_of_authorization_and_label_is_a_column_of_its_type() -> None:
    assert set(AUTHORIZATION) == set(Authorization.__struct_fields__) - {"v"}
    assert {c.name for c in LABEL} == set(Label.__struct_fields__) - {"v"}
    assert {c.name for c in SHADOW_SCORES} == set(ShadowScores.__struct_fields__) - {"v"}
    types = {c.name: c.kind for c in (*DECISION, *LABEL)}
    assert types["event_at"] == types["amount_minor"] == types["known_at"] == pa.int64()
    assert types["channel"] == types["three_ds"] == types["kind"] == pa.string()
    assert types["is_fraud"] == pa.bool_()


def test_a_field_that_fits_no_column_is_refused_by_name() -> None:
    odd = msgspec.defstruct("Odd", [("tags", list[str])])
    with pytest.raises(AssertionError, match=r"Odd\.tags"):
        arrow_types(odd)
