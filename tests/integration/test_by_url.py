"""Training sets and releases in a bucket of a real S3 server: whole or not at all, and the same as
in a folder."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import pytest

from sluice.adapters.storage import AnyPath, at
from sluice.adapters.storage.copies import LAST, Copy
from sluice.application.active import ActiveConfiguration
from sluice.application.sign_release import make_key
from sluice.bootstrap import services as bootstrap
from sluice.bootstrap.copies import changing, making, reading
from sluice.bootstrap.release_folder import look_for_releases
from sluice.cli import main
from sluice.domain.release import public_line
from sluice.errors import Misconfigured, Rejected, Unavailable
from sluice.settings import Settings, load
from sluice.testing.release import KEY, make_release
from tests.support.s3_server import BUCKET, REGION, S3Server

pytestmark = pytest.mark.integration
NAMES = itertools.count(1)
SET = {
    "train-00000.parquet": b"rows",
    "test-1-00000.parquet": b"other rows",
    "manifest.json": b"{}",
}


@pytest.fixture
def url(s3: S3Server) -> str:
    """Of a place where nothing lies yet."""
    return f"s3://{BUCKET}/by-url/{next(NAMES)}"


def there(url: str, s3: S3Server) -> AnyPath:
    return at(url, s3.endpoint, REGION)


def keys(url: str, s3: S3Server) -> list[str]:
    """What lies below it, as S3 tells it."""
    prefix = url.removeprefix(f"s3://{BUCKET}/") + "/"
    client = boto3.client("s3", endpoint_url=s3.endpoint, region_name=REGION)
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return [one["Key"].removeprefix(prefix) for one in found]


def silent(_: str) -> None:
    """Hears nothing."""


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in files.items():
        (folder / name).write_bytes(raw)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


MAKES = """
import sys
from sluice.bootstrap.archive_root import place
from sluice.bootstrap import services as bootstrap
from sluice.bootstrap.copies import making
from sluice.settings import Settings, load
from tests.integration.test_by_url import SET, write
with making(place(load()[0], sys.argv[1]), print) as folder:
    write(folder, SET)
"""


@pytest.mark.parametrize("after", [1, 2, 3])
def test_what_is_made_there_is_whole_or_is_not_there(url: str, s3: S3Server, after: int) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", MAKES, url],
        env=os.environ | {"SLUICE_KILL_AT": f"copy.after_put:{after}"},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    settings = load()[0]
    whole = after == len(SET)
    assert ("manifest.json" in keys(url, s3)) is whole
    if whole:
        with (
            pytest.raises(Rejected, match="there is something already"),
            making(there(url, s3), silent),
        ):
            raise AssertionError("nothing may be made over it")
    else:
        with making(there(url, s3), silent) as folder:
            write(folder, SET)
    with reading(settings, url, silent) as folder:
        assert files_of(folder) == SET
    assert not folder.exists(), "a copy ends with the verb"


def test_what_is_to_be_made_there_waits_for_a_storage_that_is_away(url: str, s3: S3Server) -> None:
    tries: list[str] = []

    def again(what: str) -> None:
        tries.append(what)
        s3.start()

    s3.stop()
    with making(there(url, s3), again) as folder:
        write(folder, SET)
    assert len(tries) == 1
    assert "once more in 1 s" in tries[0]
    assert sorted(keys(url, s3)) == sorted(SET)


def test_another_set_does_not_take_the_place_of_half_a_one(url: str, s3: S3Server) -> None:
    half = {name: raw for name, raw in SET.items() if name not in LAST}
    with making(there(url, s3), silent) as folder:
        write(folder, half)
    with (
        pytest.raises(Rejected, match="another file lies there already") as caught,
        making(there(url, s3), silent) as folder,
    ):
        write(folder, SET | {"train-00000.parquet": b"others"})
    assert caught.value.where == f"{url}/train-00000.parquet"
    with reading(load()[0], url, silent) as folder:
        assert files_of(folder) == half


def test_a_verb_that_fails_puts_nothing_back(url: str, s3: S3Server) -> None:
    def fail(folder: Path) -> None:
        write(folder, SET)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), making(there(url, s3), silent) as folder:
        fail(folder)
    with pytest.raises(ZeroDivisionError), changing(load()[0], url, silent) as folder:
        fail(folder)
    assert keys(url, s3) == []
    with pytest.raises(Misconfigured, match="nothing lies there"), reading(load()[0], url, silent):
        raise AssertionError("nothing to read")


def test_of_two_that_change_it_the_second_is_told(url: str, s3: S3Server) -> None:
    with making(there(url, s3), silent) as folder:
        write(folder, SET)
    settings = load()[0]
    both = ExitStack()
    said: list[str] = []
    mine = both.enter_context(changing(settings, url, said.append))
    with changing(settings, url, silent) as theirs:
        write(theirs, {"manifest.json": b"theirs"})
    write(mine, {"manifest.json": b"mine"})
    with pytest.raises(Unavailable) as caught:
        both.close()
    assert (caught.value.code, said) == ("changed", []), "at once: no other try would change it"
    with reading(settings, url, silent) as folder:
        assert files_of(folder) == SET | {"manifest.json": b"theirs"}


def test_what_the_storage_refuses_is_said_at_once_and_in_its_words(
    url: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    def refused(place: str, match: str) -> None:
        with (
            pytest.raises(Unavailable, match=f"refuses: {match}") as caught,
            reading(load()[0], place, tries.append),
        ):
            raise AssertionError("nothing to read")
        assert (caught.value.code, caught.value.where) == ("storage", place)

    refused("s3://no-such-bucket/set", "NoSuchBucket, The specified bucket does not exist")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anothers")
    monkeypatch.setenv("SLUICE_STORAGE_ENDPOINT", s3.endpoint.replace("127.0.0.1", "localhost"))
    refused(url, "SignatureDoesNotMatch")
    assert tries == [], "none was made again"


def test_who_has_no_credentials_is_told_so_and_not_that_the_storage_refuses(
    url: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without keys the client asks the machine for those of its role. Here the server answers in
    its place, as one that knows of no role does: 403."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", s3.endpoint)
    monkeypatch.setenv("SLUICE_STORAGE_REGION", "without-keys")  # another client
    tries: list[str] = []
    with (
        pytest.raises(Unavailable, match=r"^no credentials .*AWS_ACCESS_KEY_ID") as caught,
        reading(load()[0], url, tries.append),
    ):
        raise AssertionError("nothing to read")
    assert "archive-on-object-storage.md" in str(caught.value)
    assert tries == [], "none was made again"


def test_what_is_unfinished_or_no_file_of_ours_is_left_alone(url: str, s3: S3Server) -> None:
    client = boto3.client("s3", endpoint_url=s3.endpoint, region_name=REGION)
    prefix = url.removeprefix(f"s3://{BUCKET}/")
    for name in ("manifest.json", ".sluice-takes-a-name-once", "two words"):
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=b"x")
    with changing(load()[0], url, silent) as folder:
        assert [*files_of(folder)] == ["manifest.json"]
        write(folder, {".card.md.123": b"x", "activation.note.lock": b"", "card.md": b"x"})
    assert sorted(keys(url, s3)) == sorted(
        [".sluice-takes-a-name-once", "card.md", "manifest.json", "two words"]
    )


def test_a_copy_follows_what_it_was_made_from(url: str, s3: S3Server, tmp_path: Path) -> None:
    copy = Copy(there(url, s3), tmp_path / "copy")
    assert copy.take() == 0
    settings = load()[0]
    with changing(settings, url, silent) as folder:
        make_release(folder / "test-1")
    assert copy.take() == 4
    before = (tmp_path / "copy/test-1/model.onnx").stat()
    with changing(settings, url, silent) as folder:
        (folder / "test-1/card.md").write_bytes(b"# Another")
        (folder / "test-1/manifest.sig").unlink()
    assert copy.take() == 3
    assert (tmp_path / "copy/test-1/card.md").read_bytes() == b"# Another"
    assert not (tmp_path / "copy/test-1/manifest.sig").exists()
    assert (tmp_path / "copy/test-1/model.onnx").stat().st_mtime_ns == before.st_mtime_ns
    s3.stop()
    try:
        with pytest.raises(Unavailable):
            copy.take()
    finally:
        s3.start()
    assert copy.take() == 3


def test_a_release_in_a_bucket_is_shown_signed_and_rolled_out_as_in_a_folder(
    url: str, s3: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with changing(load()[0], url, silent) as folder:
        make_release(folder / "test-1")
        make_release(folder / "test-2", seed=2, created_at=1_780_000_000_000_001)
    key = tmp_path / "key"
    _, public = make_key(key)

    def said(*words: Any) -> str:
        assert main(["release", *map(str, words)]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    assert "test-1: random weights" in said("show", f"{url}/test-1")
    said("sign", f"{url}/test-1", "--key", key)
    assert "test-1 is whole" in said("verify", f"{url}/test-1", "--trust", public)
    assert main(["release", "diff", f"{url}/test-1", f"{url}/test-2"]) == 1
    capsys.readouterr()
    by = ("--key", key, "--who", "ann", "--why", "a test")
    said("promote", url, "test-1", *by)
    said("shadow", url, "test-2", *by)
    shadow, champion, _ = said("list", url).splitlines()
    assert shadow.split()[:2] == ["shadow", "test-2"]
    assert champion.split()[:2] == ["champion", "test-1"]
    assert main(["release", "shadow", url, "test-2", *by, "--expect", "0"]) == 78
    assert "somebody went a step in between" in capsys.readouterr().err
    assert keys(url, s3).count("activation.note") == 1
    assert not [name for name in keys(url, s3) if name.endswith(".lock")]


def test_a_decider_follows_releases_in_a_bucket_and_keeps_the_last_good_one(
    url: str, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust = tmp_path / "trust.pub"
    trust.write_text(public_line(KEY.public_key(), "tests"))
    monkeypatch.setenv("SLUICE_DECIDER_RELEASE_DIR", url)
    monkeypatch.setenv("SLUICE_DECIDER_TRUST_DIR", str(trust))
    settings = load()[0]
    with pytest.raises(Unavailable, match="no release is there"):
        bootstrap.release_there(settings)
    active = bootstrap.active_configuration(settings, "sync")
    assert active.releases.current() is None
    with changing(settings, url, silent) as folder:
        make_release(folder)
    bootstrap.release_there(settings)
    follow(settings, active)
    assert id_of(active) == "test-1"
    with changing(settings, url, silent) as folder:
        (folder / "card.md").write_bytes(b"# Not the one that was signed")
    follow(settings, active)
    assert "card.md" in str(active.releases.refused)
    s3.stop()
    try:
        with pytest.raises(Unavailable):
            follow(settings, active)
    finally:
        s3.start()
    assert id_of(active) == "test-1"
    with changing(settings, url, silent) as folder:
        make_release(tmp_path / "next", seed=2)
        write(folder, files_of(tmp_path / "next"))
    follow(settings, active)
    assert id_of(active) == "test-2"


def follow(settings: Settings, active: ActiveConfiguration) -> None:
    look_for_releases(settings)
    active.poll()


def id_of(active: ActiveConfiguration) -> str:
    scorer = active.releases.current()
    assert scorer is not None
    return scorer.release
