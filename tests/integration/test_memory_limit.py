"""A service's memory limit: an allocation past it fails in the process, and nowhere else."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

LIMITED = "from sluice.bootstrap.services import limit_memory; limit_memory(1024)\n"


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "hungry",
    ["bytearray(2 << 30)", "import numpy; numpy.ones(1 << 28)", "[None] * (1 << 28)"],
    ids=["bytes", "numpy", "a list"],
)
def test_an_allocation_past_the_limit_fails_and_the_next_is_served(hungry: str) -> None:
    done = run(
        LIMITED
        + f"try:\n    exec({hungry!r})\nexcept MemoryError:\n    print(len(bytearray(1 << 20)))"
    )
    assert done.stdout == "1048576\n", done.stderr


def test_what_takes_little_by_little_ends_and_the_machine_lives() -> None:
    done = run(LIMITED + "kept = []\nwhile True:\n    kept.append(bytearray(1 << 24))")
    assert done.returncode == 1
    assert "MemoryError" in done.stderr


@pytest.mark.parametrize(("megabytes", "expected"), [(600, 600), (0, 900), (1200, 900)])
def test_a_service_starts_with_its_limit_and_never_raises_one(
    megabytes: int, expected: int
) -> None:
    program = (
        "import resource\n"
        "from sluice.bootstrap.services import start\n"
        "from sluice.settings import Service, Settings\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (900 << 20, resource.RLIM_INFINITY))\n"
        f"start('archiver', Settings(service=Service(admin_port=0, memory_max_mb={megabytes})))\n"
        "print(resource.getrlimit(resource.RLIMIT_DATA)[0] >> 20)"
    )
    done = run(program)
    assert done.stdout.split()[-1] == str(expected), done.stderr
