"""The locks of this tree hold what its pyproject.toml files ask for, and a stale one is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from local import locks
from local.locks import LOCKS, ROOT, Source, stale
from tests.support.tree import files


def test_every_lock_holds_what_the_ranges_behind_it_ask_for() -> None:
    assert stale() == []


def test_every_lock_of_packages_is_looked_at() -> None:
    there = {name for name in files(kinds={".lock"}) if Path(name).name != "jars.lock"}
    assert set(LOCKS) == there


def test_what_a_lock_is_exported_from_is_what_make_locks_says() -> None:
    recipe = (ROOT / "Makefile").read_text().replace("\\\n", "")
    (folders,) = re.findall(
        r"for folder in (.*?); do.*UV\) lock --upgrade --project \$\$folder", recipe
    )
    (groups,) = re.findall(r"for group in (.*?); do.*--project local/kafka", recipe)
    said = {}
    for folder in folders.split():
        lock = str(Path(folder, "requirements.lock"))
        said[lock] = Source(folder, LOCKS[lock].groups)  # default groups: uv's word is not there
    said |= {
        f"local/kafka/{g}.lock": Source("local/kafka", (g,), only=True) for g in groups.split()
    }
    for words, lock in re.findall(r"EXPORT\) (.*?)--output-file ([\w/.]+\.lock)", recipe):
        folder = re.findall(r"--project ([\w/]+)", words) or ["."]
        group = re.findall(r"--(?:only-)?group (\w+)", words)
        said[lock] = Source(folder[0], tuple(group), only="--only-group" in words)
    assert said == LOCKS


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two packages of this tree, and one lock."""
    for at in (".", "simulator", "models"):
        folder = tmp_path / at
        folder.mkdir(exist_ok=True)
        (folder / "pyproject.toml").write_text(
            f'[project]\nname = "{ {".": "sluice"}.get(at, at) }"\n'
        )
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "sluice"\ndependencies = ["numpy>=2,<3"]\n'
        "[project.optional-dependencies]\n"
        'kafka = ["Confluent_Kafka>=2.16"]\nall = ["sluice[kafka]"]\n'
        '[dependency-groups]\nrun = ["simulator", "nothing>=1 ; sys_platform == \'never\'"]\n'
        'dev = [{ include-group = "run" }, "sluice[all]", "pytest>=9,<10"]\n'
    )
    (tmp_path / "a.lock").write_text(
        "confluent-kafka==2.16.1 \\\n    --hash=sha256:00\n"
        "numpy==2.4.6 ; sys_platform != 'x' \\\npytest==9.2.0\n"
    )
    return tmp_path


def told(tree: Path, source: Source) -> list[str]:
    return stale(tree, {"a.lock": source})


DEV = Source(".", ("dev",))


def test_a_lock_that_holds_all_of_it_says_nothing(tree: Path) -> None:
    assert told(tree, DEV) == []


def test_a_dependency_that_a_package_of_ours_gained_is_missed_through_its_extras(
    tree: Path,
) -> None:
    (tree / "simulator/pyproject.toml").write_text(
        '[project]\nname = "simulator"\ndependencies = ["sluice[kafka]", "boto3>=1.44"]\n'
    )
    assert told(tree, DEV) == ["a.lock: does not hold boto3>=1.44, which simulator asks for"]


def test_a_range_that_was_raised_past_the_pin_is_told(tree: Path) -> None:
    page = tree / "pyproject.toml"
    page.write_text(page.read_text().replace("Confluent_Kafka>=2.16", "confluent-kafka>=2.17"))
    (line,) = told(tree, DEV)
    assert (
        line == "a.lock: has confluent-kafka 2.16.1, sluice[kafka] asks for confluent-kafka>=2.17"
    )


def test_of_a_group_alone_the_projects_own_are_not_asked_for(tree: Path) -> None:
    (tree / "a.lock").write_text("pytest==9.2.0\nconfluent-kafka==2.16.1\n")
    page = tree / "pyproject.toml"
    page.write_text(page.read_text() + 'tools = ["pytest>=9"]\n')
    assert told(tree, Source(".", ("tools",), only=True)) == []
    assert [line.split()[4] for line in told(tree, DEV)] == ["numpy<3,>=2,"]


def test_the_check_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert locks.main() == 0
    assert capsys.readouterr().err == ""
