"""One suite for where a log's files lie: a folder, and a bucket of a real S3 server."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from msgspec.structs import replace

from sluice.adapters.s3.store import Place, S3Store
from sluice.adapters.tiles.folder import LogFolder
from sluice.application.append_log import LogStore
from sluice.application.log_keys import make_log_key
from sluice.application.sign_release import read_private_key
from sluice.audit.checkpoints import open_checkpoint
from sluice.audit.merkle import root_of
from sluice.audit.tiles import reader
from sluice.bootstrap.beside_log import tasks
from sluice.errors import Corrupt, Unavailable
from sluice.settings import AuditorSettings, Settings
from sluice.testing.log import KeptCheckpoints, log_at
from tests.support.needed import needed
from tests.support.s3_server import CREDENTIALS, REGION, S3Server

pytestmark = pytest.mark.integration
MakeStore = Callable[[], LogStore]
NAMES = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    made = S3Server(tmp_path_factory.mktemp("s3"))
    before = dict(os.environ)
    os.environ.update(CREDENTIALS)
    try:
        with needed(), made:
            yield made
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def place(server: S3Server) -> Place:
    """A bucket of its own, with Object Lock."""
    name = f"logs-{next(NAMES)}"
    client(server).create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    return Place(name, "prod/eu/0/", server.endpoint, REGION)


def client(server: S3Server):  # type: ignore[no-untyped-def]
    return boto3.client("s3", endpoint_url=server.endpoint, region_name=REGION)


@pytest.fixture(params=["folder", "s3"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    if request.param == "folder":
        return lambda: LogFolder(tmp_path / "log")
    place = request.getfixturevalue("place")
    return lambda: S3Store(place)


def test_what_was_written_is_read_by_whoever_opens_it(make: MakeStore) -> None:
    many = [(f"tile/0/x001/{n:03d}", bytes([n]) * n) for n in range(70)]
    make().write([("checkpoint", b"first"), ("tile/0/000.p/3", b"\x00\xff"), *many])
    opened = make()
    for path, raw in [("checkpoint", b"first"), ("tile/0/000.p/3", b"\x00\xff"), *many]:
        assert opened.read(path) == raw


def test_what_is_not_there_is_not_found(make: MakeStore) -> None:
    with pytest.raises(FileNotFoundError):
        make().read("checkpoint")
    make().write([("tile/0/000", b"x")])
    with pytest.raises(FileNotFoundError):
        make().read("tile/0/001")


def test_a_checkpoint_is_replaced_and_the_same_file_may_be_written_again(make: MakeStore) -> None:
    store = make()
    store.write([("checkpoint", b"first"), ("tile/0/000", b"tile")])
    store.write([("tile/0/000", b"tile"), ("checkpoint", b"second")])
    assert store.read("checkpoint") == b"second"
    assert store.read("tile/0/000") == b"tile"


def test_files_are_taken_as_they_come(make: MakeStore) -> None:
    """No list of all of them is made first: a first copy has millions."""
    taken = []

    def files() -> Iterator[tuple[str, bytes]]:
        for number in range(150):
            taken.append(number)
            yield f"tile/0/x000/x{number:03d}/000", b"x"

    make().write(files())
    assert taken == list(range(150))


def test_another_file_in_the_place_of_a_tile_is_an_error(place: Place) -> None:
    store = S3Store(place)
    store.write([("tile/0/000", b"tile"), ("tile/0/001.p/4", b"partial")])
    for path in ("tile/0/000", "tile/0/001.p/4"):
        with pytest.raises(Corrupt, match="another file"):
            store.write([(path, b"other")])
    assert store.read("tile/0/000") == b"tile"


def test_whole_tiles_and_checkpoints_are_locked_for_so_many_days(
    server: S3Server, place: Place
) -> None:
    locked = Place(place.bucket, place.prefix, place.endpoint, place.region, retain_days=3)
    S3Store(locked).write(
        [("tile/0/000", b"tile"), ("tile/0/001.p/4", b"partial"), ("checkpoint", b"first")]
    )
    S3Store(locked).write([("checkpoint", b"second")])
    s3 = client(server)
    kept = s3.list_object_versions(Bucket=place.bucket)["Versions"]
    by_key: dict[str, list[str]] = {}
    for one in kept:
        by_key.setdefault(one["Key"].removeprefix(place.prefix), []).append(one["VersionId"])
    assert {key: len(ids) for key, ids in by_key.items()} == {
        "tile/0/000": 1,
        "tile/0/001.p/4": 1,
        "checkpoint": 2,
    }
    for key in ("tile/0/000", "checkpoint"):
        for version in by_key[key]:
            with pytest.raises(s3.exceptions.ClientError, match="AccessDenied"):
                s3.delete_object(Bucket=place.bucket, Key=place.prefix + key, VersionId=version)


def test_a_server_that_is_away_is_said_and_comes_back(tmp_path: Path, server: S3Server) -> None:
    own = S3Server(tmp_path / "own")
    with own:
        client(own).create_bucket(Bucket="logs")
        store = S3Store(Place("logs", "", own.endpoint, REGION))
        store.write([("checkpoint", b"first")])
        own.stop()
        with pytest.raises(Unavailable, match="s3://logs/checkpoint"):
            store.read("checkpoint")
        with pytest.raises(Unavailable):
            store.write([("checkpoint", b"second")])
        own.start()
        store.write([("checkpoint", b"third")])
        assert store.read("checkpoint") == b"third"


def test_a_bucket_that_is_not_there_is_no_empty_log(server: S3Server) -> None:
    store = S3Store(Place("nobodys", "", server.endpoint, REGION))
    with pytest.raises(Unavailable, match="nobodys"):
        store.read("checkpoint")


def test_an_auditors_log_is_copied_as_its_settings_say(
    server: S3Server, place: Place, tmp_path: Path
) -> None:
    key = make_log_key(tmp_path / "log.pem", "prod/eu/0", witness=False)
    private = read_private_key(tmp_path / "log.pem")
    log = log_at(tmp_path / "logs/0", KeptCheckpoints(), origin=key.name, private=private)
    log.open()
    given = AuditorSettings(
        root=str(tmp_path / "logs"),
        key_file=str(tmp_path / "log.pem"),
        copy_bucket=place.bucket,
        copy_endpoint=server.endpoint,
        copy_region=REGION,
    )
    [task] = tasks(Settings(auditor=given), key.name)
    assert (task.name, task.every_s) == ("copy_log", 10)
    copy = S3Store(place)
    for count in (3, 600):
        log.append([f"entry {n}".encode() for n in range(count)])
        log.checkpoint()
        task.work()
        opened = open_checkpoint(copy.read("checkpoint"), key.name, key).checkpoint
        assert opened.size == log.size
        assert root_of(opened.size, reader(opened.size, copy.read)) == opened.root
    forked = log_at(tmp_path / "forked/0", KeptCheckpoints(), origin=key.name, private=private)
    forked.open()
    forked.append([b"other"] * 700)
    forked.checkpoint()
    [task] = tasks(Settings(auditor=replace(given, root=str(tmp_path / "forked"))), key.name)
    with pytest.raises(Corrupt, match="not the log's first"):
        task.work()
