import os
import signal
import subprocess
import sys

PROGRAM = """
from sluice.faultpoints import kill_at
for turn in range(3):
    kill_at("here")
    print(turn, flush=True)
"""


def run(point: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"SLUICE_KILL_AT": point},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_process_dies_at_the_named_point_with_sigkill():
    done = run("here")
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "")


def test_a_count_lets_the_point_be_passed_before_it_kills():
    done = run("here:3")
    assert (done.returncode, done.stdout.split()) == (-signal.SIGKILL, ["0", "1"])


def test_another_point_is_passed_unharmed():
    assert run("elsewhere").returncode == 0
