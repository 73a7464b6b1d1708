"""What was written is read; and whatever becomes of a file's bytes, no row is lost uncounted."""

import csv
import gzip
import io
import re
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from sluice.adapters.files.dialect import Dialect
from sluice.adapters.files.tables import Table
from sluice.application.publish import BadRow
from sluice.errors import SluiceError
from tests.examples import examples

MARKS = st.sampled_from(
    [
        {},
        {"delimiter": ";"},
        {"delimiter": "\t"},
        {"delimiter": "|", "quote": "'"},
        {"quote": "none", "escape": "\\"},
        {"escape": "\\"},
        {"multiline": True},
        {"multiline": True, "delimiter": ";", "escape": "\\"},
    ]
)
LETTERS = "ab1 ,;|\t\"'\\é中\u2028\x1c\x85\U0001f600"
LINE_ENDS = re.compile(r"\r\n|\n|\r")
ENDS = LINE_ENDS.pattern.encode()
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")


def read(path: Path, how: Dialect, names: list[str], **more: int) -> tuple[list[Any], list[BadRow]]:
    rows: list[Any] = []
    bad: list[BadRow] = []
    before = 0
    table = Table(path, how)
    names = [name for name in names if name in table.columns]
    for batch in table.batches(set(names), **more):
        rows += zip(*(batch.columns[name] for name in names), strict=True)
        bad += batch.bad
        assert batch.first > before
        assert batch.last >= max(batch.lines + [row.line for row in batch.bad])
        before = batch.last
    return rows, bad


@given(st.data())
@examples(400)
def test_what_pythons_writer_wrote_in_the_mappings_dialect_is_read(data: st.DataObject) -> None:
    given_marks = data.draw(MARKS)
    how = Dialect(**given_marks)
    letters = LETTERS + ("\n\r" if how.multiline else "")
    if how.quote == "none":
        letters = letters.replace("\\", "")  # the writer does not escape it in 3.11
    width = data.draw(st.integers(2, 4))
    names = [f"c{i}" for i in range(width)]
    row = st.lists(st.text(letters, max_size=6), min_size=width, max_size=width)
    written = data.draw(st.lists(row, max_size=12))
    ends = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    quoting = csv.QUOTE_ALL if data.draw(st.booleans()) else csv.QUOTE_MINIMAL
    if how.multiline:
        quoting = csv.QUOTE_ALL  # 3.11 leaves a line end unquoted that is not its own
    if how.quote == "none":
        quoting = csv.QUOTE_NONE

    def text_of(rows: list[list[str]]) -> str:
        text = io.StringIO()
        csv.writer(
            text,
            delimiter=how.delimiter,
            quotechar=None if how.quote == "none" else how.quote,
            quoting=quoting,
            escapechar=None if how.escape == "none" else how.escape,
            doublequote=how.escape == "none",
            lineterminator=ends,
        ).writerows(rows)
        return text.getvalue()

    raw = text_of([names, *written]).encode(data.draw(st.sampled_from(ENCODINGS)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        path.write_bytes(gzip.compress(raw) if data.draw(st.booleans()) else raw)
        rows, bad = read(path, how, names, size=data.draw(st.integers(1, 5)))
    if how.multiline and any(several(text_of([cells]), how, width) for cells in written):
        assert bad  # what may be several rows is refused, and said
        return
    assert not bad, [str(one.error) for one in bad]
    stripped = [tuple(cell.strip() for cell in cells) for cells in written]
    assert [row for row in rows if any(row)] == [row for row in stripped if any(row)]


def several(text: str, how: Dialect, width: int) -> bool:
    """Whether each line of a row looks like a row."""
    lines = LINE_ENDS.split(text)[:-1]
    return len(lines) > 1 and all(line.count(how.delimiter) == width - 1 for line in lines)


@given(st.data())
@examples(300)
def test_a_changed_byte_costs_its_own_lines_and_no_row_is_lost_uncounted(
    data: st.DataObject,
) -> None:
    how = Dialect(quote=data.draw(st.sampled_from(['"', "none"])))
    lines = [b"a,b,c"] + [
        b'%d,x%d,"q, %d"' % (n, n, n) if how.quote == '"' and n % 3 == 0 else b"%d,x%d,y" % (n, n)
        for n in range(60)
    ]
    raw = bytearray(b"\n".join(lines) + b"\n")
    head = len(lines[0]) + 1
    touched = set()
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(head, len(raw) - 1))
        number = len(re.findall(ENDS, raw[:at]))
        touched |= {number, number + 1} if raw[at] in b"\r\n" else {number}
        raw[at] = data.draw(
            st.one_of(st.integers(0, 255), st.sampled_from(list(b'",\r\n\0\xff\\')))
        )
        if len(re.findall(ENDS, raw)) != len(lines):
            break  # lines count otherwise from here on
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        path.write_bytes(bytes(raw))
        rows, bad = read(path, how, ["a", "b"])
    whole = [(str(n), f"x{n}") for n in range(60) if n + 1 not in touched]
    kept = iter(rows)
    assert all(row in kept for row in whole), "a row that nobody touched is lost"
    physical = re.split(ENDS, bytes(raw))[1:]
    holding = [one for one in physical if one.strip(b'\0 ,"\t\x0b\x0c\x1c\x1d\x1e\x1f')]
    assert len(holding) <= len(rows) + len(bad) <= len(physical)


def seeds() -> dict[str, bytes]:
    """Files of each kind, small."""
    rows = b"".join(b'%d,x%d,"%d"\n' % (n, n, n) for n in range(80))
    text = b"a,b,c\n" + rows
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.parquet"
        names = [str(n) for n in range(80)]
        times = pa.array(range(80), pa.int64()).cast(pa.timestamp("s"))
        pq.write_table(pa.table({"a": names, "b": times, "c": names}), path, row_group_size=20)
        parquet = path.read_bytes()
        pq.write_table(pa.table({"a": names, "b": times, "c": names}), path, compression="none")
        bare = path.read_bytes()
    zstd = pa.compress(text, codec="zstd", asbytes=True)
    return {
        "csv": text,
        "gz": gzip.compress(text, mtime=0),
        "zst": zstd,
        "utf16": text.decode().encode("utf-16"),
        "parquet": parquet,
        "bare.parquet": bare,
    }


SEEDS = seeds()


@given(st.data())
@examples(600)
def test_whatever_becomes_of_a_files_bytes_ends_in_rows_or_in_an_error_of_ours(
    data: st.DataObject,
) -> None:
    name = data.draw(st.sampled_from(sorted(SEEDS)))
    raw = bytearray(SEEDS[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1)) if raw else 0
        match data.draw(st.sampled_from(["flip", "cut", "insert", "remove", "zero"])):
            case "flip" if raw:
                raw[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del raw[at:]
            case "insert":
                raw[at:at] = data.draw(st.binary(min_size=1, max_size=9))
            case "remove":
                del raw[at : at + data.draw(st.integers(1, 9))]
            case "zero":
                raw[at : at + 8] = bytes(len(raw[at : at + 8]))
    how = Dialect(multiline=data.draw(st.booleans()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"t.{name.rpartition('.')[2]}"
        path.write_bytes(bytes(raw))
        try:
            rows, bad = read(path, how, ["a", "b"], size=7)
        except SluiceError:
            return
    if name in ("csv", "gz") and not how.multiline:
        assert len(rows) + len(bad) <= 80 + 9 * 4 + 1
