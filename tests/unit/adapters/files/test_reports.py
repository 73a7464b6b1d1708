"""A file of reports, by the names of its columns and what is told of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sluice.adapters.files.reports import ReportFile
from sluice.domain.records.report import Report
from sluice.errors import Misconfigured, Rejected
from sluice.testing.factories import NOON_US

NOON = datetime.fromtimestamp(NOON_US / 1_000_000, UTC)
CONSTANTS = {"source": "visa-tc40", "kind": "issuer_report", "tenant": "bank"}
HEAD = "report_id,authorization_id,is_fraud,known_at,reason,card_token"


def written(folder: Path, *lines: str) -> Path:
    path = folder / "tc40.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def read(path: Path, columns: dict[str, str] | None = None, **constants: str) -> list[Any]:
    rows = ReportFile(path, columns or {}, CONSTANTS | constants).rows()
    return [row.report for row in rows]


def test_a_row_is_a_report_and_what_is_the_same_in_all_is_told_once(tmp_path: Path) -> None:
    path = written(
        tmp_path, HEAD, f"r-1,a-1,yes,{NOON.isoformat()},6,", f"r-2,a-2,0,{NOON_US},NA,c-1"
    )
    one, other = read(path)
    assert one == Report(
        report_id="r-1",
        authorization_id="a-1",
        is_fraud=True,
        known_at=NOON_US,
        reason="6",
        source="visa-tc40",
        kind="issuer_report",
        tenant="bank",
    )
    assert (other.is_fraud, other.reason, other.card_token) == (False, None, "c-1")


def test_columns_of_other_names_and_columns_that_say_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, "Case,ARN,Amount,known_at", "r-1,a-1,12.50,2026-05-29 12:00:00")
    columns = {"report_id": "Case", "authorization_id": "ARN"}
    [one] = read(path, columns, is_fraud="yes")
    assert (one.report_id, one.authorization_id, one.is_fraud) == ("r-1", "a-1", True)
    assert one.known_at == int(datetime(2026, 5, 29, 12, tzinfo=UTC).timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        ("r-1,a-1,perhaps,,6,", "wrong_type"),
        ("r-1,a-1,yes,yesterday,6,", "bad_format"),
        ("r-1,a-1,yes,,six of them and more,", "bad_format"),
        (",a-1,yes,,6,", "missing_field"),
        ("r-1,a-1,yes,,6,4111111111111111", "card_number"),
    ],
)
def test_a_row_that_is_no_report_says_why_and_the_next_is_read(
    tmp_path: Path, cells: str, code: str
) -> None:
    bad, good = read(written(tmp_path, HEAD, cells, "r-2,a-2,1,,,"))
    assert isinstance(bad, Rejected)
    assert bad.code == code
    assert "4111" not in str(bad)
    assert good.report_id == "r-2"


def test_a_row_knows_its_file_and_line(tmp_path: Path) -> None:
    path = written(tmp_path, HEAD, "r-1,a-1,yes,,,", "r-2,a-2,x,,,")
    rows = list(ReportFile(path, {}, CONSTANTS).rows())
    assert [row.where for row in rows] == ["tc40.csv:2", "tc40.csv:3"]
    assert [row.line for row in ReportFile(path, {}, CONSTANTS).rows(from_line=3)] == [3]


def test_parquet_holds_times_and_flags_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "cases.parquet"
    table = pa.table(
        {
            "report_id": ["r-1"],
            "authorization_id": ["a-1"],
            "is_fraud": [True],
            "known_at": pa.array([NOON_US], pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(table, path)
    [one] = read(path)
    assert (one.is_fraud, one.known_at) == (True, NOON_US)


@pytest.mark.parametrize(
    ("columns", "constants", "says"),
    [
        ({}, {}, "nothing says is_fraud of a report"),
        ({"is_fraud": "Fraud"}, {}, "the file has no column Fraud"),
        ({"fraud": "report_id"}, {"is_fraud": "yes"}, "a report has no fraud"),
        ({}, {"is_fraud": "yes", "amount": "5"}, "a report has no amount"),
        ({"is_fraud": "report_id"}, {}, "nothing says report_id of a report"),
    ],
)
def test_columns_that_do_not_fit_are_refused_before_the_first_row(
    tmp_path: Path, columns: dict[str, str], constants: dict[str, str], says: str
) -> None:
    path = written(tmp_path, "report_id,authorization_id", "r-1,a-1")
    with pytest.raises(Misconfigured, match=says):
        ReportFile(path, columns, CONSTANTS | constants)
