"""A process is ended only if it still is the one that was named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from local.kafka import processes

SLEEPS = "import time; time.sleep(600)"


@dataclass
class Child:
    popen: subprocess.Popen[bytes]
    entry: processes.Entry


@pytest.fixture
def child() -> Iterator[Child]:
    popen = subprocess.Popen([sys.executable, "-c", SLEEPS])
    named = {entry.pid: entry for entry in processes.this_and_its_children()}
    yield Child(popen, named[popen.pid])
    popen.kill()
    popen.wait()


def test_what_was_written_is_read_and_found_running(tmp_path: Path, child: Child) -> None:
    path = tmp_path / "processes.json"
    processes.write(path, [child.entry])
    assert processes.read(path) == [child.entry]
    assert [p.pid for p in processes.running(processes.read(path))] == [child.popen.pid]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "other",
    [{"began": 1.0}, {"command": ["somebody", "else"]}],
    ids=["began at another time", "another command"],
)
def test_a_number_that_belongs_to_another_process_by_now_is_left_alone(
    child: Child, other: dict[str, object]
) -> None:
    assert processes.running([msgspec.structs.replace(child.entry, **other)]) == []


def test_ended_processes_are_gone_and_no_longer_found(child: Child) -> None:
    processes.end(processes.running([child.entry]), patience_s=10)
    child.popen.wait()
    assert processes.running([child.entry]) == []


def test_one_that_ignores_the_signal_is_killed() -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); "
    popen = subprocess.Popen([sys.executable, "-c", deaf + SLEEPS], stdout=subprocess.PIPE)
    assert popen.stdout is not None
    popen.stdout.readline()
    (entry,) = (e for e in processes.this_and_its_children() if e.pid == popen.pid)
    processes.end(processes.running([entry]), patience_s=0.2)
    assert processes.running([entry]) == []
    popen.wait()
    popen.stdout.close()


@pytest.mark.parametrize("content", [None, "", "[{", '{"pid": 1}'])
def test_a_file_that_is_none_names_nobody(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "processes.json"
    if content is not None:
        path.write_text(content)
    assert processes.read(path) == []
