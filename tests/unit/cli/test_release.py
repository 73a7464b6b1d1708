from pathlib import Path

import pytest

from sluice.cli import main
from sluice.testing.release import make_release


def make_key(tmp_path: Path) -> tuple[str, str]:
    path = tmp_path / "release.key"
    assert main(["release", "keygen", "--out", str(path)]) == 0
    return str(path), f"{path}.pub"


def test_a_release_signed_with_a_new_key_verifies_with_its_public_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, public = make_key(tmp_path)
    folder = str(make_release(tmp_path / "r"))
    assert main(["release", "verify", folder, "--trust", public]) == 1
    assert "is not trusted" in capsys.readouterr().err
    assert main(["release", "sign", folder, "--key", key]) == 0
    assert main(["release", "verify", folder, "--trust", public]) == 0
    assert "test-1 is whole" in capsys.readouterr().out


def test_a_private_key_is_for_its_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    key, _ = make_key(tmp_path)
    assert Path(key).stat().st_mode & 0o077 == 0
    before = Path(key).read_bytes()
    assert main(["release", "keygen", "--out", key]) == 78
    assert Path(key).read_bytes() == before


def test_a_manifest_is_not_signed_over_files_that_it_does_not_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, _ = make_key(tmp_path)
    folder = make_release(tmp_path / "r")
    (folder / "card.md").write_text("# Another\n")
    signature = (folder / "manifest.sig").read_bytes()
    assert main(["release", "sign", str(folder), "--key", key]) == 1
    assert "card.md" in capsys.readouterr().err
    assert (folder / "manifest.sig").read_bytes() == signature


def test_what_is_no_key_is_refused_without_repeating_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "k"
    wrong.write_text("hunter2")
    assert main(["release", "sign", str(make_release(tmp_path / "r")), "--key", str(wrong)]) == 78
    assert "hunter2" not in capsys.readouterr().err


def test_show_says_what_a_release_is_and_that_it_was_not_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["release", "show", str(make_release(tmp_path / "r"))]) == 0
    said = capsys.readouterr().out
    assert "test-1: random weights" in said
    assert "not verified" in said


def test_a_folder_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["release", "show", str(tmp_path / "none")]) == 78
    assert "manifest.json" in capsys.readouterr().err
