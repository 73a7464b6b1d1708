"""Labels that say themselves since when they are known: in a column, or in a file of their own."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sluice.adapters.files.past import Past, map_past, read_past, with_label_file
from sluice.application.publish import BadRow
from sluice.domain.clock import DAY_US, from_datetime, to_datetime
from sluice.errors import Misconfigured, Rejected
from tests.support.mapping import MAPPING

JANUARY = from_datetime(to_datetime(0).replace(year=2026))
TABLE = """id,at,who,cents,fraud,reported
a,2026-01-01T00:00:00,1,500,1,2026-01-03T12:00:00
b,2026-01-02T00:00:00,2,700,0,
c,2026-01-03T00:00:00,3,900,1,2026-01-20T00:00:00
d,2026-01-04T00:00:00,3,900,0,2026-01-30T00:00:00
"""
IN_A_COLUMN = (
    "{column: fraud, known_at: {column: reported, zone: UTC}, source: bank, genuine: true}"
)
CHARGEBACKS = """transaction;reported on;verdict
a;03.01.2026 12:00;fraud
c;20.01.2026 00:00;fraud
c;21.01.2026 00:00;friendly
nobody;21.01.2026 00:00;fraud
b;21.01.2026 00:00;open
"""
OF_CHARGEBACKS = """
delimiter: ";"
authorization_id: {column: transaction}
known_at: {column: reported on, format: "%d.%m.%Y %H:%M", zone: UTC}
column: verdict
fraud: [fraud]
not_fraud: [friendly]
source: network
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (
        ("bank.yaml", MAPPING),
        ("bank.csv", TABLE),
        ("labels.yaml", IN_A_COLUMN),
        ("chargebacks.csv", CHARGEBACKS),
        ("chargebacks.yaml", OF_CHARGEBACKS),
    ):
        (tmp_path / name).write_text(text)
    return tmp_path


def mapped(folder: Path, labels: str | None, bad: list[BadRow]) -> Past:
    beside = str(folder / labels) if labels else None
    return map_past(folder / "bank.csv", str(folder / "bank.yaml"), beside, bad.append)


def told(past: Past) -> list[tuple[str, float, bool]]:
    """Id, days since the first of January, fraud; by known_at."""
    return [
        (row["authorization_id"], (row["known_at"] - JANUARY) / DAY_US, row["is_fraud"])
        for row in past.labels.to_pylist()
    ]


def test_a_column_says_since_when_it_is_known(folder):
    bad: list[BadRow] = []
    assert told(mapped(folder, "labels.yaml", bad)) == [
        ("a", 2.5, True),
        ("c", 19.0, True),
        ("d", 29.0, False),
    ]
    assert not bad


@pytest.mark.parametrize(
    ("reported", "what"),
    [
        ("", "empty, where a fraud was known"),
        ("soon", "not a time of format iso"),
        ("2025-12-31T00:00:00", "known before its authorization"),
    ],
)
def test_a_fraud_without_a_time_of_its_own_is_a_bad_row(folder, reported, what):
    text = TABLE.replace("2026-01-20T00:00:00", reported)
    (folder / "bank.csv").write_text(text)
    bad: list[BadRow] = []
    past = mapped(folder, "labels.yaml", bad)
    assert [(row.line, "reported" in row.error.what) for row in bad] == [(4, True)]
    assert what in bad[0].error.what
    assert [one[0] for one in told(past)] == ["a", "d"]


@pytest.mark.parametrize(
    "keys", ["delay_days: 7, known_at: {column: reported}", "genuine: true", "delay_days: 401"]
)
def test_a_mapping_says_once_since_when_it_is_known(folder, keys):
    (folder / "labels.yaml").write_text("{column: fraud, source: bank, " + keys + "}")
    with pytest.raises(Misconfigured, match="delay_days"):
        mapped(folder, "labels.yaml", [])


def test_a_file_of_labels_joins_a_mapped_history_with_its_own_times(folder):
    bad: list[BadRow] = []
    past, unknown = with_label_file(
        mapped(folder, None, bad),
        folder / "chargebacks.csv",
        str(folder / "chargebacks.yaml"),
        bad.append,
    )
    assert told(past) == [("a", 2.5, True), ("c", 19.0, True), ("c", 20.0, False)]
    assert unknown == 1
    assert [row.line for row in bad] == [6]
    assert '"open" is neither in fraud nor in not_fraud' in bad[0].error.what
    assert past.bad == 1
    first = past.labels.slice(0, 1).to_pylist()[0]
    assert (first["card_token"], first["merchant_id"], first["source"], first["kind"]) == (
        "card-1", "m-1", "network", "chargeback",
    )  # fmt: skip
    assert first["event_at"] == JANUARY


def test_it_comes_beside_labels_that_are_there(folder):
    past = mapped(folder, "labels.yaml", [])
    both, _ = with_label_file(
        past, folder / "chargebacks.csv", str(folder / "chargebacks.yaml"), [].append
    )
    assert len(both.labels) == 6
    known = both.labels["known_at"].to_pylist()
    assert known == sorted(known)


def test_without_a_mapping_it_is_parquet_with_our_own_names(folder):
    table = pa.table(
        {
            "authorization_id": ["b", "x"],
            "known_at": pa.array([JANUARY + 9 * DAY_US] * 2, pa.timestamp("us", "UTC")),
            "is_fraud": [1, 0],
        }
    )
    pq.write_table(table, folder / "own.parquet")
    past, unknown = with_label_file(
        mapped(folder, None, []), folder / "own.parquet", None, [].append
    )
    assert (told(past), unknown) == ([("b", 9.0, True)], 1)
    assert past.labels["source"].to_pylist() == ["file"]


def test_wrong_columns_are_refused_by_name(folder):
    past = mapped(folder, None, [])
    pq.write_table(pa.table({"id": ["a"], "known_at": [1]}), folder / "own.parquet")
    with pytest.raises(Rejected, match="no column authorization_id, is_fraud"):
        with_label_file(past, folder / "own.parquet", None, [].append)
    (folder / "chargebacks.csv").write_text("id;when\n")
    with pytest.raises(Misconfigured, match="no column reported on, transaction, verdict"):
        with_label_file(
            past, folder / "chargebacks.csv", str(folder / "chargebacks.yaml"), [].append
        )


def test_labels_known_before_their_authorization_are_refused(folder):
    pq.write_table(
        pa.table({"authorization_id": ["c"], "known_at": [JANUARY], "is_fraud": [True]}),
        folder / "own.parquet",
    )
    with pytest.raises(Rejected, match=r"1 of 1 labels are known before their authorization.*c"):
        with_label_file(mapped(folder, None, []), folder / "own.parquet", None, [].append)


def test_a_few_known_before_their_authorization_are_bad_rows(folder):
    ids, known = ["c"] * 20, [JANUARY + 20 * DAY_US] * 19 + [JANUARY]
    pq.write_table(
        pa.table({"authorization_id": ids, "known_at": known, "is_fraud": [True] * 20}),
        folder / "own.parquet",
    )
    bad: list[BadRow] = []
    past, _ = with_label_file(mapped(folder, None, []), folder / "own.parquet", None, bad.append)
    assert (len(past.labels), past.bad) == (19, 1)
    assert [str(row.error.where) for row in bad] == ["own.parquet, authorization c"]
    with pytest.raises(Rejected, match=r"1 of 20 labels are known before"):
        with_label_file(
            mapped(folder, None, []), folder / "own.parquet", None, bad.append, bad_share=0.04
        )


@pytest.mark.parametrize(
    ("form", "reported", "days"),
    [
        ('format: "%d.%m.%Y"', "01.01.2026", 1),
        ("format: iso", "2026-01-01", 1),
        ("format: iso", "2026-01-01T06:00", 0.25),
        ('format: days, origin: "2025-12-31"', "1", 1),
        ('format: days, origin: "2025-12-31"', "1.25", 0.25),
        ('format: "%d.%m.%Y %H"', "01.01.2026 06", 0.25),
    ],
)
def test_a_date_alone_is_the_end_of_its_day(folder, form, reported, days):
    """Nobody says at which of its hours; earlier than it was known would be a leak."""
    (folder / "chargebacks.csv").write_text(f"transaction,reported\na,{reported}\n")
    (folder / "chargebacks.yaml").write_text(
        "authorization_id: {column: transaction}\nsource: network\n"
        f"known_at: {{column: reported, {form}, zone: UTC}}\n"
    )
    past, _ = with_label_file(
        mapped(folder, None, []),
        folder / "chargebacks.csv",
        str(folder / "chargebacks.yaml"),
        [].append,
    )
    assert told(past) == [("a", pytest.approx(days, abs=1e-9), True)]


def test_a_date_of_parquet_is_the_end_of_its_day_where_the_zone_is(folder):
    pq.write_table(
        pa.table({"transaction": ["a"], "reported": pa.array([20_454], pa.date32())}),
        folder / "reported.parquet",
    )
    (folder / "chargebacks.yaml").write_text(
        "authorization_id: {column: transaction}\nsource: network\n"
        "known_at: {column: reported, zone: America/Sao_Paulo}\n"
    )
    past, _ = with_label_file(
        mapped(folder, None, []),
        folder / "reported.parquet",
        str(folder / "chargebacks.yaml"),
        [].append,
    )
    assert told(past) == [("a", pytest.approx(1.125, abs=1e-9), True)]


def test_a_history_of_our_own_names_takes_one_too(folder, tmp_path):
    past = mapped(folder, None, [])
    pq.write_table(past.authorizations, folder / "ours.parquet")
    ours = read_past(folder / "ours.parquet", None)
    joined, _ = with_label_file(
        ours, folder / "chargebacks.csv", str(folder / "chargebacks.yaml"), [].append
    )
    assert [one[0] for one in told(joined)] == ["a", "c", "c"]
