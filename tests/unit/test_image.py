"""What the image is built of is written down exactly."""

from __future__ import annotations

import re
from pathlib import Path

import sluice

DOCKERFILE = Path("services/Dockerfile").read_text()


def test_the_base_has_a_full_tag_and_every_stage_is_built_on_it() -> None:
    (base,) = re.findall(r"^ARG BASE=(.*)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", base)
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert stages == ["${BASE}"] * 2


def test_whatever_is_installed_is_pinned_by_hash_or_ours() -> None:
    installs = re.findall(r"(?:pip install|pip sync|pip wheel)[^&\n]*", DOCKERFILE)
    for command in installs:
        assert "--require-hashes" in command or "--no-deps" in command, command
    assert len(installs) == 4
    for lock in ("build.lock", "requirements.lock"):
        text = Path("services", lock).read_text()
        names = re.findall(r"^[A-Za-z0-9._-]+", text, re.MULTILINE)
        assert names
        assert text.count("==") >= len(names)
        assert text.count("--hash=sha256:") >= len(names)


def test_libraries_that_report_home_are_silenced_in_it() -> None:
    for name, value in sluice.QUIET.items():
        assert f"{name}={value}" in DOCKERFILE


def test_only_what_is_named_goes_into_the_build() -> None:
    lines = Path(".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    copied = {word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M)
              for word in line.split()}  # fmt: skip
    named = {rule[1:] for rule in rules if rule.startswith("!")}
    assert named == {word.removesuffix("/").partition("/")[0] for word in copied}
