"""Keys of logs and witnesses: made once, and read from files with the line that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from sluice.application.log_keys import make_log_key, parse_keys
from sluice.application.sign_release import read_private_key
from sluice.audit.notes import LOG, WITNESS, parse_key
from sluice.cli import log
from sluice.errors import Misconfigured


def test_a_key_is_made_for_its_owner_alone_and_never_over_another(tmp_path: Path) -> None:
    out = tmp_path / "log.pem"
    run = CliRunner().invoke(log.command, ["keygen", "--out", str(out), "--name", "prod/eu/0"])
    key = parse_key(run.output)
    assert (key.name, key.kind) == ("prod/eu/0", LOG)
    assert parse_key(out.with_name("log.pem.pub").read_text()) == key
    assert out.stat().st_mode & 0o777 == 0o600
    assert read_private_key(out).public_key() == key.public
    before = out.read_bytes()
    with pytest.raises(Misconfigured, match="cannot write the key"):
        make_log_key(out, "prod/eu/0", witness=False)
    assert out.read_bytes() == before
    witness = make_log_key(tmp_path / "w.pem", "witness.example/1", witness=True)
    assert witness.kind == WITNESS


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\n"])
def test_a_name_that_no_key_can_have_makes_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(Misconfigured, match=r"blanks or plus"):
        make_log_key(tmp_path / "log.pem", name, witness=False)
    assert not list(tmp_path.iterdir())


def test_a_file_of_keys_has_comments_and_what_belongs_to_a_key(tmp_path: Path) -> None:
    key = make_log_key(tmp_path / "w.pem", "witness.example/1", witness=True)
    text = f"# ours\n\n{key}  https://w.example  # elsewhere\n"
    [line] = parse_keys(text, WITNESS, "keys")
    assert line == (key, "https://w.example")


@pytest.mark.parametrize("text", ["nothing", "a+b+c", "a+00000000+AAAA"])
def test_a_line_that_is_no_key_is_named(text: str) -> None:
    with pytest.raises(Misconfigured, match="keys:2"):
        parse_keys(f"# one\n{text}\n", LOG, "keys")


def test_a_witness_is_no_log(tmp_path: Path) -> None:
    key = make_log_key(tmp_path / "w.pem", "witness.example/1", witness=True)
    with pytest.raises(Misconfigured, match="a key of a witness where one of a log belongs"):
        parse_keys(str(key), LOG, "keys")
