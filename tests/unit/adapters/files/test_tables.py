import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sluice.adapters.files.dialect import Dialect
from sluice.adapters.files.tables import Table
from sluice.errors import Misconfigured, Unavailable

AB = {"a", "b"}


def csv_file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    return path


def test_rows_keep_the_line_on_which_they_start(tmp_path: Path) -> None:
    path = csv_file(tmp_path, b'a,b\n1,"two\nlines"\n\n3, four \n')
    (batch,) = Table(path, Dialect(multiline=True)).batches(AB)
    assert batch.columns == {"a": ["1", "3"], "b": ["two\nlines", "four"]}
    assert batch.lines == [2, 5]
    assert batch.raw(0) == b'1,"two\nlines"\n'
    assert (batch.first, batch.last) == (2, 5)


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = csv_file(tmp_path, b"\xef\xbb\xbfa,b\r\n1,2\r\n")
    table = Table(path)
    (batch,) = table.batches(AB)
    assert table.columns == ["a", "b"]
    assert batch.columns == {"a": ["1"], "b": ["2"]}


def test_rows_that_are_none_are_bad_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = csv_file(tmp_path, b'a,b\n1\n2,3,4\n\xff,5\n6,"7"8\n9,10\n')
    (batch,) = Table(path).batches(AB)
    assert batch.columns == {"a": ["9"], "b": ["10"]}
    assert [row.line for row in batch.bad] == [2, 3, 4, 5]
    assert [row.error.where for row in batch.bad] == [f"t.csv:{n}" for n in (2, 3, 4, 5)]
    assert "1 cells, the header 2" in batch.bad[0].error.what
    assert "not UTF-8" in batch.bad[2].error.what
    assert "quotes" in batch.bad[3].error.what
    assert batch.bad[2].raw == b"\xff,5\n"


def test_a_file_is_read_in_bounded_batches(tmp_path: Path) -> None:
    path = csv_file(tmp_path, b"a,b\n" + b"1,2\n" * 25)
    sizes = [len(batch.lines) for batch in Table(path).batches(AB, size=10)]
    assert sizes == [10, 10, 5]


@pytest.mark.parametrize("kind", ["csv", "gz", "parquet"])
def test_reading_can_start_at_a_line_and_stop_after_some_rows(tmp_path: Path, kind: str) -> None:
    numbers = list(range(1, 31))
    if kind == "parquet":
        path = tmp_path / "t.parquet"
        table = pa.table({"a": numbers, "b": numbers})
        pq.write_table(table, path, row_group_size=7)
        shift = 0
    else:
        text = "a,b\n" + "".join(f"{n},{n}\n" for n in numbers)
        path = tmp_path / ("t.csv.gz" if kind == "gz" else "t.csv")
        path.write_bytes(gzip.compress(text.encode()) if kind == "gz" else text.encode())
        shift = 1
    for start, limit in ((1, None), (12, None), (12, 5), (15, 1), (30, 9), (99, None), (3, 0)):
        found = [
            (line, int(value))
            for batch in Table(path).batches(AB, from_line=start + shift, limit=limit, size=4)
            for line, value in zip(batch.lines, batch.columns["a"], strict=True)
        ]
        expected = numbers[start - 1 :][:limit]
        assert found == [(n + shift, n) for n in expected], (start, limit)


def test_parquet_gives_only_the_wanted_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": ["x"], "c": [2]}), tmp_path / "t.parquet")
    (batch,) = Table(tmp_path / "t.parquet").batches(AB)
    assert batch.columns == {"a": [1], "b": ["x"]}
    assert batch.raw(0) == b'{"a":1,"b":"x"}'


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("none.csv", None, Unavailable),
        ("empty.csv", b"", Misconfigured),
        ("twice.csv", b"a,a\n1,2\n", Misconfigured),
        ("wrong.parquet", b"not parquet", Misconfigured),
    ],
)
def test_what_is_no_table_is_refused(
    tmp_path: Path, name: str, content: bytes | None, error: type[Exception]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=name):
        Table(tmp_path / name)
