"""What a cell holds that is no clean text: nothing, bytes, a float, a number's zeros."""

from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sluice.adapters.files.cells import EMPTY_WORDS
from sluice.adapters.files.mapping import Mapper, Mapping
from sluice.adapters.files.tables import Table
from sluice.application.publish import Mapped
from sluice.domain.records.authorization import Authorization, decode_authorization
from sluice.errors import Misconfigured
from tests.unit.adapters.files.test_mapping import (
    COLUMNS,
    GOOD,
    changed,
    mapped,
    mapping,
    only,
    refused,
)

ROW = dict(zip(COLUMNS.split(","), GOOD.split(","), strict=True))


def from_parquet(folder: Path, using: Mapping | None = None, **columns: Any) -> Mapped:
    """Of a table of good rows but for the columns named."""
    n = len(next(iter(columns.values())))
    table = pa.table(
        {**{k: [v] * n for k, v in ROW.items()}, "id": list("abcdefgh"[:n]), **columns}
    )
    pq.write_table(table, folder / "t.parquet")
    source = Table(folder / "t.parquet")
    mapper = Mapper(using or mapping(), None, source.columns, "t.parquet")
    (batch,) = source.batches(mapper.wanted)
    return mapper.apply(batch)


def read(result: Mapped) -> list[Authorization]:
    assert not result.bad, [str(row.error) for row in result.bad]
    return [decode_authorization(value) for value in result.values]


def errors(result: Mapped) -> list[str]:
    return [row.error.what for row in result.bad]


@pytest.mark.parametrize(
    "word", [*EMPTY_WORDS, "null", "Null", "nan", "NAN", "none", "n/a", " NULL "]
)
def test_what_stands_for_nothing_is_an_empty_cell(tmp_path: Path, word: str) -> None:
    if '"' in word:
        word = '"' + word.replace('"', '""') + '"'
    assert only(mapped(tmp_path, changed(device=word))).device_id is None
    assert only(mapped(tmp_path, changed(entry=word))).channel == "pos"
    assert "empty, and merchant_id is required" in refused(mapped(tmp_path, changed(shop=word)))
    assert "column time" in refused(mapped(tmp_path, changed(time=word)))
    assert "column amount: not an amount: empty" in refused(mapped(tmp_path, changed(amount=word)))


@pytest.mark.parametrize("multiline", [False, True])
def test_a_databases_null_is_empty_where_a_backslash_escapes(
    tmp_path: Path, multiline: bool
) -> None:
    """It was the text N, and all customers without a device had that one."""
    row = changed(entry="\\N", device="\\N", shop='"the \\"s1\\""', fraud="\\N")
    using = mapping(escape="\\", multiline=multiline, merchant_id={"constant": "m"},
                    terminal_id={"constant": "t"})  # fmt: skip
    result = mapped(tmp_path, *[row] * 3, changed(device='"over\n\\N\nlines"'), using=using)
    auths = [decode_authorization(value) for value in result.values]
    assert [(auth.device_id, auth.channel) for auth in auths] == [(None, "pos")] * 3
    assert len(result.bad) == (1 if multiline else 3)


def test_words_of_ones_own_are_empty_too_and_the_usual_ones_can_be_kept(tmp_path: Path) -> None:
    using = mapping(empty=["unknown"], not_empty=["-"])
    for word, device in (("unknown", None), ("UNKNOWN", None), ("NULL", None), ("-", "-")):
        assert only(mapped(tmp_path, changed(device=word), using=using)).device_id == device
    assert only(mapped(tmp_path, changed(device="unknown"))).device_id == "unknown"


def test_what_a_mapping_lists_is_a_value(tmp_path: Path) -> None:
    using = mapping(channel={"column": "entry", "values": {"-": "moto", "NA": "atm"}})
    assert only(mapped(tmp_path, changed(entry="-"), using=using)).channel == "moto"
    assert only(mapped(tmp_path, changed(entry="NA"), using=using)).channel == "atm"


def test_na_is_namibia_where_a_country_stands(tmp_path: Path) -> None:
    using = mapping(merchant_country={"column": "entry"}, channel={"constant": "pos"})
    row = changed(entry="NA", device="NA")
    auth = only(mapped(tmp_path, row, using=using))
    assert (auth.merchant_country, auth.device_id) == ("NA", None)


def test_nan_and_null_of_parquet_are_empty(tmp_path: Path) -> None:
    for kind in (pa.float64(), pa.float32(), pa.float16()):
        devices = pa.array([np.float16("nan"), None], kind)
        assert [a.device_id for a in read(from_parquet(tmp_path, device=devices))] == [None, None]


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.binary(6), pa.dictionary(pa.int32(), pa.binary())]
)
def test_bytes_are_text_where_they_are_utf_8(tmp_path: Path, kind: pa.DataType) -> None:
    cards = pa.array([b"card-1", b"card-2"], pa.binary()).cast(kind)
    using = mapping(card_token={"column": "customer"}, amount={"column": "amount", "unit": "major"})
    found = from_parquet(tmp_path, using, customer=cards, amount=pa.array([b"1.50", b"2"]))
    assert [(a.card_token, a.amount_minor) for a in read(found)] == [
        ("card-1", 150),
        ("card-2", 200),
    ]


def test_other_bytes_and_structures_are_refused_by_column(tmp_path: Path) -> None:
    for cells, says in (
        (pa.array([b"\xff\xfe\x00\x01"]), "column customer: bytes that are no UTF-8 text"),
        (pa.array([["a"]]), "column customer: a list, where a text is needed"),
        (pa.array([{"a": 1}]), "column customer: a dict, where a text is needed"),
    ):
        assert errors(from_parquet(tmp_path, customer=cells)) == [says]


def test_text_of_parquet_loses_the_blanks_that_fill_it(tmp_path: Path) -> None:
    found = from_parquet(tmp_path, customer=["7   "], device=["      "])
    (auth,) = read(found)
    assert (auth.card_token, auth.device_id) == ("card-7", None)


FLOATS = [
    pa.array([70001.0]),
    pa.array([70001.0], pa.float32()),
    pa.array([Decimal("70001.0000")]),
    pa.array(["70001.0"]),
    pa.array(["7.0001E+4"]),
    pa.array(["7.0001e+04"]),
]


@pytest.mark.parametrize("cells", FLOATS, ids=lambda c: f"{c.type}-{c[0]}")
def test_an_id_that_went_through_a_float_is_refused_or_read_as_an_integer(
    tmp_path: Path, cells: pa.Array
) -> None:
    (said,) = errors(from_parquet(tmp_path, customer=cells))
    assert said.startswith("column customer: a number as a float has it, {customer:integer} in a")
    using = mapping(card_token={"template": "card-{customer:integer}"})
    assert read(from_parquet(tmp_path, using, customer=cells))[0].card_token == "card-70001"
    using = mapping(card_token={"template": "card-{customer:text}"})
    assert read(from_parquet(tmp_path, using, customer=cells))[0].card_token != "card-70001"


def test_whole_types_need_no_choice(tmp_path: Path) -> None:
    for cells in (pa.array([70001]), pa.array([Decimal(70001)]), pa.array([70001], pa.uint64())):
        assert read(from_parquet(tmp_path, customer=cells))[0].card_token == "card-70001"


@pytest.mark.parametrize(
    "cells",
    [
        pa.array([1.5]),
        pa.array([9007199254740993.0]),
        pa.array([16_777_217.0], pa.float32()),
        pa.array([float("inf")]),
        pa.array(["9007199254740993.0"]),
        pa.array(["4.00000E+15"]),
        pa.array(["1e999999999"]),
        pa.array(["１２"]),
        pa.array(["1_0"]),
        pa.array(["card"]),
        pa.array([True]),
    ],
    ids=lambda c: f"{c.type}-{c[0]}",
)
def test_what_is_no_whole_number_or_no_longer_exact_is_refused(
    tmp_path: Path, cells: pa.Array
) -> None:
    using = mapping(card_token={"template": "card-{customer:integer}"})
    (said,) = errors(from_parquet(tmp_path, using, customer=cells))
    assert said.startswith("column customer: ")


def test_long_numbers_in_text_stay_as_long_as_they_are(tmp_path: Path) -> None:
    using = mapping(card_token={"template": "card-{customer:integer}"})
    row = changed(customer="0012345678901234567890")
    assert only(mapped(tmp_path, row, using=using)).card_token == "card-12345678901234567890"


def test_zeros_are_filled_in_front(tmp_path: Path) -> None:
    using = mapping(mcc={"template": "{customer:04}"})
    assert only(mapped(tmp_path, changed(customer="742"), using=using)).mcc == "0742"
    using = mapping(card_token={"constant": "c"}, mcc={"template": "{customer:integer:04}"})
    assert read(from_parquet(tmp_path, using, customer=pa.array([742.0])))[0].mcc == "0742"


@pytest.mark.parametrize(
    "template", ["{customer:4}", "{customer:099}", "{customer:integer:text}", "{customer:x}"]
)
def test_what_stands_behind_a_column_is_one_of_four(tmp_path: Path, template: str) -> None:
    with pytest.raises(Misconfigured, match="integer, text, lower, or a width"):
        mapped(tmp_path, GOOD, using=mapping(card_token={"template": template}))


def test_capitals_become_small_letters(tmp_path: Path) -> None:
    using = mapping(region={"template": "us-{customer:lower}"})
    assert only(mapped(tmp_path, changed(customer="NY"), using=using)).region == "us-ny"


def test_a_template_can_say_what_stands_for_a_missing_part(tmp_path: Path) -> None:
    """An id of several columns must not be lost, or be one for all, where one of them is empty."""
    using = mapping(card_token={"template": "{shop}-{till}-{device}", "missing": "na"})
    assert only(mapped(tmp_path, GOOD, using=using)).card_token == "s1-2-na"
    nothing = changed(shop="", till="NULL")
    said = refused(mapped(tmp_path, nothing, using=using))
    assert "column shop, till, device: empty, and card_token is required" in said


def test_an_empty_part_of_an_id_is_told_with_the_key_that_keeps_the_others(tmp_path: Path) -> None:
    """`default` was named, and made one card of all rows without an address."""
    using = mapping(card_token={"template": "{shop}-{till}-{device}"})
    said = refused(mapped(tmp_path, GOOD, using=using))
    assert "column shop, till, device: one is empty, and card_token is required; missing:" in said


def test_a_text_that_is_no_id_is_told_with_the_key_that_makes_one(tmp_path: Path) -> None:
    """As names of devices and shops with blanks in them: a pattern was all that was said."""
    said = refused(mapped(tmp_path, changed(device="iOS Device")))
    assert said.startswith("column device (device_id): ")
    assert "; hash: in the mapping makes an id of any text; at " in said


@pytest.mark.parametrize(
    ("field", "cell", "remedy"),
    [
        (
            "region",
            "SP",
            "{column:lower} in a template is in small letters; values: translates; at ",
        ),
        ("channel", "web", "; values: translates; at "),
        ("mcc", "books", "; values: translates; at "),
        ("currency", "R$", "; values: translates; at "),
        ("card_country", "XX", "; values: translates; at "),
    ],
)
def test_a_value_that_a_field_does_not_have_is_told_with_the_key_that_translates(
    tmp_path: Path, field: str, cell: str, remedy: str
) -> None:
    using = mapping(**{field: {"column": "device"}})
    said = refused(mapped(tmp_path, changed(device=cell), using=using))
    assert said.startswith(f"column device ({field}): ")
    assert remedy in said


def test_a_rows_line_can_be_its_id(tmp_path: Path) -> None:
    using = mapping(authorization_id={"template": "bank-{$line}"}, device_id={"column": "$line"})
    result = mapped(tmp_path, GOOD, GOOD, using=using)
    found = [decode_authorization(v) for v in result.values]
    assert [(a.authorization_id, a.device_id) for a in found] == [("bank-2", "2"), ("bank-3", "3")]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_lines_count_on_through_the_parts_of_a_folder_so_that_ids_stay_apart(
    tmp_path: Path, kind: str
) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    for number in range(3):
        path = parts / f"part-{number}"
        if kind == "csv":
            path.write_text(f"{COLUMNS}\n{GOOD}\n{GOOD}\n")
        else:
            pq.write_table(pa.table({name: [cell] * 2 for name, cell in ROW.items()}), path)
    table = Table(parts)
    using = mapping(authorization_id={"template": "bank-{$line}"})
    mapper = Mapper(using, None, table.columns, "parts")
    found = [
        decode_authorization(value).authorization_id
        for batch in table.batches(mapper.wanted)
        for value in mapper.apply(batch).values
    ]
    lines = [2, 3, 5, 6, 8, 9] if kind == "csv" else [1, 2, 3, 4, 5, 6]
    assert found == [f"bank-{line}" for line in lines]


@pytest.mark.parametrize(
    ("kind", "value", "minor"),
    [
        (pa.float32(), 19.99, 1999),
        (pa.float32(), 99_999.99, 9_999_999),
        (pa.float64(), 19.99, 1999),
        (pa.float64(), 12_345_678.9, 1_234_567_890),
        (pa.decimal128(10, 4), Decimal("19.9900"), 1999),
        (pa.int16(), 7, 700),
    ],
)
def test_amounts_of_each_type_are_what_they_print(
    tmp_path: Path, kind: pa.DataType, value: Any, minor: int
) -> None:
    (auth,) = read(from_parquet(tmp_path, amount=pa.array([value], kind)))
    assert auth.amount_minor == minor


def test_a_float_too_large_to_hold_cents_is_refused(tmp_path: Path) -> None:
    """200000.01 is 200000.02 in 32 bits."""
    (said,) = errors(from_parquet(tmp_path, amount=pa.array([200_000.01], pa.float32())))
    assert said == "column amount: not an amount, or a float too large to be exact"


def test_dates_and_times_of_parquet_make_a_moment(tmp_path: Path) -> None:
    using = mapping(event_at={"template": "{customer} {till}", "zone": "UTC"})
    found = from_parquet(
        tmp_path, using, customer=[date(2026, 7, 1)], till=[time(11, 0, 5)], shop=["s"]
    )
    assert read(found)[0].event_at == 1_782_903_605_000_000
    using = mapping(event_at={"column": "time", "zone": "UTC"})
    assert read(from_parquet(tmp_path, using, time=[date(2026, 7, 1)]))[0].event_at == (
        1_782_864_000_000_000
    )
