"""Files as Excel, databases, Spark and bad copies leave them: read, or refused with the fix."""

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sluice.adapters.files import csv_rows, opened
from sluice.adapters.files.dialect import Dialect
from sluice.adapters.files.row_batch import RowBatch
from sluice.adapters.files.tables import Table
from sluice.application.publish import BadRow
from sluice.errors import Misconfigured, Rejected, SluiceError, Unavailable

AB = {"a", "b"}
ROWS = 60_000
PLAIN = b"a,b\n" + b"".join(b"%d,x%d\n" % (n, n) for n in range(ROWS))
ZSTD = pa.compress(PLAIN, codec="zstd", asbytes=True)


def gzipped(raw: bytes) -> bytes:
    """The same bytes at any time: they are in the names of tests."""
    return gzip.compress(raw, mtime=0)


PACKED = {
    "csv.gz": gzipped(PLAIN),
    "csv.bz2": bz2.compress(PLAIN),
    "csv.xz": lzma.compress(PLAIN),
    "csv.zst": ZSTD,
}


def file(folder: Path, content: bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content)
    return path


def read(
    path: Path, how: Dialect | None = None, **more: int
) -> tuple[list[tuple[str, str]], list[BadRow], SluiceError | None]:
    """All rows, the bad ones, and what ended it."""
    rows: list[tuple[str, str]] = []
    bad: list[BadRow] = []
    try:
        for batch in Table(path, how).batches(AB, **more):
            rows += zip(batch.columns["a"], batch.columns["b"], strict=True)
            bad += batch.bad
    except SluiceError as error:
        return rows, bad, error
    return rows, bad, None


def table(n: int, stray: dict[int, bytes]) -> bytes:
    """n rows of which some hold something else."""
    return b"a,b\n" + b"".join(stray.get(i, b"%d,x" % i) + b"\n" for i in range(n))


@pytest.mark.parametrize("multiline", [False, True])
@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"])
def test_a_stray_quote_costs_its_own_row(tmp_path: Path, multiline: bool, ends: bytes) -> None:
    raw = table(3_000, {4: b'4,"x'}).replace(b"\n", ends)
    rows, bad, error = read(file(tmp_path, raw), Dialect(multiline=multiline))
    assert (len(rows), [row.line for row in bad], error) == (2_999, [6], None)
    assert "quotes" in bad[0].error.what
    assert "quote: none" in bad[0].error.fix


def test_two_stray_quotes_make_one_row_of_two_only_where_the_mapping_lets_rows_span_lines(
    tmp_path: Path,
) -> None:
    path = file(tmp_path, b'a,b\n1,"BOBS\n2,x\n3,BOBS"\n4,y\n')
    rows, bad, _ = read(path)
    assert rows == [("2", "x"), ("3", 'BOBS"'), ("4", "y")]
    assert [row.line for row in bad] == [2]
    rows, bad, _ = read(path, Dialect(multiline=True))
    assert rows == [("2", "x"), ("3", 'BOBS"'), ("4", "y")]
    assert [(row.line, "row by itself" in row.error.what) for row in bad] == [(2, True)]


def test_a_cell_of_some_lines_is_read_where_the_mapping_says_so(tmp_path: Path) -> None:
    path = file(tmp_path, b'a,b\n1,"two\nlines"\n2,x\n')
    assert read(path, Dialect(multiline=True))[0] == [("1", "two\nlines"), ("2", "x")]
    rows, bad, _ = read(path)
    assert rows == [("2", "x")]
    assert [row.line for row in bad] == [2, 3]


def test_a_quote_is_followed_over_so_many_lines_and_no_further(tmp_path: Path) -> None:
    for more in (0, 1):
        lines = csv_rows.ROW_LINES_MAX + more
        raw = b'a,b\n1,"' + b"\n".join([b"x"] * lines) + b'"\n2,y\n'
        rows, bad, _ = read(file(tmp_path, raw), Dialect(multiline=True))
        assert rows[-1] == ("2", "y")
        assert (len(rows), len(bad)) == ((2, 0) if not more else (1, lines))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_row_over_lines_does_not_depend_on_where_a_batch_ends(tmp_path: Path, size: int) -> None:
    raw = b"a,b\n" + b"".join(
        b'%d,"l\n\n%d"\n' % (n, n) if n % 3 else b'%d,"\n' % n for n in range(40)
    )
    whole = read(file(tmp_path, raw), Dialect(multiline=True))
    parts = read(file(tmp_path, raw), Dialect(multiline=True), size=size)
    assert whole[0] == parts[0]
    assert [row.line for row in whole[1]] == [row.line for row in parts[1]]


def test_without_quotes_every_quote_is_a_character(tmp_path: Path) -> None:
    path = file(tmp_path, b'a,b\n1,"x\n2,y"z"\n')
    assert read(path, Dialect(quote="none")) == ([("1", '"x'), ("2", 'y"z"')], [], None)


def test_spark_and_mysql_put_a_backslash_before_a_quote(tmp_path: Path) -> None:
    path = file(tmp_path, b'a,b\n1,"BOB\\"S, x"\n')
    rows, bad, _ = read(path)
    assert (rows, len(bad)) == ([], 1)
    assert "escape" in bad[0].error.fix
    assert read(path, Dialect(escape="\\"))[0] == [("1", 'BOB"S, x')]


def test_apostrophes_may_be_the_quotes(tmp_path: Path) -> None:
    assert read(file(tmp_path, b"a,b\n1,'x,y'\n"), Dialect(quote="'"))[0] == [("1", "x,y")]


@pytest.mark.parametrize("name", PACKED)
def test_packed_files_are_read_by_what_they_hold(tmp_path: Path, name: str) -> None:
    for given in (name, "history.csv"):
        rows, bad, error = read(file(tmp_path, PACKED[name], given))
        assert (len(rows), bad, error) == (ROWS, [], None)


@pytest.mark.parametrize("name", PACKED)
def test_a_cut_file_is_read_up_to_there_and_says_so(tmp_path: Path, name: str) -> None:
    whole = PACKED[name]
    rows, bad, error = read(file(tmp_path, whole[: len(whole) // 2], name))
    assert isinstance(error, Rejected)
    assert (error.code, bad) == (opened.DAMAGED, [])
    assert "it is cut" in error.what
    assert rows == [(str(n), f"x{n}") for n in range(len(rows))]
    if name != "csv.bz2":  # one block, so nothing before its checksum
        assert 0 < len(rows) < ROWS
        assert f"after line {len(rows) + 1:,}" in error.what
    assert name in error.where


@pytest.mark.parametrize("name", ["csv.gz", "csv.xz", "csv.bz2"])
def test_of_a_file_whose_checksum_does_not_match_no_row_is_taken(tmp_path: Path, name: str) -> None:
    changed = bytearray(PACKED[name])
    changed[len(changed) // 2] ^= 4
    rows, _, error = read(file(tmp_path, bytes(changed), name))
    assert isinstance(error, Rejected)
    assert (rows, error.code) == ([], opened.DAMAGED)


def test_a_packed_file_cut_in_its_first_bytes_is_no_traceback(tmp_path: Path) -> None:
    for name, whole in PACKED.items():
        for length in (12, 14, 16, 20, 30):
            _, _, error = read(file(tmp_path, whole[:length], name))
            assert isinstance(error, (Rejected, Misconfigured)), (name, length)


@pytest.mark.parametrize(
    ("raw", "how"),
    [
        ("a;b\n1;é\n".encode("utf-16"), {}),
        ("a;b\n1;é\n".encode("utf-16-le"), {}),
        ("a;b\n1;é\n".encode("utf-16-be"), {}),
        ("\ufeffa;b\n1;é\n".encode("utf-16-be"), {}),
        ("a;b\r\n1;é\r\n".encode("utf-16-le"), {"encoding": "utf-16-le"}),
        ("a;b\n1;é\n".encode("utf-8-sig"), {"encoding": "cp1252"}),
        ("a;b\n1;é\n".encode("cp1252"), {"encoding": "cp1252"}),
        (gzipped("a;b\n1;é\n".encode("utf-16")), {}),
    ],
)
def test_other_encodings_are_read(tmp_path: Path, raw: bytes, how: dict[str, str]) -> None:
    assert read(file(tmp_path, raw), Dialect(delimiter=";", **how))[0] == [("1", "é")]


@pytest.mark.parametrize("encoding", ["gb18030", "shift_jis", "euc-kr", "big5"])
def test_encodings_of_more_than_a_byte_refuse_the_row_that_is_none(
    tmp_path: Path, encoding: str
) -> None:
    raw = "a,b\n1,中\n".encode(encoding) + b"2,\xff\xff\n3,x\n"
    rows, bad, _ = read(file(tmp_path, raw), Dialect(encoding=encoding))
    assert [row[0] for row in rows] == ["1", "3"]
    assert [(row.line, row.error.what) for row in bad] == [(3, f"column b: not {encoding.upper()}")]


def test_a_row_in_another_encoding_names_its_column_and_one_that_nobody_reads_is_no_matter(
    tmp_path: Path,
) -> None:
    rows, bad, _ = read(file(tmp_path, b"a,b,name\n1,x,Caf\xe9\n2,\xe9,y\n"))
    assert rows == [("1", "x")]
    assert [row.error.what for row in bad] == ["column b: not UTF-8"]
    assert bad[0].raw == b"2,\xe9,y\n"
    assert "encoding" in bad[0].error.fix


@pytest.mark.parametrize("line", [b"sep=;\r\n", b'"sep=;"\n', b"SEP=;\n", b"\xef\xbb\xbfsep=;\r\n"])
def test_excels_first_line_says_what_parts_the_cells(tmp_path: Path, line: bytes) -> None:
    (batch,) = Table(file(tmp_path, line + b"a;b\r\n1;x\r\n")).batches(AB)
    assert (batch.columns, batch.lines) == ({"a": ["1"], "b": ["x"]}, [3])


@pytest.mark.parametrize(
    "raw",
    [
        b"a,b,\n1,x,\n2,y,\n",  # a separator behind each line
        b"a,b\n1,x,\n2,y,,,\n",  # behind rows alone
        b"a,b,,\n1,x\n2,y\n",  # behind the header alone
        b"a,b\n1,x\n,\n2,y\n,,,,\n\n   \n",  # Excel's empty rows
        b",a,b\n0,1,x\n1,2,y\n",  # a data frame's index
        b"a,b\r1,x\r2,y\r",
        b"a,b\r\n1,x\r\n2,y",
        b"a,b\n1,x\r\n2,y\n",
    ],
)
def test_cells_and_rows_without_a_value_are_none(tmp_path: Path, raw: bytes) -> None:
    assert read(file(tmp_path, raw)) == ([("1", "x"), ("2", "y")], [], None)


def test_a_row_of_tabs_is_no_row_and_one_with_a_value_is(tmp_path: Path) -> None:
    path = file(tmp_path, b"a\tb\n\t\n\tx\n")
    assert read(path, Dialect(delimiter="\t"))[0] == [("", "x")]


def test_ragged_rows_are_bad_one_by_one_and_nothing_moves_into_another_column(
    tmp_path: Path,
) -> None:
    rows, bad, _ = read(file(tmp_path, b"a,b,c\n1,x\n2,y,z,extra\n3,v,w\n\0\0\0\0\n"))
    assert rows == [("3", "v")]
    assert [(row.line, row.error.what) for row in bad] == [
        (2, "the row has 2 cells, the header 3"),
        (3, "the row has 4 cells, the header 3"),
        (5, "the row has 1 cells, the header 3, and holds NUL bytes"),
    ]


def test_a_line_without_end_takes_no_memory_and_is_one_bad_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened, "LINE_MAX", 16)
    for ends in (b"\n", b"\r\n", b"\r"):
        for length in (10, 11, 12, 13, 14, 15, 16, 17, 30, 31, 32, 33, 48):
            lines = [b"a,b", b"1,x", b"2," + b"y" * length, b"3,z", b"4,v"]
            for multiline in (False, True):
                rows, bad, _ = read(file(tmp_path, ends.join(lines)), Dialect(multiline=multiline))
                assert [row[0] for row in rows if row[0] != "2"] == ["1", "3", "4"]
                assert len(rows) + len(bad) == 4, (ends, length)
                assert all(len(row[1]) == length for row in rows if row[0] == "2")
                assert all(row.line == 3 for row in bad)


def workbook() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(zipfile.ZipInfo("[Content_Types].xml"), "<x/>")
        archive.writestr(zipfile.ZipInfo("xl/workbook.xml"), "<x/>")
    return made.getvalue()


def zipped() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(zipfile.ZipInfo("t.csv"), "a,b\n1,2\n")
    return made.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("history.xlsx", workbook(), "an Excel workbook.*save it as CSV"),
        ("history.csv", workbook(), "an Excel workbook.*save it as CSV"),
        ("history.zip", zipped(), "a zip archive.*unpack it"),
        ("history.csv", zipped()[:40], "a zip archive.*unpack it"),
        ("history.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 99, "an Excel workbook"),
        ("h.csv.gz", gzipped(gzipped(PLAIN)), "packed twice"),
        ("h.tar.gz", gzipped(b"x" * 257 + b"ustar\0" + b"0" * 99), "a tar archive.*unpack"),
        ("h.csv", b"a\0,b\n1,2\n", "NUL bytes"),
        ("h.csv", "a,b\n1,2\n".encode("utf-32"), "UTF-32"),
        ("h.csv", b"", "there is no header.*the first line names the columns"),
        ("h.csv", b"\xef\xbb\xbf", "there is no header"),
        ("h.csv", b"sep=;\n", "there is no header"),
        ("h.csv.gz", gzipped(b""), "there is no header"),
        ("h.csv", b'a,"b\n1,2\n', "the header is no row of CSV.*quote: none"),
        ("h.csv", b"a,b,a\n1,2,3\n", "column a occurs twice.*a name of its own"),
        ("h.parquet", b"PAR1" + b"\0" * 99, "not parquet.*copy it again"),
        ("h.csv", b"PAR1" + b"\0" * 99, "not parquet.*copy it again"),
        ("h.parquet", b"", "not parquet"),
    ],
)
def test_what_is_no_table_is_refused_with_what_to_do(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    with pytest.raises(Misconfigured, match=says):
        Table(file(tmp_path, content, name))


def test_a_file_with_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    assert read(file(tmp_path, b"a,b\n")) == ([], [], None)
    assert read(file(tmp_path, b"a,b")) == ([], [], None)
    pq.write_table(pa.table({"a": pa.array([], pa.string()), "b": pa.array([], pa.string())}),
                   tmp_path / "t.parquet")  # fmt: skip
    assert read(tmp_path / "t.parquet") == ([], [], None)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(Misconfigured, match="no regular file"):
        Table(tmp_path / "pipe.csv")


def test_a_cell_of_parquet_that_python_cannot_hold_makes_its_row_bad_and_names_its_column(
    tmp_path: Path,
) -> None:
    text = pa.array([b"x", b"\xff", b"y", b"z"], pa.binary())
    times = pa.array([0, 1, 99_999_999_999_999, 2], pa.int64()).cast(pa.timestamp("s"))
    wrong = pa.StringArray.from_buffers(4, *text.buffers()[1:])
    pq.write_table(pa.table({"a": times, "b": wrong}), tmp_path / "t.parquet")
    rows, bad, error = read(tmp_path / "t.parquet")
    assert error is None
    assert [row[1] for row in rows] == ["x", "z"]
    assert [(row.line, row.error.what) for row in bad] == [
        (2, "column b: not UTF-8"),
        (3, "column a: a time out of range: years are 1 to 9999"),
    ]


@pytest.mark.parametrize("kind", [pa.timestamp("ns"), pa.timestamp("ms"), pa.date32(), pa.date64(),
                                  pa.duration("us"), pa.time64("ns")])  # fmt: skip
def test_times_at_the_end_of_their_type_are_no_traceback(tmp_path: Path, kind: pa.DataType) -> None:
    most = 2**31 - 1 if kind == pa.date32() else 2**63 - 1
    stored = pa.int32() if kind == pa.date32() else pa.int64()
    if kind == pa.date64():
        most -= most % 86_400_000
    column = pa.array([0, most, -most, 86_400_000 if kind == pa.date64() else 1], stored)
    pq.write_table(pa.table({"a": column.view(kind), "b": ["x"] * 4}), tmp_path / "t.parquet")
    rows, bad, error = read(tmp_path / "t.parquet")
    assert (error, len(rows) + len(bad)) == (None, 4)


def broken_parquet(path: Path, group: int, *, checksums: bool) -> None:
    """Ten groups of 1,000 rows, of which one has a page overwritten."""
    rows = {"a": [str(n) for n in range(10_000)], "b": [f"x{n}" for n in range(10_000)]}
    pq.write_table(
        pa.table(rows),
        path,
        row_group_size=1_000,
        use_dictionary=False,
        compression="snappy",
        write_page_checksum=checksums,
    )
    column = pq.ParquetFile(path).metadata.row_group(group).column(1)
    raw = bytearray(path.read_bytes())
    at = column.data_page_offset + column.total_compressed_size // 2
    raw[at : at + 40] = b"\xff" * 40
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize("checksums", [False, True])
def test_a_broken_page_ends_it_after_the_rows_before_and_names_the_row_behind(
    tmp_path: Path, checksums: bool
) -> None:
    path = tmp_path / "t.parquet"
    broken_parquet(path, 4, checksums=checksums)
    rows, _, error = read(path)
    assert isinstance(error, Rejected)
    assert (len(rows), error.code) == (4_000, opened.DAMAGED)
    assert "rows 4,001 to 5,000" in error.what
    assert "--from-line 5001" in error.fix
    rows, _, error = read(path, from_line=5_001)
    assert ([row[0] for row in rows], error) == ([str(n) for n in range(5_000, 10_000)], None)


def spark(folder: Path) -> Path:
    """As Spark leaves it: parts, an empty one, one with a header alone, a mark, checksums."""
    for name, content in {
        "part-00000-a.csv": b"a,b\n1,x\n2\n",
        "part-00001-a.csv": b"",
        "part-00002-a.csv": b"a,b\n",
        "part-00010-a.csv.gz": gzipped(b"b,a\nz,4\n"),
        "part-00009-a.csv": b"a,b\n3,y\n",
        "_SUCCESS": b"",
        "_metadata": b"x",
        ".part-00000-a.csv.crc": b"crc",
    }.items():
        file(folder, content, f"history/{name}")
    return folder / "history"


def test_a_folder_of_parts_is_one_table(tmp_path: Path) -> None:
    rows, bad, error = read(spark(tmp_path))
    assert rows == [("1", "x"), ("3", "y"), ("4", "z")]
    assert [(row.file, row.line, row.error.where) for row in bad] == [
        ("part-00000-a.csv", 3, "part-00000-a.csv:3")
    ]
    assert error is None


def test_lines_of_a_folder_count_on_so_that_one_number_says_where_to_go_on(tmp_path: Path) -> None:
    batches = list(Table(spark(tmp_path)).batches(AB))
    assert [(batch.first, batch.last) for batch in batches] == [(2, 3), (6, 6), (8, 8)]
    for start, rest in ((1, 4), (3, 3), (4, 2), (6, 2), (7, 1), (8, 1), (9, 0)):
        rows, bad, _ = read(spark(tmp_path), from_line=start)
        assert len(rows) + len(bad) == rest, start
    rows, _, _ = read(spark(tmp_path), limit=3)
    assert rows == [("1", "x"), ("3", "y")]


def test_folders_named_by_a_value_are_a_column(tmp_path: Path) -> None:
    for day, n in (("b=2026-01-02", 2), ("b=2026-01-01", 1), ("b=x%3A1", 3),
                   ("b=__HIVE_DEFAULT_PARTITION__", 0)):  # fmt: skip
        (tmp_path / "h" / day).mkdir(parents=True)
        pq.write_table(pa.table({"a": [str(n)]}), tmp_path / "h" / day / "part-0.parquet")
    rows, bad, error = read(tmp_path / "h")
    assert rows == [("1", "2026-01-01"), ("2", "2026-01-02"), ("0", ""), ("3", "x:1")]
    assert (bad, error) == ([], None)


def test_a_part_that_lacks_a_column_is_named_before_the_first_row(tmp_path: Path) -> None:
    file(tmp_path, b"a,b\n1,x\n", "h/1.csv")
    file(tmp_path, b"a,c\n1,x\n", "h/2.csv")
    with pytest.raises(Misconfigured, match=r"no column b.*2\.csv"):
        Table(tmp_path / "h").batches(AB)


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    file(tmp_path, b"", "h/_SUCCESS")
    with pytest.raises(Misconfigured, match="holds no file"):
        Table(tmp_path / "h")


def test_a_broken_page_of_a_folder_is_named_by_the_line_of_all(tmp_path: Path) -> None:
    file(tmp_path, b"a,b\n1,x\n", "h/1.csv")
    broken_parquet(tmp_path / "h/2.parquet", 0, checksums=False)
    rows, _, error = read(tmp_path / "h")
    assert error is not None
    assert (rows, "--from-line 1003" in error.fix) == ([("1", "x")], True)
    rows, _, error = read(tmp_path / "h", from_line=1_003)
    assert (len(rows), rows[0], error) == (9_000, ("1000", "x1000"), None)


@pytest.mark.parametrize(
    "how",
    [
        {"quote": "''"},
        {"quote": ","},
        {"escape": '"'},
        {"quote": ""},
        {"delimiter": "\n"},
        {"multiline": True, "quote": "none"},
    ],
)
def test_a_dialect_that_cannot_be_is_refused(how: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"quote|delimiter"):
        Dialect(**how)


def test_a_batch_without_some_rows_keeps_the_others(tmp_path: Path) -> None:
    batch = RowBatch([2, 3], {"a": [1, 2]}, ["x\n", "y\n"], first=2, last=3, file="t")
    left = batch.without({0: Rejected("column a: strange")})
    assert (left.lines, left.columns, left.raws) == ([3], {"a": [2]}, ["y\n"])
    assert (left.bad[0].raw, str(left.bad[0].error)) == (b"x\n", "column a: strange; at t:2")


def test_what_cannot_be_read_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="nowhere"):
        Table(tmp_path / "nowhere.csv")
