"""What a container leaves a process, as Linux shows it: files in a folder that stands for /."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice.bootstrap.memory import limit_memory

GIB = 1 << 30
NONE_V1 = (1 << 63) - 4096
"""What version 1 says where there is no limit."""


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


def shown(root: Path, groups: str, **limits: object) -> Path:
    """groups: /proc/self/cgroup. limits: file below /sys/fs/cgroup, with __ for /, to its text."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, limit in limits.items():
        file = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_max", ".max")
        file = file.with_name(file.name.replace("memory_limit", "memory.limit"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{limit}\n")
    return root


def test_a_pods_limit_counts_where_it_is_less_than_the_setting(tmp_path: Path) -> None:
    system = shown(tmp_path, "0::/\n", memory_max=GIB)
    assert limit_memory(4096, system=system) == 921
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == int(0.9 * GIB)


def test_the_setting_counts_where_it_is_less(tmp_path: Path) -> None:
    assert limit_memory(512, system=shown(tmp_path, "0::/\n", memory_max=GIB)) == 512


@pytest.mark.parametrize(
    ("groups", "limits"),
    [
        ("0::/\n", {"memory_max": "max"}),
        ("4:memory:/\n", {"memory__memory_limit_in_bytes": NONE_V1}),
        ("", {}),
    ],
    ids=["version 2", "version 1", "no groups"],
)
def test_without_a_limit_of_the_container_the_setting_counts(
    tmp_path: Path, groups: str, limits: dict[str, object]
) -> None:
    assert limit_memory(4096, system=shown(tmp_path, groups, **limits)) == 4096


def test_a_container_that_sees_its_group_as_the_root_finds_it_so(tmp_path: Path) -> None:
    """Version 1 without a namespace: /proc names the whole path, of which nothing is there."""
    groups = "5:cpu,cpuacct:/kubepods/pod1/c1\n4:memory:/kubepods/pod1/c1\n"
    system = shown(tmp_path, groups, memory__memory_limit_in_bytes=2 * GIB)
    assert limit_memory(4096, system=system) == 1843


def test_the_least_of_a_group_and_those_around_it_counts(tmp_path: Path) -> None:
    """A service of systemd in a slice that has a limit."""
    system = shown(
        tmp_path,
        "0::/system.slice/sluice.service\n",
        **{"system.slice__memory_max": GIB, "system.slice__sluice.service__memory_max": 2 * GIB},
    )
    assert limit_memory(4096, system=system) == 921


def test_zero_is_no_limit_whatever_the_container_has(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit_memory(0, system=shown(tmp_path, "0::/\n", memory_max=GIB))
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
