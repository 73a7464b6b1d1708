"""What the images are built of is written down exactly."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import sluice
from sluice.domain.records.log_record import WORD

LOCKS = {"services": "requirements.lock", "models": "image.lock"}
IGNORED = {"services": ".dockerignore", "models": "models/Dockerfile.dockerignore"}


@pytest.fixture(params=sorted(LOCKS))
def folder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def dockerfile(folder: str) -> str:
    return Path(folder, "Dockerfile").read_text()


def test_the_base_has_a_full_tag_and_every_stage_is_built_on_it(dockerfile: str) -> None:
    (base,) = re.findall(r"^ARG BASE=(.*)$", dockerfile, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", base)
    stages = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert stages == ["${BASE}"] * 2


def test_whatever_is_installed_is_pinned_by_hash_or_ours(folder: str, dockerfile: str) -> None:
    installs = re.findall(r"(?:pip install|pip sync|pip wheel)[^&\n]*", dockerfile)
    for command in installs:
        assert "--require-hashes" in command or "--no-deps" in command, command
    assert len(installs) == 4
    for lock in ("services/build.lock", f"{folder}/{LOCKS[folder]}"):
        text = Path(lock).read_text()
        names = re.findall(r"^[A-Za-z0-9._-]+", text, re.MULTILINE)
        assert names
        assert text.count("==") >= len(names)
        assert text.count("--hash=sha256:") >= len(names)


def test_libraries_that_report_home_are_silenced_in_it(dockerfile: str) -> None:
    for name, value in sluice.QUIET.items():
        assert f"{name}={value}" in dockerfile


def test_only_what_is_named_goes_into_the_build(folder: str, dockerfile: str) -> None:
    lines = Path(IGNORED[folder]).read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    copied = {word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.M)
              for word in line.split()}  # fmt: skip
    named = {rule[1:] for rule in rules if rule.startswith("!")}
    if folder == "services":  # whole folders, of which one has more than what is copied
        copied = {word.partition("/")[0] for word in copied}
    assert named == copied


def test_a_build_that_was_told_its_commit_says_it(tmp_path: Path) -> None:
    package = tmp_path / "sluice"
    package.mkdir()
    source = Path(str(sluice.__file__)).read_text()
    (package / "__init__.py").write_text(source)
    assert runpy.run_path(str(package / "__init__.py"))["BUILD"] == f"sluice-{sluice.__version__}"
    (package / "COMMIT").write_text("24afa4" * 6 + "beef")
    build = runpy.run_path(str(package / "__init__.py"))["BUILD"]
    assert build == f"sluice-{sluice.__version__}+24afa424afa4"
    assert re.fullmatch(WORD, build)
