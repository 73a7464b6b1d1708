"""``sluice log erase | hold | unhold | keys``, on a keystore of its own."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from sluice.adapters.parquet.archive import Archive, ParquetFiles
from sluice.application.ports import Message
from sluice.application.sealing import SUBJECT, period_of
from sluice.bootstrap.keystore import keystore
from sluice.cli import main
from sluice.domain.clock import SystemClock
from sluice.domain.records.authorization import encode
from sluice.settings import load
from sluice.testing.records import make_decision

BY = ["--who", "ann", "--case", "GDPR-17"]
CARD = ["--tenant", "test", "--card", "card-1"]


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for key, path in (
        ("KEYSTORE_PATH", "keys/keys.sqlite"),
        ("KEYSTORE_ROOTS", "roots/roots.json"),
        ("KEYSTORE_COPIES", "copies"),
        ("ARCHIVER_ROOT", "archive"),
    ):
        monkeypatch.setenv(f"SLUICE_{key}", str(tmp_path / path))
    assert main(["log", "keys", "init"]) == 0
    return tmp_path


def _sealed() -> bytes:
    with keystore(load()[0]) as store:
        key = store.key(store.subject("test", "card-1"), period_of(SystemClock().now_us()))
        return key.seal(b"", b"")


def test_an_erasure_takes_the_keys_and_the_archives_rows(
    there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ParquetFiles(there / "archive", {"d": "decisions"})
    files.write(("d", 0), [Message(encode(make_decision()), None, "d", 0, 0, None, 86_400_000)])
    _sealed()
    assert main(["log", "erase", *CARD, *BY]) == 0
    said = capsys.readouterr().out
    assert "1 destroyed" in said
    assert "1 rows rewritten" in said
    assert "card-1" not in said
    assert Archive(there / "archive").read()["card_token"][0].as_py().startswith("erased-")
    with keystore(load()[0]) as store:
        (event,) = store.events(0, 9)
        assert (event.kind, event.who, event.case, event.archive_rows) == \
            ("erasure", "ann", "GDPR-17", 1)  # fmt: skip
    assert len(list((there / "copies").iterdir())) == 1


def test_an_erasure_under_a_hold_ends_with_1_and_leaves_all_as_it_is(
    there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ParquetFiles(there / "archive", {"d": "decisions"})
    files.write(("d", 0), [Message(encode(make_decision()), None, "d", 0, 0, None, 86_400_000)])
    _sealed()
    assert main(["log", "hold", *CARD, "--who", "ann", "--case", "C-1"]) == 0
    assert main(["log", "erase", *CARD, *BY]) == 1
    assert "a legal hold is on this subject: C-1" in capsys.readouterr().err
    assert Archive(there / "archive").read()["card_token"].to_pylist() == ["card-1"]
    assert main(["log", "unhold", *CARD, "--who", "ann", "--case", "C-2"]) == 1
    assert main(["log", "unhold", *CARD, "--who", "ann", "--case", "C-1"]) == 0
    assert main(["log", "erase", *CARD, *BY]) == 0


def test_a_token_is_read_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("card-1\n"))
    assert main(["log", "keys", "subject", "--tenant", "test", "--card", "-"]) == 0
    assert main(["log", "keys", "subject", *CARD]) == 0
    one, other = capsys.readouterr().out.splitlines()[-2:]
    assert one == other
    assert SUBJECT.fullmatch(one)
    assert main(["log", "erase", "--subject", one, *BY]) == 0


def test_what_was_erased_before_is_swept_out_of_an_archive_that_came_back(there: Path) -> None:
    assert main(["log", "erase", *CARD, *BY]) == 0
    files = ParquetFiles(there / "archive", {"d": "decisions"})
    files.write(("d", 0), [Message(encode(make_decision()), None, "d", 0, 0, None, 86_400_000)])
    assert main(["log", "keys", "sweep"]) == 0
    assert Archive(there / "archive").read()["card_token"][0].as_py().startswith("erased-")


def test_keys_are_shown_copied_and_expired(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with keystore(load()[0]) as store:
        store.keys([(store.subject("t", str(n)), "2019Q1") for n in range(3)])
    assert main(["log", "keys", "show"]) == 0
    assert "2019Q1             3 keys" in capsys.readouterr().out
    assert main(["log", "keys", "copy", str(there / "elsewhere")]) == 0
    assert Path(capsys.readouterr().out.strip()).stat().st_mode & 0o077 == 0
    assert main(["log", "keys", "expire", *BY]) == 0
    assert "3 keys" in capsys.readouterr().out
    assert main(["log", "keys", "expire", "--through", "2099Q1", *BY]) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        ["erase", *BY],
        ["erase", "--tenant", "test", *BY],
        ["erase", *CARD, "--subject", "0" * 32, *BY],
        ["erase", *CARD],
        ["hold", *CARD, "--who", "ann"],
    ],
)
def test_wrong_usage_ends_with_64(wrong: list[str]) -> None:
    assert main(["log", *wrong]) == 64


def test_a_keystore_is_not_made_twice_and_one_that_is_lost_not_made_anew(
    there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["log", "keys", "init"]) == 78
    (there / "keys" / "keys.sqlite").unlink()
    assert main(["log", "keys", "show"]) == 78
    assert "bring a copy back" in capsys.readouterr().err
    assert main(["log", "keys", "init"]) == 78


def test_an_unknown_wrapper_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLUICE_KEYSTORE_WRAPPER", "magic:x")
    assert main(["log", "keys", "show"]) == 78
    assert "keystore.wrapper" in capsys.readouterr().err
