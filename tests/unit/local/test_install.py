"""The Makefile's own means: uv from nothing but Python, and locks that agree with each other."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from local.locks import LOCKS

ROOT = Path(__file__).parents[3]
TOOLS = ROOT / "local/tools"


def _blocks(lock: Path) -> dict[str, str]:
    """Name to version, marker and hashes, as the lock has them."""
    found = re.split(r"^(?=\S)", lock.read_text(), flags=re.MULTILINE)
    return {block.partition("==")[0]: block for block in found if "==" in block}


def test_what_runs_is_what_is_tested() -> None:
    development, services = (
        _blocks(ROOT / "requirements.lock"),
        _blocks(ROOT / "services/requirements.lock"),
    )
    assert len(services) > 30
    assert {name: development.get(name) for name in services} == services


@pytest.mark.parametrize("lock", sorted(LOCKS))
def test_every_package_of_a_lock_has_a_hash_and_no_address(lock: str) -> None:
    blocks = _blocks(ROOT / lock)
    assert blocks
    bare = [name for name, block in blocks.items() if "--hash=sha256:" not in block]
    assert [name for name in bare if "sys_platform == 'never'" not in blocks[name]] == []
    assert "://" not in (ROOT / lock).read_text()


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A copy of local/tools in which nothing was installed yet."""
    copy = tmp_path / "tools"
    copy.mkdir()
    for name in ("uv", "requirements.lock"):
        shutil.copy(TOOLS / name, copy / name)
    return copy


def _script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def _run(tools: Path, python: str, uv: str) -> subprocess.CompletedProcess[str]:
    """python, uv: what they do, in shell; uv stands first on PATH."""
    _script(tools / "python", python)
    (tools / "bin").mkdir()
    _script(tools / "bin" / "uv", uv)
    return subprocess.run(
        [tools / "uv", "--version"],
        env={"PATH": f"{tools / 'bin'}:/usr/bin:/bin", "PYTHON": str(tools / "python")},
        capture_output=True,
        text=True,
        check=False,
    )


NO_UV = "exit 127"
OLD_UV = "echo uv 0.4.30"


def test_a_uv_that_is_new_enough_is_used(tools: Path) -> None:
    done = _run(tools, "exit 9", "echo uv 0.13.9")
    assert (done.returncode, done.stdout) == (0, "uv 0.13.9\n")


@pytest.mark.parametrize("uv", [NO_UV, OLD_UV])
def test_an_old_python_is_named_with_what_is_needed(tools: Path, uv: str) -> None:
    done = _run(tools, '[ "$1" = --version ] && echo Python 3.9.2 || exit 3', uv)
    assert done.returncode == 1
    assert done.stderr.startswith("Python 3.11 or newer is needed")
    assert "is 3.9.2" in done.stderr
    assert "make PYTHON=" in done.stderr


def test_a_python_without_venv_is_told_debians_package(tools: Path) -> None:
    done = _run(tools, "exit 4", NO_UV)
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr


def test_a_failed_installation_leaves_nothing_behind(tools: Path) -> None:
    done = _run(tools, '[ "$1" = -c ] && exit 0; mkdir -p "$3"; exit 5', NO_UV)
    assert done.returncode != 0
    assert not [path for path in tools.glob(".uv/*") if path.name.startswith("fresh")]


def test_the_launcher_says_what_to_run_where_nothing_is_installed(tmp_path: Path) -> None:
    shutil.copy(ROOT / "sluice", tmp_path / "sluice")
    done = subprocess.run([tmp_path / "sluice"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "make setup" in done.stderr


def test_the_launcher_runs_verbs_from_any_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "sluice", "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
