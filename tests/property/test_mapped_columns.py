"""A history mapped column by column is the history mapped record by record, bad rows and all."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sluice.adapters.files.flags import LabelMapping
from sluice.adapters.files.mapping import Mapper, Mapping
from sluice.adapters.files.row_batch import RowBatch
from sluice.adapters.files.times import Instant
from sluice.domain.records.authorization import Authorization, check
from sluice.domain.records.grammars import checks
from sluice.yaml_files import decode_as
from tests.examples import examples
from tests.support.mapping import MAPPING

TABLE = {
    "id": st.one_of(
        st.integers(0, 10**6).map(lambda n: f"id-{n}"),
        # A card number, hex that only looks like one, white space, nothing, too long.
        st.sampled_from(["4111111111111111", "Mz3078-Tj", "a b", "", "é", "x" * 65, "50%41"]),
    ),
    "at": st.one_of(
        st.datetimes().map(lambda t: t.isoformat()),
        st.sampled_from(["2026-01-01T00:00:00", "never", "", "2026-01-01T00:00:00+02:00"]),
    ),
    "who": st.sampled_from([*"1234567", "", "4111111111111111", "x" * 70]),
    "cents": st.sampled_from(["1", "500", "-3", "1.5", "", "10000000001", "99999999999999999"]),
    "money": st.sampled_from(["EUR", "JPY", "KWD", "HRK", "XXX", ""]),
    "device": st.sampled_from(["d-1", "d-2", "", "no device"]),
    "fraud": st.sampled_from(["0", "1", "", "maybe"]),
    "known": st.sampled_from(["2026-02-01", "1999-01-01", "", "soon"]),
}
ordinary = st.fixed_dictionaries(
    {
        "id": st.integers(0, 10**6).map(lambda n: f"id-{n}"),
        "at": st.sampled_from(["2026-01-01T00:00:00", "2026-01-02T03:04:05.678901"]),
        "who": st.sampled_from([*"1234567"]),
        "cents": st.sampled_from(["1", "500"]),
        "money": st.sampled_from(["EUR", "JPY"]),
        "device": st.sampled_from(["d-1", ""]),
        "fraud": st.sampled_from(["0", "1", ""]),
        "known": st.sampled_from(["2026-02-01", "2026-03-01"]),
    }
)
rows = st.lists(st.one_of(ordinary, ordinary, st.fixed_dictionaries(TABLE)), min_size=1, max_size=9)
batches = st.lists(rows, min_size=1, max_size=4)
CHECKS = [check, checks({"*.card_token": "card-[0-9]"})]
HOW = decode_as(
    Mapping,
    MAPPING.replace("{constant: EUR}", "{column: money}").encode() + b"device_id: {column: device}",
    "test",
    fix="",
)
labels = st.builds(
    LabelMapping,
    column=st.just("fraud"),
    source=st.just("bank"),
    empty=st.sampled_from(["unknown", "refused"]),
    genuine=st.booleans(),
    delay_days=st.just(3.0),
) | st.builds(
    LabelMapping,
    column=st.just("fraud"),
    source=st.just("bank"),
    empty=st.just("unknown"),
    genuine=st.booleans(),
    known_at=st.just(Instant(column="known", zone="UTC")),
)


def batch(held: list[dict[str, Any]]) -> RowBatch:
    columns = {name: [row[name] for row in held] for name in TABLE}
    return RowBatch(list(range(2, 2 + len(held))), columns, first=2, last=1 + len(held), file="f")


def told(bad: Any) -> list[tuple[int, str, str]]:
    return [(row.line, row.error.what, row.error.code) for row in bad]


@examples(150)
@given(batches, st.none() | labels, st.sampled_from(CHECKS))
def test_columns_are_the_records(held, how, checked):
    by_record, by_column = (Mapper(HOW, how, list(TABLE), "f", checked) for _ in range(2))
    for some in map(batch, held):
        wanted, found = by_record.apply(some), by_column.columns(some)
        records = [msgspec.json.decode(raw, type=Authorization) for raw in wanted.values]
        for name, column in found.columns.items():
            assert column == [getattr(one, name) for one in records]
        for name in set(Authorization.__struct_fields__) - set(found.columns) - {"v"}:
            assert all(getattr(one, name) is None for one in records)
        labelled = [records[i].authorization_id for i in found.labels.rows]
        assert list(zip(labelled, *found.labels[1:], strict=True)) == [
            (one.authorization_id, one.known_at, one.is_fraud) for one in wanted.labels
        ]
        assert told(found.bad) == told(wanted.bad)
        assert found.left_out == wanted.left_out
