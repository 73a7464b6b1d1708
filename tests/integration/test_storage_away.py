"""A verb whose object storage goes away for a while, or is full: it asks again and says so, and
what it did is whole."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest

from sluice.adapters.parquet.archive import Archive
from sluice.adapters.storage import folder
from sluice.bootstrap.archive_root import archive_named
from sluice.cli import main
from sluice.settings import load
from tests.support.disk import Disk, needs_disks
from tests.support.s3_server import BUCKET, REGION, S3Server

pytestmark = pytest.mark.integration
ROWS_MAX = 1000
"""Of one answer to a listing."""


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("history")
    order = ["--days", "12", "--start", "2026-10-01", "--cards", "100", "--out", str(made)]
    assert main(["simulate", "history", *order]) == 0
    return made / "authorizations.parquet"


@contextmanager
def away(s3: S3Server, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Killed from now on, and back as soon as somebody says that it asks again."""
    caplog.clear()
    ended = threading.Event()

    def come_back() -> None:
        while "once more in 1 s" not in caplog.text and not ended.wait(0.05):
            pass
        s3.start()

    s3.stop()
    back = threading.Thread(target=come_back)
    back.start()
    try:
        yield
        assert "the object storage does not answer as it should" in caplog.text
    finally:
        ended.set()
        back.join()


def test_a_backfill_outlives_an_outage_and_what_it_wrote_is_read_through_another(
    s3: S3Server, history: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"s3://{BUCKET}/away"
    with away(s3, caplog):
        assert main(["backfill", str(history), "--archive", url, "--no-store"]) == 0
    with away(s3, caplog):
        rows = Archive(archive_named(load()[0], url)).read("history", ["offset"])
    offsets = sorted(rows["offset"].to_pylist())
    assert offsets == list(range(len(offsets)))
    assert len(offsets) > 100


def test_a_listing_goes_on_behind_what_it_had_before_the_outage(
    s3: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    keys = [f"listed/history/date=2026-10-01/part-00000-{n:020}.parquet" for n in range(1300)]
    client = boto3.client("s3", endpoint_url=s3.endpoint, region_name=REGION)
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda key: client.put_object(Bucket=BUCKET, Key=key, Body=b""), keys):
            pass
    listed = folder(archive_named(load()[0], f"s3://{BUCKET}/listed")).listed("history")
    names = [path.name for path in itertools.islice(listed, ROWS_MAX - 100)]
    with away(s3, caplog):
        names += [path.name for path in listed]
    assert names == [key.rpartition("/")[2] for key in keys]


def test_a_storage_that_is_full_is_said_at_once_and_in_its_words(
    history: Path,
    tmp_path: Path,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    needs_disks()
    with Disk(tmp_path / "disk") as disk, S3Server(disk.root / "s3") as full:
        boto3.client("s3", endpoint_url=full.endpoint, region_name=REGION).create_bucket(
            Bucket=BUCKET
        )
        monkeypatch.setenv("SLUICE_STORAGE_ENDPOINT", full.endpoint)
        order = [str(history), "--archive", f"s3://{BUCKET}/full", "--no-store"]
        with disk.full():
            assert main(["backfill", *order]) == 1
        said = capsys.readouterr().err
        assert "the object storage refuses: InsufficientStorage, No space left on device" in said
        assert caplog.text == "", "none was made again"
        assert main(["backfill", *order]) == 0, "with room again it goes on"
