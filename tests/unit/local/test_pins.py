"""Pins of images by digest: what names one is found, and what a registry says is put there.

No registry is reachable where Sluice is built. A program on the path stands for docker, skopeo and
crane; their own words for a digest were compared with their documentation.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from local import pins
from sluice.errors import Unavailable

DIGESTS = {"a": f"sha256:{'a' * 64}", "b": f"sha256:{'b' * 64}"}


def of(digest: str) -> dict[str, str]:
    return {pin.image: digest for pin in pins.pins()}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the files that name images."""
    for file in (*pins.DOCKERFILES, pins.VALUES):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pins.ROOT / file, tmp_path / file)
    return tmp_path


def tool(folder: Path, name: str, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_every_image_that_is_pulled_has_a_full_tag() -> None:
    found = {pin.image for pin in pins.pins()}
    names = {image.rsplit(":", 1)[0] for image in found}
    assert names == {"python", "apache/kafka", "valkey/valkey", "kserve/storage-initializer"}
    assert not any(image.endswith((":latest", ":")) for image in found)


def test_a_digest_is_put_beside_each_tag_and_replaced_by_the_next(tree: Path) -> None:
    before = [(pin.file, pin.image) for pin in pins.pins(tree)]
    for digest in DIGESTS.values():
        pins.write(of(digest), tree)
        assert {pin.digest for pin in pins.pins(tree)} == {digest}
        assert [(pin.file, pin.image) for pin in pins.pins(tree)] == before
    base = (tree / "services/Dockerfile").read_text()
    assert f"\nARG BASE=python:3.11.15-slim-bookworm@{DIGESTS['b']}\n" in base
    assert pins.write(of(DIGESTS["b"]), tree) == [], "the same again changes nothing"


def test_nothing_but_the_digests_changes(tree: Path) -> None:
    def without(text: str) -> str:
        return re.sub(r'@?sha256:[0-9a-f]{64}|(?<=digest: )""', "", text)

    pins.write(of(DIGESTS["a"]), tree)
    for file in (*pins.DOCKERFILES, pins.VALUES):
        assert without((tree / file).read_text()) == without((pins.ROOT / file).read_text())


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("docker", "buildx imagetools inspect --format {{.Manifest.Digest}} python:3"),
        ("skopeo", "inspect --format {{.Digest}} docker://python:3"),
        ("crane", "digest python:3"),
    ],
)
def test_the_tool_that_is_there_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, asked: str
) -> None:
    tool(tmp_path, name, f'[ "$*" = "{asked}" ] && echo {DIGESTS["a"]}', monkeypatch)
    assert pins.resolve(["python:3"]) == {"python:3": DIGESTS["a"]}


def test_a_registry_that_does_not_answer_is_named_and_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool(tmp_path, "crane", "echo 'dial tcp: no route to host' >&2; exit 1", monkeypatch)
    before = (pins.ROOT / pins.VALUES).read_bytes()
    assert pins.main([]) == 1
    said = capsys.readouterr().err
    assert "no route to host" in said
    assert "nothing was changed" in said
    assert (pins.ROOT / pins.VALUES).read_bytes() == before


def test_without_a_tool_it_says_which_would_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="docker, skopeo, crane"):
        pins.resolve(["python:3"])
