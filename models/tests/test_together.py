"""Processes of torchrun: one set of parameters, one gradient, an end without threads."""

import json
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes ended with."""
    out = tmp_path_factory.mktemp("meeting")
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    argv += [str(Path(__file__).with_name("meeting.py")), str(out)]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return [json.loads((out / f"{n}.json").read_text()) for n in range(2)]


def test_all_begin_with_the_parameters_of_the_first(found: list[dict[str, Any]]) -> None:
    assert found[0]["parameters"] == found[1]["parameters"]


def test_the_gradient_is_that_of_all_rows(found: list[dict[str, Any]]) -> None:
    assert found[0]["shared"] == found[1]["shared"]
    for one in found:
        flat = list(chain.from_iterable(one["shared"]))
        assert flat == pytest.approx(list(chain.from_iterable(one["alone"])), rel=1e-5)


def test_no_thread_of_the_group_outlives_it(found: list[dict[str, Any]]) -> None:
    """One that did aborted a process that had done its work, as Python ended around it."""
    for one in found:
        assert not [name for name in one["threads"] if "gloo" in name]
