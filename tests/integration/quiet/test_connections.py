"""No library of ours reports home: what native code connects to is seen from outside by strace."""

from __future__ import annotations

import ast
import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sluice
from local.stack import FOREIGN
from tests.support import tree

ROOT = Path(__file__).parents[3]
TRACE = [*("strace", "-f", "--seccomp-bpf", "-qq", "-e", "signal=none"), "-e"]
CALLS = "trace=connect,sendto,sendmsg,sendmmsg"
NATIVE = """
import ctypes, struct
address = struct.pack("=HHI8x", 2, 9 << 8, 0x0100007F)
libc = ctypes.CDLL(None)
libc.connect(libc.socket(2, 2, 0), address, 16)
"""


@functools.cache
def no_strace() -> str:
    if shutil.which("strace") is None:
        return "strace is not there: apt-get install strace"
    done = subprocess.run([*TRACE, CALLS, "true"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"strace may not trace here: {done.stderr.strip()}"


pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(no_strace()), reason=no_strace()),
]


def spoken_to(trace: Path) -> set[str]:
    """Addresses of the internet, v4 and v6, that a process or its children spoke to."""
    return set(re.findall(r'sa_family=AF_INET6?, .*?"([^"]+)"', trace.read_text()))


def run(trace: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python, with none of the variables that keep libraries quiet, and trace it."""
    clean = {k: v for k, v in os.environ.items() if k not in sluice.QUIET.keys() | FOREIGN}
    return subprocess.run(
        [*TRACE, CALLS, "-o", str(trace), "--", sys.executable, *command],
        cwd=ROOT,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_a_connection_that_native_code_opens_is_seen(tmp_path: Path) -> None:
    assert run(tmp_path / "trace", "-c", NATIVE).returncode == 0
    assert spoken_to(tmp_path / "trace") == {"127.0.0.1"}


@pytest.mark.slow
def test_nothing_speaks_to_anybody_and_leaves_nothing_in_the_home(tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    program = "tests.integration.quiet.everything"
    done = run(tmp_path / "trace", "-m", program, str(work), HOME=str(home))
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert "done" in words
    assert {"sluice.adapters.onnx.scorer", "sluice.cli.release", "services.decider.server"} < {
        *words
    }
    assert spoken_to(tmp_path / "trace") == set()
    assert [p for p in home.rglob("*") if p.is_file()] == []


def test_onnxruntime_starts_no_reporter(tmp_path: Path) -> None:
    """Where the home cannot be written its reporter would say so as it starts."""
    done = run(tmp_path / "trace", "-c", "import sluice.adapters.onnx", HOME="/proc/nowhere")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert spoken_to(tmp_path / "trace") == set()


def test_onnxruntime_is_imported_behind_the_package_alone() -> None:
    """So nobody gets it before the package has silenced it: models import it first of all."""
    first = ast.parse((ROOT / "models/src/sluice_models/__init__.py").read_text()).body[1]
    assert isinstance(first, ast.Import)
    assert [alias.name for alias in first.names] == ["sluice"]
    found = set()
    for folder in ("src", "services", "models/src", "benchmarks", "feature_repo"):
        for path in (ROOT / name for name in tree.files(folder, kinds={".py"})):
            for node in ast.parse(path.read_text()).body:  # in a function it comes later
                names = (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else []
                )
                if any(name.partition(".")[0] == "onnxruntime" for name in names):
                    found.add(path.relative_to(ROOT / folder).parent.as_posix())
    assert found == {"sluice/adapters/onnx", "sluice_models"}
