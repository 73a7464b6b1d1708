"""Times that are relative, in several columns, or numbers of another unit."""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from sluice.adapters.files.mapping import Mapper, Mapping
from sluice.adapters.files.tables import Table
from sluice.adapters.files.times import Instant, Skipped, micros, reader
from tests.unit.adapters.files.test_mapping import (
    COLUMNS,
    changed,
    mapped,
    mapping,
    only,
    refused,
)

NOON = int(datetime(2026, 7, 1, 12, tzinfo=UTC).timestamp()) * 1_000_000


def mapped_many(folder: Path, lines: list[str], using: Mapping) -> list[int]:
    """Times of all rows that were good."""
    path = folder / "bank.csv"
    path.write_text("\n".join([COLUMNS, *lines]) + "\n")
    table = Table(path, using)
    mapper = Mapper(using, None, table.columns, path.name)
    with closing(table.batches(mapper.wanted, size=1 << 15)) as batches:
        return [at for rows in batches for at in mapper.columns(rows).columns["event_at"]]


def read(folder: Path, how: dict[str, Any], **cells: str) -> int:
    return only(mapped(folder, changed(**cells), using=mapping(event_at=how))).event_at


@pytest.mark.parametrize(
    ("text", "form", "origin", "zone"),
    [
        ("43200", "seconds", "2026-07-01T00:00:00Z", None),
        ("43200.0", "seconds", "2026-07-01T00:00:00Z", None),
        ("4.32e+04", "seconds", "2026-07-01T00:00:00Z", None),
        ("-60", "minutes", "2026-07-01T15:00:00+02:00", None),
        ("12", "hours", "2026-07-01T00:00:00Z", None),
        ("0.5", "days", "2026-07-01T00:00:00Z", None),
        ("46204.541666666664", "days", "1899-12-30", "Europe/Lisbon"),
        ("1782907200000000000", "epoch_ns", None, None),
        ("1782907200.0", "epoch_s", None, None),
    ],
)
def test_a_number_counts_from_its_origin(
    tmp_path: Path, text: str, form: str, origin: str | None, zone: str | None
) -> None:
    how = {"column": "time", "format": form, "origin": origin, "zone": zone}
    assert read(tmp_path, how, time=text) == NOON


def test_wall_days_keep_their_hour_over_a_clock_change(tmp_path: Path) -> None:
    """Noon stays noon, in winter and in summer."""
    for origin, hour in (("2026-03-28", 11), ("2026-03-28T00:00:00Z", 12)):
        how = {"column": "time", "format": "days", "origin": origin, "zone": "Europe/Lisbon"}
        at = read(tmp_path, how, time="1.5")
        assert datetime.fromtimestamp(at / 1e6, UTC) == datetime(2026, 3, 29, hour, tzinfo=UTC)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Lisbon", "Australia/Lord_Howe", "Asia/Kathmandu"])
@pytest.mark.parametrize("form", ["%d/%m/%Y %H:%M:%S", "iso"])
def test_a_column_at_once_is_what_each_time_is_by_itself(
    tmp_path: Path, zone: str, form: str
) -> None:
    """Every 61 minutes of a year in which the clock changes twice; at a change each for itself."""
    first = datetime(2026, 1, 1)
    texts = [
        at.strftime("%Y-%m-%d %H:%M:%S" if form == "iso" else form)
        for at in (first + timedelta(minutes=61 * i) for i in range(8_600))
    ]
    how = {"column": "time", "format": form, "zone": zone}
    lines = [changed(id=f"a{i}", time=text) for i, text in enumerate(texts)]
    many = mapped_many(tmp_path, lines, mapping(event_at=how))
    source = msgspec.convert(how, Instant)
    read, told = reader(source), ZoneInfo(zone)
    one_by_one = []
    for text in texts:
        try:
            moment = read(text)
            assert isinstance(moment, datetime)
            one_by_one.append(micros(moment, told))
        except Skipped:
            continue
    assert many == one_by_one
    assert len(many) > 8_500


@pytest.mark.parametrize(
    ("text", "form"),
    [("31/02/2026", "%d/%m/%Y"), ("00/07/2026", "%d/%m/%Y"), ("1/7/26", "%d/%m/%y"),
     (" 01/07/2026 24:00", "%d/%m/%Y %H:%M"), ("2026-07-01 12:00:60", "%Y-%m-%d %H:%M:%S"),
     ("+026-07-01", "%Y-%m-%d"), ("1/7/2026", "%d/%m/%Y")],
)  # fmt: skip
def test_what_one_by_one_reads_or_refuses_at_once_does_too(
    tmp_path: Path, text: str, form: str
) -> None:
    how = {"column": "time", "format": form, "zone": "UTC"}
    result = mapped(tmp_path, changed(time=text), using=mapping(event_at=how))
    try:
        expected = datetime.strptime(text.strip(), form).replace(tzinfo=UTC)
    except ValueError:
        assert "not a time of format" in refused(result)
    else:
        assert only(result).event_at == int(expected.timestamp()) * 1_000_000


def test_a_time_is_put_together_of_columns(tmp_path: Path) -> None:
    two = {"template": "{shop} {till}", "format": "%d/%m/%Y %H:%M", "zone": "UTC"}
    assert read(tmp_path, two, shop="01/07/2026", till="12:00") == NOON
    five = {
        "template": "{shop}-{till}-{customer} {entry}:{device}",
        "format": "%Y-%m-%d %H:%M",
        "zone": "UTC",
    }
    cells = {"shop": "2026", "till": "7", "customer": "1", "entry": "12", "device": "0"}
    using = mapping(event_at=five, channel={"constant": "pos"})
    assert only(mapped(tmp_path, changed(**cells), using=using)).event_at == NOON
    padded = {"template": "{shop}{till:06}", "format": "%Y%m%d%H%M%S", "zone": "UTC"}
    assert read(tmp_path, padded, shop="20260701", till="120000") == NOON
    assert read(tmp_path, padded, shop="20260701", till="503") == NOON - 42_897_000_000


def test_a_part_of_a_time_that_is_missing_names_the_columns(tmp_path: Path) -> None:
    how = {"template": "{shop} {device}", "format": "%d/%m/%Y %H:%M", "zone": "UTC"}
    said = refused(mapped(tmp_path, changed(device="NULL"), using=mapping(event_at=how)))
    assert "column shop, device: not a time of format %d/%m/%Y %H:%M" in said


@pytest.mark.parametrize("text", ["", "NaN", "inf", "1e30", "1e999999999", "noon", "٣"])
def test_what_is_no_count_is_a_bad_row(tmp_path: Path, text: str) -> None:
    how = {"column": "time", "format": "hours", "origin": "2026-07-01T00:00:00Z"}
    said = refused(mapped(tmp_path, changed(time=text), using=mapping(event_at=how)))
    assert "column time: not a time of format hours" in said


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "one of column and template"),
        ({"column": "a", "template": "{b}"}, "one of column and template"),
        ({"column": "a", "format": "hours"}, "they need one"),
        ({"column": "a", "origin": "2026-01-01T00:00:00Z"}, "an origin belongs to"),
        ({"column": "a", "format": "hours", "origin": "2026-01-01"}, "zone is needed"),
        ({"column": "a", "format": "hours", "origin": "monday"}, "no ISO time"),
    ],
)
def test_a_wrong_time_of_a_mapping_is_refused(given: dict[str, str], says: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        msgspec.convert(given, Instant)
