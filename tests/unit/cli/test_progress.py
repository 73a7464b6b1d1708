"""A terminal gets one line that changes, a log file few lines."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from sluice.cli.progress import Progress

SHOWS = """
import sys, time
from sluice.cli.progress import Progress
with Progress() as line:
    for i in range(1, 4):
        line.show(f"{i} of 3 [rows]", i, 3)
        time.sleep(0.15)
    print("a result")
    line.keep("3 rows [done]")
    if sys.argv[1:]:
        raise SystemExit(9)
"""


def test_a_log_file_gets_a_line_now_and_then_and_what_stays(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress() as line:
        for i in range(1000):
            line.show(f"{i} of 1000", i, 1000)
        line.keep("1000 rows in 1 s")
    assert capsys.readouterr().err == "0 of 1000\n1000 rows in 1 s\n"


@pytest.mark.parametrize("argument", [[], ["fail"]], ids=["done", "failed"])
def test_a_terminal_gets_its_cursor_back_and_results_go_where_they_should(
    argument: list[str],
) -> None:
    parent, child = pty.openpty()
    ran = subprocess.run(
        [sys.executable, "-c", SHOWS, *argument],
        stdout=subprocess.PIPE,
        stderr=child,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
        check=False,
    )
    os.close(child)
    said = b""
    while True:
        try:
            said += os.read(parent, 65536)
        except OSError:
            break
    os.close(parent)
    assert ran.returncode == (9 if argument else 0)
    assert ran.stdout == b"a result\n"
    assert b"3 of 3 [rows]" in said
    assert b"3 rows [done]" in said
    assert said.rindex(b"\x1b[?25h") > said.rindex(b"\x1b[?25l")
