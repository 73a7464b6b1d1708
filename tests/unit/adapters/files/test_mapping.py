import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sluice.adapters.files.mapping import (
    LabelMapping,
    Mapper,
    Mapping,
    load_labels,
    load_mapping,
)
from sluice.adapters.files.row_batch import RowBatch
from sluice.adapters.files.tables import Table
from sluice.application.publish import Mapped
from sluice.domain.records.authorization import Authorization, decode_authorization
from sluice.errors import Misconfigured

BANK = {
    "authorization_id": {"column": "id"},
    "event_at": {"column": "time", "zone": "Europe/Lisbon"},
    "card_token": {"template": "card-{customer}"},
    "merchant_id": {"column": "shop"},
    "terminal_id": {"template": "{shop}-{till}"},
    "mcc": {"constant": "5411"},
    "channel": {"column": "entry", "values": {"C": "contactless", "K": "ecom"}, "default": "pos"},
    "amount": {"column": "amount", "unit": "major"},
    "currency": {"column": "currency"},
    "merchant_country": {"constant": "PT"},
    "card_country": {"constant": "PT"},
    "region": {"constant": "eea"},
    "tenant": {"constant": "bank"},
    "device_id": {"column": "device"},
}
COLUMNS = "id,time,customer,shop,till,entry,amount,currency,device,fraud"
GOOD = "a1,2026-07-01T12:00:00,7,s1,2,C,12.34,EUR,,0"


def mapping(**changes: object) -> Mapping:
    return msgspec.convert({**BANK, **changes}, Mapping)


def mapped(
    tmp_path: Path, *lines: str, using: Mapping | None = None, labels: LabelMapping | None = None
) -> Mapped:
    path = tmp_path / "bank.csv"
    path.write_text("\n".join([COLUMNS, *lines]) + "\n")
    how = using or mapping()
    table = Table(path, how)
    mapper = Mapper(how, labels, table.columns, path.name)
    (batch,) = table.batches(mapper.wanted)
    return mapper.apply(batch)


def only(result: Mapped) -> Authorization:
    assert not result.bad, [str(row.error) for row in result.bad]
    (value,) = result.values
    return decode_authorization(value)


def refused(result: Mapped) -> str:
    assert not result.values
    (row,) = result.bad
    return str(row.error)


def changed(**cells: str) -> str:
    row = dict(zip(COLUMNS.split(","), GOOD.split(","), strict=True))
    return ",".join({**row, **cells}.values())


def test_a_row_becomes_an_authorization(tmp_path: Path) -> None:
    result = mapped(tmp_path, GOOD)
    auth = only(result)
    assert auth == Authorization(
        authorization_id="a1",
        event_at=int(datetime(2026, 7, 1, 11, tzinfo=UTC).timestamp()) * 1_000_000,
        card_token="card-7",
        merchant_id="s1",
        terminal_id="s1-2",
        mcc="5411",
        channel="contactless",
        amount_minor=1234,
        currency="EUR",
        merchant_country="PT",
        card_country="PT",
        region="eea",
        tenant="bank",
    )
    assert result.keys == ["card-7"]
    assert result.event_at == [auth.event_at]


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [
        ("12.3", "EUR", 1230),
        ("0.29", "EUR", 29),
        ("1.15", "EUR", 115),
        ("90071992.41", "EUR", 9_007_199_241),
        ("1234", "JPY", 1234),
        ("1234.00", "JPY", 1234),
        ("1.001", "KWD", 1001),
        (" 7 ", "EUR", 700),
    ],
)
def test_amounts_are_exact_in_each_currency(
    tmp_path: Path, amount: str, currency: str, minor: int
) -> None:
    result = mapped(tmp_path, changed(amount=amount, currency=currency))
    assert only(result).amount_minor == minor


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"amount": "12.345"}, "column amount: more decimals than EUR has: 2"),
        ({"amount": "twelve"}, "column amount: not an amount"),
        ({"amount": "NaN"}, "column amount: not an amount"),
        ({"amount": "1e999999999"}, "column amount: not an amount"),
        ({"amount": ""}, "column amount: not an amount"),
        ({"amount": "-1"}, "amount_minor"),
        ({"currency": "EURO"}, "currency"),
        ({"currency": "XYZ"}, "ISO 4217"),
        ({"currency": ""}, "column currency: empty, and currency is required"),
        ({"time": "yesterday"}, "column time: not a time of format iso"),
        ({"time": ""}, "column time"),
        ({"time": "2026-03-29T01:30:00"}, "skipped"),
        ({"entry": "X"}, "a value that the mapping of channel does not list"),
        ({"customer": ""}, "column customer: empty, and card_token is required; default: in"),
        ({"shop": "4111111111111111"}, "card number"),
        ({"shop": "４１１１１１１１１１１１１１１１"}, "regex"),
        ({"amount": "１２.34"}, "column amount: not an amount"),
        ({"amount": "١٢.34"}, "column amount: not an amount"),
        ({"amount": "1_2.34"}, "column amount: not an amount"),
        ({"time": "２０２６-07-01T12:00:00"}, "column time: not a time of format iso"),
    ],
)
def test_a_bad_cell_is_told_with_line_and_column_and_without_its_value(
    tmp_path: Path, cells: dict[str, str], says: str
) -> None:
    result = mapped(tmp_path, GOOD, changed(id="a2", **cells))
    (row,) = result.bad
    assert says in str(row.error)
    assert row.error.where == "bank.csv:3"
    assert row.line == 3
    assert row.raw.startswith(b"a2,")
    assert len(result.values) == 1
    for value in cells.values():
        assert len(value) < 5 or value not in str(row.error)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("２０２６0701", "%Y%m%d"),
        ("1782903６00", "epoch_s"),
        ("1_782_903_600", "epoch_s"),
        ("", "%Y"),
        ("inf", "epoch_ms"),
        ("٣", "%H"),
    ],
)
def test_a_time_is_of_the_digits_0_to_9(tmp_path: Path, text: str, form: str) -> None:
    event_at = {"column": "time", "format": form, "zone": "UTC"}
    result = mapped(tmp_path, GOOD, changed(time=text), using=mapping(event_at=event_at))
    assert "column time: not a time of format" in str(result.bad[-1].error)


def test_what_breaks_the_reading_of_a_row_leaves_the_others_alone(tmp_path: Path) -> None:
    def check(auth: Authorization) -> None:
        if auth.authorization_id == "a2":
            raise IndexError(f"a bug that repeats {auth.card_token}")

    path = tmp_path / "bank.csv"
    path.write_text("\n".join([COLUMNS, GOOD, changed(id="a2"), changed(id="a3")]) + "\n")
    table = Table(path)
    (batch,) = table.batches(Mapper(mapping(), None, table.columns, path.name).wanted)
    result = Mapper(mapping(), None, table.columns, path.name, check).apply(batch)
    (row,) = result.bad
    assert (row.line, row.error.code) == (3, "internal")
    assert "card-7" not in str(row.error)
    assert len(result.values) == 2


def test_a_parquet_row_that_is_no_json_has_bytes_all_the_same(tmp_path: Path) -> None:
    row = RowBatch([1], {"a": [1 << 70], "b": ["\udc80"]})
    assert row.raw(0) == RowBatch([2], {"a": [1 << 70], "b": ["\udc80"]}).raw(0)


def test_a_files_name_and_columns_are_made_safe_to_show(tmp_path: Path) -> None:
    path = tmp_path / "bank\x1b[2J\udc80.csv"
    path.write_text("id,\x1b]0;owned\x07\nrow,1\n")
    table = Table(path)
    with pytest.raises(Misconfigured) as caught:
        Mapper(mapping(), None, table.columns, path.name)
    said = str(caught.value)
    assert said.isprintable()
    assert "bank\\x1b[2J\\udc80.csv" in said
    assert "\\x1b]0;owned\\x07" in said


@pytest.mark.parametrize(
    ("text", "form", "zone"),
    [
        ("2026-07-01T13:00:00+02:00", "iso", None),
        ("2026-07-01 11:00:00Z", "iso", None),
        ("2026-07-01 12:00:00", "iso", "Europe/Lisbon"),
        ("01/07/2026 08.00.00", "%d/%m/%Y %H.%M.%S", "America/Sao_Paulo"),
        ("20260701110000+0000", "%Y%m%d%H%M%S%z", None),
        ("1782903600", "epoch_s", None),
        ("1782903600000", "epoch_ms", None),
        ("1782903600.000000", "epoch_s", None),
        ("1782903600000000", "epoch_us", None),
    ],
)
def test_times_of_many_formats_are_one_instant(
    tmp_path: Path, text: str, form: str, zone: str | None
) -> None:
    using = mapping(event_at={"column": "time", "format": form, "zone": zone})
    assert only(mapped(tmp_path, changed(time=text), using=using)).event_at == 1782903600000000


def test_a_wall_time_that_was_twice_is_the_first(tmp_path: Path) -> None:
    auth = only(mapped(tmp_path, changed(time="2026-10-25T01:30:00")))
    assert auth.event_at == int(datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()) * 1_000_000


def test_a_naive_time_without_a_zone_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="without a time zone") as caught:
        mapped(tmp_path, GOOD, using=mapping(event_at={"column": "time"}))
    assert caught.value.where == "bank.csv:2"


def test_a_decimal_comma_is_read_where_the_mapping_says_so(tmp_path: Path) -> None:
    using = mapping(amount={"column": "amount", "unit": "major", "decimal_mark": ","})
    assert only(mapped(tmp_path, changed(amount='"12,34"'), using=using)).amount_minor == 1234
    assert "a point" in refused(mapped(tmp_path, changed(amount="1.234"), using=using))


def test_minor_units_must_be_whole(tmp_path: Path) -> None:
    using = mapping(amount={"column": "amount", "unit": "minor"})
    assert only(mapped(tmp_path, changed(amount="1234"), using=using)).amount_minor == 1234
    assert "whole number" in refused(mapped(tmp_path, changed(amount="12.5"), using=using))


def test_an_empty_cell_takes_the_default(tmp_path: Path) -> None:
    assert only(mapped(tmp_path, changed(entry=""))).channel == "pos"


def test_labels_are_known_after_the_delay(tmp_path: Path) -> None:
    how = LabelMapping(column="fraud", delay_days=1.5, source="bank")
    result = mapped(tmp_path, GOOD, changed(id="a2", fraud="1"), labels=how)
    (label,) = result.labels
    assert label.authorization_id == "a2"
    assert label.is_fraud
    assert label.known_at - label.event_at == 36 * 3_600_000_000
    both = LabelMapping(column="fraud", delay_days=1, source="bank", genuine=True)
    result = mapped(tmp_path, GOOD, changed(id="a2", fraud="1"), labels=both)
    assert [x.is_fraud for x in result.labels] == [False, True]


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="no column nope") as caught:
        mapped(tmp_path, GOOD, using=mapping(mcc={"column": "nope"}))
    assert "customer" in caught.value.fix


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mccc": {"constant": "5411"}}, "mccc"),
        ({"mcc": {}}, "one of column, constant and template"),
        ({"mcc": {"constant": "1", "column": "x"}}, "one of column"),
        ({"mcc": {"column": "x", "missing": "na"}}, "missing goes with a template"),
        ({"event_at": {"column": "t", "zone": "Mars/Base"}}, "Mars/Base"),
        ({"event_at": {"column": "t", "format": "%Y"}}, "zone is needed"),
        ({"event_at": {"column": "t", "format": "unix"}}, "unix"),
        ({"amount": {"column": "a", "unit": "cents"}}, "cents"),
    ],
)
def test_a_wrong_mapping_is_refused_with_its_key(
    tmp_path: Path, change: dict[str, object], says: str
) -> None:
    path = tmp_path / "m.yaml"
    path.write_bytes(msgspec.yaml.encode({**BANK, **change}))
    with pytest.raises(Misconfigured, match=says):
        load_mapping(str(path))


def test_missing_in_a_template_of_one_column_names_default(tmp_path: Path) -> None:
    wrong = {"template": "shop-{shop}", "missing": "none"}
    with pytest.raises(Misconfigured, match="names one; at merchant_id; fix: default: none"):
        mapped(tmp_path, GOOD, using=mapping(merchant_id=wrong))
    right = {"template": "shop-{shop}", "default": "shop-none"}
    using = mapping(merchant_id=right, terminal_id={"constant": "t"})
    result = mapped(tmp_path, changed(shop=""), using=using)
    assert only(result).merchant_id == "shop-none"


@pytest.mark.parametrize("template", ["plain", "{customer:>9}", "{customer!r}", "{", "{}"])
def test_a_template_holds_plain_column_names(tmp_path: Path, template: str) -> None:
    with pytest.raises(Misconfigured):
        mapped(tmp_path, GOOD, using=mapping(card_token={"template": template}))


def test_a_missing_mapping_tells_which_are_bundled(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="handbook"):
        load_mapping(str(tmp_path / "none.yaml"))


def test_the_handbook_mapping_reads_its_table(tmp_path: Path) -> None:
    """The columns and types of handbook-transactions.parquet, with rows of our own."""
    table = pa.table(
        {
            "transaction_id": pa.array([0, 1], pa.int32()),
            "timestamp": pa.array([1_522_540_831_000, 1_538_351_997_000], pa.timestamp("ms")),
            "customer_id": pa.array([596, 4961], pa.int32()),
            "terminal_id": pa.array([3156, 3412], pa.int32()),
            "amount_cents": pa.array([5716, 262_800], pa.int32()),
            "is_fraud": pa.array([False, True]),
            "scenario": pa.array([0, 1], pa.int8()),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    source = Table(tmp_path / "t.parquet")
    mapper = Mapper(
        load_mapping("handbook"), load_labels("handbook-labels"), source.columns, "t.parquet"
    )
    assert "scenario" not in mapper.wanted
    (batch,) = source.batches(mapper.wanted)
    result = mapper.apply(batch)
    first, second = map(decode_authorization, result.values)
    assert not result.bad
    assert (first.authorization_id, first.card_token) == ("handbook-0", "card-596")
    assert (first.terminal_id, first.merchant_id) == ("terminal-3156", "terminal-3156")
    assert (first.event_at, first.amount_minor) == (1_522_540_831_000_000, 5716)
    assert [(label.authorization_id, label.is_fraud) for label in result.labels] == [
        (first.authorization_id, False), (second.authorization_id, True),
    ]  # fmt: skip


def test_parquet_floats_are_read_as_they_print_and_decimals_as_they_are(tmp_path: Path) -> None:
    from decimal import Decimal

    rows = {name: ["x", "y"] for name in COLUMNS.split(",")}
    rows |= {"time": ["2026-07-01T12:00:00Z"] * 2, "entry": ["C", "C"], "currency": ["EUR", "EUR"]}
    for amounts in (pa.array([0.29, 1.15]), pa.array([Decimal("0.29"), Decimal("1.15")])):
        pq.write_table(pa.table({**rows, "amount": amounts}), tmp_path / "t.parquet")
        table = Table(tmp_path / "t.parquet")
        mapper = Mapper(mapping(), None, table.columns, "t")
        (batch,) = table.batches(mapper.wanted)
        found = [decode_authorization(v).amount_minor for v in mapper.apply(batch).values]
        assert found == [29, 115]


@pytest.mark.parametrize(
    ("using", "cells", "says"),
    [
        ({}, {"shop": "Cafe Central"}, r"column shop \(merchant_id\): Expected .*regex"),
        ({}, {"till": "1 2"}, r"column shop, till \(terminal_id\): Expected .*regex"),
        ({}, {"id": "x" * 65}, r"column id \(authorization_id\): .*length <= 64"),
        ({}, {"currency": "EUQ"}, r"column currency \(currency\): "),
        ({"merchant_country": {"column": "till"}}, {"till": "QQ"}, r"column till \(merchant_c"),
        ({"channel": {"column": "till"}}, {"till": "x"}, r"column till \(channel\): Invalid"),
        ({}, {"time": "2200-01-01T00:00:00"}, r"column time \(event_at\): Expected .*<="),
        ({}, {"time": "1960-01-01T00:00:00"}, r"column time \(event_at\): Expected .*>="),
        ({}, {"amount": "-1"}, r"column amount \(amount_minor\): Expected .*>= 0"),
        ({}, {"device": "4111111111111111"}, r"column device \(device_id\): .*card number"),
        ({"tenant": {"constant": "A B"}}, {}, r"the mapping's constant tenant: Expected"),
    ],
)
def test_a_row_that_the_records_own_check_refuses_names_its_column(
    tmp_path: Path, using: dict[str, object], cells: dict[str, str], says: str
) -> None:
    told = refused(mapped(tmp_path, changed(**cells), using=mapping(**using)))
    assert re.match(says, told), told
    assert "4111111111111111" not in told
