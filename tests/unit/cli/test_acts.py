"""The verbs that sign that a release or a policy may decide."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sluice.adapters.onnx import read_trust
from sluice.adapters.policyfiles import read_policy
from sluice.adapters.trustfiles import ActivationFile
from sluice.cli import main
from sluice.domain.activation import Act, Checked, Known, What, check
from sluice.domain.clock import SystemClock
from sluice.domain.features import catalogue
from sluice.testing.release import make_release

WHO = ["--who", "ann", "--why", "a new list"]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return Path(shutil.copytree("policies/default", tmp_path / "pack"))


def make_key(tmp_path: Path, name: str) -> str:
    (tmp_path / "trust").mkdir(exist_ok=True)
    path = tmp_path / "trust" / name
    assert main(["release", "keygen", "--out", str(path)]) == 0
    return str(path)


def checked(tmp_path: Path, folder: Path, what: What, digest: str, approvals: int) -> Checked:
    found = check(
        ActivationFile(folder).read(),
        read_trust(tmp_path / "trust"),
        what=what,
        digest=digest,
        approvals=approvals,
        known=Known(),
        now_us=SystemClock().now_us(),
    )
    assert found is not None
    return found


@pytest.mark.parametrize("act", ["activate", "rollback", "force", "reset"])
def test_each_act_signs_what_is_in_the_folder(tmp_path: Path, policy: Path, act: Act) -> None:
    key = make_key(tmp_path, "ann")
    assert main(["policy", act, str(policy), "--key", key, *WHO]) == 0
    digest = read_policy(policy, catalogue.FEATURES).digest
    found = checked(tmp_path, policy, "policy", digest, 1).activation
    assert (found.act, found.who, found.why) == (act, "ann", "a new list")


def test_a_second_key_approves_and_the_same_one_does_not(
    tmp_path: Path, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ann, bob = make_key(tmp_path, "ann"), make_key(tmp_path, "bob")
    assert main(["policy", "approve", str(policy), "--key", bob]) == 78
    assert "sluice policy activate" in capsys.readouterr().err
    assert main(["policy", "activate", str(policy), "--key", ann, *WHO]) == 0
    assert main(["policy", "approve", str(policy), "--key", ann]) == 78
    assert "has approved it already" in capsys.readouterr().err
    assert main(["policy", "approve", str(policy), "--key", bob]) == 0
    assert "activate by ann (a new list) has 2 approvals" in capsys.readouterr().err
    digest = read_policy(policy, catalogue.FEATURES).digest
    assert len(checked(tmp_path, policy, "policy", digest, 2).signers) == 2


def test_nobody_approves_what_was_changed_after_it_was_signed(
    tmp_path: Path, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ann, bob = make_key(tmp_path, "ann"), make_key(tmp_path, "bob")
    assert main(["policy", "activate", str(policy), "--key", ann, *WHO]) == 0
    (policy / "lists" / "blocked-cards.txt").write_text("card-7\n")
    assert main(["policy", "approve", str(policy), "--key", bob]) == 78
    assert "the folder holds something else" in capsys.readouterr().err


def test_a_release_is_activated_by_its_manifest(tmp_path: Path) -> None:
    key = make_key(tmp_path, "ann")
    folder = make_release(tmp_path / "r")
    assert main(["release", "rollback", str(folder), "--key", key, *WHO]) == 0
    note = ActivationFile(folder).read()
    assert note is not None
    assert b'"what":"release","id":"test-1"' in note.statement
    (folder / "model.onnx").write_bytes(b"another")
    assert main(["release", "activate", str(folder), "--key", key, *WHO]) == 1


def test_show_says_what_a_pack_is_and_that_nothing_was_checked(
    tmp_path: Path, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["policy", "show", str(policy)]) == 0
    assert "no activation" in capsys.readouterr().out
    key = make_key(tmp_path, "ann")
    assert main(["policy", "force", str(policy), "--key", key, *WHO]) == 0
    assert main(["policy", "show", str(policy)]) == 0
    said = capsys.readouterr().out
    assert "pack@" in said
    assert "force" in said
    assert "not checked" in said


def test_verify_asks_for_as_many_keys_as_it_is_told(
    tmp_path: Path, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ann, bob = make_key(tmp_path, "ann"), make_key(tmp_path, "bob")
    words = ["policy", "verify", str(policy), "--trust", str(tmp_path / "trust"), "--approvals"]
    assert main([*words, "1"]) == 1
    assert main([*words, "0"]) == 0
    assert main(["policy", "activate", str(policy), "--key", ann, *WHO]) == 0
    assert main([*words, "1"]) == 0
    assert main([*words, "2"]) == 1
    assert main(["policy", "approve", str(policy), "--key", bob]) == 0
    capsys.readouterr()
    assert main([*words, "2"]) == 0
    assert "by ann (a new list), approved by" in capsys.readouterr().out


def test_verify_of_a_release_checks_its_activation_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ann = make_key(tmp_path, "ann")
    folder = str(make_release(tmp_path / "r"))
    assert main(["release", "sign", folder, "--key", ann]) == 0
    assert main(["release", "activate", folder, "--key", make_key(tmp_path, "eve"), *WHO]) == 0
    capsys.readouterr()
    assert main(["release", "verify", folder, "--trust", f"{ann}.pub"]) == 1
    assert "is not trusted" in capsys.readouterr().err
    assert main(["release", "activate", folder, "--key", ann, *WHO]) == 0
    assert main(["release", "verify", folder, "--trust", f"{ann}.pub"]) == 0
    assert "activate of" in capsys.readouterr().out


def test_a_reason_that_is_none_is_refused(
    tmp_path: Path, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = make_key(tmp_path, "ann")
    words = ["policy", "force", str(policy), "--key", key, "--who", "ann", "--why", ""]
    assert main(words) == 78
    assert ActivationFile(policy).read() is None
