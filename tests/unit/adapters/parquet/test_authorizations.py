"""What a label needs of its authorization is found in the archive, by tenant and id."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluice.adapters.parquet.archive import ParquetFiles
from sluice.adapters.parquet.authorizations import ArchivedAuthorizations
from sluice.application.ports import Message
from sluice.domain.clock import DAY_US
from sluice.domain.records.authorization import Channel, encode
from sluice.domain.records.report import Named
from sluice.errors import Corrupt, Rejected
from sluice.testing.factories import NOON_US
from sluice.testing.records import make_decision

DAY_MS = DAY_US // 1000


@pytest.fixture
def files(tmp_path: Path) -> ParquetFiles:
    return ParquetFiles(tmp_path, {"decisions.v1": "decisions"})


def decided(
    files: ParquetFiles, *names: str, day: int = 0, written: int | None = None, tenant: str = "test"
) -> None:
    """A file of decisions of one day, written on it or later."""
    at = NOON_US + day * DAY_US
    first = files.end(("decisions.v1", 0))
    rows = [
        Message(
            encode(
                make_decision(
                    name, event_at=at, tenant=tenant, device_id="device-1", channel=Channel.ECOM
                )
            ),
            None,
            "decisions.v1",
            0,
            first + i,
            None,
            NOON_US // 1000 + (day if written is None else written) * DAY_MS,
        )
        for i, name in enumerate(names)
    ]
    files.write(("decisions.v1", 0), rows)


def test_an_authorization_is_found_with_what_a_label_needs(
    files: ParquetFiles, tmp_path: Path
) -> None:
    decided(files, "a-1", "a-2")
    found = ArchivedAuthorizations(tmp_path).find({("test", "a-2"): NOON_US, ("test", "a-3"): None})
    auth = make_decision("a-2", event_at=NOON_US).authorization
    assert found == {
        ("test", "a-2"): Named(
            NOON_US, auth.card_token, auth.merchant_id, auth.terminal_id, "device-1", Channel.ECOM
        )
    }


def test_of_one_id_of_two_tenants_each_has_its_own(files: ParquetFiles, tmp_path: Path) -> None:
    decided(files, "a-1")
    decided(files, "a-1", day=1, tenant="other")
    archive = ArchivedAuthorizations(tmp_path)
    found = archive.find({("other", "a-1"): None})
    assert [at.event_at for at in found.values()] == [NOON_US + DAY_US]
    assert archive.find({("nobody", "a-1"): None}) == {}


def test_with_its_time_only_the_days_of_the_event_are_searched(
    files: ParquetFiles, tmp_path: Path
) -> None:
    for day in range(4):
        decided(files, f"a-{day}", day=day)
    decided(files, "late", day=0, written=9)
    archive = ArchivedAuthorizations(tmp_path)
    assert ("test", "a-2") in archive.find({("test", "a-2"): NOON_US + 2 * DAY_US})
    assert archive.find({("test", "late"): NOON_US}) == {}
    assert ("test", "late") in archive.find({("test", "late"): None})
    small = ArchivedAuthorizations(tmp_path, files_max=3)
    assert ("test", "a-0") in small.find({("test", "a-0"): NOON_US})
    with pytest.raises(Rejected, match="5 files would have to be searched"):
        small.find({("test", "a-0"): None})


def test_a_damaged_file_is_named(files: ParquetFiles, tmp_path: Path) -> None:
    decided(files, "a-1")
    [path] = tmp_path.glob("decisions/*/part-*")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(Corrupt, match="damaged"):
        ArchivedAuthorizations(tmp_path).find({("test", "a-1"): None})


def test_an_archive_that_holds_nothing_finds_nothing(tmp_path: Path) -> None:
    assert ArchivedAuthorizations(tmp_path).find({("test", "a-1"): None}) == {}
