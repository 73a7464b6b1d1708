"""Each field of a record has its column, or is named as one that only the record holds."""

from __future__ import annotations

import tracemalloc

import msgspec
import pyarrow as pa
import pytest

from sluice.adapters.arrow import arrow_types
from sluice.adapters.parquet.columns import (
    AUTHORIZATION,
    DECISION,
    DECODED_MAX,
    KINDS,
    LABEL,
    ONLY_IN_THE_RECORD,
    SHADOW_SCORES,
    table,
)
from sluice.application.ports import Message
from sluice.domain.records.authorization import Authorization, encode
from sluice.domain.records.decision import Decision, Origin
from sluice.domain.records.label import Label
from sluice.domain.records.rollout import ShadowScores
from sluice.testing.records import make_decision


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


def test_a_table_of_many_decisions_holds_few_of_them_decoded() -> None:
    raw = encode(msgspec.structs.replace(make_decision(), features=list(range(1_000, 1_040))))

    def most_bytes(count: int) -> int:
        rows = [Message(raw, None, "t", 0, n, None, n) for n in range(count)]
        tracemalloc.start()
        try:
            made = table(KINDS["decisions"], rows)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert made["offset"].to_pylist() == list(range(count))
        return most

    most_bytes(1)  # the first one imports what pyarrow puts off
    # Whatever is still alive of the part before: not all that came before it.
    assert most_bytes(6 * DECODED_MAX + 1) < 3 * most_bytes(DECODED_MAX)
