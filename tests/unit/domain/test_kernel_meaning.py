"""A register means the same until its version says otherwise: a release is bound to that."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sluice.domain.features import catalogue
from sluice.domain.features.catalogue import REGISTERS, register_meaning
from tests.support import kernel_world
from tests.support.kernel_world import Ints

ROOT = Path(__file__).parents[3]
WRITE = "python -m tests.support.kernel_world"
BY_DAY_ONLY = {
    f"{view}.frauds.{w}" for view in catalogue.VIEWS[1:] for w in ("1m", "5m", "1h", "6h")
}
"""Always 0: reports have tiles of a day."""
ARITHMETIC = {
    catalogue.COPY: lambda a, b: a,
    catalogue.MILLI: lambda a, b: 1000 * a // b if b else 0,
    catalogue.PPM: lambda a, b: 1_000_000 * a // b if b else 0,
    catalogue.MEAN: lambda a, b: a // b if b else 0,
    catalogue.DIFFERENCE: lambda a, b: a - b,
}


@pytest.fixture(scope="module")
def world() -> tuple[Ints, Ints]:
    """Registers and features of a world that never changes."""
    return kernel_world.replay()


def test_every_register_has_the_values_of_its_version(world: tuple[Ints, Ints]) -> None:
    other, new = kernel_world.changed(world[0])
    assert not other, (
        f"these compute something else: raise their family in catalogue.VERSIONS, {WRITE}"
    )
    assert not new, f"these have no golden values: {WRITE}"
    means = {register_meaning(name) for name in REGISTERS}
    assert json.loads(kernel_world.GOLDEN.read_text()).keys() == means, WRITE


def test_the_world_moves_every_register(world: tuple[Ints, Ints]) -> None:
    still = {name for name, at in REGISTERS.items() if len(np.unique(world[0][:, at])) == 1}
    assert still == BY_DAY_ONLY


def test_an_operation_is_the_arithmetic_that_its_name_stands_for(world: tuple[Ints, Ints]) -> None:
    registers, features = world
    for at, feature in enumerate(catalogue.FEATURES):
        a = registers[:, REGISTERS[feature.a]].tolist()
        b = registers[:, REGISTERS[feature.b]].tolist() if feature.b else a
        expected = [ARITHMETIC[feature.operation](*pair) for pair in zip(a, b, strict=True)]
        assert features[:, at].tolist() == expected, feature.name


SEEN = """
import json
from tests.support import kernel_world
print(json.dumps(kernel_world.changed(kernel_world.register_values())))
"""
TILES = {f"{view}.{total}" for view in catalogue.VIEWS[1:] for total in catalogue.TILE_SUMS[:4]}


CHANGES = (
    ("cardstate.py", "scaled * 2 > ema * 5", "scaled * 2 > ema * 6"),
    ("tilestate.py", "now - 23, now - 6, sums", "now - 24, now - 6, sums"),
    ("kernel.py", "(days + 3) % 7", "(days + 4) % 7"),
    ("catalogue.py", "SMALL_MINOR = 300", "SMALL_MINOR = 500"),
    ("catalogue.py", "VERSIONS: dict[str, int] = {", 'VERSIONS: dict[str, int] = {"card.ema": 9, '),
)
MEAN_OTHERS = {"card.jumps_7d", "now.weekday"} | TILES
MEAN_NEW = {"card.small", "card.ema"}
"""A number of the table, and a version, are in the meaning itself."""


def test_a_kernel_that_means_something_else_is_caught_by_register(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for file, before, after in CHANGES:
        path = tmp_path / "src/sluice/domain/features" / file
        text = path.read_text()
        assert text.count(before) == 1
        path.write_text(text.replace(before, after))
    done = subprocess.run(
        [sys.executable, "-c", SEEN],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": f"{tmp_path / 'src'}{os.pathsep}{ROOT}", "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    other, new = ({family(m) for m in some} for some in json.loads(done.stdout))
    assert other == MEAN_OTHERS
    assert new == MEAN_NEW


def family(meaning: str) -> str:
    return ".".join(meaning.split(maxsplit=1)[0].split(".")[:2])
