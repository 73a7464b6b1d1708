"""A service's memory limit: an allocation past it fails in the process, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

GROUPS = Path("/sys/fs/cgroup")
pytestmark = pytest.mark.integration

LIMITED = "from sluice.bootstrap.memory import limit_memory; limit_memory(1024)\n"


def run(program: str, group: Path | None = None) -> subprocess.CompletedProcess[str]:
    """group: a control group to begin in."""

    def join() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        preexec_fn=join,
    )


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of 300 MiB, as a container's is. A real one needs root, and a machine that
    lets it be made."""
    version_2 = (GROUPS / "cgroup.controllers").exists()
    made = (GROUPS if version_2 else GROUPS / "memory") / f"sluice-test-{uuid.uuid4().hex[:8]}"
    limit = made / ("memory.max" if version_2 else "memory.limit_in_bytes")
    try:
        made.mkdir()
        limit.write_text(str(300 << 20))
    except OSError as error:
        with suppress(OSError):
            made.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    yield made
    made.rmdir()


def test_in_a_container_an_allocation_fails_before_the_kernel_kills(group: Path) -> None:
    """Little by little, touching each page: without the limit this ends by signal 9."""
    program = (
        "from sluice.bootstrap.memory import limit_memory\n"
        "print(limit_memory(4096))\n"
        "kept = []\n"
        "try:\n"
        "    while True:\n"
        "        kept.append(bytearray(b'x') * (1 << 22))\n"
        "except MemoryError:\n"
        "    del kept\n"
        "    print('refused')\n"
    )
    done = run(program, group)
    assert (done.returncode, done.stdout.split()) == (0, ["270", "refused"]), done.stderr


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
