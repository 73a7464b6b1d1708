"""What a label's column says: fraud, none, nothing yet; anything else is refused by its value."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sluice.adapters.files.flags import REMEMBERED_MAX, LabelMapping, one_of
from sluice.adapters.files.mapping import Mapper, load_labels
from sluice.adapters.files.tables import Table
from sluice.application.publish import Mapped
from sluice.errors import Misconfigured
from tests.unit.adapters.files.test_mapping import COLUMNS, GOOD, changed, mapped, mapping

ROW = dict(zip(COLUMNS.split(","), GOOD.split(","), strict=True))


def how(**changes: Any) -> LabelMapping:
    given = {"column": "fraud", "delay_days": 1, "source": "bank", "genuine": True, **changes}
    return msgspec.convert(given, LabelMapping)


def of_text(folder: Path, value: str, **changes: Any) -> Mapped:
    return mapped(folder, changed(fraud=value), labels=how(**changes))


def of_parquet(folder: Path, cells: pa.Array, **changes: Any) -> Mapped:
    n = len(cells)
    table = pa.table(
        {**{k: [v] * n for k, v in ROW.items()}, "id": list("abcdefgh"[:n]), "fraud": cells}
    )
    pq.write_table(table, folder / "t.parquet")
    source = Table(folder / "t.parquet")
    mapper = Mapper(mapping(), how(**changes), source.columns, "t.parquet")
    (batch,) = source.batches(mapper.wanted)
    return mapper.apply(batch)


def verdicts(result: Mapped) -> list[bool]:
    assert not result.bad, [str(row.error) for row in result.bad]
    return [label.is_fraud for label in result.labels]


@pytest.mark.parametrize(
    "fraud", ["1", "1.0", "1.", "+1", "01", "true", "True", "TRUE", "t", "yes", "Yes", "Y", " y "]
)
def test_a_true_in_text_is_fraud(tmp_path: Path, fraud: str) -> None:
    assert verdicts(of_text(tmp_path, fraud)) == [True]


@pytest.mark.parametrize("none", ["0", "0.0", "-0", "false", "False", "F", "no", "No", "N", "n"])
def test_a_false_in_text_is_none(tmp_path: Path, none: str) -> None:
    assert verdicts(of_text(tmp_path, none)) == [False]
    assert not of_text(tmp_path, none, genuine=False).labels


@pytest.mark.parametrize(
    "cells",
    [
        pa.array([True, False]),
        pa.array([1, 0], pa.int8()),
        pa.array([1.0, 0.0]),
        pa.array([1.0, 0.0], pa.float32()),
        pa.array([np.float16(1), np.float16(0)], pa.float16()),
        pa.array([Decimal("1.00"), Decimal("0.00")]),
        pa.array(["1.0", "0.0"]),
        pa.array(["Yes", "No"]).dictionary_encode(),
        pa.array([b"1", b"0"]),
        pa.array([b"\x01", b"\x00"]),
        pa.array([b"\x01", b"\x00"], pa.binary(1)),
    ],
    ids=lambda c: str(c.type),
)
def test_every_type_of_parquet_says_the_same(tmp_path: Path, cells: pa.Array) -> None:
    assert verdicts(of_parquet(tmp_path, cells)) == [True, False]


@pytest.mark.parametrize(
    "value", ["maybe", "2", "0.5", "1.5", "-1", "oui", "1_0", "１", "true false"]
)
def test_what_is_in_neither_list_is_refused_with_its_value(tmp_path: Path, value: str) -> None:
    result = of_text(tmp_path, value)
    assert not result.labels
    assert not result.values
    (row,) = result.bad
    assert row.error.what == f'column fraud: "{value}" is neither in fraud nor in not_fraud'


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        (pa.array([2, 3]), '"2"'),
        (pa.array([0.5, 3]), '"0.5"'),
        (pa.array([b"\xff\xfe", b"x"]), '"\ufffd\ufffd"'),
        (pa.array([["a"], ["b"]]), "\"['a']\""),
        (pa.array(["4111111111111111", "x"]), "a long number"),
        (pa.array(["a\x1b[2J", "x"]), '"a\\x1b[2J"'),
    ],
    ids=lambda c: str(getattr(c, "type", "")),
)
def test_other_values_of_parquet_are_refused_and_shown_safely(
    tmp_path: Path, cells: pa.Array, says: str
) -> None:
    result = of_parquet(tmp_path, cells)
    assert len(result.bad) == 2
    assert result.bad[0].error.what == f"column fraud: {says} is neither in fraud nor in not_fraud"


@pytest.mark.parametrize("word", ["", "NULL", "nan", "\\N"])
def test_an_empty_flag_says_what_the_mapping_says(tmp_path: Path, word: str) -> None:
    (row,) = of_text(tmp_path, word).bad
    assert row.error.what.startswith("column fraud: an empty cell; the labels' mapping says")
    unknown = of_text(tmp_path, word, empty="unknown")
    assert verdicts(unknown) == []
    assert len(unknown.values) == 1
    assert verdicts(of_text(tmp_path, word, empty="not_fraud")) == [False]


def test_floats_with_null_as_pandas_writes_them_lose_no_label(tmp_path: Path) -> None:
    cells = pa.array([1.0, 0.0, 1.0, None, float("nan")])
    result = of_parquet(tmp_path, cells)
    assert [label.is_fraud for label in result.labels] == [True, False, True]
    assert [row.line for row in result.bad] == [4, 5]
    assert verdicts(of_parquet(tmp_path, cells, empty="unknown")) == [True, False, True]


def test_lists_of_ones_own_are_compared_alike(tmp_path: Path) -> None:
    own: dict[str, Any] = {"fraud": ["CHB", 3], "not_fraud": ["ok", 0, ""]}
    said = {"chb": True, "CHB": True, "3.0": True, "OK": False, "0": False, "": False}
    for value, is_fraud in said.items():
        assert verdicts(of_text(tmp_path, value, **own)) == [is_fraud]
    assert of_text(tmp_path, "1", **own).bad


def test_a_flag_may_be_the_other_way_round(tmp_path: Path) -> None:
    good: dict[str, Any] = {"fraud": [False], "not_fraud": [True]}
    assert verdicts(of_text(tmp_path, "0", **good)) == [True]
    assert verdicts(of_text(tmp_path, "Y", **good)) == [False]
    assert of_text(tmp_path, "1", fraud=["0"]).bad  # said to be neither


@pytest.mark.parametrize("listed", ["{fraud: [Y]}", "{fraud: [yes]}", "{fraud: [true]}", "{}"])
def test_yaml_without_quotes_means_what_it_says(tmp_path: Path, listed: str) -> None:
    path = tmp_path / "labels.yaml"
    path.write_text("{column: fraud, delay_days: 1, source: bank, genuine: true, " + listed[1:])
    result = mapped(
        tmp_path, changed(fraud="Y"), changed(fraud="no"), labels=load_labels(str(path))
    )
    assert verdicts(result) == [True, False]


def test_a_value_in_both_lists_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.yaml"
    path.write_text("{column: f, delay_days: 1, source: b, fraud: [1], not_fraud: ['1.0']}")
    with pytest.raises(Misconfigured, match="in fraud and in not_fraud"):
        load_labels(str(path))


def test_how_the_file_is_written_stands_in_the_historys_mapping(tmp_path: Path) -> None:
    path = tmp_path / "labels.yaml"
    path.write_text('{column: f, delay_days: 1, source: b, delimiter: ";"}')
    with pytest.raises(Misconfigured, match=r"`delimiter`.*history's file.*--label-file"):
        load_labels(str(path))


def test_a_row_that_is_refused_for_its_flag_says_its_line(tmp_path: Path) -> None:
    result = mapped(tmp_path, GOOD, changed(fraud="maybe"), labels=how())
    (row,) = result.bad
    assert (row.line, str(row.error.where)) == (3, "bank.csv:3")


def test_rows_can_be_left_out_and_are_counted(tmp_path: Path) -> None:
    using = mapping(leave_out={"entry": ["REFUND", 7], "device": [""]})
    rows = [
        changed(entry="refund", device="d"),
        changed(entry="7.0", device="d", amount="no amount"),
        changed(id="a3", device="NULL"),
        changed(id="a4", device="d"),
    ]
    result = mapped(tmp_path, *rows, using=using)
    assert (result.left_out, len(result.values), len(result.bad)) == (3, 1, 0)


def test_many_values_take_no_memory(tmp_path: Path) -> None:
    meanings = one_of(["1"], frozenset({""}))
    values: list[Any] = [*map(str, range(3 * REMEMBERED_MAX)), *map(float, range(5)), *["1"] * 9]
    assert sum(meanings.of(values)) == 1 + 1 + 9
    assert len(meanings._known) <= REMEMBERED_MAX
